"""Answers that are read slowly and whose connection ends meanwhile: all that has arrived is given to who reads.

aiohttp stops parsing while nobody takes what it has. When the other end closes then, as a daemon does that leaves and
has sent the whole answer, what was not parsed yet is thrown away and the answer counts as broken off.
"""

from __future__ import annotations

import asyncio
import functools

import aiohttp
from aiohttp.client_proto import ResponseHandler


class _Handler(ResponseHandler):
    def connection_lost(self, exc: BaseException | None) -> None:
        while self._reading_paused:
            self.resume_reading()  # parses on, until who reads has enough again; what is left is what had arrived
        super().connection_lost(exc)


def whole(connector: aiohttp.BaseConnector) -> aiohttp.BaseConnector:
    """`connector`, whose connections lose nothing."""
    handler: type[ResponseHandler] = _Handler
    connector._factory = functools.partial(handler, loop=asyncio.get_running_loop())
    return connector

"""Presence: a service says that it is here, every minute and at once when something changes; withdraws at its end.

Among thousands of hosts auth wants to hear each less often, and says so.

While another process of this host speaks for it, an announcer is silent: it neither announces nor withdraws.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.errors import TeleportError
from teleport.resources.codec import to_json
from teleport.resources.server import Server
from teleport.store.cache import Backoff

log = logging.getLogger(__name__)

PERIOD = 60.0  # seconds (`protocols.md` 6), unless auth wants to hear less
LONGEST = 300.0  # seconds; auth cannot silence a host for good
EARLIER = 0.1  # of the time, at most: thousands that came at once do not stay in step
RETRY = Backoff(5.0, 30.0)  # after failures
FAREWELL = 2.0  # seconds for withdrawing


class Announcer:
    """Announces one service with the certificate of its role."""

    def __init__(self, client: AuthClient, describe: Callable[[], Server]) -> None:
        self._client = client
        self._describe = describe
        self._changed = asyncio.Event()
        self._epoch = ""
        self._started: datetime | None = None  # when it was described first
        self._said: tuple[Server, m.HeartbeatRequest] | None = None  # mostly it is the same again
        self.silent = False
        self.problem = ""  # why the last announcement failed; empty when it did not

    def hush(self) -> None:
        """Another process of this host speaks from here on."""
        self.silent = True

    def speak(self, epoch: int) -> None:
        """This process speaks again, at once, as the run `epoch`: that of the process which spoke last and is gone.
        Presence is of the newest run, so with its own number it would not be listened to."""
        self._epoch = str(epoch)
        self.silent = False
        self._changed.set()

    def changed(self) -> None:
        """What is announced is not true any more: say it again at once."""
        self._changed.set()

    async def announce(self) -> float:
        """Once, now. The seconds after which to say it again, as auth wants it. Raises what auth answers."""
        await self._client.its_turn()
        server = self._described()
        if self._said is None or self._said[0] != server:
            self._said = server, m.HeartbeatRequest(item=m.Document(to_json(server)))
        within = await self._client.announce(self._said[1])
        return min(max(within, PERIOD), LONGEST)

    def _described(self) -> Server:
        server = self._describe()
        if self._started is None:
            self._started = server.spec.started
        # what is the same as before is to read the same, and who started last is meant among several of one name
        spec = msgspec.structs.replace(server.spec, started=self._started, epoch=self._epoch or server.spec.epoch)
        return msgspec.structs.replace(server, spec=spec)

    async def run(self) -> None:
        """Announces until cancelled, then withdraws."""
        failures, period = 0, PERIOD
        try:
            while True:
                self._changed.clear()
                try:
                    if not self.silent:
                        period = await self.announce()
                    self.problem, failures = "", 0
                except TeleportError as error:
                    if self.problem != str(error):
                        log.warning("presence: %s", error)
                    self.problem, failures = str(error), failures + 1
                jitter = random.random()  # noqa: S311 - spreads requests, guards nothing
                pause = RETRY.delay(failures, jitter) if failures else period * (1 - EARLIER * jitter)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
        finally:
            await self.withdraw()

    async def withdraw(self) -> None:
        """Takes the announcement back, unless another process speaks; silent from here on."""
        if self.silent:
            return
        self.hush()
        with suppress(TeleportError, TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._client.call(routes.WITHDRAW, m.Named(name=self._described().spec.epoch))

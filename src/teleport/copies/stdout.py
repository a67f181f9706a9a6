"""A copy of every event on a descriptor that is open already, such as standard output."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Sequence
from typing import Final

from teleport.errors import TeleportError

STEP: Final = 0.2  # seconds after which a write that waits sees that it is not wanted any more


class StreamPlace:
    """Lines as they are stored. A reader that does not read keeps nobody else from going on."""

    doubtful = 0.0

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._given_up = threading.Event()

    async def write(self, lines: Sequence[bytes]) -> None:
        self._given_up = given_up = threading.Event()
        try:
            await asyncio.to_thread(self._write, b"\n".join([*lines, b""]), given_up)
        finally:
            given_up.set()  # when cancelled, the thread must end, too

    async def close(self) -> None:
        self._given_up.set()

    def _write(self, block: bytes, given_up: threading.Event) -> None:
        view = memoryview(block)
        try:
            while view:
                if given_up.is_set():
                    raise TeleportError("nobody reads the standard output")
                if select.select([], [self._descriptor], [], STEP)[1]:
                    view = view[os.write(self._descriptor, view[: select.PIPE_BUF]) :]  # as much as does not block
        except (OSError, ValueError) as error:
            raise TeleportError(f"audit events cannot be written to the standard output: {error}") from error

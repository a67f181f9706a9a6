"""Taking connections from a listening socket, so that whoever was taken is served.

A server of asyncio that is closed drops, without a word, those whom it accepted in that turn of the loop: under load a
restart would cut off somebody now and then.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from teleport.transport.listeners import BACKLOG

AT_ONCE: Final = 32  # connections accepted in one turn of the loop, so that a burst of them holds up nobody else
SCARCE_SECONDS: Final = 0.5  # until it is tried again when the daemon is out of descriptors

log = logging.getLogger(__name__)


class Accepting:
    """Accepts from a socket that somebody else bound, which it does not close, until `stop`."""

    def __init__(self, listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        """`make` gives the protocol of one connection."""
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._own = (
            listener.dup()
        )  # whoever closes the other one while this one accepts closes a number that is used again
        self._own.setblocking(False)
        listener.listen(BACKLOG)
        self._later: asyncio.TimerHandle | None = None
        self._beginning: set[asyncio.Task[None]] = set()
        self._resume()

    def stop(self) -> None:
        """Takes nobody any more: at once, and of those that were taken each is served."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._own.fileno())
        self._own.close()

    def _resume(self) -> None:
        self._later = None
        self._loop.add_reader(self._own.fileno(), self._take)

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._own.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return  # none waits (any more), or it has gone
            except OSError as error:
                log.warning("a connection cannot be taken error=%s", error)
                self._loop.remove_reader(self._own.fileno())
                self._later = self._loop.call_later(SCARCE_SECONDS, self._resume)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._begin(connection), name="a new connection")
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        with suppress(OSError):  # it has gone meanwhile
            await self._loop.connect_accepted_socket(self._make, connection)

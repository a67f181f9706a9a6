"""Takes connections from listening descriptors that errands made; what comes of them is their owner's business."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_AT_ONCE = 16  # connections taken in one turn of the loop
_SCARCE_SECONDS = 0.5  # until it is tried again when the daemon is out of descriptors


class Listening:
    """Owns the descriptors. `accepted` gets each connection with where it came from, and owns it."""

    def __init__(self, descriptors: Sequence[int], accepted: Callable[[socket.socket, tuple[str, int]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepted = accepted
        self._sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        self._taking = False
        self._later: asyncio.TimerHandle | None = None
        self.resume()

    @property
    def open(self) -> bool:
        return bool(self._sockets)

    def resume(self) -> None:
        """Takes connections (again)."""
        if not self._taking:
            self._taking = True
            for sock in self._sockets:
                self._loop.add_reader(sock.fileno(), self._take, sock)

    def pause(self) -> None:
        """Takes none: they wait in the kernel's queue."""
        if self._taking:
            self._taking = False
            for sock in self._sockets:
                self._loop.remove_reader(sock.fileno())

    def _take(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._taking:
                return
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                log.warning("a forward's connection cannot be taken error=%s", error)
                self.pause()
                self._later = self._loop.call_later(_SCARCE_SECONDS, self.resume)
                return
            sock.setblocking(False)
            internet = sock.family in (socket.AF_INET, socket.AF_INET6)
            self._accepted(sock, (str(address[0]), int(address[1])) if internet else ("", 0))

    def close(self) -> None:
        """Takes none any more. Idempotent."""
        self.pause()
        self._taking = True  # for good: what resumes it finds nothing to do
        if self._later is not None:
            self._later.cancel()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

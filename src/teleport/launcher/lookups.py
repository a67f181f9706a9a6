"""Names, looked up in threads of a process that does errands: a slow name server holds up other names only.

A few are looked up at the same time, and the others wait for their turn: a browser behind `ssh -D` opens dozens of
connections at once. What has waited so long that whoever asked has no time left is not looked up, and what a name that
was looked up leads to (it ends with a dot then) goes first: who asks for it has waited already.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections import deque
from collections.abc import Callable

MOST_AT_ONCE = 8
MOST_WAITING = 1024  # the daemon's own limit of channels is lower
MOST_ADDRESSES = 16  # of one name
PATIENCE = 5.0  # seconds that a name waits; whoever asks gives up after 10 (`node.dialling`)

Found = dict[str, object] | OSError | ValueError  # the fields of an answer, or why there is none


class Lookups:
    """What one connection has looked up. `tell` is called in a thread, with the number of what was asked and what came
    of it."""

    def __init__(self, tell: Callable[[int, Found], None]) -> None:
        import threading  # the launcher, which loads this module for its children, has no use for it

        self._tell = tell
        self._lock = threading.Lock()
        self._thread = threading.Thread
        self._waiting: deque[tuple[float, int, str, int]] = deque()
        self._threads = 0

    def ask(self, number: int, host: str, port: int) -> None:
        """Has a name looked up. `OSError` when too many wait, or the user may have no thread."""
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                raise OSError(errno.EAGAIN, "too many names wait to be looked up for one connection")
            put = self._waiting.appendleft if host.endswith(".") else self._waiting.append
            put((time.monotonic(), number, host, port))
            if self._threads == MOST_AT_ONCE:
                return
            self._threads += 1
        try:
            self._thread(target=self._work, daemon=True).start()
        except RuntimeError:  # the login's limit of processes, which counts threads
            with self._lock:
                self._threads -= 1
                if self._threads or not self._waiting:
                    return  # another one gets to it, or has
                self._waiting.clear()
            raise OSError(errno.EAGAIN, "the login may have no more processes to look up the name") from None

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                asked_at, number, host, port = self._waiting.popleft()
            if time.monotonic() - asked_at < PATIENCE:
                found = _look_up(host, port)
                with contextlib.suppress(OSError):  # the daemon has gone, and this process goes, too
                    self._tell(number, found)


def _look_up(host: str, port: int) -> Found:
    """The addresses of a name, and the name that it led to (empty when it is not known)."""
    try:
        flags = socket.AI_ADDRCONFIG | socket.AI_CANONNAME
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, ValueError) as error:  # ValueError: it cannot be written as a name
        return error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:MOST_ADDRESSES]
    return {"addresses": addresses, "canonical": next((entry[3] for entry in found if entry[3]), "")}

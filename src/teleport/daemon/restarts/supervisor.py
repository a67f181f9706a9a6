"""What the daemon tells whoever supervises it, where that asked to be told (systemd's `NOTIFY_SOCKET`), or is process 1
of the container.

Ready, a line on how it stands, and at the end of a process that leaves to another one who goes on: `MAINPID`. The unit
has `NotifyAccess=main`: only the main process is heard, so that no process of a session can speak for the daemon. That
is why a process names its successor with its last words and not before: whoever is main has to be a child of systemd
for its end to be seen, and a child of the daemon becomes one when the process that started it ends. Until then what the
successor says is not heard; the process that leaves speaks for both.

Two things are left unsaid on purpose. `STOPPING=1` while the last clients leave would have systemd end them when its
time for stopping is over. `RELOADING=1` would make a second reload wait for the first.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from typing import Final

from teleport.daemon.restarts.first_process import NONE, tell_newest

log = logging.getLogger(__name__)

VARIABLE: Final = "NOTIFY_SOCKET"
READY_ANYWAY: Final = 60.0
"""Seconds after which a daemon that waits for others counts as started: the boot of a host must not hang on auth."""

_MOST: Final = 400  # characters of a status


class Supervisor:
    """Sends to a datagram socket, and does without one when there is none. Never raises."""

    def __init__(self, address: str = "", first: int = NONE) -> None:
        """`address` is a path, or `@NAME` for a socket that is in no directory; anything else is nobody. `first` is the
        pipe to process 1 of a container."""
        self.first: Final = first
        self._address = "\0" + address[1:] if address[:1] == "@" else address if address[:1] == "/" else ""
        self._ready = False

    @classmethod
    def of(cls, environment: Mapping[str, str], first: int = NONE) -> Supervisor:
        return cls(environment.get(VARIABLE, ""), first)

    def ready(self, status: str) -> None:
        """The daemon counts as started. Later words only change the line on how it stands."""
        ready = {} if self._ready else {"READY": "1"}
        self._ready = True
        self._tell({**ready, "STATUS": _line(status)})

    def status(self, text: str) -> None:
        """One line, for `systemctl status`."""
        self._tell({"STATUS": _line(text)})

    def newest(self, pid: int) -> None:
        """`pid` speaks for this host from now on: in a container its process 1 hands it the signals."""
        if self.first == NONE:
            return
        try:
            tell_newest(self.first, pid)
        except OSError as error:
            log.warning("process 1 cannot be told that pid %d serves: %s", pid, error.strerror)

    def goes_on(self, pid: int) -> None:
        """This process ends, and `pid` is the main one."""
        self._tell({"MAINPID": str(pid)})

    def _tell(self, words: Mapping[str, str]) -> None:
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in words.items()).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                sending.setblocking(False)
                sending.sendto(message, self._address)
        except OSError as error:
            log.warning("the supervisor of this process cannot be told %s: %s", ", ".join(words), error.strerror)


def _line(text: str) -> str:
    """One line that stays one, whatever an error says."""
    return "".join(one if one.isprintable() else " " for one in text)[:_MOST]

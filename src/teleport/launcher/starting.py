"""Forks the launcher: what the daemon's own process needs of it.

What the launcher itself needs (terminals, PAM, file transfers) is imported after the fork: the daemon never runs it,
and would keep it in memory.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from teleport.errors import TeleportError


@dataclass(frozen=True, slots=True)
class LauncherEnd:
    """The daemon's end: hand it to `teleport.launcher.client.Launcher`. Closing the socket ends every session."""

    socket: socket.socket
    pid: int


def start(*, spares: int = 1, close: Sequence[int] = ()) -> LauncherEnd:
    """Forks the launcher. To be called first in a daemon's main: `TeleportError` when there are threads or a loop.

    `spares` is how many monitors wait forked for the next session; `close` are descriptors of the daemon that no
    session may have: the fork would keep them.
    """
    if _loop_runs():
        raise TeleportError(
            "The launcher must be started before the event loop: a process forked inside one hangs",
            hint="call teleport.launcher.start() first in the daemon's main",
        )
    if len(os.listdir("/proc/self/task")) != 1:
        raise TeleportError(
            "The launcher must be started before any thread: forking a process with threads can lock up",
            hint="call teleport.launcher.start() first in the daemon's main",
        )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.pthread_sigmask(
                signal.SIG_BLOCK, signal.valid_signals()
            )  # until the launcher has said what to ignore
            ours.close()
            for descriptor in close:
                os.close(descriptor)
            from teleport.launcher.server import serve

            serve(theirs, spares)
            status = 0
        except BaseException:  # a mistake of ours, or a release that was taken away just now
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    theirs.close()
    return LauncherEnd(ours, pid)


def _loop_runs() -> bool:
    asyncio = sys.modules.get("asyncio")  # never imported here
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

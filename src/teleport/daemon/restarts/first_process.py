"""Process 1 of a container: the daemon in it is replaced as elsewhere, and the container goes on.

A container ends with its process 1, and a daemon that leaves to a new process ends. So `teleport start` as process 1
forks before anything else. The daemon is the child; the parent stays, small, and

- reaps whoever has lost its parent;
- hands signals on: TERM and INT to every process of the daemon, since the container is to end; HUP, USR1, USR2 and
  QUIT to the newest one, as the pid file would have it;
- ends with the status of the daemon's last process, 128 and the number of the signal where one ended it.

Which process is the newest is told by the daemon's processes themselves: one line with a pid whenever that changes,
over a pipe that each hands to the next one and no session has. Signals are blocked here and taken one after another,
which also keeps the kernel from dropping those for which process 1 has no handler.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Final, NoReturn

NONE: Final = -1  # in place of the pipe, where process 1 is somebody else
_END: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_NEWEST: Final = frozenset({signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})
_TAKEN: Final = _END | _NEWEST | {signal.SIGCHLD}
_AT_ONCE: Final = 65_536  # bytes of the pipe that are read at once; it holds no more


def enter() -> int:
    """In process 1: forks, and returns in the child, which is to be the daemon, its end of the pipe. `NONE` elsewhere.

    To be called before there are threads.
    """
    if os.getpid() != 1:
        return NONE
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
    daemon = os.fork()
    if daemon:
        os.close(writing)
        _stay(daemon, reading)
    os.close(reading)
    signal.pthread_sigmask(signal.SIG_SETMASK, usual)
    return writing


def tell_newest(pipe: int, pid: int) -> None:
    """Says which process of the daemon is the newest that serves. Raises `OSError`."""
    os.write(pipe, b"%d\n" % pid)


def _stay(daemon: int, pipe: int) -> NoReturn:
    status = 1
    try:
        status = _FirstProcess(daemon, pipe).run()
    finally:
        os._exit(status)  # what is left in the container ends with this


class _FirstProcess:
    def __init__(self, daemon: int, pipe: int) -> None:
        self._pipe = pipe
        self._known = [daemon]  # processes of the daemon, the newest last
        self._status = 0

    def run(self) -> int:
        """Until no process of the daemon is left."""
        while self._known:
            number = signal.sigwait(_TAKEN)
            self._listen()
            if number == signal.SIGCHLD:
                self._reap()
            else:
                self._hand_on(signal.Signals(number))
        return self._status

    def _listen(self) -> None:
        """Takes what was said. At the end of the pipe a release that does not know it runs: nothing more is said."""
        try:
            said = os.read(self._pipe, _AT_ONCE)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return
        for line in said.splitlines():
            pid = int(line)
            self._known = [*(one for one in self._known if one != pid), pid]

    def _hand_on(self, number: signal.Signals) -> None:
        for pid in reversed(self._known):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
            if number in _NEWEST:
                return

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._known:
                self._known.remove(pid)
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code
        self._listen()  # the last words of one that has just ended
        # A process of the daemon is the child of an older one or, when that has ended, of this: with no child among
        # them none is left.
        if not any(_is_child(pid) for pid in self._known):
            self._known = []


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True

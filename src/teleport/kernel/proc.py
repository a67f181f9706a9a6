"""Watching by the kernel's news of processes and by fanotify: where programs at tracepoints are not to be had.

It gives commands and nothing else. Which process belongs to which session is kept here, by the news of each fork, in
the order in which the kernel sent them. A program's name comes with a descriptor from fanotify; its arguments come from
/proc, which a program that ends at once takes with it: then they are missing, and the event says so. A program without
any name is told as unseen. When the kernel had to throw news away, all sessions are told, and the tree is walked anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from teleport.kernel import connector
from teleport.kernel.connector import Executed, Exited, Forked, News
from teleport.kernel.fanotify import Executables
from teleport.kernel.seen import MOST_ARGUMENTS, Acted, Command, Kind, Seen, Unseen
from teleport.kernel.watcher import Unavailable

_RCVBUFFORCE: Final = 33  # SO_RCVBUFFORCE
_ROOM: Final = 16 * 1024 * 1024  # bytes of news that may wait
_ALL_PROCESSES: Final = 4026531836  # inode of the first pid namespace (PROC_PID_INIT_INO)
_MANY: Final = 2000  # news that are taken in at once
_ROUNDS: Final = 100
_NAMES: Final = 8  # files that a process may open for execution between two programs
_STRANGERS: Final = 4096  # processes whose files are remembered until the news tell whose they are
_LOST: Final = Unseen("the kernel threw away news of processes: commands of that moment are missing")
_NAMELESS: Final = Unseen("a program ended before its name could be read", 1)


@dataclass(slots=True)
class _Process:
    """A process of a watched session."""

    watch: ProcWatch
    parent: int
    threads: int = 1


class ProcWatcher:
    """The process events connector with fanotify (`watcher.Watcher`). Use `open`, in the loop."""

    kinds = frozenset({Kind.COMMAND})

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stack = contextlib.ExitStack()
        self._processes: dict[int, _Process] = {}
        self._opened: dict[int, deque[str]] = {}  # files opened to be executed, by process, since its last program
        self._watches: set[ProcWatch] = set()
        self._closed = False

    @classmethod
    def open(cls) -> ProcWatcher:
        """`Unavailable` names what the kernel does not allow."""
        self = cls()
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise Unavailable(f"the kernel's news of processes with fanotify: {error.strerror or error}") from error
            raise
        return self

    def _open(self) -> None:
        if os.stat("/proc/self/ns/pid").st_ino != _ALL_PROCESSES:
            raise OSError("this process does not see the host's processes (it is in a pid namespace)")
        self._executables = Executables()
        self._stack.callback(self._executables.close)
        self._news = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, connector.PROTOCOL)
        self._stack.callback(self._news.close)
        self._news.setblocking(False)
        with contextlib.suppress(OSError):
            self._news.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _ROOM)
        self._news.bind((0, connector.GROUP))
        self._news.send(connector.listen(self._news.getsockname()[0]))
        for descriptor in (self._news.fileno(), self._executables.descriptor):
            self._loop.add_reader(descriptor, self.read)
            self._stack.callback(self._loop.remove_reader, descriptor)

    # sessions

    def watch(self, pid: int, kinds: Collection[Kind], deliver: Callable[[Seen], None]) -> ProcWatch:
        for _ in range(_ROUNDS):  # old news of that number are of another process
            if not self.read():
                break
        else:
            raise Unavailable("this host starts more processes than the news of them can be read")
        watch = ProcWatch(self, deliver)
        self._watches.add(watch)
        self._processes[pid] = _Process(watch, os.getpid())
        return watch

    def forget(self, watch: ProcWatch) -> None:
        self._watches.discard(watch)
        self._processes = {pid: process for pid, process in self._processes.items() if process.watch is not watch}

    def alive(self, watch: ProcWatch) -> bool:
        return any(process.watch is watch for process in self._processes.values())

    # what is seen

    def read(self) -> bool:
        """Takes in what waits, up to a bound; True when there may be more."""
        if self._closed:
            return False
        # News first into a list: what they tell of a program was opened before, so that its name is there then.
        news, lost = self._read_news()
        for process, path in self._executables.read():
            if process not in self._opened and len(self._opened) >= _STRANGERS:
                del self._opened[next(iter(self._opened))]
            self._opened.setdefault(process, deque(maxlen=_NAMES)).append(path)
        last = {one.process: at for at, one in enumerate(news) if isinstance(one, Executed)}
        for at, one in enumerate(news):
            self._take(one, latest=last.get(getattr(one, "process", 0)) == at)
        if lost:
            self._walk()
            for watch in list(self._watches):
                watch.deliver(_LOST)
        return len(news) >= _MANY

    def _read_news(self) -> tuple[list[News], bool]:
        news: list[News] = []
        lost = False
        while len(news) < _MANY:
            try:
                packet, sender = self._news.recvfrom(65_536)
            except BlockingIOError:
                return news, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if sender[0] == 0:  # the kernel, and nobody who only says so
                news += connector.parse(packet)
        return news, lost

    def _take(self, news: News, *, latest: bool) -> None:
        match news:
            case Forked(parent_process=parent, child=child, child_process=process) if child == process:
                above = self._processes.get(parent)
                if above is not None:
                    self._processes[process] = _Process(above.watch, parent)
            case Forked(child_process=process):
                if (known := self._processes.get(process)) is not None:
                    known.threads += 1
            case Executed(process=process):
                names = self._names(process, latest=latest)
                if (known := self._processes.get(process)) is not None:
                    known.watch.deliver(_command(process, known.parent, names, latest=latest))
            case Exited(process=process):
                known = self._processes.get(process)
                if known is None:
                    self._opened.pop(process, None)
                    return
                known.threads -= 1
                if known.threads <= 0:
                    self._opened.pop(process, None)
                    del self._processes[process]

    def _names(self, process: int, *, latest: bool) -> list[str]:
        """The files that were opened for a program of the process: itself, perhaps an interpreter, perhaps the loader.

        Those behind a loader are of a later program; without a loader only the latest program can have several.
        """
        names = self._opened.get(process, deque())
        taken: list[str] = []
        while names and not (taken and _is_loader(taken[-1])):
            taken.append(names.popleft())
            if not latest and not any(map(_is_loader, names)):
                break
        if latest or not names:
            self._opened.pop(process, None)
        return taken

    def _walk(self) -> None:
        """After lost news: who descends from a process that is known belongs to its session; who is gone is let go."""
        children: dict[int, list[int]] = {}
        threads: dict[int, int] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    fields = _stat(int(name))
                    children.setdefault(int(fields[1]), []).append(int(name))
                    threads[int(name)] = int(fields[17])
        self._processes = {pid: one for pid, one in self._processes.items() if pid in threads}
        level = list(self._processes)
        while level:
            below = []
            for parent in level:
                for child in children.get(parent, ()):
                    if child not in self._processes:
                        self._processes[child] = _Process(self._processes[parent].watch, parent)
                        below.append(child)
            level = below
        for pid, process in self._processes.items():
            process.threads = threads[pid]

    def close(self) -> None:
        self._closed = True
        self._stack.close()
        self._processes.clear()


class ProcWatch:
    """One watched session (`watcher.Watch`)."""

    def __init__(self, watcher: ProcWatcher, deliver: Callable[[Seen], None]) -> None:
        self._watcher = watcher
        self.deliver = deliver

    @property
    def alive(self) -> bool:
        return self._watcher.alive(self)

    def collect(self) -> None:
        self._watcher.read()

    def close(self) -> None:
        self._watcher.forget(self)


def _is_loader(path: str) -> bool:
    return os.path.basename(path).startswith(("ld-", "ld."))


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name (proc(5)): state, parent, ..., threads (18th)."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _command(pid: int, parent: int, names: list[str], *, latest: bool) -> Seen:
    """`latest`: no later program of the process is known, so that /proc speaks of this one."""
    program, arguments, cut, exe = "", b"", True, ""
    if latest:
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read(MOST_ARGUMENTS + 1)
            exe = os.readlink(f"/proc/{pid}/exe")
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
                program = file.read().rstrip("\n")
            cut = len(arguments) > MOST_ARGUMENTS or not arguments
    path = names[0] if names else exe
    if not path:
        return _NAMELESS
    words = arguments[:MOST_ARGUMENTS].removesuffix(b"\0").split(b"\0") if arguments else []
    argv = tuple(word.decode("utf-8", "backslashreplace") for word in words)
    return Command(Acted(pid, parent, 0, program or os.path.basename(path)[:15]), path, argv, cut)

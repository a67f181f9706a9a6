"""Watching by programs at the kernel's tracepoints (`programs`): the first choice where the kernel allows it.

Everything of it belongs to this process and goes with it, however it ends: maps and programs live as long as their
descriptors. Two daemons of one host, as during a restart, watch side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import mmap
import os
import resource
import struct
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from teleport.kernel import btf, programs, seen, syscalls
from teleport.kernel.ring import Ring
from teleport.kernel.seen import Kind, Seen, Unseen
from teleport.kernel.syscalls import Map, MapKind
from teleport.kernel.tracepoints import Tracepoint, Tracepoints
from teleport.kernel.watcher import Buffers, Unavailable

log = logging.getLogger(__name__)

THREADS: Final = 131_072  # of all watched sessions together
SESSIONS: Final = 16_384
_LEAST_RING: Final = 256 * 1024  # bytes
_LOOK: Final = 1.0  # seconds between two looks at what was lost
_MANY: Final = 1000  # records at once, after which there is a pause
_PAUSE: Final = 0.1  # seconds
_ALL_PROCESSES: Final = 4026531836  # inode of the first pid namespace (PROC_PID_INIT_INO)
_TYPES: Final = Path("/sys/kernel/btf/vmlinux")
_OPENS: Final = ("open", "openat", "openat2", "creat")


class BpfWatcher:
    """Tracepoints with programs of ours (`watcher.Watcher`). Use `open`, in the loop."""

    kinds = frozenset(Kind)

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stack = contextlib.ExitStack()
        self._watches: dict[int, BpfWatch] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[Kind, list[tuple[Tracepoint, int]]] = {}  # programs that nobody has needed yet
        self._rings: list[Ring] = []
        self._timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._listen_to: list[int] = []
        self._closed = False

    @classmethod
    def open(cls, buffers: Buffers) -> BpfWatcher:
        """Loads everything; `Unavailable` names what the kernel does not allow."""
        self = cls()
        try:
            self._open(buffers)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | ValueError | KeyError):
                why = (isinstance(error, OSError) and error.strerror) or error
                raise Unavailable(f"programs at the kernel's tracepoints (BPF): {why}") from error
            raise
        return self

    def _open(self, buffers: Buffers) -> None:
        if not syscalls.known_machine():
            raise OSError("not known how on this kind of machine")
        if os.stat("/proc/self/ns/pid").st_ino != _ALL_PROCESSES:
            raise OSError("this process does not see the host's processes (it is in a pid namespace)")
        members = btf.offsets(_TYPES.read_bytes(), programs.MEMBERS)
        with contextlib.suppress(OSError, ValueError):  # kernels before 5.11 count maps as locked memory
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        def new(kind: MapKind, key: int, value: int, entries: int) -> Map:
            made = Map.create(kind, key, value, entries)
            self._stack.callback(made.close)
            return made

        self._tracked = new(MapKind.HASH, 4, 8, THREADS)
        self._sessions = new(MapKind.HASH, 8, 32, SESSIONS)
        opening = new(MapKind.HASH, 4, 24, SESSIONS)
        scratch = new(MapKind.PER_CPU_ARRAY, 4, seen.RECORD, 1)
        sizes = [_ring_size(pages) for pages in (buffers.commands, buffers.files, buffers.connections)]
        rings = [new(MapKind.RING, 0, 0, size) for size in sizes]
        for made, size in zip(rings, sizes, strict=True):
            ring = Ring(made.descriptor, size)
            self._rings.append(ring)
            self._stack.callback(ring.close)
        self._load(
            programs.Programs(
                programs.Maps(
                    self._tracked.descriptor,
                    self._sessions.descriptor,
                    opening.descriptor,
                    scratch.descriptor,
                    *(made.descriptor for made in rings),
                ),
                members,
            )
        )
        self._listen_to = [made.descriptor for made in rings]
        self._listen(True)
        self._stack.callback(self._listen, False)

    def _listen(self, on: bool) -> None:
        for descriptor in self._listen_to:
            if on:
                self._loop.add_reader(descriptor, self._ready)
            else:
                self._loop.remove_reader(descriptor)

    def _ready(self) -> None:
        """There are records. After many of them others have their turn: a session that does all it can must not take
        the daemon's time; what does not fit meanwhile is counted."""
        if self.read() > _MANY:
            self._listen(False)
            self._pause = self._loop.call_later(_PAUSE, self._listen, True)

    def _load(self, made: programs.Programs) -> None:
        """Descent is followed at once; what costs something at each opened file waits until a session needs it."""
        with contextlib.closing(Tracepoints()) as points:

            def load(point: Tracepoint, code: bytes) -> tuple[Tracepoint, int]:
                program = syscalls.load_program(code, point.name.rpartition("/")[2].replace("-", "_"))
                self._stack.callback(os.close, program)
                return point, program

            fork, ended, executed = (points.find(f"sched/sched_process_{name}") for name in ("fork", "exit", "exec"))
            first = [
                load(fork, made.fork(fork.fields)),
                load(ended, made.exit()),
                load(executed, made.executed(executed.fields)),
            ]
            state = points.find("sock/inet_sock_set_state")
            base = state.fields["sport"]
            self._socket_fields: Mapping[str, int] = {name: at - base for name, at in state.fields.items()}
            self._waiting[Kind.NETWORK] = [load(state, made.socket_state(state.fields))]
            files = [
                load(point, made.opens(point.fields))
                for point in points.find_some(*(f"syscalls/sys_enter_{name}" for name in _OPENS))
            ]
            files += [
                load(point, made.opened(point.fields))
                for point in points.find_some(*(f"syscalls/sys_exit_{name}" for name in _OPENS))
            ]
            if not files:
                raise OSError("the kernel has no tracepoints of system calls")
            files += [
                load(point, made.sets_up_ring()) for point in points.find_some("syscalls/sys_enter_io_uring_setup")
            ]
            self._waiting[Kind.DISK] = files
        self._attach(first)

    def _attach(self, loaded: list[tuple[Tracepoint, int]]) -> None:
        """Each is taken off the list once it is attached: what failed is tried again for the next session."""
        while loaded:
            point, program = loaded[-1]
            self._stack.callback(os.close, syscalls.attach(point.number, program))
            loaded.pop()

    # sessions

    def watch(self, pid: int, kinds: Collection[Kind], deliver: Callable[[Seen], None]) -> BpfWatch:
        for kind in kinds:
            self._attach(self._waiting.get(kind, []))
        number = next(self._numbers)
        mask = sum(seen.BITS[kind] for kind in set(kinds))
        self._sessions.put(struct.pack("=Q", number), struct.pack("=4Q", mask, 1, 0, 0))
        watch = BpfWatch(self, number, deliver)
        self._watches[number] = watch
        try:
            self._tracked.put(struct.pack("=I", pid), struct.pack("=Q", number))
        except BaseException:
            watch.close()
            raise
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK, self._look)
        return watch

    def forget(self, watch: BpfWatch) -> None:
        if self._closed:
            return
        self._watches.pop(watch.number, None)
        self._sessions.delete(struct.pack("=Q", watch.number))

    def row(self, number: int) -> tuple[int, int, int]:
        """Threads alive, records lost, threads that could not be tracked."""
        value = None if self._closed else self._sessions.get(struct.pack("=Q", number))
        if value is None:
            return 0, 0, 0
        _, alive, lost, escaped = struct.unpack("=4q", value)
        return alive, lost, escaped

    # what is seen

    def read(self) -> int:
        """Hands over everything that is in the rings; how many records that was."""
        count = 0
        for ring in self._rings:
            for record in ring.read():
                count += 1
                watch = self._watches.get(seen.session_of(record))
                if watch is None:
                    continue
                try:
                    watch.deliver(seen.decode(record, self._socket_fields))
                except ValueError as error:
                    log.error("a record of the kernel's programs cannot be read: %s", error)
                    watch.deliver(Unseen(f"a record could not be read: {error}", 1))
        return count

    def _look(self) -> None:
        for watch in list(self._watches.values()):
            watch.report_losses()
        self._timer = self._loop.call_later(_LOOK, self._look) if self._watches else None

    def close(self) -> None:
        self._closed = True
        for timer in (self._timer, self._pause):
            if timer is not None:
                timer.cancel()
        self._stack.close()
        self._rings.clear()


class BpfWatch:
    """One watched session (`watcher.Watch`)."""

    def __init__(self, watcher: BpfWatcher, number: int, deliver: Callable[[Seen], None]) -> None:
        self._watcher = watcher
        self.number = number
        self.deliver = deliver
        self._told = (0, 0)

    @property
    def alive(self) -> bool:
        return self._watcher.row(self.number)[0] > 0

    def collect(self) -> None:
        self._watcher.read()
        self.report_losses()

    def report_losses(self) -> None:
        """Tells what was lost since it was last told."""
        _, lost, escaped = self._watcher.row(self.number)
        if lost > self._told[0]:
            self.deliver(Unseen("more was done than could be read", lost - self._told[0]))
        if escaped > self._told[1]:
            self.deliver(Unseen("more processes than can be watched: what some of them do is not seen"))
        self._told = (lost, escaped)

    def close(self) -> None:
        self._watcher.forget(self)


def _ring_size(pages: int) -> int:
    """Bytes for so many pages for each processor: a power of 2."""
    wanted = max(pages * (os.cpu_count() or 1) * mmap.PAGESIZE, _LEAST_RING)
    return 1 << (wanted - 1).bit_length()

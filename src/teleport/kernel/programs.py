"""The programs that run at the kernel's tracepoints, as instructions. Values in, bytes out.

Which process belongs to which session is kept by descent, in the kernel, in step with what happens: the session's first
process is put into the map `tracked` before it does anything; at each fork a child gets its parent's session before it
first runs; at each exit the entry goes. So `setsid`, two forks, another cgroup or a reused number change nothing, and
nothing depends on how fast we read. A thread that executes a program takes over the number of its process's first
thread, and its entry with it.

    map       key                value
    tracked   thread id (u32)    session number (u64)
    sessions  number (u64)       mask of kinds, threads alive, records lost, threads not tracked (4 x u64)
    opening   thread id (u32)    pointer to a path, flags, session number: an open that has not returned (3 x u64)
    scratch   0 (u32)            where a record is put together, one for each processor
    rings     -                  records on their way out: one for commands, one for files, one for connections

Arguments are read from the new program's own stack after the kernel put them there, and its path from the kernel's
copy: nothing that runs in the session can change either between what is done and what is told. The path of an opened
file is read from the program's memory when the call returns.

These programs may also be used under the MIT license or the GNU GPL, version 2 (`syscalls`, docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from teleport.kernel import seen
from teleport.kernel.assembler import FP, R0, R1, R2, R3, R4, R6, R7, R8, R9, Assembler, Jump, Operation, Size

_LOOKUP, _UPDATE, _DELETE = 1, 2, 3
_PID_TGID, _COMM, _TASK, _CGROUP = 14, 16, 35, 80
_READ_USER, _READ_KERNEL, _READ_USER_STR, _READ_KERNEL_STR = 112, 113, 114, 115
_RING_OUTPUT = 130

MASK, LIVE, LOST, ESCAPED = 0, 8, 16, 24  # in a row of `sessions`
_THREAD, _CHILD, _VALUE, _SESSION = -4, -8, -16, -24  # on the stack
_OPEN_PATH, _OPEN_FLAGS, _OPEN_SESSION = -48, -40, -32  # a row of `opening`, put together on the stack
_TEMPORARY, _SMALL, _CURRENT = -56, -60, -72
_AT_SESSION, _AT_NUMBER, _AT_PID, _AT_PPID, _AT_CGROUP, _AT_EXTRA, _AT_RESULT = 0, 8, 12, 16, 24, 32, 40
_AT_ARGUMENTS, _AT_PATH, _AT_NAME = 48, 52, 56
_BODY = seen.HEADER.size
_SYN_SENT: Final = 2
_NO_SUCH_FILE: Final = -2

# What the programs need to know of the running kernel's structures.
MEMBERS: Final = (
    ("task_struct", "mm"),
    ("task_struct", "real_parent"),
    ("task_struct", "tgid"),
    ("mm_struct", "arg_start"),
    ("mm_struct", "arg_end"),
)


@dataclass(frozen=True, slots=True)
class Maps:
    """Descriptors of the maps."""

    tracked: int
    sessions: int
    opening: int
    scratch: int
    commands: int
    files: int
    connections: int


@dataclass(frozen=True, slots=True)
class Programs:
    """Makes the programs for one kernel. `members`: offsets of `MEMBERS`."""

    maps: Maps
    members: Mapping[tuple[str, str], int]

    def fork(self, fields: Mapping[str, int]) -> bytes:
        """sched/sched_process_fork: the child belongs where its parent does."""
        a = Assembler()
        self._find_session(a)
        a.load(Size.W, R1, R6, fields["child_pid"])
        a.store(Size.W, FP, _CHILD, R1)
        a.store(Size.D, FP, _VALUE, R7)
        self._update(a, self.maps.tracked, _CHILD, _VALUE)
        a.jump(Jump.NE, R0, 0, "escaped")
        _count(a, LIVE)
        a.leave()
        a.label("escaped")
        _count(a, ESCAPED)
        return _finish(a)

    def exit(self) -> bytes:
        """sched/sched_process_exit: the thread is gone."""
        a = Assembler()
        self._find_thread(a)
        self._delete(a, self.maps.opening, _THREAD)
        self._lookup(a, self.maps.tracked, _THREAD)
        a.load(Size.D, R7, R0, 0)
        self._delete(a, self.maps.tracked, _THREAD)
        self._find_row(a)
        _count(a, LIVE, -1)
        return _finish(a)

    def executed(self, fields: Mapping[str, int]) -> bytes:
        """sched/sched_process_exec: a program was started."""
        a = Assembler()
        a.move(R6, R1)
        a.load(Size.W, R1, R6, fields["old_pid"])
        a.load(Size.W, R2, R6, fields["pid"])
        a.store(Size.W, FP, _THREAD, R1)
        a.store(Size.W, FP, _CHILD, R2)
        a.jump_register(Jump.EQ, R1, R2, "found")
        # Another thread than the first one: its entry moves with its number.
        self._lookup(a, self.maps.tracked, _THREAD)
        a.load(Size.D, R7, R0, 0)
        a.store(Size.D, FP, _VALUE, R7)
        self._delete(a, self.maps.tracked, _THREAD)
        self._update(a, self.maps.tracked, _CHILD, _VALUE)
        a.label("found")
        self._lookup(a, self.maps.tracked, _CHILD)
        a.load(Size.D, R7, R0, 0)
        self._find_row(a)
        _wants(a, seen.COMMAND_BIT)
        self._begin_record(a, seen.COMMAND_BIT)
        self._read_arguments(a)
        a.load(Size.W, R3, R6, fields["filename"])  # where it lies: length and offset, 16 bits each
        a.do(Operation.AND, R3, 0xFFFF)
        a.do_register(Operation.ADD, R3, R6)
        a.move(R1, R9)
        a.do(Operation.ADD, R1, _BODY)
        a.do_register(Operation.ADD, R1, R7)
        a.set(R2, seen.MOST_PATH)
        a.call(_READ_KERNEL_STR)
        self._send(a, self.maps.commands)
        return _finish(a)

    def opens(self, fields: Mapping[str, int]) -> bytes:
        """syscalls/sys_enter_open, openat, openat2, creat: a file is about to be opened."""
        a = Assembler()
        self._find_session(a)
        _wants(a, seen.DISK_BIT)
        a.load(Size.D, R1, R6, fields.get("filename", fields.get("pathname", 0)))
        a.store(Size.D, FP, _OPEN_PATH, R1)
        a.store_value(Size.D, FP, _OPEN_FLAGS, 0o1101)  # creat(2) is open with O_CREAT, O_WRONLY and O_TRUNC
        if "flags" in fields:
            a.load(Size.D, R1, R6, fields["flags"])
            a.store(Size.D, FP, _OPEN_FLAGS, R1)
        elif "how" in fields:  # openat2(2): a structure that begins with 64 bits of flags
            a.load(Size.D, R3, R6, fields["how"])
            _read(a, _READ_USER, _OPEN_FLAGS, 8)
        a.load(Size.D, R1, FP, _SESSION)
        a.store(Size.D, FP, _OPEN_SESSION, R1)
        self._update(a, self.maps.opening, _THREAD, _OPEN_PATH)
        a.jump(Jump.EQ, R0, 0, "out")
        _count(a, LOST)
        return _finish(a)

    def opened(self, fields: Mapping[str, int]) -> bytes:
        """syscalls/sys_exit_open and so on: how the opening ended. That a file does not exist is not told."""
        a = Assembler()
        self._find_thread(a)
        self._lookup(a, self.maps.opening, _THREAD)
        for at in (_OPEN_PATH, _OPEN_FLAGS, _OPEN_SESSION):
            a.load(Size.D, R1, R0, at - _OPEN_PATH)
            a.store(Size.D, FP, at, R1)
        a.store(Size.D, FP, _SESSION, R1)
        self._delete(a, self.maps.opening, _THREAD)
        a.load(Size.D, R1, R6, fields["ret"])
        a.jump(Jump.EQ, R1, _NO_SUCH_FILE, "out")
        self._lookup(a, self.maps.sessions, _SESSION)
        a.move(R8, R0)
        self._begin_record(a, seen.DISK_BIT)
        a.load(Size.D, R1, FP, _OPEN_FLAGS)
        a.store(Size.D, R9, _AT_EXTRA, R1)
        a.load(Size.D, R1, R6, fields["ret"])
        a.store(Size.D, R9, _AT_RESULT, R1)
        a.move(R1, R9)
        a.do(Operation.ADD, R1, _BODY)
        a.set(R2, seen.MOST_PATH)
        a.load(Size.D, R3, FP, _OPEN_PATH)
        a.call(_READ_USER_STR)
        a.set(R7, 0)
        self._send(a, self.maps.files)
        return _finish(a)

    def socket_state(self, fields: Mapping[str, int]) -> bytes:
        """sock/inet_sock_set_state: a connection is begun when its state becomes "SYN sent"."""
        a = Assembler()
        a.load(Size.W, R2, R1, fields["newstate"])
        a.jump(Jump.NE, R2, _SYN_SENT, "out")
        self._find_session(a)
        _wants(a, seen.NETWORK_BIT)
        self._begin_record(a, seen.NETWORK_BIT)
        for at in range(0, seen.SOCKET, 8):
            a.load(Size.D, R1, R6, fields["sport"] + at)
            a.store(Size.D, R9, _BODY + at, R1)
        a.set(R3, _BODY + seen.SOCKET)
        self._output(a, self.maps.connections)
        return _finish(a)

    def sets_up_ring(self) -> bytes:
        """syscalls/sys_enter_io_uring_setup: what is opened that way passes no system call."""
        a = Assembler()
        self._find_session(a)
        _wants(a, seen.DISK_BIT)
        self._begin_record(a, seen.RING_BIT)
        a.set(R3, _BODY)
        self._output(a, self.maps.files)
        return _finish(a)

    # parts

    def _find_thread(self, a: Assembler) -> None:
        """R6: what the program is given; the running thread's number on the stack."""
        a.move(R6, R1)
        a.call(_PID_TGID)
        a.store(Size.W, FP, _THREAD, R0)

    def _find_session(self, a: Assembler) -> None:
        """R6: what the program is given; R7: the session of the running thread; R8: its row.

        A thread that the kernel made for a process (of io_uring) is none of its forks: it counts as the process.
        """
        self._find_thread(a)
        a.do(Operation.RSH, R0, 32)
        a.store(Size.W, FP, _CHILD, R0)
        a.load_map(R1, self.maps.tracked)
        _address(a, R2, _THREAD)
        a.call(_LOOKUP)
        a.jump(Jump.NE, R0, 0, "known")
        self._lookup(a, self.maps.tracked, _CHILD)
        a.label("known")
        a.load(Size.D, R7, R0, 0)
        self._find_row(a)

    def _find_row(self, a: Assembler) -> None:
        """R8: the row of the session whose number is in R7."""
        a.store(Size.D, FP, _SESSION, R7)
        self._lookup(a, self.maps.sessions, _SESSION)
        a.move(R8, R0)

    def _begin_record(self, a: Assembler, number: int) -> None:
        """R9: a record with everything but what its kind adds."""
        a.store_value(Size.W, FP, _SMALL, 0)
        self._lookup(a, self.maps.scratch, _SMALL)
        a.move(R9, R0)
        a.load(Size.D, R1, FP, _SESSION)
        a.store(Size.D, R9, _AT_SESSION, R1)
        a.store_value(Size.W, R9, _AT_NUMBER, number)
        a.call(_PID_TGID)
        a.do(Operation.RSH, R0, 32)
        a.store(Size.W, R9, _AT_PID, R0)
        a.call(_TASK)
        a.store(Size.D, FP, _CURRENT, R0)
        a.move(R3, R0)
        self._follow(a, "task_struct", "real_parent")
        a.load(Size.D, R3, FP, _TEMPORARY)
        a.do(Operation.ADD, R3, self.members["task_struct", "tgid"])
        _read(a, _READ_KERNEL, _SMALL, 4)
        a.load(Size.W, R1, FP, _SMALL)
        a.store(Size.W, R9, _AT_PPID, R1)
        a.call(_CGROUP)
        a.store(Size.D, R9, _AT_CGROUP, R0)
        for at in (_AT_EXTRA, _AT_RESULT):
            a.store_value(Size.D, R9, at, 0)
        a.store_value(Size.D, R9, _AT_ARGUMENTS, 0)  # and the length of the path
        a.move(R1, R9)
        a.do(Operation.ADD, R1, _AT_NAME)
        a.set(R2, 16)
        a.call(_COMM)

    def _read_arguments(self, a: Assembler) -> None:
        """Into the record's body; R7: how many bytes."""
        a.load(Size.D, R3, FP, _CURRENT)
        self._follow(a, "task_struct", "mm")
        a.load(Size.D, R3, FP, _TEMPORARY)
        a.store(Size.D, FP, _VALUE, R3)
        self._follow(a, "mm_struct", "arg_end")
        a.load(Size.D, R7, FP, _TEMPORARY)
        a.load(Size.D, R3, FP, _VALUE)
        self._follow(a, "mm_struct", "arg_start")
        a.load(Size.D, R3, FP, _TEMPORARY)
        a.do_register(Operation.SUB, R7, R3)
        a.store(Size.D, R9, _AT_EXTRA, R7)
        a.jump(Jump.LE, R7, seen.MOST_ARGUMENTS, "whole")
        a.set(R7, seen.MOST_ARGUMENTS)
        a.label("whole")
        a.move(R1, R9)
        a.do(Operation.ADD, R1, _BODY)
        a.move(R2, R7)
        a.call(_READ_USER)
        a.jump(Jump.EQ, R0, 0, "read")
        a.set(R7, 0)
        a.label("read")
        a.store(Size.W, R9, _AT_ARGUMENTS, R7)

    def _send(self, a: Assembler, ring: int) -> None:
        """A record with R7 bytes of arguments and a path whose length, or an error, is in R0."""
        a.jump(Jump.SGT, R0, 0, "named")
        a.set(R0, 0)
        a.label("named")
        a.store(Size.W, R9, _AT_PATH, R0)
        a.move(R3, R7)
        a.do_register(Operation.ADD, R3, R0)
        a.do(Operation.ADD, R3, _BODY)
        a.jump(Jump.GT, R3, seen.RECORD, "out")  # cannot be; the kernel's verifier wants it said
        self._output(a, ring)

    def _output(self, a: Assembler, ring: int) -> None:
        """Sends the first R3 bytes of the record, or counts it as lost."""
        a.load_map(R1, ring)
        a.move(R2, R9)
        a.set(R4, 0)
        a.call(_RING_OUTPUT)
        a.jump(Jump.EQ, R0, 0, "out")
        _count(a, LOST)

    def _follow(self, a: Assembler, structure: str, member: str) -> None:
        """The 64 bits of a member of the structure to which R3 points, to the stack; 0 when it cannot be read."""
        a.do(Operation.ADD, R3, self.members[structure, member])
        _read(a, _READ_KERNEL, _TEMPORARY, 8)

    def _lookup(self, a: Assembler, descriptor: int, key: int) -> None:
        """R0: the value; leaves the program when there is none."""
        a.load_map(R1, descriptor)
        _address(a, R2, key)
        a.call(_LOOKUP)
        a.jump(Jump.EQ, R0, 0, "out")

    def _update(self, a: Assembler, descriptor: int, key: int, value: int) -> None:
        a.load_map(R1, descriptor)
        _address(a, R2, key)
        _address(a, R3, value)
        a.set(R4, 0)
        a.call(_UPDATE)

    def _delete(self, a: Assembler, descriptor: int, key: int) -> None:
        a.load_map(R1, descriptor)
        _address(a, R2, key)
        a.call(_DELETE)


def _address(a: Assembler, register: int, offset: int) -> None:
    a.move(register, FP)
    a.do(Operation.ADD, register, offset)


def _read(a: Assembler, helper: int, target: int, size: int) -> None:
    """Reads `size` bytes from R3 to the stack; zeros when they cannot be read."""
    _address(a, R1, target)
    a.set(R2, size)
    a.call(helper)


def _wants(a: Assembler, bit: int) -> None:
    """Leaves the program unless the session in R8 is recorded in that respect."""
    a.load(Size.D, R1, R8, MASK)
    a.do(Operation.AND, R1, bit)
    a.jump(Jump.EQ, R1, 0, "out")


def _count(a: Assembler, field: int, by: int = 1) -> None:
    a.set(R1, by)
    a.add_atomic(R8, field, R1)


def _finish(a: Assembler) -> bytes:
    a.label("out")
    a.leave()
    return a.assemble()

"""System calls that Python does not offer: bpf(2), perf_event_open(2), and a mount that nobody else sees.

Each raises `OSError`. Numbers are those of the kernel's tables for the machines that we know; others have no BPF here.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from fcntl import ioctl
from typing import Final

BPF, PERF_EVENT_OPEN, FSOPEN, FSCONFIG, FSMOUNT = "bpf", "perf_event_open", "fsopen", "fsconfig", "fsmount"
_COMMON: Final = {FSOPEN: 430, FSCONFIG: 431, FSMOUNT: 432}
_NUMBERS: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": {BPF: 321, PERF_EVENT_OPEN: 298, **_COMMON},
    "aarch64": {BPF: 280, PERF_EVENT_OPEN: 241, **_COMMON},
}
_libc = ctypes.CDLL(None, use_errno=True)


def known_machine() -> bool:
    """Whether the numbers for this machine are known."""
    return platform.machine() in _NUMBERS


def _call(name: str, *arguments: int | ctypes.c_void_p | bytes | None) -> int:
    number = _NUMBERS[platform.machine()][name]
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *given)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


# bpf(2)


class MapKind(IntEnum):
    """Kinds of maps (enum bpf_map_type)."""

    HASH = 1
    PER_CPU_ARRAY = 6
    RING = 27


class _Command(IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    PROG_LOAD = 5


_ATTRIBUTES = 128  # bytes of union bpf_attr that we hand over; zeros behind what is used
_PROG_TRACEPOINT = 5
# These programs, and no other part of the product, may be used under the MIT license or the GNU GPL, version 2: the
# kernel gives what tracing programs need only to programs that say so.
_LICENSE = b"Dual MIT/GPL\0"


def _bpf(command: _Command, attributes: bytes) -> int:
    block = ctypes.create_string_buffer(attributes.ljust(_ATTRIBUTES, b"\0"), _ATTRIBUTES)
    return _call(BPF, int(command), ctypes.cast(block, ctypes.c_void_p), _ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Map:
    """A map in the kernel, with keys and values of fixed lengths in bytes."""

    descriptor: int
    key: int
    value: int

    @classmethod
    def create(cls, kind: MapKind, key: int, value: int, entries: int) -> Map:
        descriptor = _bpf(_Command.MAP_CREATE, struct.pack("=5I", kind, key, value, entries, 0))
        return cls(descriptor, key, value)

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`; None when there is none."""
        value = ctypes.create_string_buffer(self.value)
        try:
            self._do(_Command.MAP_LOOKUP, key, value)
        except FileNotFoundError:
            return None
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        self._do(_Command.MAP_UPDATE, key, ctypes.create_string_buffer(value, self.value))

    def delete(self, key: bytes) -> None:
        """Nothing happens when there is none."""
        try:
            self._do(_Command.MAP_DELETE, key, None)
        except FileNotFoundError:
            return

    def _do(self, command: _Command, key: bytes, value: ctypes.Array[ctypes.c_char] | None) -> None:
        keys = ctypes.create_string_buffer(key, self.key)
        target = ctypes.addressof(value) if value is not None else 0
        _bpf(command, struct.pack("=I4xQQQ", self.descriptor, ctypes.addressof(keys), target, 0))

    def close(self) -> None:
        os.close(self.descriptor)


def load_program(code: bytes, name: str) -> int:
    """Has the kernel verify and take a program for tracepoints; its descriptor.

    `OSError` when it is refused; what the verifier said last is in the message.
    """
    block = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(_LICENSE, len(_LICENSE))

    def load(log: ctypes.Array[ctypes.c_char] | None) -> int:
        size, where = (0, 0) if log is None else (len(log), ctypes.addressof(log))
        attributes = struct.pack(
            "=IIQQIIQII16s",
            *(_PROG_TRACEPOINT, len(code) // 8, ctypes.addressof(block), ctypes.addressof(license_text)),
            *(int(log is not None), size, where, 0, 0, name.encode()[:15]),
        )
        return _bpf(_Command.PROG_LOAD, attributes)

    try:
        return load(None)
    except OSError as error:
        log = ctypes.create_string_buffer(262_144)
        try:
            return load(log)
        except OSError:
            said = log.value.decode(errors="replace").strip().splitlines()
            raise OSError(
                error.errno, f"{error.strerror}: {' / '.join(said[-3:])}" if said else error.strerror
            ) from error


# perf_event_open(2)

_TRACEPOINT = 2
_ATTR_SIZE = 64  # PERF_ATTR_SIZE_VER0
_CLOSE_ON_EXEC = 8
_SET_BPF = 0x40042408  # ioctl PERF_EVENT_IOC_SET_BPF
_ENABLE = 0x2400  # ioctl PERF_EVENT_IOC_ENABLE


def attach(tracepoint: int, program: int) -> int:
    """Runs a program at a tracepoint (its number) on all processors, until the descriptor that is returned closes."""
    attributes = struct.pack("=IIQQQQ", _TRACEPOINT, _ATTR_SIZE, tracepoint, 1, 0, 0).ljust(_ATTR_SIZE, b"\0")
    block = ctypes.create_string_buffer(attributes, _ATTR_SIZE)
    # pid -1 and one processor: a program of a tracepoint runs wherever the tracepoint is passed (as libbpf does it)
    event = _call(PERF_EVENT_OPEN, ctypes.cast(block, ctypes.c_void_p), -1, 0, -1, _CLOSE_ON_EXEC)
    try:
        ioctl(event, _SET_BPF, program)
        ioctl(event, _ENABLE, 0)
    except BaseException:
        os.close(event)
        raise
    return event


# mounts


def private_mount(kind: str) -> int:
    """A descriptor of the root of a new mount of a file system without a device, which no directory shows."""
    context = _call(FSOPEN, kind.encode(), 1)
    try:
        _call(FSCONFIG, context, 6, None, None, 0)  # FSCONFIG_CMD_CREATE
        return _call(FSMOUNT, context, 1, 0)
    finally:
        os.close(context)

"""Where fields lie in the running kernel's own structures, read from its type information. Bytes in, numbers out.

Format: Documentation/bpf/btf.rst of Linux. Only what leads from a named structure to the offset of a named member is
read: the strings are searched for the names, the types are walked once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

_MAGIC: Final = 0xEB9F
_STRUCT, _UNION = 4, 5
_MEMBER = struct.Struct("=III")
# Bytes behind the 12 of a type, by kind: (fixed, for each of `vlen`).
_BEHIND: Final = {
    1: (4, 0),  # int
    3: (12, 0),  # array
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    6: (0, 8),  # enum
    13: (0, 8),  # function prototype
    14: (4, 0),  # variable
    15: (0, 12),  # data section
    17: (4, 0),  # declaration tag
    19: (0, 12),  # enum of 64 bits
}


def offsets(data: bytes, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The offset in bytes of each (structure, member); `ValueError` names what is not there or not whole bytes."""
    wanted = list(wanted)
    try:
        types, strings = _sections(data)
        structures = _structures(types, {_find(strings, name) for name, _ in wanted})
        found = {}
        for name, member in wanted:
            at = structures[0].get(_find(strings, name))
            bits = None if at is None else _member(types, structures[1], at, strings, member.encode())
            if bits is None or bits % 8:
                raise ValueError(f"no member {member} of {name}")
            found[name, member] = bits // 8
        return found
    except (struct.error, IndexError) as error:
        raise ValueError(f"cut off: {error}") from error


def _sections(data: bytes) -> tuple[bytes, bytes]:
    magic, version, _, header = struct.unpack_from("=HBBI", data)
    if magic != _MAGIC or version != 1:
        raise ValueError("not type information of version 1 in this machine's byte order")
    types, types_size, strings, strings_size = struct.unpack_from("=IIII", data, 8)
    return (
        data[header + types : header + types + types_size],
        data[header + strings : header + strings + strings_size],
    )


def _find(strings: bytes, name: str) -> int:
    at = strings.find(b"\0" + name.encode() + b"\0")
    if at < 0:
        raise ValueError(f"no name {name}")
    return at + 1


def _structures(types: bytes, names: set[int]) -> tuple[dict[int, int], list[int]]:
    """Where the structures of these names begin, and where every type does, by its number."""
    named: dict[int, int] = {}
    starts = [0]
    at, end = 0, len(types)
    head = struct.Struct("=II")
    while at < end:
        name, info = head.unpack_from(types, at)
        kind = info >> 24 & 0x1F
        starts.append(at)
        if kind == _STRUCT and name in names:
            named.setdefault(name, at)
        fixed, each = _BEHIND.get(kind, (0, 0))
        at += 12 + fixed + each * (info & 0xFFFF)
    return named, starts


def _member(types: bytes, starts: list[int], at: int, strings: bytes, wanted: bytes) -> int | None:
    """Offset in bits of a member, also one of a structure or union without a name; None when there is none."""
    (info,) = struct.unpack_from("=I", types, at + 4)
    bit_fields = bool(info >> 31)
    for number in range(info & 0xFFFF):
        name: int
        kind: int
        offset: int
        name, kind, offset = _MEMBER.unpack_from(types, at + 12 + 12 * number)
        offset = offset & 0xFFFFFF if bit_fields else offset
        if name and strings[name : strings.index(b"\0", name)] == wanted:
            return offset
        if not name:
            inner = _plain(types, starts, kind)
            below = None if inner is None else _member(types, starts, inner, strings, wanted)
            if below is not None:
                return offset + below
    return None


def _plain(types: bytes, starts: list[int], number: int) -> int | None:
    """Where the structure or union of this number begins, behind `const` and the like."""
    for _ in range(8):
        at = starts[number]
        _, info, target = struct.unpack_from("=III", types, at)
        kind = info >> 24 & 0x1F
        if kind in (_STRUCT, _UNION):
            return at
        if kind not in (9, 10, 11, 18):  # volatile, const, restrict, type tag
            return None
        number = target
    return None

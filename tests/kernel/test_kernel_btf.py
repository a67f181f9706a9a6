"""Offsets from type information: a small one made here, and the running kernel's where there is one."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from teleport.kernel import btf, programs

WANTED = [("outer", "plain"), ("outer", "inner")]


def made() -> bytes:
    """struct outer { int plain; const union { long inner; }; }"""
    names = b"\0int\0outer\0plain\0inner\0"

    def name(text: bytes) -> int:
        return names.index(b"\0" + text + b"\0") + 1

    def kind(number: int, members: int = 0) -> int:
        return number << 24 | members

    types = struct.pack("=IIII", name(b"int"), kind(1), 4, 32)  # 1
    types += struct.pack("=III", 0, kind(5, 1), 8) + struct.pack("=III", name(b"inner"), 1, 0)  # 2
    types += struct.pack("=III", 0, kind(10), 2)  # 3: const 2
    types += struct.pack("=III", name(b"outer"), kind(4, 2), 16)
    types += struct.pack("=III", name(b"plain"), 1, 32) + struct.pack("=III", 0, 3, 64)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
    return header + types + names


def test_members_are_found_also_in_structures_without_a_name() -> None:
    assert btf.offsets(made(), WANTED) == {("outer", "plain"): 4, ("outer", "inner"): 8}


@pytest.mark.parametrize(("structure", "member"), [("outer", "missing"), ("missing", "plain"), ("int", "plain")])
def test_what_is_not_there_is_named(structure: str, member: str) -> None:
    with pytest.raises(ValueError, match=r"no (member|name)"):
        btf.offsets(made(), [(structure, member)])


def test_what_is_cut_off_is_refused_at_every_length() -> None:
    whole = made()
    for length in range(len(whole) - 1):
        with pytest.raises(ValueError, match=r"."):
            btf.offsets(whole[:length], WANTED)


def test_the_running_kernel_names_what_the_programs_need() -> None:
    types = Path("/sys/kernel/btf/vmlinux")
    if not types.exists():
        pytest.skip("this kernel has no type information (/sys/kernel/btf/vmlinux)")
    found = btf.offsets(types.read_bytes(), programs.MEMBERS)
    assert set(found) == set(programs.MEMBERS)
    assert found["mm_struct", "arg_end"] - found["mm_struct", "arg_start"] == 8  # neighbours, since 2.6

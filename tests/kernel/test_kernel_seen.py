"""Records of the kernel's programs, as values."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from teleport.kernel.seen import HEADER, RECORD, SOCKET, URING, Acted, Command, Connected, Opened, decode

FIELDS = {"sport": 0, "dport": 2, "family": 4, "protocol": 6, "saddr": 8, "daddr": 12, "saddr_v6": 16, "daddr_v6": 32}
BY = Acted(12, 11, 7, "ls")


def record(number: int, arguments: bytes = b"", path: bytes = b"", *, extra: int = 0, result: int = 0) -> bytes:
    head = HEADER.pack(3, number, 12, 11, 0, 7, extra, result, len(arguments), len(path), b"ls")
    return head + arguments + path


def test_arguments_keep_empty_ones_and_what_is_not_text() -> None:
    raw = b"ls\0\0-l\xff\0"
    seen = decode(record(1, raw, b"/bin/ls\0", extra=len(raw)), FIELDS)
    assert seen == Command(BY, "/bin/ls", ("ls", "", "-l\\xff"), False)


def test_arguments_that_were_cut_say_so() -> None:
    seen = decode(record(1, b"ls\0-", b"/bin/ls\0", extra=900), FIELDS)
    assert seen == Command(BY, "/bin/ls", ("ls", "-"), True)


def test_a_program_without_arguments_has_none() -> None:
    assert decode(record(1, b"", b"/x\0"), FIELDS) == Command(BY, "/x", (), False)


def test_an_opened_file_has_flags_and_outcome() -> None:
    assert decode(record(2, path=b"a/b\0", extra=577, result=-13), FIELDS) == Opened(BY, "a/b", 577, -13)


@pytest.mark.parametrize(
    ("family", "target", "shown", "version"),
    [(2, "192.0.2.7", "192.0.2.7", 4), (10, "2001:db8::1", "2001:db8::1", 6), (10, "::ffff:192.0.2.7", "192.0.2.7", 4)],
)
def test_a_connection_has_one_spelling_of_its_address(family: int, target: str, shown: str, version: int) -> None:
    packed = ipaddress.ip_address(target).packed
    own = ipaddress.ip_address("127.0.0.1" if family == 2 else "::1").packed
    body = struct.pack("=HHHH", 1000, 443, family, 6)
    body += (own + packed).ljust(8, b"\0") if family == 2 else b"\0" * 8
    body = (body + (own + packed if family == 10 else b"")).ljust(SOCKET, b"\0")
    seen = decode(record(4) + body, FIELDS)
    assert isinstance(seen, Connected)
    assert (seen.dst_addr, seen.dst_port, seen.version) == (shown, 443, version)


def test_io_uring_is_told() -> None:
    assert decode(record(8), FIELDS) is URING


@pytest.mark.parametrize("data", [b"", b"x" * (HEADER.size - 1), record(9)])
def test_other_records_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="a record"):
        decode(data, FIELDS)


def test_the_longest_record_has_room_where_it_is_made() -> None:
    assert RECORD % 8 == 0

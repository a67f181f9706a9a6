"""Exports: exact where they promise it, harmless where they are made for screens."""

from __future__ import annotations

import base64
import json

import pytest
from tests.recording.recording_samples import HOST, SID, header

from teleport.recording.export import ExportFormat, export, export_raw
from teleport.recording.format import Frame, FrameKind, encode_size

FRAMES = [
    Frame(0, FrameKind.EXEC, b'{"command":"make"}'),
    Frame(1_000, FrameKind.OUTPUT, b"\xff\xfe\x1b]52;c;eA==\x07"),
    Frame(250_000, FrameKind.STDERR, b"err\r\n"),
    Frame(300_000, FrameKind.OUTPUT, b"\x1b[31m\xe2\x82"),
    Frame(300_001, FrameKind.OUTPUT, b"\xac\x1b[0m\r\n"),
    Frame(400_000, FrameKind.INPUT, b"q"),
    Frame(500_000, FrameKind.RESIZE, encode_size(132, 43)),
    Frame(600_000, FrameKind.FILE, b"not json\xff"),
    Frame(700_000, FrameKind.NOTE, b"bye"),
]


def lines(form: ExportFormat) -> list[object]:
    return [json.loads(line) for line in b"".join(export(header(), FRAMES, form)).splitlines()]


def test_raw_is_exact_and_can_be_one_stream() -> None:
    both = b"\xff\xfe\x1b]52;c;eA==\x07err\r\n\x1b[31m\xe2\x82\xac\x1b[0m\r\n"
    assert b"".join(export(header(), FRAMES, ExportFormat.RAW)) == both
    assert b"".join(export_raw(FRAMES, frozenset({FrameKind.STDERR}))) == b"err\r\n"
    assert b"".join(export_raw(FRAMES, frozenset({FrameKind.INPUT}))) == b"q"


def test_text_is_plain() -> None:
    """What was shown, and a line for what was not; what was typed is none."""
    text = b"".join(export(header(), FRAMES, ExportFormat.TEXT)).decode()
    assert text == "[exec] make\n\ufffd\ufffderr\n€\n[file] not json\\xff\n[note] bye\n"
    plain = header(interactive=False, width=0, height=0)
    assert b"".join(export(plain, FRAMES, ExportFormat.TEXT)).decode() == text
    assert b"".join(export(plain, [Frame(0, FrameKind.STDERR, b"no line end"), FRAMES[-1]], ExportFormat.TEXT)) == (
        b"no line end\n[note] bye\n"
    )
    screen = [Frame(0, FrameKind.OUTPUT, b"a\r\n\r\n  b\x1b[2Jgone" + b"\r\n" * 30)]
    assert b"".join(export(header(), screen, ExportFormat.TEXT)).startswith(b"a\n  b\n")


def test_cast_is_asciicast_version_2() -> None:
    first, *rest = lines(ExportFormat.CAST)
    assert first == {
        "version": 2,
        "width": 80,
        "height": 24,
        "timestamp": 1767323045,
        "env": {"TERM": "xterm-256color"},
        "title": "root@db1",
    }
    assert rest == [
        [0.001, "o", "\ufffd\ufffd"],
        [0.25, "o", "err\r\n"],
        [0.3, "o", "\x1b[31m"],
        [0.300001, "o", "€\x1b[0m\r\n"],
        [0.4, "i", "q"],
        [0.5, "r", "132x43"],
    ]


def test_json_has_every_frame_exactly() -> None:
    first, *rest = lines(ExportFormat.JSON)
    assert isinstance(first, dict)
    assert (first["kind"], first["sid"], first["node_id"]) == ("header", SID, HOST)
    assert first["started"] == "2026-01-02T03:04:05.678901Z"
    data = b""
    for line in rest:
        assert isinstance(line, dict)
        if line["kind"] in ("output", "stderr"):
            data += line["data"].encode() if "data" in line else base64.b64decode(line["base64"])
    assert data == b"".join(export_raw(FRAMES))
    assert rest[0] == {"time": 0, "kind": "exec", "detail": {"command": "make"}}
    assert rest[6] == {"time": 500_000, "kind": "resize", "width": 132, "height": 43}
    assert rest[7] == {"time": 600_000, "kind": "file", "detail": "not json\\xff"}


@pytest.mark.parametrize("form", [ExportFormat.CAST, ExportFormat.JSON])
def test_lines_are_ascii_so_that_printing_them_is_harmless(form: ExportFormat) -> None:
    """T44: also for what stands in the header."""
    frames = [Frame(0, FrameKind.OUTPUT, "\u202e\x1b[31m\u009b5n".encode())]
    data = b"".join(export(header(command="\x1b]0;x\x07\u202e", node_name="a\nb"), frames, form))
    assert data.isascii()
    assert not any(byte < 0x20 and byte != 0x0A for byte in data)
    assert data.count(b"\n") == len([json.loads(line) for line in data.splitlines()])


def test_nested_records_of_a_hostile_node_do_not_break_the_export() -> None:
    frames = [Frame(0, FrameKind.EXEC, b"[" * 100_000)]
    assert len(list(export(header(), frames, ExportFormat.JSON))) == 2


def test_notes_for_programs_are_objects_in_json() -> None:
    note = Frame(1, FrameKind.NOTE, b'{"about":"typed","party":2,"offset":0,"size":3}')
    (_, found) = [json.loads(line) for line in b"".join(export(header(), [note], ExportFormat.JSON)).splitlines()]
    assert found == {"time": 1, "kind": "note", "detail": {"about": "typed", "party": 2, "offset": 0, "size": 3}}

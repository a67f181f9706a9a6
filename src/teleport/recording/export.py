"""Recordings in forms that other programs read: raw, text, asciicast v2, JSON lines, an HTML page.

The recording itself is the truth; these are views of it. Only `raw` gives the exact bytes. asciicast and text are
made for screens and pass the sanitiser; asciicast cannot hold bytes that are not UTF-8.
"""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Iterable, Iterator
from enum import StrEnum

from teleport.recording.format import BYTE_KINDS, Frame, FrameKind, RecordingHeader, decode_size
from teleport.recording.sanitise import TerminalSanitiser, TextSanitiser

SCREEN = frozenset({FrameKind.OUTPUT, FrameKind.STDERR})
FOR_PROGRAMS = b'{"about":'  # how a note begins that is JSON
_KIND_NAMES = {kind: kind.name.lower() for kind in FrameKind}


class ExportFormat(StrEnum):
    """The values of `tctl recordings download --format`."""

    CAST = "cast"
    TEXT = "text"
    JSON = "json"
    HTML = "html"
    RAW = "raw"


def export(header: RecordingHeader, frames: Iterable[Frame], form: ExportFormat) -> Iterator[bytes]:
    """The recording in `form`, in pieces."""
    match form:
        case ExportFormat.CAST:
            return export_cast(header, frames)
        case ExportFormat.TEXT:
            return export_text(header, frames)
        case ExportFormat.JSON:
            return export_json(header, frames)
        case ExportFormat.HTML:
            from teleport.recording.page import export_html

            return export_html(header, frames)
        case ExportFormat.RAW:
            return export_raw(frames)


def export_raw(frames: Iterable[Frame], streams: frozenset[FrameKind] = SCREEN) -> Iterator[bytes]:
    """The exact bytes of `streams`, in the order in which they were recorded."""
    for frame in frames:
        if frame.kind in streams:
            yield frame.payload


def export_text(header: RecordingHeader, frames: Iterable[Frame]) -> Iterator[bytes]:
    """What was shown, as plain UTF-8 lines; safe to print. Where the session had a terminal these are the lines of its
    screen, each when it was left; what was not shown (files, forwards, commands, notes) is `[file] ...`."""
    return _text_of_screen(header, frames) if header.interactive else _text_of_streams(frames)


def _text_of_screen(header: RecordingHeader, frames: Iterable[Frame]) -> Iterator[bytes]:
    from teleport.recording.screen.lines import SCREEN as ON_SCREEN
    from teleport.recording.screen.lines import shown_lines

    for line in shown_lines(header, frames, once=False):
        text = line.text if line.kind == ON_SCREEN else f"[{line.kind}] {line.text}"
        yield f"{text}\n".encode()


def _text_of_streams(frames: Iterable[Frame]) -> Iterator[bytes]:
    from teleport.recording.screen.lines import detail_line

    cleaner = TextSanitiser()
    last = b"\n"
    for frame in frames:
        if frame.kind in SCREEN:
            shown = cleaner.feed(frame.payload)
        elif frame.kind in (*BYTE_KINDS, FrameKind.RESIZE) or frame.payload.startswith(FOR_PROGRAMS):
            continue  # of parties, which sessions with a terminal have
        else:
            shown = cleaner.finish()
            begun = b"" if (shown or last).endswith(b"\n") else b"\n"
            shown += begun + f"[{frame.kind.name.lower()}] {detail_line(frame)}\n".encode()
            cleaner = TextSanitiser()
        if shown:
            last = shown[-1:]
            yield shown
    if shown := cleaner.finish():
        yield shown


def export_cast(header: RecordingHeader, frames: Iterable[Frame]) -> Iterator[bytes]:
    """asciicast v2 (docs.asciinema.org/manual/asciicast/v2): a header line, then `[seconds, kind, data]` lines.

    Output and stderr are one stream there. Input is `i`, a new size is `r` with `COLUMNSxROWS`.
    """
    first: dict[str, object] = {
        "version": 2,
        "width": header.width or 80,
        "height": header.height or 24,
        "timestamp": int(header.started.timestamp()),
        "env": {"TERM": header.terminal} if header.terminal else {},
        "title": f"{header.login}@{header.node_name or header.node_id}",
    }
    if header.command:
        first["command"] = header.command
    yield _line(first)
    screen = TerminalSanitiser()
    keys = codecs.getincrementaldecoder("utf-8")(errors="replace")
    time = 0.0
    for frame in frames:
        time = frame.time / 1_000_000
        if frame.kind in SCREEN:
            shown = screen.feed(frame.payload).decode()
            if shown:
                yield _line([time, "o", shown])
        elif frame.kind is FrameKind.INPUT:
            typed = keys.decode(frame.payload)
            if typed:
                yield _line([time, "i", typed])
        elif frame.kind is FrameKind.RESIZE:
            width, height = decode_size(frame.payload)
            yield _line([time, "r", f"{width}x{height}"])
    if rest := screen.finish().decode():
        yield _line([time, "o", rest])


def export_json(header: RecordingHeader, frames: Iterable[Frame]) -> Iterator[bytes]:
    """One JSON object a line: the header's, then one for each frame.

    `time` is in microseconds since the start. Bytes that are UTF-8 are in `data`, others in `base64`; both are exact.
    Lines are ASCII, so printing them drives no terminal.
    """
    yield _line(
        {
            "kind": "header",
            "sid": header.sid,
            "started": header.started.isoformat().replace("+00:00", "Z"),
            "cluster": header.cluster,
            "user": header.user,
            "login": header.login,
            "node_id": header.node_id,
            "node_name": header.node_name,
            "command": header.command,
            "interactive": header.interactive,
            "terminal": header.terminal,
            "width": header.width,
            "height": header.height,
            "client": header.client,
        }
    )
    for frame in frames:
        line: dict[str, object] = {"time": frame.time, "kind": _KIND_NAMES[frame.kind]}
        if frame.kind is FrameKind.RESIZE:
            line["width"], line["height"] = decode_size(frame.payload)
        elif frame.kind in BYTE_KINDS or (frame.kind is FrameKind.NOTE and not frame.payload.startswith(FOR_PROGRAMS)):
            try:
                line["data"] = frame.payload.decode()
            except UnicodeDecodeError:
                line["base64"] = base64.b64encode(frame.payload).decode()
        else:
            line["detail"] = _detail(frame.payload)
        yield _line(line)


def _detail(payload: bytes) -> object:
    """Our own small records are JSON; anything else that a hostile node wrote is shown as text."""
    try:
        found: object = json.loads(payload)
    except (ValueError, RecursionError):
        return payload.decode(errors="backslashreplace")
    return found


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"

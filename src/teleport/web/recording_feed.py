"""A recording on its way from auth to a browser: read piece by piece, never whole, and turned into what is asked for.

Recordings are read by blocking code, which therefore runs in a thread of its own for each; that thread waits for the
bytes that come from auth. What a player gets is lines of JSON: output that passed the sanitiser (threat T44), sizes,
and what else happened. Of what was typed it learns who and when, but not what: it may be a password.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final, cast

import msgspec

from teleport.errors import ConnectionProblem
from teleport.recording.export import ExportFormat, export
from teleport.recording.format import BrokenRecording, Frame, FrameKind, RecordingHeader, decode_size
from teleport.recording.format.parties import PartyNote, TypedNote, decode_note
from teleport.recording.player import RecordingReader
from teleport.recording.sanitise import TerminalSanitiser, one_line
from teleport.recording.screen.lines import FOR_PROGRAMS, detail_line

PIECE: Final = 64 * 1024  # bytes sent at once
MAX_TEXT: Final = 4096  # characters of a path and the like
OUTPUT: Final = frozenset({FrameKind.OUTPUT, FrameKind.STDERR})
BROKEN: Final = "the recording is broken after this point"

Form = Callable[[RecordingReader], Iterator[bytes]]


async def converted(pieces: AsyncGenerator[bytes, None], form: Form, name: str) -> AsyncGenerator[bytes, None]:
    """The recording whose bytes are `pieces`, in another form. Close it, and `pieces` are closed, too."""
    loop = asyncio.get_running_loop()
    source = _Source(pieces, loop)

    def work() -> Iterator[bytes]:
        held = bytearray()
        for piece in form(RecordingReader(cast(BinaryIO, source), name=name)):
            held += piece
            if len(held) >= PIECE:
                yield bytes(held)
                held.clear()
        if held:
            yield bytes(held)

    made = work()
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="recording")
    try:
        while True:
            step = loop.run_in_executor(pool, next, made, None)
            try:
                piece = await asyncio.shield(step)
            except asyncio.CancelledError:
                source.stop()
                await asyncio.wait([step])
                raise
            if piece is None:
                return
            yield piece
    finally:
        source.stop()
        pool.shutdown(wait=False)
        await pieces.aclose()


class _Source:
    """What a thread reads while the loop fetches it."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], loop: asyncio.AbstractEventLoop) -> None:
        self._pieces = pieces
        self._loop = loop
        self._held = b""
        self._fetching: concurrent.futures.Future[bytes] | None = None
        self._stopped = False

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        if not self._held:
            if self._stopped:
                raise ConnectionProblem("nobody reads this recording any more")
            self._fetching = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            if self._stopped:
                self._fetching.cancel()
            try:
                self._held = self._fetching.result()
            except concurrent.futures.CancelledError:
                raise ConnectionProblem("nobody reads this recording any more") from None
        found, self._held = self._held[:size], self._held[size:]
        return found

    async def _next(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        return b""

    def stop(self) -> None:
        """Reading ends now, also one that waits."""
        self._stopped = True
        if self._fetching is not None:
            self._fetching.cancel()


def exported(form: ExportFormat) -> Form:
    """The forms of `tctl recordings export`, of a broken recording as far as it is whole. A page tells that by itself;
    an asciicast gets a marker, text a line."""

    def make(reader: RecordingReader) -> Iterator[bytes]:
        if form is ExportFormat.HTML:
            with suppress(BrokenRecording):
                yield from export(reader.header, reader.frames(), form)
            return
        broken, last = False, 0

        def whole() -> Iterator[Frame]:
            nonlocal broken, last
            try:
                for frame in reader.frames():
                    last = frame.time
                    yield frame
            except BrokenRecording:
                broken = True

        yield from export(reader.header, whole(), form)
        if broken:
            marker = _line([last / 1_000_000, "m", BROKEN])
            yield marker if form is ExportFormat.CAST else f"[broken] {BROKEN}\n".encode()

    return make


def played(reader: RecordingReader) -> Iterator[bytes]:
    """Lines for the player: the header's object first, an object with how it ended last, and arrays between them."""
    yield _line({"header": _header(reader.header)})
    yield from _frames(reader)


def _frames(reader: RecordingReader) -> Iterator[bytes]:
    screen = TerminalSanitiser()
    users = {1: reader.header.user}
    told_typed = False
    time = 0
    problem = ""
    frames = reader.frames()
    while True:
        try:
            frame = next(frames, None)
        except BrokenRecording as error:
            problem = error.message
            break
        if frame is None:
            break
        time = frame.time
        match frame.kind:
            case FrameKind.OUTPUT | FrameKind.STDERR:
                if shown := screen.feed_text(frame.payload):
                    yield _line(["o", time, shown])
            case FrameKind.RESIZE:
                yield _line(["r", time, *decode_size(frame.payload)])
            case FrameKind.INPUT:
                if not told_typed:  # by notes, which are there as soon as there are several who type
                    yield _line(["t", time, users[1], len(frame.payload)])
            case FrameKind.FILE:
                yield _line(["f", time, _detail(frame.payload)])
            case FrameKind.NOTE if frame.payload.startswith(FOR_PROGRAMS):
                match decode_note(frame.payload):
                    case PartyNote() as note:
                        users[note.party] = _text(note.user)
                        yield _line(["p", time, note.action, _text(note.user), _text(note.mode), _text(note.client)])
                    case TypedNote() as note:
                        told_typed = True
                        yield _line(["t", time, users.get(note.party, f"party {note.party}"), note.size])
            case _:
                yield _line(["d", time, frame.kind.name.lower(), detail_line(frame)])
    if rest := screen.finish_text():
        yield _line(["o", time, rest])
    yield _line({"end": time, "problem": problem})


def _header(header: RecordingHeader) -> dict[str, Any]:
    return {
        "sid": header.sid,
        "started": header.started.isoformat().replace("+00:00", "Z"),
        "user": _text(header.user),
        "login": _text(header.login),
        "node": header.node_id,
        "hostname": _text(header.node_name),
        "command": _text(header.command),
        "client": _text(header.client),
        "interactive": header.interactive,
        "width": header.width,
        "height": header.height,
    }


def _detail(payload: bytes) -> dict[str, Any]:
    """What was done to a file; strange payloads as one text."""
    try:
        found = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return {"action": _text(payload.decode(errors="backslashreplace"))}
    return {
        name: value if isinstance(value, int) else _text(str(value))
        for name in ("action", "path", "target", "size", "sha256", "error")
        if (value := found.get(name))
    }


def _text(text: str) -> str:
    return one_line(text, MAX_TEXT)


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"

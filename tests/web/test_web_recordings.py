"""Recordings played and exported in browsers: on record, for who may, bounded, and never a page of this origin."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.recording.recording_samples import SID, recording
from tests.security.test_security_recordings import RecordingHost, _recorded
from tests.web.session_rig import Browser, lock, until
from tests.web.test_web_evidence import SITE, with_people
from tests.web.web_rig import RunningWeb

from teleport.errors import BadRequest, TeleportError
from teleport.recording.export import ExportFormat
from teleport.recording.format import Frame, FrameKind
from teleport.recording.format.frames import encode_size
from teleport.recording.format.parties import PartyNote, TypedNote, encode_note
from teleport.recording.player import RecordingReader
from teleport.testing.auth import RunningAuth
from teleport.web import evidence_asking
from teleport.web.recording_feed import BROKEN, converted, exported, played

HOSTILE = (
    b"\x1b]52;c;ZXZpbA==\x07\x1b]0;evil\x07\x1b]8;;https://evil.example.com\x1b\\click\x1b]8;;\x1b\\\x1b[c\x1b[6n"
    b'\x1bP$q"p\x1b\\\x1b[?1000h<script>alert(1)</script>\xe2\x80\xae\xc2\x9b5n\r\n'
)


def lines(data: bytes | str) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


def played_lines(frames: list[Frame], **header: object) -> list[Any]:
    return lines(b"".join(played(RecordingReader(io.BytesIO(recording(frames, **header))))))


async def test_a_recording_is_played_and_exported_on_record(tmp_path: Path) -> None:
    """Each reading leaves the event that tctl and tsh leave, and says what for."""

    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        sid = await _recorded(auth, "joe", text=HOSTILE)
        ann = windows["ann"]
        answer = await ann.ask("GET", f"{SITE}/sessions/{sid}/stream")
        assert answer.status == 200, answer.text
        first, *between, last = lines(answer.text)
        assert (first["header"]["sid"], first["header"]["user"]) == (sid, "joe")
        assert [one[2] for one in between if one[0] == "o"] == ["click<script>alert(1)</script>\r\n"]
        assert last["problem"] == ""
        for form in ("cast", "html", "text"):
            answer = await ann.ask("GET", f"{SITE}/recordings/{sid}/{form}")
            assert answer.status == 200, answer.text
            assert "evil" not in answer.text
            assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="{sid}.')
            assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'; frame-ancestors 'none'"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert not answer.headers["Content-Type"].startswith("text/html")
        told = [(event["sid"], event["user"], event["format"]) for event in await auth.events(
            "session_recording.access", wait_for=4
        )]  # fmt: skip
        assert told == [(sid, "ann", form) for form in ("play", "cast", "html", "text")]

    await with_people(tmp_path, work, ann="auditor")


async def test_only_who_may_read_a_recording_plays_or_exports_it(tmp_path: Path) -> None:
    """One's own, or any by a rule; and a refusal tells nothing of it."""

    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        sid = await _recorded(auth, "joe", text=b"the needle\n")
        paths = [f"{SITE}/sessions/{sid}/stream", f"{SITE}/namespaces/default/sessions/{sid}/stream"]
        paths += [f"{SITE}/recordings/{sid}/{form}" for form in ("cast", "html", "text")]
        for path in paths:
            assert (await windows["joe"].ask("GET", path)).status == 200, path
            for name in ("bob", "eve"):
                answer = await windows[name].ask("GET", path)
                assert answer.status == 403, (name, path)
                assert "Content-Disposition" not in answer.headers
                missing = await windows[name].ask("GET", path.replace(sid, str(uuid.uuid4())))
                assert missing.text == answer.text, "there or not: the same answer"
        readers = {event["user"] for event in await auth.events("session_recording.access", wait_for=len(paths))}
        assert readers == {"joe"}
        for path in (f"{SITE}/sessions/x/stream", f"{SITE}/sessions/{SID}/stream", f"{SITE}/recordings/{SID}/raw"):
            assert (await windows["ann"].ask("GET", path)).status == 404, path

    await with_people(tmp_path, work, joe="access", ann="auditor", bob="access", eve="editor")


async def test_a_stream_ends_with_its_session_and_there_are_not_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a browser that takes nothing more, a bounded part is held; what it had begun to get breaks off."""
    monkeypatch.setattr(evidence_asking, "MOST_OF_ONE", 1)

    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        host = await RecordingHost.join(auth)
        sid = str(uuid.uuid4())
        await host.upload(sid, "joe", text=b"more than sockets hold on the way to a browser\r\n" * 800_000)
        joe = windows["joe"]
        path = f"{SITE}/sessions/{sid}/stream"
        async with web.session.get(web.url + path, headers=joe.headers()) as response:
            assert response.status == 200
            assert b'{"header"' in await response.content.readany()
            assert (await joe.ask("GET", path)).status == 429
            assert (await windows["ann"].ask("GET", f"{SITE}/recordings/{SID}/cast")).status == 404, "others go on"
            await lock(auth, user="joe")
            with pytest.raises(Exception, match=r"payload|closed|reset"):
                await response.content.read()
        assert web.service.sessions is not None
        await until(lambda: not any(one.user == "joe" for one in web.service.sessions._sessions.values()), "the end")  # type: ignore[union-attr]

    await with_people(tmp_path, work, joe="access", ann="auditor")


async def test_what_reads_a_recording_ends_when_nobody_wants_it() -> None:
    """Also in the midst of waiting for auth."""
    waiting, closed = asyncio.Event(), asyncio.Event()
    data = recording([Frame(0, FrameKind.OUTPUT, b"x")])

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            yield data[:-10]
            waiting.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    feed = converted(pieces(), played, SID)
    taking = asyncio.create_task(anext(feed))
    async with asyncio.timeout(10):
        await waiting.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await feed.aclose()
        await closed.wait()


async def test_the_kernel_holds_little_of_what_a_slow_reader_has_not_got() -> None:
    """It would take megabytes at once and then nothing for longer than a stream may stand still."""
    handed = 0

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal handed
        while True:
            handed += 64 * 1024
            yield bytes(64 * 1024)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await evidence_asking._send(request, response, pieces())
        return response

    app = web.Application()
    app.router.add_get("/", endless)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    try:
        await web.SockSite(runner, listener).start()
        reader.connect(listener.getsockname())
        reader.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        before = -1
        while handed == 0 or handed != before:
            before = handed
            await asyncio.sleep(0.3)
        assert handed < 1024 * 1024
    finally:
        reader.close()
        await runner.cleanup()


async def test_what_auth_refuses_is_refused() -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        raise BadRequest("not today")
        yield b""

    with pytest.raises(TeleportError, match="not today"):
        await anext(converted(pieces(), played, SID))


def test_a_player_learns_who_typed_when_but_not_what() -> None:
    """It may be a password."""
    frames = [
        Frame(0, FrameKind.INPUT, b"secret"),
        Frame(5, FrameKind.RESIZE, encode_size(100, 30)),
        Frame(7, FrameKind.NOTE, encode_note(PartyNote(party=1, action="there", user="ann", mode="peer")).encode()),
        Frame(
            8,
            FrameKind.NOTE,
            encode_note(
                PartyNote(party=2, action="joined", user="bob\x1b[2J", mode="peer", client="192.0.2.9:1")
            ).encode(),
        ),
        Frame(9, FrameKind.INPUT, b"secret"),
        Frame(9, FrameKind.NOTE, encode_note(TypedNote(party=2, offset=0, size=6)).encode()),
        Frame(10, FrameKind.INPUT, b"secret"),
        Frame(11, FrameKind.EXEC, b'{"command":"ls","status":1}'),
        Frame(12, FrameKind.FILE, b'{"action":"write","path":"/tmp/\\u202ex","size":7,"sha256":"ab","more":[1]}'),
        Frame(13, FrameKind.FILE, b"[1"),
        Frame(14, FrameKind.NOTE, b"a sentence\x07"),
    ]
    found = played_lines(frames)
    assert "secret" not in str(found)
    assert found[1:] == [
        ["t", 0, "ann", 6],
        ["r", 5, 100, 30],
        ["p", 7, "there", "ann", "peer", ""],
        ["p", 8, "joined", "bob<U+001B>[2J", "peer", "192.0.2.9:1"],
        ["t", 9, "ann", 6],
        ["t", 9, "bob<U+001B>[2J", 6],
        ["d", 11, "exec", "ls status=1"],
        ["f", 12, {"action": "write", "path": "/tmp/<U+202E>x", "size": 7, "sha256": "ab"}],
        ["f", 13, {"action": "[1"}],
        ["d", 14, "note", "a sentence<U+0007>"],
        {"end": 14, "problem": ""},
    ]


def test_what_a_recording_does_to_terminals_does_not_reach_the_player() -> None:
    """T44, also in pieces: a sequence is never sent in halves, and a strange character not at all."""
    for cut in range(1, len(HOSTILE)):
        found = played_lines([Frame(0, FrameKind.OUTPUT, HOSTILE[:cut]), Frame(1, FrameKind.STDERR, HOSTILE[cut:])])
        shown = "".join(line[2] for line in found if isinstance(line, list))
        assert shown == "click<script>alert(1)</script>\r\n", cut


@pytest.mark.parametrize("form", [ExportFormat.CAST, ExportFormat.HTML, ExportFormat.TEXT])
def test_an_export_of_a_broken_recording_says_where_it_broke(form: ExportFormat) -> None:
    """What is before that place is whole."""
    data = bytearray(recording([Frame(1_500_000, FrameKind.OUTPUT, b"whole\r\n")]))
    data[-1] ^= 1
    made = b"".join(exported(form)(RecordingReader(io.BytesIO(bytes(data)))))
    assert b"whole" in made or form is ExportFormat.HTML  # which leaves out its last screen
    assert BROKEN.encode() in made.lower()
    broken = lines(b"".join(played(RecordingReader(io.BytesIO(bytes(data))))))[-1]
    assert "is broken" in broken["problem"]

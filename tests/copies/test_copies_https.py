"""Events to a real HTTPS server: batches, back-off, refusals, and one that dies in the middle."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from tests.copies.test_copies import opened, running

from teleport.copies import copier as copier_module
from teleport.copies.copier import Later
from teleport.copies.https import HttpsPlace, stay_away
from teleport.copies.settings import HttpsCopy, TlsFiles
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.testing.loopback import LOOPBACK
from teleport.testing.public_authority import PublicAuthority
from teleport.testing.running import wait_until


class Receiver:
    """Keeps what it takes; `answers` are given first."""

    def __init__(self, folder: Path, *, wants_client: bool = False) -> None:
        authority = PublicAuthority("Receiver")
        self.ca, self.token = folder / "ca.pem", folder / "token"
        self.ca.write_bytes(authority.root)
        self.token.write_text("sesame\n")
        self.client = authority.issue("auth.example.com").write(folder, "client")
        cert, key = authority.issue(LOOPBACK).write(folder, "server")
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca if wants_client else None)
        self.context.load_cert_chain(cert, key)
        if wants_client:
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.answers: list[web.Response | str] = []
        self.most = 1 << 20  # bytes of a body
        self.lines: list[bytes] = []
        self.requests: list[dict[str, str]] = []
        self.port = 0

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, LOOPBACK, self.port, ssl_context=self.context)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append({**request.headers, "path": request.path, "method": request.method})
        if self.answers:
            answer = self.answers.pop(0)
            if answer == "dies":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            assert isinstance(answer, web.Response)
            return answer
        if len(body) > self.most:
            return web.Response(status=413)
        self.lines += body.splitlines()
        return web.Response(status=202)

    def place(self, *, ca: Path | None = None, client: bool = False, host: str = LOOPBACK) -> HttpsPlace:
        cert, key = self.client if client else (None, None)
        url = f"https://{host}:{self.port}/in"
        return HttpsPlace(HttpsCopy("siem", url, TlsFiles(ca or self.ca, cert, key), self.token), within=10.0)


def uids(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["uid"] for line in lines]


async def test_a_batch_is_one_post_of_stored_lines_with_the_token_and_an_id(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path)
    async with opened(tmp_path / "rig") as rig, receiver.up():
        rig.place = receiver.place()  # type: ignore[assignment]
        await rig.tell(5)
        await rig.copier().step()
        assert receiver.lines == rig.log.lines()
        (asked,) = receiver.requests
        assert (asked["method"], asked["path"]) == ("POST", "/in")
        assert asked["Content-Type"] == "application/x-ndjson"
        assert asked["Authorization"] == "Bearer sesame"
        receiver.token.write_text("other")
        await rig.place.write([b"{}"])
        assert receiver.requests[-1]["Authorization"] == "Bearer other"
        assert len({one["Idempotency-Key"] for one in receiver.requests}) == 2
        await rig.place.close()


async def test_a_receiver_that_fails_and_dies_in_the_middle_gets_every_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copier_module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(copier_module, "MOST_PAUSE", 0.05)
    monkeypatch.setattr(copier_module, "LINES", 10)
    receiver = Receiver(tmp_path)
    async with opened(tmp_path / "rig") as rig:
        async with receiver.up():
            rig.place = receiver.place()  # type: ignore[assignment]
            copier = rig.copier()
        async with running(copier):
            async with receiver.up():
                receiver.answers = [web.Response(status=500), "dies", web.Response(status=503), "dies"]
                await rig.tell(50)
                await wait_until(lambda: not receiver.answers and len(receiver.lines) > 0, 60)
            await rig.tell(30)
            await wait_until(lambda: copier.problem != "", 60)
            async with receiver.up():
                await wait_until(lambda: set(uids(receiver.lines)) == set(uids(rig.log.lines())), 60)
                await wait_until(lambda: not copier.problem, 60)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (web.Response(status=401), AccessDenied, "does not know us"),
        (web.Response(status=404), ConnectionProblem, "answers 404"),
        (web.Response(status=302, headers={"Location": "https://elsewhere.example.com/"}), ConnectionProblem, "302"),
        (web.Response(status=429, headers={"Retry-After": "7"}), Later, "asks for 7 s"),
    ],
)
async def test_only_2xx_means_that_it_has_the_events(
    tmp_path: Path, answer: web.Response, error: type[TeleportError], words: str
) -> None:
    """A redirect is not followed: events go where the configuration says."""
    receiver = Receiver(tmp_path)
    async with receiver.up():
        place = receiver.place()
        receiver.answers = [answer]
        with pytest.raises(error, match=words):
            await place.write([b"{}"])
        assert len(receiver.requests) == 1
        await place.write([b"{}"])
        assert receiver.lines == [b"{}"]
        await place.close()


async def test_a_batch_that_is_too_large_is_cut_and_one_event_that_is_too_large_is_said(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path)
    receiver.most = 25
    async with receiver.up():
        place = receiver.place()
        lines = [b'{"n":%02d}' % number for number in range(11)]
        await place.write(lines)
        assert receiver.lines == lines
        with pytest.raises(TeleportError, match="does not take one line of 30 bytes"):
            await place.write([b"x" * 30])
        await place.close()


@pytest.mark.parametrize("wrong", ["authority", "name", "client", "token"])
async def test_nothing_is_said_to_a_receiver_that_is_not_the_one(tmp_path: Path, wrong: str) -> None:
    receiver = Receiver(tmp_path, wants_client=True)
    other = tmp_path / "other.pem"
    other.write_bytes(PublicAuthority("Other").root)
    async with receiver.up():
        match wrong:
            case "authority":
                place = receiver.place(ca=other, client=True)
            case "name":
                place = receiver.place(host="localhost", client=True)
            case "token":
                place = receiver.place(client=True)
                receiver.token.unlink()
            case _:
                place = receiver.place()
        with pytest.raises(TeleportError) as caught:
            await place.write([b"{}"])
        assert receiver.requests == []
        assert caught.value.hint
        await place.close()
        if wrong == "client":
            good = receiver.place(client=True)
            await good.write([b"{}"])
            assert receiver.lines == [b"{}"]
            await good.close()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("999999999999999999", 3600.0),
        ("Sat, 01 May 2021 10:00:30 GMT", 30.0),
        ("Sat, 01 May 2021 09:00:00 GMT", 0.0),
        ("Sun, 01 May 2033 09:00:00 GMT", 3600.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("\u0661", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_long(text: str, seconds: float | None) -> None:
    assert stay_away(text, datetime(2021, 5, 1, 10, tzinfo=UTC)) == seconds

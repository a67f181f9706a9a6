"""The async client of auth: several servers, broken answers, streams both ways, and a watch that falls silent."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from teleport.api import client as api_client
from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.errors import AccessDenied, AlreadyExists, ConnectionProblem, NotFound, TeleportError
from teleport.pki.keys import generate_p256
from teleport.pki.x509cert import auth_server_name, pem_of, self_signed_web_pair
from teleport.testing.auth import CLUSTER, running_auth

NAME = "auth.example.com"
Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    key = generate_p256()
    cert_file, key_file = tmp_path / "auth.crt", tmp_path / "auth.key"
    cert_file.write_bytes(pem_of(self_signed_web_pair([NAME], key, datetime.now(UTC))))
    key_file.write_bytes(key.pkcs8_pem().reveal())
    return cert_file, key_file


@asynccontextmanager
async def auth_like(pair: tuple[Path, Path], handle: Handle) -> AsyncIterator[tuple[str, int]]:
    """A TLS server that answers every call with `handle`."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, lingering_time=0)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener, ssl_context=context).start()
    try:
        yield listener.getsockname()[:2]
    finally:
        await runner.cleanup()


def client_of(pair: tuple[Path, Path], *addresses: tuple[str, int]) -> AuthClient:
    context = ssl.create_default_context(cafile=str(pair[0]))
    return AuthClient(addresses, lambda: context, NAME)


def dead_address() -> tuple[str, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
        return host, port


def who(name: str) -> web.Response:
    return web.json_response({"kind": "host", "name": name, "roles": [], "cluster": "c", "client_addr": ""})


def answering(name: str, calls: list[str]) -> Handle:
    async def handle(_: web.Request) -> web.Response:
        calls.append(name)
        return who(name)

    return handle


# several servers


async def test_an_auth_server_that_does_not_answer_is_passed_over_and_asked_last_from_then_on(
    pair: tuple[Path, Path],
) -> None:
    calls: list[str] = []
    async with (
        auth_like(pair, answering("second", calls)) as second,
        client_of(pair, dead_address(), second) as client,
    ):
        assert (await client.call(routes.WHO_AM_I, m.Empty())).name == "second"
        assert client._addresses[0] == second
        assert (await client.call(routes.WHO_AM_I, m.Empty())).name == "second"
    assert calls == ["second", "second"]


async def test_an_auth_server_that_takes_calls_and_never_answers_is_asked_last_from_then_on(
    pair: tuple[Path, Path],
) -> None:
    """As one does that is stopped, or whose machine is gone without a word: it costs one call its time."""
    calls: list[str] = []
    release = asyncio.Event()

    async def frozen(_: web.Request) -> web.Response:
        calls.append("frozen")
        await release.wait()
        return web.Response()

    async with (
        auth_like(pair, frozen) as first,
        auth_like(pair, answering("second", calls)) as second,
        client_of(pair, first, second) as client,
    ):
        with pytest.raises(ConnectionProblem, match="did not answer"):
            await client.call(routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]), timeout=0.3)
        for _ in range(3):
            assert (await client.call(routes.WHO_AM_I, m.Empty())).name == "second"
        release.set()
    assert calls == ["frozen", *["second"] * 3]


async def test_calls_at_once_agree_on_who_answers(pair: tuple[Path, Path]) -> None:
    """Each of them finds the first one dead; it is not asked first again by the last of them."""
    calls: list[str] = []
    dead = dead_address()
    async with auth_like(pair, answering("second", calls)) as second, client_of(pair, dead, second) as client:
        for count in (2, 3, 4):
            client._addresses = [dead, second]
            await asyncio.gather(*(client.call(routes.WHO_AM_I, m.Empty()) for _ in range(count)))
            assert client._addresses == [second, dead]


async def test_when_nobody_answers_every_address_is_named_and_the_reason(pair: tuple[Path, Path]) -> None:
    first = dead_address()
    async with client_of(pair, first, ("::1", first[1])) as client:
        with pytest.raises(ConnectionProblem, match=r"127\.0\.0\.1:\d+, \[::1\]:\d+: .+") as caught:
            await client.call(routes.WHO_AM_I, m.Empty())
    assert "auth_servers" in caught.value.hint


async def test_nothing_is_begun_while_there_is_no_way_to_auth(pair: tuple[Path, Path]) -> None:
    there, asked = False, 0

    async def way(seconds: float) -> bool:
        return there

    async def handle(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return who("auth")

    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        client.way = way
        with pytest.raises(ConnectionProblem, match="no proxy holds a tunnel of this host"):
            await client.call(routes.WHO_AM_I, m.Empty())
        assert client._connections is None
        assert asked == 0
        there = True
        assert (await client.call(routes.WHO_AM_I, m.Empty())).name == "auth"


async def test_without_addresses_the_error_says_so(pair: tuple[Path, Path]) -> None:
    async with client_of(pair) as client:
        with pytest.raises(ConnectionProblem, match="no address is known"):
            await client.call(routes.WHO_AM_I, m.Empty())


async def test_a_server_that_proves_nothing_is_not_spoken_to(pair: tuple[Path, Path], tmp_path: Path) -> None:
    calls: list[str] = []
    async with auth_like(pair, answering("stranger", calls)) as stranger:
        async with AuthClient([stranger], ssl.create_default_context, NAME) as client:
            with pytest.raises(ConnectionProblem, match="certificate"):
                await client.call(routes.WHO_AM_I, m.Empty())
        context = ssl.create_default_context(cafile=str(pair[0]))
        async with AuthClient([stranger], lambda: context, "other.example.com") as client:
            with pytest.raises(ConnectionProblem, match="certificate"):
                await client.call(routes.WHO_AM_I, m.Empty())
    assert not calls


def hanging_up(calls: list[str]) -> Handle:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        calls.append("hung up")
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return handle


async def test_a_read_whose_answer_was_lost_is_asked_of_the_next_server(pair: tuple[Path, Path]) -> None:
    calls: list[str] = []
    async with (
        auth_like(pair, hanging_up(calls)) as first,
        auth_like(pair, answering("second", calls)) as second,
        client_of(pair, first, second) as client,
    ):
        assert (await client.call(routes.WHO_AM_I, m.Empty())).name == "second"


async def test_a_change_whose_answer_was_lost_is_not_made_a_second_time(pair: tuple[Path, Path]) -> None:
    calls: list[str] = []
    async with (
        auth_like(pair, hanging_up(calls)) as first,
        auth_like(pair, answering("second", calls)) as second,
        client_of(pair, first, second) as client,
    ):
        with pytest.raises(ConnectionProblem, match="did not answer"):
            await client.call(routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]))
    assert calls == ["hung up"]


async def test_a_call_without_an_answer_is_given_up_in_time(pair: tuple[Path, Path]) -> None:
    release = asyncio.Event()

    async def handle(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        with pytest.raises(ConnectionProblem, match="nothing came for too long"):
            await client.call(routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]), timeout=0.1)
        release.set()


async def all_of(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


# errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (403, {"code": "access_denied", "message": "no", "hint": "ask"}, AccessDenied, "no"),
        (404, {"code": "not_found", "message": "gone"}, NotFound, "gone"),
        (409, {"code": "already_exists", "message": "taken"}, AlreadyExists, "taken"),
        (500, {"code": "failed", "message": "broken"}, TeleportError, "broken"),
        (500, {"code": "of a newer server", "message": "new"}, TeleportError, "new"),
        (502, "<html>bad gateway</html>", ConnectionProblem, "HTTP status 502"),
        (200, "{}", ConnectionProblem, "cannot be read"),
        (200, "not json", ConnectionProblem, "cannot be read"),
        (200, b'{"kind": "\xff"}', ConnectionProblem, "cannot be read"),
        (500, b'{"code": "\xff"}', ConnectionProblem, "HTTP status 500"),
        (302, "", ConnectionProblem, "HTTP status 302"),
    ],
)
async def test_answers_become_the_errors_that_they_say(
    pair: tuple[Path, Path], status: int, body: object, kind: type[TeleportError], message: str
) -> None:
    async def handle(_: web.Request) -> web.Response:
        said = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        return web.Response(status=status, body=said, headers={"Location": "/elsewhere"} if status == 302 else {})

    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        with pytest.raises(TeleportError, match=message) as caught:
            await client.call(routes.WHO_AM_I, m.Empty())
        assert type(caught.value) is kind


async def test_an_answer_that_breaks_off_is_a_connection_problem(pair: tuple[Path, Path]) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        with pytest.raises(ConnectionProblem, match="broke off"):
            await client.call(routes.WHO_AM_I, m.Empty())


async def test_an_answer_without_end_is_cut(pair: tuple[Path, Path]) -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=b" " * 5000)

    context = ssl.create_default_context(cafile=str(pair[0]))
    async with auth_like(pair, handle) as address, AuthClient([address], lambda: context, NAME, most=1000) as client:
        with pytest.raises(ConnectionProblem, match="larger than 1000 bytes"):
            await client.call(routes.WHO_AM_I, m.Empty())


# streams


async def test_large_uploads_and_downloads_arrive_whole(pair: tuple[Path, Path]) -> None:
    part, parts = b"0123456789abcdef" * 4096, 64
    taken = bytearray()

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            async for chunk in request.content.iter_any():
                taken.extend(chunk)
            return web.json_response({"offset": len(taken)})
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(parts):
            await response.write(part)
        await response.write_eof()
        return response

    async def body() -> AsyncIterator[bytes]:
        for _ in range(parts):
            yield part

    sid = str(uuid.uuid4())
    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        done = await client.upload(routes.APPEND_RECORDING, m.AppendRecordingRequest(sid=sid, offset=0), body())
        assert done.offset == len(part) * parts
        assert taken == part * parts
        assert await all_of(client.download(routes.READ_RECORDING, m.RecordingRequest(sid=sid))) == part * parts


async def test_an_upload_that_was_begun_is_not_sent_on_to_another_server(pair: tuple[Path, Path]) -> None:
    """The stream is used up: a second server would take a part for the whole."""
    calls: list[str] = []

    async def breaking(request: web.Request) -> web.Response:
        await request.content.readany()
        calls.append("first")
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 65536

    async with (
        auth_like(pair, breaking) as first,
        auth_like(pair, answering("second", calls)) as second,
        client_of(pair, first, second) as client,
    ):
        with pytest.raises(ConnectionProblem):
            await client.upload(routes.APPEND_RECORDING, m.AppendRecordingRequest(sid="s", offset=0), body())
    assert calls == ["first"]


async def test_a_refused_download_raises_what_auth_says(pair: tuple[Path, Path]) -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.json_response({"code": "not_found", "message": "no such recording"}, status=404)

    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        with pytest.raises(NotFound, match="no such recording"):
            await all_of(client.download(routes.READ_RECORDING, m.RecordingRequest(sid="s")))


async def test_a_download_that_breaks_off_is_a_connection_problem(pair: tuple[Path, Path]) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        with pytest.raises(ConnectionProblem, match="read_recording: the stream broke off"):
            await all_of(client.download(routes.READ_RECORDING, m.RecordingRequest(sid="s")))


# watches


def watching(*parts: bytes, then: str) -> Handle:
    """Sends `parts`, then is `silent` or comes to its `end`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if then == "silent":
            while request.transport is not None:  # noqa: ASYNC110 - aiohttp says in no other way that a client left
                await asyncio.sleep(0.01)
            return response
        await response.write_eof()
        return response

    return handle


async def watched(client: AuthClient, revisions: list[int]) -> None:
    async for line in client.watch(m.WatchRequest(kinds=["role"])):
        revisions.append(line.revision)


async def test_lines_of_a_watch_come_whole_however_they_are_cut(pair: tuple[Path, Path]) -> None:
    whole = b"".join(b'{"revision":%d}\n' % number for number in range(50))
    parts = [whole[:5], whole[5:40], whole[40:41], whole[41:]]
    revisions: list[int] = []
    async with auth_like(pair, watching(*parts, then="end")) as address, client_of(pair, address) as client:
        with pytest.raises(ConnectionProblem, match="auth ended the stream"):
            await watched(client, revisions)
    assert revisions == list(range(50))


async def test_a_silent_watch_counts_as_dead(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "WATCH_SILENCE", 0.2)
    revisions: list[int] = []
    handle = watching(b'{"revision":7}\n', then="silent")
    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        with pytest.raises(ConnectionProblem, match=r"watch: nothing heard from auth for 0\.2 s"):
            await watched(client, revisions)
    assert revisions == [7]


async def test_a_line_that_cannot_be_read_ends_a_watch_as_a_connection_problem(pair: tuple[Path, Path]) -> None:
    handle = watching(b'{"revision":1}\n{"revision":"x"}\n', then="end")
    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        with pytest.raises(ConnectionProblem, match="cannot be read"):
            await watched(client, [])


async def test_a_watch_that_is_left_closes_its_connection(pair: tuple[Path, Path]) -> None:
    ended = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b'{"revision":1}\n')
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        lines = client.watch(m.WatchRequest(kinds=["role"]))
        assert (await anext(lines)).revision == 1
        await lines.aclose()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_after_a_renewal_a_watch_begins_anew_and_calls_under_way_go_on(
    pair: tuple[Path, Path],
) -> None:
    connections: list[object] = []
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.transport not in connections:
            connections.append(request.transport)
        if request.path == "/v1/watch":
            return await watching(b'{"revision":%d}\n' % len(connections), then="silent")(request)
        asked.set()
        await may_answer.wait()
        return web.json_response({"name": "slow", "kind": "host", "roles": [], "cluster": "c", "client_addr": ""})

    async with auth_like(pair, handle) as address, client_of(pair, address) as client:
        lines = client.watch(m.WatchRequest(kinds=["role"]))
        assert (await anext(lines)).revision == 1
        slow = asyncio.create_task(client.call(routes.WHO_AM_I, m.Empty()), name="slow")
        await asked.wait()
        await client.renewed()
        assert (await anext(lines)).revision == 3, "on a connection of its own, after the slow one"
        may_answer.set()
        assert (await slow).name == "slow"
        await lines.aclose()
        assert len(connections) == 3
        assert not client._retired or not any(one.used for one in client._retired)


async def test_a_client_can_be_closed_twice_and_used_again(pair: tuple[Path, Path]) -> None:
    async with auth_like(pair, answering("auth", [])) as address:
        client = client_of(pair, address)
        assert (await client.call(routes.WHO_AM_I, m.Empty())).name == "auth"
        await client.close()
        await client.close()
        assert (await client.call(routes.WHO_AM_I, m.Empty())).name == "auth"
        await client.close()


async def test_a_renewed_certificate_is_used_for_new_connections(tmp_path: Path) -> None:
    """`context` is asked for at each request: the caller changes without a new client."""
    async with running_auth(tmp_path) as auth:
        admin, person = await auth.admin(), await auth.user("alice", ["access"])
        current = [admin]
        async with AuthClient([auth.address], lambda: auth.context(current[0]), auth_server_name(CLUSTER)) as client:
            assert (await client.call(routes.WHO_AM_I, m.Empty())).kind == "host"
            current[0] = person
            assert (await client.call(routes.WHO_AM_I, m.Empty())).name == "alice"

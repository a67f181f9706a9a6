"""The ACME client against Debian's pebble, and against directories that do what none should."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web
from tests.cluster.cluster_packages import install

from teleport.errors import ConnectionProblem, TeleportError
from teleport.pki.acme import AccountKey, challenge_pair, new_key, signing_request
from teleport.pki.web_chain import read_pair
from teleport.testing.directory import directory, why_no_directory
from teleport.testing.loopback import free_port
from teleport.testing.public_authority import PublicAuthority
from teleport.transport.acme import AcmeClient, AcmeRefused
from teleport.transport.web_certificates import load
from teleport.wire.alpn import ACME

NAME = "teleport.example.test"


def needs_pebble() -> None:
    missing = why_no_directory()
    if missing and (why := install("pebble", missing)):
        pytest.skip(why)


def trusting(file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(file))


class Answering:
    """Shows the answer to a challenge on a port of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self.asked = 0

    async def show(self, digest: bytes) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([ACME])
        load(context, challenge_pair(NAME, digest, datetime.now(UTC)))

        async def shown(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked += 1
            writer.close()

        self._server = await asyncio.start_server(shown, "127.0.0.1", self._port, ssl=context)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


async def test_a_certificate_is_got_from_pebble_and_again_with_the_account_that_it_made(tmp_path: Path) -> None:
    """pebble refuses one nonce of twenty: the client signs again."""
    needs_pebble()
    port, account = free_port(), AccountKey(new_key())
    answering = Answering(port)
    with directory(tmp_path / "pebble", port) as made:
        async with AcmeClient(made.uri, account, context=trusting(made.trust)) as client:
            url = await client.register("admin@example.test")
            key = new_key()
            chain = await client.obtain(NAME, signing_request(NAME, key), answering.show)
        answering.close()
        assert answering.asked, "the directory has looked"
        pair = read_pair(chain, key.reveal(), chain_name="c", key_name="k")
        assert pair.names == (NAME,)
        assert "Pebble Root" in pair.top
        async with AcmeClient(made.uri, account, context=trusting(made.trust)) as again:
            assert await again.register() == url
            for _ in range(25):
                await again.register()
        async with AcmeClient(made.uri, AccountKey(new_key()), url, context=trusting(made.trust)) as other:
            with pytest.raises(AcmeRefused) as refused:
                await other.obtain(NAME, signing_request(NAME, key), answering.show)
            assert refused.value.kind in {"unauthorized", "malformed"}


async def test_a_name_that_leads_elsewhere_is_refused_with_what_to_look_at(tmp_path: Path) -> None:
    needs_pebble()

    async def nobody(_: bytes) -> None:
        pass

    with directory(tmp_path / "pebble", free_port()) as made:
        async with AcmeClient(made.uri, AccountKey(new_key()), context=trusting(made.trust)) as client:
            await client.register()
            with pytest.raises(AcmeRefused) as refused:
                await client.obtain(NAME, signing_request(NAME, new_key()), nobody)
    assert f"does not believe that {NAME} is this proxy" in refused.value.message
    assert "port 443" in refused.value.hint


@asynccontextmanager
async def strange(
    folder: Path, answer: Callable[[web.Request, str], web.Response]
) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """A directory whose answers, beside those about itself and nonces, are `answer`'s."""
    authority = PublicAuthority("Strange")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost").write(folder))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        base = f"https://localhost:{bound.getsockname()[1]}"

        async def handle(request: web.Request) -> web.Response:
            headers = {"Replay-Nonce": "bm9uY2U"}
            if request.path == "/dir":
                names = {one: f"{base}/{one}" for one in ("newNonce", "newAccount", "newOrder")}
                return web.json_response(names, headers=headers)
            if request.path == "/newNonce":
                return web.Response(headers=headers)
            made = answer(request, base)
            made.headers.update(headers)
            return made

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.SockSite(runner, bound, ssl_context=context).start()
        try:
            yield f"{base}/dir", ssl.create_default_context(cadata=authority.root.decode())
        finally:
            await runner.cleanup()


def problem(kind: str, detail: str = "", status: int = 400, **headers: str) -> web.Response:
    body = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail}
    return web.Response(
        status=status,
        body=json.dumps(body),
        content_type="application/problem+json",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


async def refusal(folder: Path, answer: Callable[[web.Request, str], web.Response]) -> TeleportError:
    async def nobody(_: bytes) -> None:
        pass

    async def at_once(_: float) -> None:
        pass

    async with strange(folder, answer) as (uri, context):
        client = AcmeClient(uri, AccountKey(new_key()), "https://x.test/1", context=context, sleep=at_once)
        async with client:
            with pytest.raises(TeleportError) as refused:
                await client.obtain(NAME, b"", nobody)
    return refused.value


async def test_how_long_a_directory_asks_to_wait_comes_out(tmp_path: Path) -> None:
    """As seconds or as a date, bounded; its words are one line."""
    found = await refusal(tmp_path, lambda *_: problem("rateLimited", "too\nmany\x1b[2J", 429, Retry_After="7200"))
    assert isinstance(found, AcmeRefused)
    assert (found.kind, found.wait) == ("rateLimited", 7200.0)
    assert "too many" in found.message
    assert found.message.isprintable()
    later = format_datetime(datetime.now(UTC) + timedelta(hours=2))
    found = await refusal(tmp_path, lambda *_: problem("rateLimited", "x", 429, Retry_After=later))
    assert isinstance(found, AcmeRefused)
    assert 7000 < found.wait <= 7200
    for odd in ("soon", "-5", "9" * 30):
        found = await refusal(tmp_path, lambda *_, odd=odd: problem("rateLimited", "x", 429, Retry_After=odd))
        assert isinstance(found, AcmeRefused)
        assert 0 <= found.wait <= 86400


async def test_what_no_directory_should_say_ends_in_a_sentence(tmp_path: Path) -> None:
    """Endless nonces and bodies, other schemes, redirections, orders of other names, work without an end."""
    order = {"status": "pending", "authorizations": ["{}/authz"], "finalize": "{}/finalize"}

    def answered(request: web.Request, base: str, status: str, name: str, kind: str) -> web.Response:
        if request.path == "/authz":
            challenge = {"type": kind, "url": f"{base}/challenge", "token": "t" * 43}
            body = {"status": status, "identifier": {"type": "dns", "value": name}, "challenges": [challenge]}
            return web.json_response(body)
        made = json.loads(json.dumps(order).replace("{}", base))
        return web.json_response(made, status=201, headers={"Location": f"{base}/order"})

    cases: list[tuple[Callable[[web.Request, str], web.Response], str]] = [
        (lambda *_: problem("badNonce"), "refuses every nonce"),
        (lambda *_: web.Response(body=b"x" * (1 << 20)), "larger than any that is right"),
        (lambda *_: web.Response(body=b"<html>"), "none of RFC 8555"),
        (lambda *_: web.Response(status=302, headers={"Location": "https://elsewhere.test/"}), "status 302"),
        (lambda *_: web.json_response({**order, "authorizations": ["http://127.0.0.1/"]}), "no https address"),
        (lambda *_: web.json_response({**order, "authorizations": ["file:///etc/passwd"]}), "no https address"),
        (lambda r, b: answered(r, b, "pending", "other.test", "tls-alpn-01"), "asks about 'other.test'"),
        (lambda r, b: answered(r, b, "pending", NAME, "http-01"), "offers no tls-alpn-01"),
        (lambda r, b: answered(r, b, "pending", NAME, "tls-alpn-01"), "does not come to an end with the proof"),
        (lambda r, b: answered(r, b, "valid", NAME, ""), "does not come to an end with the order"),
    ]
    for answer, said in cases:
        assert said in (await refusal(tmp_path, answer)).message, said


async def test_a_directory_that_is_away_is_named() -> None:
    async with AcmeClient(f"https://127.0.0.1:{free_port()}/dir", AccountKey(new_key())) as client:
        with pytest.raises(ConnectionProblem, match="cannot be reached: Connection refused"):
            await client.register()
    async with AcmeClient("http://127.0.0.1/dir", AccountKey(new_key())) as client:
        with pytest.raises(AcmeRefused, match="no https address"):
            await client.register()

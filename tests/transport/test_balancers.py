"""PROXY headers on listeners: from listed sources only, always from those, bounded (threats T17, T24)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from tests.transport.transport_peers import server_context, tls_pair, trusting

from teleport.transport import balancers
from teleport.transport.balancers import Address, Balancers, Headers
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.http_listener import HTTPListener
from teleport.wire.proxy_protocol import MAX_HEADER, SIGNATURE

KEY = "proxy_service.proxy_protocol_from"
TRUE = "203.0.113.9"
ONE = f"PROXY TCP4 {TRUE} 192.0.2.1 4000 443\r\n".encode()
TWO = SIGNATURE + b"\x21\x11\x00\x0c" + socket.inet_aton(TRUE) + b"\xc0\x00\x02\x01\x0f\xa0\x01\xbb"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
ASKED = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Served:
    """A listener that answers with the address it sees."""

    def __init__(self, listener: HTTPListener, address: Address, context: ssl.SSLContext | None) -> None:
        self.listener = listener
        self.address = address
        self.context = context
        self.refused: list[tuple[Address, str]] = []

    async def ask(self, first: bytes) -> bytes:
        """What comes back when a connection begins with `first`, then speaks as the listener wants."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(first)
            if self.context is not None:
                await writer.start_tls(self.context, server_hostname="localhost")
            writer.write(ASKED)
            return (await reader.read()).partition(b"\r\n\r\n")[2]
        except (ConnectionError, ssl.SSLError):
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    folder: Path,
    *listed: str,
    tls: bool = True,
    limits: ConnectionLimits | None = None,
    silent: int = 50,
) -> AsyncIterator[Served]:
    async def who(request: web.Request) -> web.Response:
        return web.Response(text=str(request.remote))

    refused: list[tuple[Address, str]] = []
    headers = Headers(Balancers.of(listed, KEY), lambda peer, why: refused.append((peer, why)))
    listener = HTTPListener("test", headers=headers, limits=limits, silent=silent)
    app = web.Application()
    app.router.add_get("/", who)
    runner = listener.runner(app)
    await runner.setup()
    pair = tls_pair(folder / "web", "localhost")
    with socket.create_server(("127.0.0.1", 0)) as bound:
        try:
            async with listener.serve(runner, bound, server_context(pair) if tls else None):
                served = Served(listener, bound.getsockname()[:2], trusting(pair) if tls else None)
                served.refused = refused
                yield served
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "TLS ended before"])
@pytest.mark.parametrize(
    ("header", "seen"), [(ONE, TRUE), (TWO, TRUE), (LOCAL, "127.0.0.1")], ids=["v1", "v2", "LOCAL"]
)
async def test_a_listed_balancer_says_for_whom_it_connects(tmp_path: Path, tls: bool, header: bytes, seen: str) -> None:
    async with serving(tmp_path, "127.0.0.0/8", tls=tls) as served:
        assert await served.ask(header) == seen.encode()
        assert served.refused == []


@pytest.mark.parametrize("header", [ONE, TWO], ids=["v1", "v2"])
async def test_a_header_from_elsewhere_is_refused_and_the_log_says_what_to_do(tmp_path: Path, header: bytes) -> None:
    """Threat T24: it is neither believed nor read over."""
    async with serving(tmp_path, "192.0.2.7") as served:
        assert await served.ask(header) == b""
        [(peer, why)] = served.refused
        assert peer[0] == "127.0.0.1"
        assert f"add it to {KEY}" in why
        assert await served.ask(b"") == b"127.0.0.1"


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01 no header", ONE.replace(b"4000", b"04000"), TWO[:13] + b"\x31"])
async def test_a_listed_balancer_without_a_header_is_refused(tmp_path: Path, first: bytes) -> None:
    """Else its own address would stand for all its clients."""
    async with serving(tmp_path, "127.0.0.1") as served:
        assert await served.ask(first) == b""
        [(_, why)] = served.refused
        assert "send-proxy-v2" in why


async def test_a_header_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threat T17: drip by drip, or silence; and bytes are bounded."""
    monkeypatch.setattr(balancers, "SECONDS", 0.2)
    async with serving(tmp_path, "127.0.0.1") as served:
        for first in (b"", ONE[:20], TWO[:14]):
            reader, writer = await asyncio.open_connection(*served.address)
            writer.write(first)
            assert await _ended(reader)
            writer.close()
        assert len(served.refused) == 3
        assert served.listener.silent == 0
        assert served.listener.open == 0
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(SIGNATURE + b"\x21\x11\xff\xff" + bytes(MAX_HEADER))
        assert await _ended(reader)
        writer.close()


async def test_limits_count_the_true_address(tmp_path: Path) -> None:
    """One client behind a balancer has its share and takes nothing from the next one."""
    async with serving(tmp_path, "127.0.0.1", limits=ConnectionLimits(max_connections=1)) as served:
        _, writer = await asyncio.open_connection(*served.address)
        writer.write(ONE)
        await _until(lambda: served.listener.open == 1 and served.listener._slots.taken == 1)
        await _until(lambda: not served.listener._first)
        assert await served.ask(ONE) == b""
        assert await served.ask(ONE.replace(TRUE.encode(), b"203.0.113.10")) == b"203.0.113.10"
        writer.close()


async def _ended(reader: asyncio.StreamReader) -> bool:
    """Whether the far end closes within five seconds, having said nothing."""
    async with asyncio.timeout(5):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)

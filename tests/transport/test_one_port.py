"""One port: the first bytes decide, contexts do not mix, nobody waits without end (T17, T24, trap T-3)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from tests.transport.transport_peers import tls_pair

from teleport.transport.balancers import Address, Balancers, Headers
from teleport.transport.http_listener import HTTPListener
from teleport.transport.one_port import Contexts, Ending, Port
from teleport.transport.tls import one_port_context
from teleport.wire.alpn import HTTP, PROXY_SSH

NAMED = "cluster.test"
OTHER = "other-protocol"


class Said(asyncio.Protocol):
    """Says what it is and who comes, and what it heard first."""

    def __init__(self, what: str, client: Address) -> None:
        self._what = f"{what} {client[0]} ".encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._what + data)
        self._transport.close()


class Served:
    def __init__(self, listener: HTTPListener, address: Address, refused: list[tuple[Address, str]]) -> None:
        self.listener = listener
        self.address = address
        self.refused = refused

    async def plain(self, *pieces: bytes) -> bytes:
        """What comes back for these bytes, sent one after the other."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            async with asyncio.timeout(10):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    def tls(
        self, name: str, protocols: list[str], context: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> tuple[ssl.SSLSocket, str]:
        """A TLS connection of a real client, blocking, and whose certificate it saw."""
        if protocols:
            context.set_alpn_protocols(protocols)
        raw = socket.create_connection(self.address, timeout=10)
        made = context.wrap_socket(raw, server_hostname=name, session=session)
        return made, str(made.getpeercert(True))


def client(newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, newest
    return context


@asynccontextmanager
async def serving(
    folder: Path, *, seconds: float = 10.0, balancers: tuple[str, ...] = (), plain: bool = False
) -> AsyncIterator[Served]:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text=f"web {request.remote}")

    def accept(what: str):  # type: ignore[no-untyped-def]
        def take(transport: asyncio.Transport, who: Address, data: bytes = b"") -> None:
            said = Said(what, who)
            transport.set_protocol(said)
            said.connection_made(transport)
            if data:
                said.data_received(data)

        return take

    public, pinned = tls_pair(folder / "public", "localhost"), tls_pair(folder / "pinned", NAMED)

    def contexts(protocol: str) -> Contexts:
        return Contexts(one_port_context(*public, protocol), {NAMED: one_port_context(*pinned, protocol)})

    refused: list[tuple[Address, str]] = []
    headers = Headers(Balancers.of(balancers, "key"), lambda peer, why: refused.append((peer, why)))
    listener = HTTPListener("test", headers=headers, seconds=seconds)
    listener.port = Port(
        accept("ssh"),
        None if plain else contexts(HTTP),
        {PROXY_SSH: Ending(contexts(PROXY_SSH), accept("inside")), OTHER: Ending(contexts(OTHER), accept("other"))},
        {b"Special_": accept("special")},
    )
    app = web.Application()
    app.router.add_get("/", page)
    runner = listener.runner(app)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        try:
            async with listener.serve(runner, bound, None if plain else one_port_context(*public, HTTP)):
                yield Served(listener, bound.getsockname()[:2], refused)
        finally:
            await runner.cleanup()


GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def _asked(served: Served, name: str, protocols: list[str], say: bytes) -> tuple[bytes, str | None, str]:
    made, shown = served.tls(name, protocols, client())
    with made:
        made.sendall(say)
        heard = b""
        with contextlib.suppress(OSError):
            while data := made.recv(4096):
                heard += data
        return heard, made.selected_alpn_protocol(), shown


@pytest.mark.parametrize(
    ("protocols", "say", "heard", "agreed"),
    [
        ([], GET, b"web 127.0.0.1", None),
        ([HTTP], GET, b"web 127.0.0.1", HTTP),
        (["h2", HTTP], GET, b"web 127.0.0.1", HTTP),
        ([HTTP, PROXY_SSH], GET, b"web 127.0.0.1", HTTP),
        (["teleport-unknown"], GET, b"web 127.0.0.1", None),
        ([PROXY_SSH], b"x", b"inside 127.0.0.1 x", PROXY_SSH),
        ([PROXY_SSH, HTTP], b"x", b"inside 127.0.0.1 x", PROXY_SSH),
        ([OTHER], b"x", b"other 127.0.0.1 x", OTHER),
    ],
)
async def test_the_protocol_asked_for_decides(
    tmp_path: Path, protocols: list[str], say: bytes, heard: bytes, agreed: str | None
) -> None:
    """By ALPN who takes it, by the name whose certificate is shown; whatever comes first in the client's list."""
    async with serving(tmp_path) as served:
        answer, selected, public = await asyncio.to_thread(_asked, served, "localhost", protocols, say)
        again, _, pinned = await asyncio.to_thread(_asked, served, NAMED, protocols, say)
        assert answer.endswith(heard)
        assert again.endswith(heard)
        assert selected == agreed
        assert public != pinned


async def test_ssh_is_told_from_its_first_line(tmp_path: Path) -> None:
    """And which SSH, by the client's software."""
    async with serving(tmp_path) as served:
        assert (await served.plain(b"SSH-2.0-Spec", b"ial_1\r\n")).startswith(b"special 127.0.0.1 SSH-2.0-Special_1")
        assert (await served.plain(b"SSH-2.0-NotSpecial_1\r\n")).startswith(b"ssh ")
        assert (await served.plain(b"SSH-" + b"x" * 300)).startswith(b"ssh ")
        for pieces in ((b"SSH-2.0-x\r\n",), (b"S", b"SH", b"-2.0-x\r\n")):
            assert (await served.plain(*pieces)).startswith(b"ssh 127.0.0.1 SSH-")
        assert served.listener.silent == 0
        assert served.listener.open == 0


@pytest.mark.parametrize("first", [GET, b"SSX", b"\x16\x03\x01\x00\x05\x02", b"\x15\x03\x01", b"\0" * 100, b"PROXX"])
async def test_what_is_nobodys_ends(tmp_path: Path, first: bytes) -> None:
    async with serving(tmp_path) as served:
        assert await served.plain(first) == b""
        assert served.listener.open == 0
        assert served.refused == []


async def test_forged_and_true_headers_stand_before_everything(tmp_path: Path) -> None:
    """Threat T24: SSH after a header of nobody's is not served; after a listed balancer's the client is who it says."""
    header = b"PROXY TCP4 203.0.113.9 192.0.2.1 4000 443\r\n"
    async with serving(tmp_path) as served:
        assert await served.plain(header + b"SSH-2.0-x\r\n") == b""
        assert ["not listed" in why for _, why in served.refused] == [True]
    async with serving(tmp_path, balancers=("127.0.0.1",)) as served:
        assert (await served.plain(header + b"SSH-2.0-x\r\n")).startswith(b"ssh 203.0.113.9 SSH-")
        assert await served.plain(header + header + b"SSH-2.0-x\r\n") == b""
        assert await served.plain(b"SSH-2.0-x\r\n") == b""


async def test_slow_first_bytes_are_not_waited_for(tmp_path: Path) -> None:
    """Threat T17: nothing, half an SSH banner, half a ClientHello, a handshake that does not go on."""
    out = ssl.MemoryBIO()
    hello_context = client()
    hello_context.set_alpn_protocols([PROXY_SSH])
    with pytest.raises(ssl.SSLWantReadError):
        hello_context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    hello = out.read()
    async with serving(tmp_path, seconds=0.3) as served:
        assert await served.plain() == b""
        for first in (b"SSH", b"PRO", hello[:50]):
            assert await served.plain(first) == b""
        assert (await served.plain(hello)).startswith(b"\x16")
        assert served.listener.silent == 0
        assert served.listener.open == 0


async def test_without_tls_the_web_is_what_is_not_ssh(tmp_path: Path) -> None:
    """A balancer ends TLS: requests, SSH as it stands, and no TLS of ours; headers stand before it as ever."""
    header = b"PROXY TCP4 203.0.113.9 192.0.2.1 4000 443\r\n"
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client().wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    async with serving(tmp_path, plain=True, seconds=0.3) as served:
        for pieces in ((GET,), (b"G", GET[1:])):
            assert (await served.plain(*pieces)).endswith(b"web 127.0.0.1")
        assert (await served.plain(b"SSH-2.0-x\r\n")).startswith(b"ssh 127.0.0.1 SSH-")
        assert (await served.plain(b"SSH-2.0-Special_1\r\n")).startswith(b"special ")
        for nobody in (out.read(), b"", b"S", b"PRO"):
            assert await served.plain(nobody) == b""
        assert await served.plain(header + GET) == b""
        assert ["not listed" in why for _, why in served.refused] == [True]
        assert served.listener.silent == 0
        assert served.listener.open == 0
    async with serving(tmp_path, plain=True, balancers=("127.0.0.1",)) as served:
        assert (await served.plain(header + GET)).endswith(b"web 203.0.113.9")


def _resumed(served: Served, newest: ssl.TLSVersion, name: str, protocols: list[str]) -> list[bool]:
    """Whether a session of (`name`, `protocols`) is taken up: as itself, by another name, by another protocol."""
    context = client(newest)
    first, _ = served.tls(name, protocols, context)
    with first:
        first.sendall(GET)
        with contextlib.suppress(OSError):
            first.recv(4096)
        session = first.session
    found = []
    for other, asked in ((name, protocols), (NAMED, protocols), ("localhost", [OTHER]), ("localhost", [HTTP])):
        again, _ = served.tls(other, asked, context, session)
        with again:
            found.append(bool(again.session_reused))
    return found


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_is_not_resumed_under_another_name_or_protocol(tmp_path: Path, newest: ssl.TLSVersion) -> None:
    """Done-when 4: not even where the client has a session and offers it."""
    async with serving(tmp_path) as served:
        found = await asyncio.to_thread(_resumed, served, newest, "localhost", [PROXY_SSH])
        assert found[1:] == [False, False, False]
        assert newest is ssl.TLSVersion.TLSv1_2 or not found[0], "no tickets are issued"


async def test_the_checker_of_resumption_sees_one(tmp_path: Path) -> None:
    """With one context for all names a session is taken up: what the test above looks at can be true."""
    async with serving(tmp_path) as served:
        port = served.listener.port
        assert port is not None
        shared = one_port_context(*tls_pair(tmp_path / "shared", "localhost"), HTTP)
        served.listener.port = Port(port.ssh, Contexts(shared))
        found = await asyncio.to_thread(_resumed, served, ssl.TLSVersion.TLSv1_2, "localhost", [HTTP])
        assert found[0]

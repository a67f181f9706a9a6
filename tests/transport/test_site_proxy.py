"""Connections that leave a site by its HTTP proxy: which do, and what is said to it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from teleport.errors import BadRequest, ConnectionProblem
from teleport.transport.site_connect import connect_out
from teleport.transport.site_dial import dial_out
from teleport.transport.site_proxy import SiteProxy, site_proxy

NAME = "proxy.test"  # that nobody but the site's proxy knows


@pytest.mark.parametrize(
    ("host", "without", "by"),
    [
        ("a.example.com", "", True),
        ("a.example.com", "*", False),
        ("a.example.com", "example.com", False),
        ("a.example.com", ".example.com", False),
        ("a.example.com", "*.example.com", False),
        ("a.example.com", "ample.com, b.example.com", True),
        ("A.Example.com.", "a.example.COM", False),
        ("a.example.com", "example.com:3080", False),
        ("a.example.com", "example.com:443", True),
        ("10.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.4, 10.2.0.0/16", True),
        ("10.1.2.3", "10.1.2.3:3080", False),
        ("fd00::1", "[fd00::]/8, fd00::/8", False),
        ("fd00::1", "[fd00::1]:3080", False),
        ("127.0.0.1", "", False),
        ("::1", "", False),
        ("localhost", "", False),
    ],
)
def test_which_hosts_are_reached_by_it(host: str, without: str, by: bool) -> None:
    for names in (("HTTPS_PROXY", "NO_PROXY"), ("https_proxy", "no_proxy")):
        environ = dict(zip(names, ("http://p.site:8080", without), strict=True))
        assert (site_proxy(host, 3080, environ) is not None) is by
    assert site_proxy(host, 3080, {"NO_PROXY": without}) is None


def test_its_address_and_who_asks() -> None:
    assert site_proxy("h", 1, {"HTTPS_PROXY": "p.site:8080"}) == SiteProxy("p.site", 8080)
    assert site_proxy("h", 1, {"HTTPS_PROXY": "http://[fd00::2]"}) == SiteProxy("fd00::2", 80)
    found = site_proxy("h", 1, {"HTTPS_PROXY": "http://ann:s%40cret@p.site:3128"})
    assert found is not None
    assert "cret" not in repr(found) + found.url
    assert found.request("fd00::1", 3024) == (
        b"CONNECT [fd00::1]:3024 HTTP/1.1\r\nHost: [fd00::1]:3024\r\n"
        b"Proxy-Authorization: Basic YW5uOnNAY3JldA==\r\n\r\n"
    )
    for wrong in ("https://p.site:1", "socks5://p.site", "http://", "http://p.site:99999", "http://[x"):
        with pytest.raises(BadRequest):
            site_proxy("h", 1, {"HTTPS_PROXY": wrong})
    with pytest.raises(BadRequest):
        SiteProxy("p", 1).request("a\r\nHost: b", 1)


def test_which_variable_counts() -> None:
    """`HTTP_PROXY` where there is no other; not where it may be a header of a request that is served."""
    named = {name: f"http://{name.lower().replace('_', '.')}:1" for name in ("HTTPS_PROXY", "HTTP_PROXY")}

    def host(environ: dict[str, str]) -> str:
        found = site_proxy("h", 1, environ)
        return found.host if found is not None else ""

    assert host(named) == "https.proxy"
    assert host({"HTTP_PROXY": named["HTTP_PROXY"]}) == "http.proxy"
    assert host({"HTTP_PROXY": named["HTTP_PROXY"], "https_proxy": "http://p:1"}) == "p"
    assert host({"HTTP_PROXY": named["HTTP_PROXY"], "HTTPS_PROXY": ""}) == "http.proxy"
    assert host({"HTTP_PROXY": named["HTTP_PROXY"], "REQUEST_METHOD": "GET"}) == ""
    assert host({"http_proxy": named["HTTP_PROXY"], "REQUEST_METHOD": "GET"}) == "http.proxy"


@pytest.mark.parametrize("text", ["http://ann:s3cret@[x", "ftp://ann:s3cret@p:1", "http://ann:s3cret@p:port"])
def test_a_variable_that_cannot_be_meant_is_not_repeated(text: str) -> None:
    with pytest.raises(BadRequest, match="HTTPS_PROXY") as found:
        site_proxy("h", 1, {"HTTPS_PROXY": text})
    assert "s3cret" not in f"{found.value} {found.value.hint}"


@asynccontextmanager
async def site(answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP proxy that gives `answer` to each request, and then says everything again: its URL, and the requests."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            asked.append(head)
            writer.write(answer(head))
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


class Said(asyncio.Protocol):
    def __init__(self) -> None:
        self.data: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.data.done():
            self.data.set_result(data)


OK = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"


async def test_what_follows_the_answer_belongs_to_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(lambda _: OK + b"SSH-2.0-x\r\n") as (url, asked):
        monkeypatch.setenv("HTTPS_PROXY", url)
        said = Said()
        async with asyncio.timeout(10):
            await connect_out(said, NAME, 3024)
            assert await said.data == b"SSH-2.0-x\r\n"
        assert asked[0].startswith(f"CONNECT {NAME}:3024 HTTP/1.1\r\n".encode())
        assert said.transport is not None
        said.transport.close()

        def blocking() -> bytes:
            with dial_out(NAME, 3080, 10) as connection:
                return connection.recv(5)

        assert await asyncio.to_thread(blocking) == b"SSH-2"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not lead to"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "is no HTTP proxy"),
        (b"x" * 20_000, "does not answer as one"),
        (b"", "ended the connection|does not answer as one"),
    ],
)
async def test_a_refusal_names_the_proxy_and_nothing_secret(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, told: str
) -> None:
    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            accepted, _ = listening.accept()
            with accepted:
                while b"\r\n\r\n" not in accepted.recv(4096):
                    pass
                with suppress(OSError):
                    accepted.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://ann:secret@127.0.0.1:{listening.getsockname()[1]}")
        async with asyncio.timeout(10):
            with pytest.raises((ConnectionProblem, OSError), match=told) as found:
                await connect_out(Said(), NAME, 3024)
        assert "secret" not in str(found.value)
        with pytest.raises(ConnectionProblem, match=told):
            await asyncio.to_thread(dial_out, NAME, 3024, 10)
        thread.join(10)

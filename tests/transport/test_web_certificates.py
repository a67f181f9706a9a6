"""What a proxy shows: by name, replaced while it serves, and only with chains that lead somewhere."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from teleport.errors import BadRequest
from teleport.pki.web_chain import WebPair, read_pair
from teleport.testing.public_authority import Issued, PublicAuthority
from teleport.transport.http_listener import HTTPListener
from teleport.transport.one_port import Ending, Port
from teleport.transport.web_certificates import WebCertificates, check_chain, web_context
from teleport.web.pages import secure
from teleport.wire.alpn import ACME, HTTP

AUTHORITY = PublicAuthority()
A, B = AUTHORITY.issue("a.test"), AUTHORITY.issue("*.b.test", "b.test")


def pair(made: Issued, chain: bytes = b"") -> WebPair:
    return read_pair(chain or made.chain, made.key, chain_name="c.pem", key_name="k.pem")


@asynccontextmanager
async def serving(certificates: WebCertificates, port: Port | None = None) -> AsyncIterator[tuple[str, int]]:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="here")

    listener = HTTPListener("test")
    listener.alone = port or Port(None, certificates.of(HTTP))
    app = web.Application()
    app.on_response_prepare.append(secure)
    app.router.add_get("/", page)
    runner = listener.runner(app)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        try:
            async with listener.serve(runner, bound, None):
                yield bound.getsockname()[:2]
        finally:
            await runner.cleanup()


def client(root: bytes = AUTHORITY.root) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=root.decode())


class Talk:
    """A connection on which pages are asked for."""

    @classmethod
    async def to(cls, address: tuple[str, int], name: str, root: bytes = AUTHORITY.root) -> Talk:
        made = cls()
        made.reader, made.writer = await asyncio.open_connection(*address, ssl=client(root), server_hostname=name)
        return made

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self) -> str:
        self.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await self.reader.readuntil(b"\r\n\r\n")
        await self.reader.readexactly(4)
        return head.decode()

    def close(self) -> None:
        self.writer.close()


async def test_each_name_gets_its_pair_and_a_new_one_from_the_next_connection_on() -> None:
    """Who is connected stays so, and goes on being answered."""
    certificates = WebCertificates([pair(A), pair(B)])
    other = PublicAuthority("Next")
    async with serving(certificates) as address:
        stays = await Talk.to(address, "a.test")
        for name in ("b.test", "x.b.test"):
            talk = await Talk.to(address, name)
            assert "200" in await talk.ask()
            talk.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await Talk.to(address, "x.y.b.test")
        certificates.show([pair(other.issue("a.test")), pair(B)])
        with pytest.raises(ssl.SSLCertVerificationError):
            await Talk.to(address, "a.test")
        new, kept = await Talk.to(address, "a.test", other.root), await Talk.to(address, "b.test")
        for talk in (stays, new, kept):
            assert "200" in await talk.ask()
            talk.close()


async def test_browsers_are_told_to_insist_unless_the_certificate_is_a_self_signed_one(tmp_path: Path) -> None:
    from tests.transport.transport_peers import tls_pair

    crt, key = tls_pair(tmp_path, "own.test")
    own = read_pair(crt.read_bytes(), key.read_bytes(), chain_name="c", key_name="k")
    assert own.self_signed
    async with serving(WebCertificates([pair(A), own])) as address:
        talk = await Talk.to(address, "a.test")
        assert "Strict-Transport-Security: max-age=" in await talk.ask()
        talk.close()
        talk = await Talk.to(address, "own.test", crt.read_bytes())
        answer = await talk.ask()
        assert "X-Frame-Options" in answer
        assert "Strict-Transport-Security" not in answer
        talk.close()


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (["-tls1_3"], "TLSv1.3"),
        (["-tls1_2"], "TLSv1.2"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"], ""),
        (["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA:DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0"], ""),
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], ""),
        (["-tls1", "-cipher", "ALL:@SECLEVEL=0"], ""),
    ],
    ids=["1.3", "1.2", "gcm", "cbc", "no forward secrecy", "1.1", "1.0"],
)
async def test_openssl_gets_in_by_nothing_old(options: list[str], taken: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl program here")
    async with serving(WebCertificates([pair(A)])) as (host, port):
        made = await asyncio.create_subprocess_exec(
            *(program, "s_client", "-connect", f"{host}:{port}", "-servername", "a.test", *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        told = (await asyncio.wait_for(made.communicate(), 30))[0].decode()
    if taken:
        assert "CN = a.test" in told
        assert f"New, {taken}" in told or f"Cipher is {taken}" in told
        assert "Secure Renegotiation IS NOT" in told or "Secure Renegotiation IS supported" in told
    else:
        assert "no peer certificate available" in told


async def test_a_port_of_the_web_alone_takes_no_ssh_and_no_challenge_that_is_none() -> None:
    """Nothing but HTTPS is behind it: other first bytes end it, and a directory's question without an answer too."""
    asked: list[str] = []

    class Challenges:
        def of(self, name: str) -> ssl.SSLContext | None:
            asked.append(name)
            return web_context(pair(A), ACME) if name == "a.test" else None

    def close(transport: asyncio.Transport, client: tuple[str, int], data: bytes = b"") -> None:
        transport.close()

    certificates = WebCertificates([pair(A)])
    port = Port(None, certificates.of(HTTP), {ACME: Ending(Challenges(), close, alone=True)})

    async def protocol(*offered: str, name: str = "a.test") -> str | None:
        context = client()
        context.set_alpn_protocols(list(offered))
        try:
            _, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=name)
        except (ConnectionError, ssl.SSLError):
            return "refused"
        writer.close()
        found: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        return found

    async with serving(certificates, port) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"SSH-2.0-x\r\n")
        assert await reader.read() == b""
        writer.close()
        assert await protocol(ACME) == ACME
        assert await protocol(ACME, name="b.test") == "refused"
        assert asked == ["a.test", "b.test"]
        assert await protocol(ACME, HTTP) == HTTP, "who offers more is no directory (RFC 8737 section 3)"
        assert await protocol(HTTP) == HTTP
        assert asked == ["a.test", "b.test"]


def test_a_chain_that_lacks_its_intermediate_is_refused_with_the_name_of_what_is_missing(tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(AUTHORITY.root)
    assert check_chain(pair(A), "c.pem", roots) == ""
    with pytest.raises(BadRequest) as refused:
        check_chain(pair(A, A.leaf), "c.pem", roots)
    assert "CN=Test Intermediate is missing" in refused.value.message
    roots.write_bytes(PublicAuthority("Other").root)
    with pytest.raises(BadRequest, match="CN=Test Root is missing"):
        check_chain(pair(A), "c.pem", roots)
    assert "a root that this host does not know" in check_chain(pair(A, A.chain + A.root), "c.pem", roots)


def test_a_certificate_that_is_over_has_a_chain_all_the_same(tmp_path: Path) -> None:
    """That it is over is said elsewhere: the chain must not seem to be the trouble."""
    from datetime import UTC, datetime, timedelta

    roots = tmp_path / "roots.pem"
    roots.write_bytes(AUTHORITY.root)
    end = datetime.now(UTC) - timedelta(hours=1)
    assert check_chain(pair(AUTHORITY.issue("a.test", end=end)), "c.pem", roots) == ""

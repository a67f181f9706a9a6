"""A man in the middle of a joining host and its cluster: shows the true authority's certificate, reads all he can.

His leaf certificate has the right names, names the true authority as its issuer and is followed by that authority's
certificate; only the signature is not the authority's. What a host says to him he passes on, so that a host which
believes him gets every answer that it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from aiohttp import WSMsgType, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from teleport.api.sync_client import TUNNEL_PATH
from teleport.pki.x509cert import auth_server_name
from teleport.testing.cluster import LOOPBACK
from teleport.transport.tls import unproved_client_context


class Middleman:
    """What he saw."""

    def __init__(self, folder: Path, cluster: str, authority_pem: str, auth_port: int) -> None:
        self.seen = bytearray()  # every byte that he could read, in both directions
        self.passed = bytearray()  # what he relayed without being able to read it
        self.intercepts = True  # whether he breaks open the inner session of the way through a proxy
        self.port = 0
        self.tunnel_address = ""  # what he says of where tunnels end
        self._auth_port = auth_port
        self._context = _context(folder, cluster, authority_pem)

    @asynccontextmanager
    async def before_auth(self) -> AsyncIterator[Middleman]:
        """Stands where a host expects auth."""
        server = await asyncio.start_server(self._auth_client, LOOPBACK, 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        tasks = self._tasks = set()
        try:
            yield self
        finally:
            server.close()
            await _end(tasks)
            await server.wait_closed()

    @asynccontextmanager
    async def before_proxy(self) -> AsyncIterator[Middleman]:
        """Stands where a host expects the proxy's web address."""
        app = web.Application()
        app.router.add_get(TUNNEL_PATH, self._tunnel)
        app.router.add_get("/webapi/ping", self._ping)
        app.router.add_route("*", "/{tail:.*}", self._other)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, LOOPBACK, 0, ssl_context=self._context)
            await site.start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()

    _tasks: set[asyncio.Task[None]]

    async def _ping(self, _: web.Request) -> web.Response:
        return web.json_response({"proxy": {"ssh": {"ssh_tunnel_public_addr": self.tunnel_address}}})

    async def _auth_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            up_reader, up_writer = await self._real_auth()
            await asyncio.gather(self._copy(reader, up_writer), self._copy(up_reader, writer), return_exceptions=True)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _real_auth(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(LOOPBACK, self._auth_port, ssl=unproved_client_context())

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.seen += data
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def _other(self, request: web.Request) -> web.Response:
        self.seen += f"{request.method} {request.path_qs}\n{request.headers}\n".encode() + await request.read()
        return web.json_response({"error": {"message": "there is no such page"}}, status=404)

    async def _tunnel(self, request: web.Request) -> web.StreamResponse:
        self.seen += f"{request.method} {request.path_qs}\n{request.headers}\n".encode()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self.intercepts:
            await self._break_open(socket)
        else:
            await self._pass_on(socket)
        return socket

    async def _pass_on(self, socket: web.WebSocketResponse) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, self._auth_port)

        async def down() -> None:
            while data := await reader.read(65536):
                self.passed += data
                await socket.send_bytes(data)
            await socket.close()

        task = asyncio.create_task(down())
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    self.passed += message.data
                    writer.write(message.data)
        finally:
            writer.close()
            await _end({task})

    async def _break_open(self, socket: web.WebSocketResponse) -> None:
        """TLS with the host, inside the websocket, as if this were auth; what comes out goes on to auth."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
        reader, writer = await self._real_auth()

        async def flush() -> None:
            if data := outgoing.read():
                await socket.send_bytes(data)

        async def down() -> None:
            while data := await reader.read(65536):
                self.seen += data
                tls.write(data)
                await flush()

        task = asyncio.create_task(down())
        greeted = False
        try:
            async for message in socket:
                if message.type is not WSMsgType.BINARY:
                    break
                incoming.write(message.data)
                with contextlib.suppress(ssl.SSLWantReadError):
                    if not greeted:
                        tls.do_handshake()
                        greeted = True
                    while data := tls.read(65536):
                        self.seen += data
                        writer.write(data)
                await flush()
        except ssl.SSLError:
            pass  # the host said what it thinks of this certificate
        finally:
            writer.close()
            await _end({task})
            await socket.close()


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _context(folder: Path, cluster: str, authority_pem: str) -> ssl.SSLContext:
    authority = x509.load_pem_x509_certificate(authority_pem.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [
        *(x509.DNSName(name) for name in (auth_server_name(cluster), "teleport.cluster.local", "localhost")),
        x509.IPAddress(ip_address(LOOPBACK)),
    ]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(authority.subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, key_file = folder / "middleman.crt", folder / "middleman.key"
    chain.write_bytes(leaf.public_bytes(Encoding.PEM) + authority.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key_file)
    return context

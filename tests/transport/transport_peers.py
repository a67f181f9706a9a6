"""Far ends for the blocking streams: threads that serve one connection each with what a test wants to see."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import WSMsgType, web

from teleport.pki.keys import generate_p256
from teleport.pki.x509cert import pem_of, self_signed_web_pair


def tls_pair(folder: Path, *names: str) -> tuple[Path, Path]:
    """Files of a self-signed certificate for `names` and its key."""
    key = generate_p256()
    folder.mkdir(parents=True, exist_ok=True)
    cert_file, key_file = folder / "peer.crt", folder / "peer.key"
    cert_file.write_bytes(pem_of(self_signed_web_pair(list(names), key, datetime.now(UTC))))
    key_file.write_bytes(key.pkcs8_pem().reveal())
    return cert_file, key_file


def server_context(pair: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


def trusting(pair: tuple[Path, Path]) -> ssl.SSLContext:
    """A client that believes that certificate only."""
    return ssl.create_default_context(cadata=pair[0].read_text())


@contextmanager
def peer(serve: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[tuple[str, int]]:
    """Serves every connection on a thread of its own until the block ends; their errors are the test's to provoke."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_now: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(10)
            if context is None:
                serve(connection)
                return
            with context.wrap_socket(connection, server_side=True) as secure:
                open_now.append(secure)
                serve(secure)

    def accept() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            open_now.append(connection)
            threads.append(threading.Thread(target=one, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        host, port = listener.getsockname()[:2]
        yield str(host), int(port)
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(10)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)


def read_request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one HTTP request with a Content-Length or none."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data, b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        body += connection.recv(65536)
    return head, body


def reply(body: bytes, *, status: str = "200 OK", length: int | None = None, more: str = "") -> bytes:
    """An HTTP answer; `length` may lie."""
    announced = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {announced}\r\n{more}\r\n".encode() + body


@asynccontextmanager
async def websocket_to(
    address: tuple[str, int],
    *,
    path: str = "/tunnel",
    context: ssl.SSLContext | None = None,
    seen: bytearray | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """A server that relays each websocket at `path` to a TCP address; `seen` gets what clients said in it."""

    async def tunnel(request: web.Request) -> web.StreamResponse:
        reader, writer = await asyncio.open_connection(*address)
        opened = web.WebSocketResponse(timeout=1)
        await opened.prepare(request)

        async def down() -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    await opened.send_bytes(data)
            await opened.close()

        task = asyncio.create_task(down(), name="down")
        async for message in opened:
            if message.type is WSMsgType.BINARY:
                if seen is not None:
                    seen.extend(message.data)
                writer.write(message.data)
                with contextlib.suppress(OSError):
                    await writer.drain()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()
        return opened

    app = web.Application()
    app.router.add_get(path, tunnel)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener, ssl_context=context).start()
    try:
        yield listener.getsockname()[:2]
    finally:
        await runner.cleanup()

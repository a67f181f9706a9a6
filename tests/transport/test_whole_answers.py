"""An answer that is read slowly is whole, though the server closes its connection as soon as it has sent it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from teleport.testing.public_authority import PublicAuthority
from teleport.testing.running import listener
from teleport.transport.http_listener import HTTPListener
from teleport.transport.whole_answers import whole

PIECE = b"x" * 65536


@pytest.mark.parametrize("secure", [True, False], ids=["TLS", "plain"])
@pytest.mark.parametrize("pieces", [1, 16, 80, 144])
async def test_what_a_server_that_leaves_has_sent_is_read_to_its_end(tmp_path: Path, secure: bool, pieces: int) -> None:
    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(pieces):
            await response.write(PIECE)
        await response.write_eof()
        return response

    pair = PublicAuthority().issue("server.test")
    (tmp_path / "chain").write_bytes(pair.chain + pair.root)
    (tmp_path / "key").write_bytes(pair.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    trust = ssl.create_default_context(cadata=pair.root.decode())
    door = HTTPListener()
    app = web.Application()
    app.router.add_get("/", large)
    runner = door.runner(app)
    await runner.setup()
    with listener() as sock:
        async with (
            door.serve(runner, sock, server if secure else None),
            aiohttp.ClientSession(connector=whole(aiohttp.TCPConnector(ssl=trust if secure else True))) as session,
        ):
            url = "{}://{}:{}/".format("https" if secure else "http", *sock.getsockname())
            async with session.get(url, server_hostname="server.test" if secure else None) as answer:
                got = len(await answer.content.read(1000))
                door.pause()
                while got < pieces * len(PIECE) // 2:
                    got += len(await answer.content.readany())
                    await asyncio.sleep(0)
                for _ in range(20):  # it has sent all that goes, and closes what it has answered
                    door.leave()
                    await asyncio.sleep(0.01)
                async for piece in answer.content.iter_any():
                    got += len(piece)
                    await asyncio.sleep(0.001)
            assert got == pieces * len(PIECE)
    await runner.cleanup()

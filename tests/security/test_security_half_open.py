"""Connections that never authenticate keep nobody else out (threat T17)."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.node.service import NodeService
from teleport.pki.keys import generate_p256
from teleport.pki.x509cert import pem_of, self_signed_web_pair
from teleport.testing.ssh_lab import run_client, running_lab
from teleport.transport.http_listener import KEPT_ALIVE, HTTPListener
from teleport.transport.slots import Slots
from teleport.transport.tls import unproved_client_context, web_server_context


def test_the_address_with_most_silent_connections_loses_its_oldest() -> None:
    closed: list[str] = []
    slots = Slots(4)
    for name in ("a1", "a2", "b1", "a3"):
        slots.take(name[0], lambda name=name: closed.append(name))  # type: ignore[misc]
    release = slots.take("c", lambda: closed.append("c1"))
    assert closed == ["a1"]
    assert slots.taken == 4
    release()
    release()
    assert slots.taken == 3
    slots.take("d", lambda: closed.append("d1"))
    assert closed == ["a1"]
    for _ in range(3):
        slots.take("e", lambda: closed.append("e"))
    assert slots.taken == 4
    assert slots.turned_away == 4


async def test_silent_connections_above_the_bound_do_not_keep_a_user_out(
    launcher_end: LauncherEnd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = getpass.getuser()
    monkeypatch.setattr("teleport.node.service.Slots", lambda bound: Slots(20))
    async with running_lab(Launcher(launcher_end)) as lab:
        assert isinstance(lab.node, NodeService)
        silent = [await asyncio.open_connection("127.0.0.1", lab.node_port) for _ in range(40)]
        config = lab.client_config(tmp_path, lab.authorities.user([me]), me)
        ran = await run_client("ssh", "-F", str(config), "direct", "echo in")
        for _, writer in silent:
            writer.close()
    assert ran.stdout == b"in\n", ran.stderr


async def test_web_connections_without_a_request_end_and_are_few(tmp_path: Path) -> None:
    """aiohttp would wait for the first request for ever, plain and in TLS."""

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    key = generate_p256()
    (tmp_path / "key").write_bytes(key.pkcs8_pem().reveal())
    (tmp_path / "crt").write_bytes(pem_of(self_signed_web_pair(["localhost"], key, datetime.now(UTC))))
    for context in (None, web_server_context(tmp_path / "crt", tmp_path / "key")):
        edge = HTTPListener(silent=5, seconds=0.5)
        app = web.Application()
        app.router.add_get("/", hello)
        runner = edge.runner(app)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        address = listener.getsockname()[:2]
        try:
            async with edge.serve(runner, listener, context):
                silent = [await asyncio.open_connection(*address) for _ in range(10)]
                tls = unproved_client_context() if context else None
                reader, writer = await asyncio.open_connection(*address, ssl=tls)
                assert edge.silent <= 5
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"hello" in await asyncio.wait_for(reader.readuntil(b"hello"), 5)
                for other, _ in silent:
                    with contextlib.suppress(ConnectionResetError):
                        assert await asyncio.wait_for(other.read(), 5) == b""
                assert edge.silent == 0
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # one that asked stays
                assert b"hello" in await asyncio.wait_for(reader.readuntil(b"hello"), 5)
                for one in (writer, *(other for _, other in silent)):
                    one.close()
        finally:
            await runner.cleanup()


async def test_the_head_of_a_second_request_has_to_come_in_time(tmp_path: Path) -> None:
    """A connection that asked once could otherwise stay for an hour, sending a byte now and then."""

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    edge = HTTPListener(kept_alive=0.5)
    app = web.Application()
    app.router.add_get("/", hello)
    runner = edge.runner(app)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    try:
        async with edge.serve(runner, listener, None):
            reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"hello"), 5)
            writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")
            ending = asyncio.create_task(reader.read(), name="until the end")
            while not ending.done():
                writer.write(b"a")
                await asyncio.wait([ending], timeout=0.05)
            with contextlib.suppress(ConnectionResetError):
                assert ending.result() == b""
            writer.close()
    finally:
        await runner.cleanup()
    assert HTTPListener().runner(web.Application())._kwargs["keepalive_timeout"] == KEPT_ALIVE

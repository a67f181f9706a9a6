"""Whoever was accepted is served, at whatever moment a listener stops accepting; others wait for who takes over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

import pytest
from aiohttp import web

from teleport.ssh.listener import Listener
from teleport.testing.running import listener
from teleport.transport.http_listener import HTTPListener
from teleport.transport.short_answers import Answer, ShortAnswers
from teleport.transport.slots import Slots

TURNS = range(8)  # of the loop between a connection and the end of accepting


class Door(Protocol):
    def pause(self) -> None: ...
    async def resume(self) -> None: ...


class Greeting(asyncio.Protocol):
    """As SSH: the server speaks first."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@asynccontextmanager
async def raw(sock: socket.socket) -> AsyncIterator[Door]:
    door = Listener(lambda peer, slot: Greeting(), slots=Slots(100))
    started = asyncio.Event()
    serving = asyncio.create_task(door.serve([sock], started.set))
    await started.wait()
    try:
        yield door
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


@asynccontextmanager
async def http(sock: socket.socket) -> AsyncIterator[Door]:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    door = HTTPListener()
    app = web.Application()
    app.router.add_get("/", hello)
    runner = door.runner(app)
    await runner.setup()
    async with door.serve(runner, sock, None):
        yield door
    await runner.cleanup()


@asynccontextmanager
async def short(sock: socket.socket) -> AsyncIterator[Door]:
    door = ShortAnswers(lambda path: Answer(200, b"hello", "text/plain"), "diag")
    async with door.serve(sock):
        yield door


def asked(client: socket.socket) -> bytes:
    """All that the client hears."""
    found = b""
    with client:
        client.settimeout(10)
        while part := client.recv(65536):
            found += part
    return found


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("served", [raw, http, short])
async def test_nobody_is_dropped_at_the_moment_in_which_accepting_ends(
    served: Callable[[socket.socket], AbstractAsyncContextManager[Door]], turns: int
) -> None:
    with listener() as sock:
        async with served(sock) as door:
            clients = [socket.create_connection(sock.getsockname()) for _ in range(3)]
            for client in clients if served is not raw else ():
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            for _ in range(turns):
                await asyncio.sleep(0)
            door.pause()
            await asyncio.sleep(0.05)
            await door.resume()  # in place of the process that has the same socket
            for client in clients:
                assert (await asyncio.to_thread(asked, client)).endswith(b"hello")


async def test_who_is_there_when_a_listener_is_closed_is_served() -> None:
    """Without anybody who takes over: those that were accepted are served, and the others refused."""
    sock = listener()
    async with raw(sock) as door:
        client = socket.create_connection(sock.getsockname())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        address = sock.getsockname()
        door.pause()
        sock.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with suppress(ConnectionResetError):
            assert await asyncio.to_thread(asked, client) == b"hello"


@pytest.mark.parametrize("turns", TURNS)
async def test_what_a_listener_that_leaves_has_begun_is_answered(turns: int) -> None:
    """A request on a connection that was kept, at the moment in which those without a request are closed."""
    done: list[str] = []

    async def work(request: web.Request) -> web.Response:
        done.append(request.path)
        return web.Response(text="hello")

    door = HTTPListener()
    app = web.Application()
    app.router.add_get("/{name}", work)
    runner = door.runner(app)
    await runner.setup()
    with listener() as sock:
        async with door.serve(runner, sock, None):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"hello")
            writer.write(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in range(turns):
                await asyncio.sleep(0)
            door.leave()
            try:
                answered = b"hello" in await reader.read()
            except ConnectionResetError:  # it came too late, and nothing was done
                answered = False
            writer.close()
            assert answered == ("/second" in done)
    await runner.cleanup()

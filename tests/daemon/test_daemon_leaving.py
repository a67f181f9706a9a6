"""Leaving when nobody takes over: whoever connected before the listener was closed is served."""

from __future__ import annotations

import asyncio
import socket

from teleport.daemon.restarts.leaving import Doors, leave_alone
from teleport.ssh.listener import Listener, NoSlot
from teleport.testing.running import listener


class Hello(asyncio.Protocol):
    """Says something and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"served")
        transport.close()


class Taking:
    """Bounds nobody."""

    def take(self, address: str, close: object) -> NoSlot:
        return NoSlot()


async def test_what_waits_in_the_kernel_when_a_listener_is_closed_is_served() -> None:
    bound = listener()
    address = bound.getsockname()
    door = Listener(lambda _peer, _slot: Hello(), slots=Taking())
    started = asyncio.Event()
    serving = asyncio.create_task(door.serve([bound], started.set), name="door")
    await started.wait()
    clients = []
    for _ in range(40):  # without giving the loop a turn: nobody accepts them
        client = socket.create_connection(address)
        client.settimeout(5)
        clients.append(client)
    doors = Doors({"door": door}, {}, {}, {}, [])
    await leave_alone(doors, lambda _: bound.close())
    assert not door.accepting
    for client in clients:
        assert await asyncio.to_thread(client.recv, 100) == b"served"
        client.close()
    with socket.socket() as late:
        assert late.connect_ex(address) != 0, "nobody is kept waiting"
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_door_that_is_paused_already_takes_nothing_from_the_process_that_accepts() -> None:
    bound = listener()
    door = Listener(lambda _peer, _slot: Hello(), slots=Taking())
    started = asyncio.Event()
    serving = asyncio.create_task(door.serve([bound], started.set), name="door")
    await started.wait()
    door.pause()
    with socket.create_connection(bound.getsockname()):
        sockets, _ = door.entrance()
        assert not sockets
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    bound.close()

"""Which proxies are asked for a host, as presence comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from teleport.backend.interface import Changes, Deleted, Item, Put, Snapshot
from teleport.daemon.peer_side import REMEMBERED, PeerDirectory
from teleport.daemon.view import View
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import LOST_AFTER, Server, ServerSpec
from teleport.store.cache import Cache
from teleport.testing.clock import FakeClock
from teleport.testing.running import wait_until

OWN, A, B = (str(uuid4()) for _ in range(3))
HOST = str(uuid4())


class Presence:
    """What proxies and hosts announce, as a view sees it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.cache = Cache("test", self.clock, jitter=lambda: 0.0)
        self.view = View(self.cache, self.clock, "lab.test")
        self.updates: asyncio.Queue[Changes] = asyncio.Queue()
        self.revision = 1

    async def source(self) -> AsyncGenerator[Snapshot | Changes, None]:
        yield Snapshot([], 1)
        while True:
            yield await self.updates.get()

    async def announce(self, prefix: str, host_id: str, **spec: object) -> None:
        self.revision += 1
        kind = "proxy" if prefix == "proxies/" else "node"
        said = ServerSpec(heard=self.clock.now(), **spec)  # type: ignore[arg-type]
        server = Server(kind=kind, metadata=Metadata(name=host_id), spec=said)  # type: ignore[arg-type]
        item = Item(prefix + host_id, to_json(server), self.revision)
        self.updates.put_nowait(Changes([Put(item)], self.revision))
        await wait_until(lambda: (found := self.cache.get(item.key)) is not None and found.value == item.value)

    async def withdraw(self, host_id: str) -> None:
        self.revision += 1
        gone = Deleted("proxies/" + host_id, self.revision)
        self.updates.put_nowait(Changes([gone], self.revision))
        await wait_until(lambda: self.cache.get(gone.key) is None)


@asynccontextmanager
async def presence() -> AsyncIterator[Presence]:
    made, filled = Presence(), asyncio.Event()
    running = asyncio.create_task(made.cache.run(made.source, filled.set), name="cache")
    try:
        await filled.wait()
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_those_are_asked_first_to_which_the_host_says_that_it_keeps_a_tunnel() -> None:
    async with presence() as seen:
        await seen.announce("proxies/", A, peer_addr="10.0.0.1:3021")
        directory = PeerDirectory(seen.view, OWN, seen.clock)
        await seen.announce("proxies/", B, peer_addr="[fd00::2]:3021")
        await seen.announce("proxies/", OWN, peer_addr="10.0.0.3:3021")
        assert [one.host_id for one in directory.peers(HOST)] == [A, B], "it does not ask itself"
        await seen.announce("nodes/", HOST, proxy_ids=(OWN, str(uuid4()), B))
        assert [(one.host_id, one.host, one.port) for one in directory.peers(HOST)] == [
            (B, "fd00::2", 3021),
            (A, "10.0.0.1", 3021),
        ]
        await seen.announce("proxies/", B, peer_addr="10.0.0.9:4000")
        assert directory.peers(HOST)[0].host == "10.0.0.9", "it has moved"


async def test_one_that_has_no_listener_is_not_asked() -> None:
    async with presence() as seen:
        directory = PeerDirectory(seen.view, OWN, seen.clock)
        await seen.announce("proxies/", A, peer_addr="10.0.0.1:3021")
        assert directory.peers(HOST)
        await seen.announce("proxies/", A)
        assert not directory.peers(HOST)


async def test_one_that_leaves_is_asked_while_its_hosts_move() -> None:
    async with presence() as seen:
        directory = PeerDirectory(seen.view, OWN, seen.clock)
        await seen.announce("proxies/", A, peer_addr="10.0.0.1:3021")
        await seen.withdraw(A)
        assert [one.host_id for one in directory.peers(HOST)] == [A]
        seen.clock.advance(REMEMBERED + 1)
        assert not directory.peers(HOST)


async def test_one_that_is_lost_is_asked_only_for_what_was_said_to_be_there() -> None:
    async with presence() as seen:
        directory = PeerDirectory(seen.view, OWN, seen.clock)
        await seen.announce("proxies/", A, peer_addr="10.0.0.1:3021")
        seen.clock.advance(LOST_AFTER.total_seconds() + 1)
        assert not directory.peers(HOST)
        await seen.announce("nodes/", HOST, proxy_ids=(A,))
        assert [one.host_id for one in directory.peers(HOST)] == [A]

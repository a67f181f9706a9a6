"""Nodes in a view are found by id and by name as if all had been looked at, whatever happened to them."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from teleport.backend.interface import Changes, Deleted, Event, Item, Put, Snapshot
from teleport.daemon.view_nodes import KnownNodes
from teleport.errors import TeleportError
from teleport.resources.codec import Resource, from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.store.cache import Cache
from teleport.store.records import NODES
from teleport.store.resolve import Destination, RegisteredNode, resolve, with_id
from teleport.testing.clock import FakeClock

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
NAMES = ("db", "DB", "web.example", "db.example", "10.0.0.1", "")
ADDRESSES = ("", "10.0.0.1:3022", "10.0.0.2:22", "db:3022", "[fd00::1]:3022")


def item(host_id: str, revision: int, draw: random.Random, expires: datetime | None = None) -> Item:
    address = draw.choice(ADDRESSES)
    spec = ServerSpec(
        addr=address,
        hostname=draw.choice(NAMES[:4]),
        use_tunnel=not address,
        heard=NOW - timedelta(seconds=draw.choice([1, 1000])),
        started=NOW - timedelta(seconds=draw.randrange(9)),
    )
    return Item(NODES + host_id, to_json(Server(metadata=Metadata(name=host_id), spec=spec)), revision, expires)


def filled(items: list[Item]) -> tuple[Cache, FakeClock]:
    clock = FakeClock(NOW)
    cache = Cache("test", clock, jitter=lambda: 0.0)
    cache._take(Snapshot(items, 1))
    return cache, clock


def outcome(nodes: object, asked: Destination, hidden: str) -> object:
    try:
        return resolve(asked, nodes, "main", lambda node: node.host_id != hidden, most_recent=asked.port == 1)  # type: ignore[arg-type]
    except TeleportError as error:
        return type(error).__name__, error.message


@pytest.mark.parametrize("seed", range(20))
def test_who_is_meant_is_the_same_as_when_every_node_is_looked_at(seed: int) -> None:
    draw = random.Random(seed)
    ids = [str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(12)]
    cache, clock = filled([item(one, 1, draw) for one in ids[:6]])
    nodes = KnownNodes(cache, clock)
    for revision in range(2, 60):
        one = draw.choice(ids)
        expires = NOW + timedelta(seconds=draw.choice([-1, 60])) if draw.random() < 0.3 else None
        event: Event = (
            Put(item(one, revision, draw, expires)) if draw.random() < 0.7 else Deleted(NODES + one, revision)
        )
        if draw.random() < 0.05:
            cache._take(Snapshot([item(one, revision, draw) for one in draw.sample(ids, 5)], revision))
        else:
            cache._take(Changes([event], revision))
        everybody = list(nodes.registered())
        assert [one.host_id for one in everybody] == [found.host_id for found in nodes.all()]
        assert everybody == [
            RegisteredNode.of(found, NOW)
            for found in (nodes.get(held.key.removeprefix(NODES)) for held in cache.range(NODES))
            if found
        ]
        for host in (*NAMES, "db.main", "nothing", "fd00::1", one, f"{one.upper()}.main", "10.0.0.2"):
            for port in (0, 1, 22, 3022):
                asked, hidden = Destination(host, port), draw.choice(ids)
                assert outcome(nodes.registered(), asked, hidden) == outcome(everybody, asked, hidden), (host, port)
        assert with_id(one, nodes.registered()) == with_id(one, everybody)


def test_an_announcement_costs_no_look_at_other_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    ids = [str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(50)]
    cache, clock = filled([item(one, 1, draw) for one in ids])
    nodes = KnownNodes(cache, clock)
    read: list[bytes] = []

    def counted(value: bytes) -> Resource:
        read.append(value)
        return from_json(value)

    monkeypatch.setattr("teleport.daemon.view_nodes.from_json", counted)
    cache._take(Changes([Put(item(ids[0], 2, draw))], 2))
    assert nodes.get(ids[0]) is not None
    list(nodes.registered().named([ids[1]]))
    assert len(read) == 1


def test_a_record_that_cannot_be_read_hides_no_other_node(caplog: pytest.LogCaptureFixture) -> None:
    draw = random.Random(2)
    one, other = (str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(2))
    cache, clock = filled([item(one, 1, draw), Item(NODES + other, b'{"schema": 99}', 1, None)])
    assert [node.host_id for node in KnownNodes(cache, clock).all()] == [one]
    assert other in caplog.text

"""The registered nodes in a view, found by id and by name without looking at the others.

A proxy asks for each client, and ten thousand nodes announce themselves every few minutes: a look-up must cost the same
whether there is one node or many, and an announcement must cost the node that it is of, and no other.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from datetime import datetime

from teleport.backend.interface import Event, Item, Put
from teleport.clock import Clock
from teleport.errors import BadRequest
from teleport.resources.codec import Resource, from_json
from teleport.resources.server import Server
from teleport.store.cache import Cache
from teleport.store.records import NODES
from teleport.store.resolve import NodesByName, RegisteredNode, names_of

log = logging.getLogger(__name__)


class KnownNodes:
    """Follows a cache that is filled. Who is not live any more is not returned, as the cache itself does."""

    def __init__(self, cache: Cache, clock: Clock) -> None:
        """Raises `ConnectionProblem` before the cache is filled."""
        self._cache = cache
        self._clock = clock
        self._known: dict[str, tuple[int, Server, tuple[str, ...]]] = {}  # by key: revision, value, what it is called
        self._called: dict[str, set[str]] = {}  # keys by name
        for item in cache.range(NODES):
            self._take(item)
        cache.subscribe(NODES, self._changed)

    def get(self, host_id: str) -> Server | None:
        """The node with this UUID."""
        return self._of(self._cache.get(NODES + host_id))

    def all(self) -> Iterator[Server]:
        """Every node."""
        for item in self._cache.range(NODES):
            server = self._of(item)
            if server is not None:
                yield server

    def registered(self) -> Registered:
        """As the resolver of names wants them, now."""
        return Registered(self, self._clock.now())

    def called(self, names: Collection[str]) -> Iterator[Server]:
        """Those that have one of the names (`store.resolve.names_of`), by key."""
        keys = set().union(*(self._called.get(name, ()) for name in names))
        for key in sorted(keys):
            server = self._of(self._cache.get(key))
            if server is not None:
                yield server

    def _of(self, item: Item | None) -> Server | None:
        if item is None:
            return None
        known = self._known.get(item.key)
        if known is None or known[0] != item.revision:
            self._take(item)
            known = self._known.get(item.key)
        return known[1] if known is not None else None

    def _changed(self, event: Event) -> None:
        if isinstance(event, Put):
            self._take(event.item)
        else:
            self._forget(event.key)

    def _take(self, item: Item) -> None:
        server: Resource | None
        try:
            server = from_json(item.value)
        except BadRequest as error:  # one record that cannot be read hides no other node
            log.warning("the node at %s is left out: %s", item.key, error)
            server = None
        if not isinstance(server, Server):
            self._forget(item.key)
            return
        names = names_of(RegisteredNode.of(server, self._clock.now()))
        former = self._known.get(item.key)
        if former is None or former[2] != names:
            self._forget(item.key)
            for name in names:
                self._called.setdefault(name, set()).add(item.key)
        self._known[item.key] = (item.revision, server, names)

    def _forget(self, key: str) -> None:
        former = self._known.pop(key, None)
        for name in former[2] if former is not None else ():
            keys = self._called[name]
            keys.discard(key)
            if not keys:
                del self._called[name]


class Registered(NodesByName):
    """The nodes of one moment, looked at only as far as somebody asks."""

    def __init__(self, nodes: KnownNodes, now: datetime) -> None:
        self._nodes = nodes
        self._now = now

    def __iter__(self) -> Iterator[RegisteredNode]:
        return (RegisteredNode.of(server, self._now) for server in self._nodes.all())

    def named(self, names: Collection[str]) -> list[RegisteredNode]:
        return [RegisteredNode.of(server, self._now) for server in self._nodes.called(names)]

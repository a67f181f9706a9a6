"""What a watch shows of the storage, encoded once for all who may see the same.

Thousands of nodes watch the same few things, and come all at once when a proxy was restarted: what is the same for all
of them is worked out once for each snapshot and each changed item.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.auth.state import document
from teleport.backend.interface import Changes, Item, Put, Snapshot
from teleport.identity import HostIdentity, SystemRole
from teleport.resources.authority import Authority
from teleport.resources.codec import from_json
from teleport.store import records

KEPT: Final = 2048  # encoded items
LARGEST: Final = 16 * 1024  # bytes of an item that is kept
FEW_HOSTS: Final = frozenset({SystemRole.NODE, SystemRole.KUBE})  # who believe proxies, and no node
ROLES: Final = 100_000  # hosts of which is remembered whether they are nodes alone
SNAPSHOTS: Final = 8  # of which is remembered what they show


class _Line(msgspec.Struct, omit_defaults=True):
    """`m.WatchLine`, of items that are encoded."""

    revision: int
    snapshot: bool
    put: list[msgspec.Raw]
    deleted: list[str]
    within: int = 0


@dataclass(frozen=True, slots=True)
class _Shared:
    """What a snapshot shows to everybody of one sort."""

    of: Sequence[Item]
    put: Sequence[msgspec.Raw]
    hosts: frozenset[str]  # keys of those that are shown
    every_host: Mapping[str, Item]


class Encoded:
    """What was encoded lately; of an auth service there is one."""

    def __init__(self) -> None:
        self._items: OrderedDict[tuple[str, int], msgspec.Raw] = OrderedDict()
        self._snapshots: OrderedDict[tuple[tuple[str, ...], bool], _Shared] = OrderedDict()
        self._more: dict[str, tuple[int, bool]] = {}

    def item(self, item: Item, watcher: HostIdentity) -> msgspec.Raw:
        """An item as the watcher may see it."""
        if item.key == records.HOSTS + watcher.host_id:
            return _encoded(item, own=True)
        known = self._items.get((item.key, item.revision))
        if known is None:
            known = _encoded(item, own=False)
            if len(item.value) <= LARGEST:
                self._items[item.key, item.revision] = known
                while len(self._items) > KEPT:
                    self._items.popitem(last=False)
        return known

    def of_interest(self, item: Item) -> bool:
        """Whether a host may be more than a node."""
        known = self._more.get(item.key)
        if known is None or known[0] != item.revision:
            host = msgspec.json.decode(item.value, type=records.HostRecord)
            if len(self._more) >= ROLES:
                self._more.clear()
            known = self._more[item.key] = item.revision, not set(host.roles) <= {str(SystemRole.NODE)}
        return known[1]

    def snapshot(self, snapshot: Snapshot, prefixes: tuple[str, ...], watcher: HostIdentity) -> _Shared:
        """What `snapshot` shows to all watchers of this role, their own records left out."""
        of_node = watcher.role in FEW_HOSTS
        known = self._snapshots.get((prefixes, of_node))
        if known is not None and known.of is snapshot.items:
            return known
        put, hosts, every = [], set(), {}
        for item in snapshot.items:
            if not item.key.startswith(prefixes):
                continue
            if item.key.startswith(records.HOSTS):
                every[item.key] = item
                if of_node and not self.of_interest(item):
                    continue
                hosts.add(item.key)
            put.append(self._others(item))
        found = _Shared(snapshot.items, put, frozenset(hosts), every)
        self._snapshots[prefixes, of_node] = found
        self._snapshots.move_to_end((prefixes, of_node))
        while len(self._snapshots) > SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return found

    def _others(self, item: Item) -> msgspec.Raw:
        known = self._items.get((item.key, item.revision))
        return known if known is not None else _encoded(item, own=False)


class Shown:
    """What one watch shows of the changes that it follows.

    Of hosts, a node, or a Kubernetes service, hears of those alone that may be more than nodes, and of itself: it
    believes proxies, never another node. One that may not any more is told as gone.
    """

    def __init__(self, watcher: HostIdentity, prefixes: tuple[str, ...], encoded: Encoded) -> None:
        self._watcher = watcher
        self._prefixes = prefixes
        self._encoded = encoded
        self._own = records.HOSTS + watcher.host_id
        self._hosts: set[str] | None = set() if watcher.role in FEW_HOSTS else None  # keys that it knows

    def line(self, change: Snapshot | Changes) -> bytes | None:
        """What is sent; None when the change shows nothing."""
        if isinstance(change, Snapshot):
            return self._whole(change)
        # one line says of each key what became of it last: what was removed and made again is there
        events = {event.key: event for event in change.events if event.key.startswith(self._prefixes)}.values()
        items = [event.item for event in events if isinstance(event, Put)]
        gone = [event.key for event in events if not isinstance(event, Put)]
        if self._hosts is not None:
            items, gone = self._few_hosts(items, gone, self._hosts)
        if not items and not gone:
            return None
        put = [self._encoded.item(item, self._watcher) for item in items]
        return _said(_Line(change.revision, False, put, gone))

    def _whole(self, snapshot: Snapshot) -> bytes:
        shared = self._encoded.snapshot(snapshot, self._prefixes, self._watcher)
        put, own = shared.put, shared.every_host.get(self._own)
        if own is not None:
            if own.key in shared.hosts:  # it stands there as others see it
                put = [self._encoded.item(one, self._watcher) for one in self._all(snapshot, shared)]
            else:
                put = [*shared.put, self._encoded.item(own, self._watcher)]
        if self._hosts is not None:
            self._hosts = {*shared.hosts, self._own}
        return _said(_Line(snapshot.revision, True, list(put), []))

    def _all(self, snapshot: Snapshot, shared: _Shared) -> list[Item]:
        return [
            item
            for item in snapshot.items
            if item.key.startswith(self._prefixes)
            and (not item.key.startswith(records.HOSTS) or item.key in shared.hosts)
        ]

    def _few_hosts(self, items: list[Item], gone: list[str], known: set[str]) -> tuple[list[Item], list[str]]:
        told = [key for key in gone if not key.startswith(records.HOSTS) or key in known]
        known.difference_update(gone)
        kept = []
        for item in items:
            if item.key.startswith(records.HOSTS):
                if item.key != self._own and not self._encoded.of_interest(item):
                    if item.key in known:
                        known.discard(item.key)
                        told.append(item.key)
                    continue
                known.add(item.key)
            kept.append(item)
        return kept, told


def nothing(revision: int, within: int = 0) -> bytes:
    """What breaks the silence; the next line comes within so many seconds."""
    return _said(_Line(revision, False, [], [], within))


def _said(line: _Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _encoded(item: Item, *, own: bool) -> msgspec.Raw:
    """A stored item as it may leave auth: authorities without their private keys, of other hosts only what decides
    whether their certificates count."""
    value = m.Document(item.value)
    if item.key.startswith(records.HOSTS):
        host = msgspec.json.decode(item.value, type=records.HostRecord)
        if not own:
            host = msgspec.structs.replace(host, labels={}, role_labels={})
        value = m.Document(msgspec.structs.replace(host, node_name="").encode())
    if item.key.startswith(records.AUTHORITIES):
        authority = from_json(item.value)
        assert isinstance(authority, Authority)
        value = document(authority)
    made = m.WatchItem(key=item.key, value=value, revision=item.revision, expires=item.expires)
    return msgspec.Raw(msgspec.json.encode(made))

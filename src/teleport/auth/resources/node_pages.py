"""The list of nodes as a person looks through it: who sees what is decided as for every list, then searched and sorted.

Thousands of nodes are looked through for each letter that somebody types, so what a list shows of a stored node is
read once for each revision of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import msgspec

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer, facts_of
from teleport.auth.caller import Caller
from teleport.auth.hosts.tunnels_lost import TunnelsLost
from teleport.auth.resources.found_pages import MAX_SEARCH, MOST, Remembered, cut
from teleport.auth.state import ClusterState
from teleport.backend.interface import Item
from teleport.errors import BadRequest
from teleport.resources.codec import from_json
from teleport.resources.kinds import Kind
from teleport.resources.server import is_lost
from teleport.store import records

MAX_LABELS: Final = 20


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}


class _Result(msgspec.Struct):
    result: str = ""


class _Spec(msgspec.Struct):
    hostname: str = ""
    addr: str = ""
    use_tunnel: bool = False
    cmd_labels: dict[str, _Result] = {}
    heard: datetime | None = None
    lost_after: int = 0
    proxy_ids: tuple[str, ...] = ()


class _Stored(msgspec.Struct):
    """What a list shows of a stored node."""

    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    sub_kind: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    """A node, read from one revision."""

    revision: int
    host_id: str
    namespace: str
    all_labels: Mapping[str, str]
    hostname: str
    addr: str
    tunnel: bool
    agentless: bool
    heard: datetime | None
    lost_after: int
    proxies: tuple[str, ...]
    text: str  # what is searched
    order: str


@dataclass(frozen=True, slots=True)
class _Whole:
    """What rules may look at of a node, read from one revision."""

    revision: int
    host_id: str
    facts: Mapping[str, object]


class NodePages:
    """The handler of `find_nodes`."""

    def __init__(self, state: ClusterState, authorizer: Authorizer, tunnels: TunnelsLost | None = None) -> None:
        """`tunnels`: what proxies say of tunnels that ended."""
        self._state = state
        self._tunnels = tunnels or TunnelsLost(state.clock)
        self._authorizer = authorizer
        self._known = Remembered(_known)
        self._whole = Remembered(_whole)

    async def find(self, caller: Caller, request: m.FindNodesRequest) -> m.FoundNodes:
        """A page of what the caller may see. Raises `BadRequest`, `AccessDenied`."""
        if not 1 <= request.limit <= MOST or request.start < 0:
            raise BadRequest(f"a page has 1 to {MOST} nodes")
        if len(request.search) > MAX_SEARCH or len(request.labels) > MAX_LABELS:
            raise BadRequest(f"a search has at most {MAX_SEARCH} characters and {MAX_LABELS} labels")
        order = _order(request.sort)
        pairs = [_pair(label) for label in request.labels]
        # what may be seen is decided before anything is searched: neither answers nor their times tell of the rest
        visible = await self._visible(caller)
        found = _fitting(visible, request.search.lower().split(), pairs)
        found.sort(key=order, reverse=request.descending)
        chosen = found[request.start : request.start + request.limit]
        logins = await self._authorizer.logins_on(caller, chosen) or [[] for _ in chosen]
        page = cut([self._shown(node, allowed) for node, allowed in zip(chosen, logins, strict=True)])
        end = request.start + len(page)
        return m.FoundNodes(items=page, total=len(found), next_start=end if page and end < len(found) else 0)

    async def _visible(self, caller: Caller) -> Sequence[_Known]:
        items = await self._state.backend.range(records.NODES)
        known = self._known.of(items)
        if await self._authorizer.lists_alike(caller, Kind.NODE):
            await self._authorizer.require_listing(caller, Kind.NODE)
        else:  # a rule looks at single nodes
            whole = self._whole.of(items)
            may = await self._authorizer.may_list(caller, Kind.NODE, [node.facts for node in whole])
            listed = {node.host_id for node, allowed in zip(whole, may, strict=True) if allowed}
            known = [node for node in known if node.host_id in listed]
        return await self._authorizer.visible_nodes(caller, known)

    def _shown(self, node: _Known, logins: list[str]) -> m.FoundNode:
        silent = 0
        now = self._state.clock.now()
        if node.heard is not None and not node.agentless and is_lost(node.heard, node.lost_after, now):
            silent = int((now - node.heard).total_seconds())
        return m.FoundNode(
            id=node.host_id,
            hostname=node.hostname,
            addr="" if node.tunnel else node.addr,
            labels=dict(node.all_labels),
            tunnel=node.tunnel,
            agentless=node.agentless,
            silent_for=silent,
            logins=logins,
            tunnel_lost_for=self._tunnels.seconds(node.host_id, node.proxies, node.heard),
        )


def _known(item: Item) -> _Known:
    stored = msgspec.json.decode(item.value, type=_Stored)
    labels = {**stored.metadata.labels, **{key: one.result for key, one in stored.spec.cmd_labels.items()}}
    spec, name = stored.spec, stored.metadata.name
    addr = "" if spec.use_tunnel else spec.addr
    words = (spec.hostname, addr, name, *(f"{key}={value}" for key, value in labels.items()))
    return _Known(
        revision=item.revision,
        host_id=name,
        namespace=stored.metadata.namespace,
        all_labels=labels,
        hostname=spec.hostname,
        addr=addr,
        tunnel=spec.use_tunnel,
        agentless=stored.sub_kind == "openssh",
        heard=spec.heard,
        lost_after=spec.lost_after,
        proxies=spec.proxy_ids if spec.use_tunnel else (),
        text="\n".join(words).lower(),
        order=f"{spec.hostname.lower()}\n{name}",
    )


def _whole(item: Item) -> _Whole:
    node = from_json(item.value)
    return _Whole(item.revision, node.name, facts_of(node))


def _pair(label: str) -> tuple[str, str]:
    key, sign, value = label.partition("=")
    if not sign or not key:
        raise BadRequest(f"a label is written key=value, not {label[:64]!r}")
    return key, value


def _fitting(nodes: Sequence[_Known], words: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[_Known]:
    found = list(nodes)
    for word in dict.fromkeys(words):
        found = [node for node in found if word in node.text]
    for key, value in pairs:
        found = [node for node in found if node.all_labels.get(key) == value]
    return found


def _order(sort: str) -> Callable[[_Known], Any]:
    """By what a list is sorted; equal ones by name. Raises `BadRequest`."""
    if sort == "hostname":
        return attrgetter("order")
    if sort == "addr":
        return lambda node: (node.addr, node.order)
    if sort.startswith("label:"):
        label = sort.removeprefix("label:")
        return lambda node: (node.all_labels.get(label, "").lower(), node.order)
    raise BadRequest(f"nodes are sorted by hostname, addr or label:NAME, not by {sort[:64]!r}")

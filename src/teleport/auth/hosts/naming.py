"""What a host may be called: nothing that another live host, a proxy or an auth server is reached by (threat T14)."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from teleport.auth.hosts.succession import server_of
from teleport.auth.state import ClusterState
from teleport.backend.interface import Item
from teleport.errors import AccessDenied
from teleport.identity import SystemRole
from teleport.pki.names import canonical_host
from teleport.resources.server import Server
from teleport.resources.values import HostPort
from teleport.store import records

SHARED_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
KEPT: Final = 1000  # records that are kept read
KIND_OF_ROLE: Final[Mapping[SystemRole, str]] = {
    SystemRole.NODE: records.NODES,
    SystemRole.PROXY: records.PROXIES,
    SystemRole.AUTH: records.AUTH_SERVERS,
    SystemRole.KUBE: records.KUBE_SERVICES,
}


@dataclass(frozen=True, slots=True)
class _Called:
    revision: int
    server: Server
    reached: frozenset[str]  # its public addresses
    names: frozenset[str]  # these, and what it is called


class Names:
    """Who is called what. Of an auth service there is one."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._read: dict[str, _Called] = {}
        self._services: tuple[frozenset[tuple[str, frozenset[str]]], bytes] | None = None

    async def services(self) -> bytes:
        """A digest of the ids and names of all proxies and auth servers, as watches hear of them: while it is the same,
        a name that was none of theirs still is none."""
        now = self._state.clock.now()
        found = [
            called
            for prefix in (records.PROXIES, records.AUTH_SERVERS)
            for called in await self._called(prefix, lately=True)
        ]
        present = frozenset((one.server.host_id, one.names) for one in found if not one.server.expired(now))
        if self._services is None or self._services[0] != present:
            made = sorted((host_id, sorted(names)) for host_id, names in present)
            self._services = present, hashlib.blake2b(msgspec.json.encode(made), digest_size=16).digest()
        return self._services[1]

    async def check(
        self, own: str, role: SystemRole, node_names: Iterable[str], additional: Iterable[str], *, nodes: bool = True
    ) -> None:
        """Raises `AccessDenied` when another host is reached by one of these names.

        Two nodes may be called alike (`ours.md`), so names of nodes are only compared with proxies and auth servers;
        `nodes` false leaves out the comparison with the addresses of nodes.
        """
        of_services, of_nodes = await self._taken(own, role, nodes=nodes)
        called = {canonical_host(name) for name in node_names if name}
        asked = {canonical_host(name) for name in additional} - SHARED_NAMES
        for name in sorted((called - SHARED_NAMES) | asked):
            plain = name.removesuffix(f".{self._state.cluster.lower()}")
            if _is_uuid(plain) and plain != own:
                raise AccessDenied(f"the name {name!r} is the id of another host")
            if {name, plain} & of_services or (name in of_nodes and name in asked):
                raise AccessDenied(
                    f"the name {name!r} belongs to another host of the cluster", hint="set teleport.nodename"
                )

    async def _taken(self, own: str, role: SystemRole, *, nodes: bool) -> tuple[set[str], set[str]]:
        """What other proxies and auth servers are called and reached by; where other nodes are reached."""
        of_services: set[str] = set()
        of_nodes: set[str] = set()
        now = self._state.clock.now()
        prefixes = [records.PROXIES, records.AUTH_SERVERS]
        if nodes and role is SystemRole.NODE:
            prefixes.append(records.NODES)  # what nodes say of themselves never stands in the way of a proxy or auth
        for prefix in prefixes:
            if prefix == KIND_OF_ROLE.get(role) and role is not SystemRole.NODE:
                continue  # several proxies, or auth servers, may share the name of their balancer
            for called in await self._called(prefix, lately=not nodes):
                if called.server.host_id == own or called.server.expired(now):
                    continue
                if prefix == records.NODES:
                    of_nodes |= called.reached
                else:
                    of_services |= called.names
        return of_services, of_nodes

    async def _called(self, prefix: str, *, lately: bool) -> Sequence[_Called]:
        """Who has announced itself; with `lately` as watches hear of it, for hosts that announce themselves and
        are looked at again when this changes."""
        if not lately:
            found = [_called(item) for item in await self._state.backend.range(prefix)]
            return [one for one in found if one is not None]
        kept: list[_Called] = []
        for item in (await self._state.backend.watched_snapshot((prefix,))).items:
            known = self._read.get(item.key)
            if known is None or known.revision != item.revision:
                known = _called(item)
                if known is None:
                    continue
                if len(self._read) >= KEPT:
                    self._read.clear()
                self._read[item.key] = known
            kept.append(known)
        return kept


def _called(item: Item) -> _Called | None:
    server = server_of(item)
    if server is None:
        return None
    reached = {canonical_host(HostPort.parse(address, 0).host) for address in server.spec.public_addrs} - SHARED_NAMES
    names = (reached | {canonical_host(server.hostname)}) - SHARED_NAMES - {""}
    return _Called(item.revision, server, frozenset(reached), frozenset(names))


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False

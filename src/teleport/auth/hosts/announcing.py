"""Hosts announce themselves: what they say is looked at whole, and what says the same again is only put on record anew.

A host announces only itself, in the role of its certificate.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from teleport import counted
from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.hosts.joining import Joining
from teleport.auth.hosts.naming import KIND_OF_ROLE, Names
from teleport.auth.hosts.succession import KEPT, may_announce, may_withdraw, server_of
from teleport.auth.hosts.together import Together
from teleport.auth.hosts.tunnels_lost import TunnelsLost
from teleport.auth.hosts.unchanged import Unchanged, digest_of
from teleport.auth.state import ClusterState
from teleport.auth.watching import Found
from teleport.backend.interface import Condition, DeleteOp, Item, PutOp, Write
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import HostIdentity, SystemRole
from teleport.resources.codec import checked, from_json, heard_again, to_json
from teleport.resources.forced_labels import with_forced
from teleport.resources.kinds import Kind, Verb
from teleport.resources.names import is_loopback, not_dialable
from teleport.resources.server import Server
from teleport.resources.values import Duration, HostPort
from teleport.store import records

PRESENCE: Final = timedelta(seconds=600)  # `protocols.md` 6
_SECTION: Final = {"node": "ssh_service", "kube_service": "kubernetes_service"}


class Announcing:
    """The handlers of what hosts say of themselves."""

    def __init__(
        self,
        state: ClusterState,
        authorizer: Authorizer,
        joining: Joining,
        names: Names,
        tunnels: TunnelsLost,
        on_new: Callable[[], Awaitable[None]],
    ) -> None:
        """`tunnels`: what proxies say of tunnels that ended. `on_new`: awaited when a node came that was not there."""
        self._state = state
        self._authorizer = authorizer
        self._joining = joining
        self._names = names
        self._tunnels = tunnels
        self._on_new = on_new
        self._unchanged = Unchanged()
        self._records = Together(state.backend.get, self._commit)

    async def heartbeat(self, caller: Caller, request: m.HeartbeatRequest) -> m.Heard:
        """Announces the caller; what is silent after that is listed as lost, for a week."""
        counted.HEARTBEATS.add()
        within = await self._heartbeat(caller, bytes(request.item))
        if caller.watching is not None:
            caller.watching.expect(within)
        return m.Heard(within=within) if within else m.Heard()

    async def _heartbeat(self, caller: Caller, item: bytes) -> int:
        """The seconds after which it has to be said again; 0: as always."""
        identity, watching = caller.identity, caller.watching
        if not isinstance(identity, HostIdentity):
            await self._whole(caller, item, b"", Found())  # which says what is wrong about it
            return 0
        known = watching.found if watching is not None else None
        if identity.expires <= self._state.clock.now():
            known = None  # nobody tells of that
        found = known or await self._joining.found(identity)
        if known is not None:
            self._state.uses.note(identity, self._state.clock.now())
        if identity.role is not SystemRole.NODE:
            await self._whole(caller, item, b"", found)
            return 0
        host_id, services = identity.host_id, await self._names.services()
        digest = digest_of(item, caller.certificate, (caller.host, *caller.vouched_by), found.forced, services)
        written = self._unchanged.written(host_id, digest)
        if written and known is None:
            await self._require(caller, Kind.NODE, host_id)
        if not written or not (
            await self._as_before(host_id, digest) or await self._again(host_id, digest, written, found)
        ):
            await self._whole(caller, item, digest, found)
        if watching is not None:
            watching.find(found)
        return self._within(host_id)

    async def _whole(self, caller: Caller, item: bytes, digest: bytes, found: Found) -> None:
        """Looks at all of what is said, and writes it."""
        identity = caller.identity
        server = from_json(item)
        if not isinstance(server, Server):
            raise BadRequest(f"a {server.kind} does not announce itself")
        kind = Kind(server.kind)
        await self._require(caller, kind, server.host_id)
        if not isinstance(identity, HostIdentity) or KIND_OF_ROLE.get(identity.role) != records.PREFIX_OF_KIND[kind]:
            raise AccessDenied(f"this certificate does not announce a {kind}")
        if server.sub_kind:
            raise AccessDenied("a node service does not announce itself as a plain sshd")
        addresses = [HostPort.parse(address, 0).host for address in server.spec.public_addrs]
        await self._names.check(server.host_id, identity.role, [server.hostname], addresses, nodes=False)
        if kind in (Kind.NODE, Kind.KUBE_SERVICE):
            _check_dialable(server, caller)
        now = self._state.clock.now()
        lost_after = self._unchanged.lost_after if kind is Kind.NODE else 0
        said = checked(with_forced(_heard(server, now, lost_after), found.forced))
        key = records.PREFIX_OF_KIND[kind] + server.host_id
        stored: Server | None = None

        def write(item: Item | None) -> Write | None:
            nonlocal stored
            stored = server_of(item)
            if stored is not None and stored.agentless:
                raise AccessDenied(f"{server.host_id} is registered as a host with a plain sshd")
            return PutOp(key, to_json(said), now + KEPT) if may_announce(said, stored, now) else None

        revision = await (self._records.change if lost_after else self._records.alone)(key, write, found.given)
        if kind is Kind.NODE:
            if revision is None:
                self._unchanged.forget(server.host_id)
            else:
                self._wrote(server.host_id, digest, revision, lost_after)
        if kind is Kind.NODE and stored is None and not server.spec.use_tunnel:  # behind a tunnel it displaces nobody
            await self._on_new()

    async def _as_before(self, host_id: str, digest: bytes) -> bool:
        """Whether it is on record already, and lately enough."""
        revision = self._unchanged.revision(host_id, digest, self._state.clock.monotonic())
        if revision is None or self._tunnels.concerns(host_id):  # that it is heard is news then
            return False
        item = await self._state.backend.get(records.NODES + host_id)
        return item is not None and item.revision == revision

    async def _again(self, host_id: str, digest: bytes, written: int, found: Found) -> bool:
        """Puts on record anew what was looked at whole, and is on record since the revision `written`; False when it is
        not there as it was."""
        now, lost_after, key = self._state.clock.now(), self._unchanged.lost_after, records.NODES + host_id
        if not lost_after:
            return False

        def write(item: Item | None) -> Write | None:
            if item is None or item.revision != written:
                return None
            said = heard_again(item.value, now, now + PRESENCE, lost_after)
            return PutOp(key, said, now + KEPT) if said is not None else None

        revision = await self._records.change(key, write, found.given)
        if revision is None:
            return False
        self._wrote(host_id, digest, revision, lost_after)
        return True

    def _wrote(self, host_id: str, digest: bytes, revision: int, lost_after: int) -> None:
        self._unchanged.wrote(host_id, digest, revision, self._state.clock.monotonic(), lost_after, apart=_apart())

    def _within(self, host_id: str) -> int:
        return self._unchanged.within(host_id, self._state.clock.monotonic())

    async def _require(self, caller: Caller, kind: Kind, host_id: str) -> None:
        await self._authorizer.require(caller, Verb.UPDATE, kind, {"resource": {"metadata": {"name": host_id}}})

    async def withdraw(self, caller: Caller, request: m.Named) -> m.Done:
        """The caller stops; `request.name` is the epoch that stops, so that a newer one stays."""
        identity = caller.identity
        prefix = KIND_OF_ROLE.get(identity.role) if isinstance(identity, HostIdentity) else None
        if prefix is None or not isinstance(identity, HostIdentity):
            raise AccessDenied("only a host withdraws its presence")
        key = prefix + identity.host_id

        def write(item: Item | None) -> Write | None:
            stored = server_of(item)
            if stored is None or stored.agentless:
                return None
            return DeleteOp(key) if may_withdraw(request.name, stored) else None

        await self._records.alone(key, write)
        return m.Done()

    async def _commit(self, writes: Sequence[Write], conditions: Sequence[Condition]) -> int:
        return await self._state.commit(writes, conditions=conditions, events=[])


def _apart() -> float:
    return 1 - random.random()  # noqa: S311 - spreads announcements, guards nothing


def _heard(server: Server, now: datetime, lost_after: int) -> Server:
    """As it is on record from `now` on."""
    spec = msgspec.structs.replace(
        server.spec, heard=now, lost_after=lost_after, silent_for=Duration(0), tunnel_lost_for=Duration(0)
    )
    metadata = msgspec.structs.replace(server.metadata, expires=now + PRESENCE)
    return msgspec.structs.replace(server, metadata=metadata, spec=spec)


def _check_dialable(node: Server, caller: Caller) -> None:
    """Proxies connect to what nodes announce, so it must not be what only the proxy's own machine can reach.

    Any other address stays possible, since a node behind NAT is reached by one that auth never sees (`advertise_ip`):
    a proxy can be made to open a connection, and to send a line that is signed for this node, but no more.
    """
    local = all(is_loopback(address) for address in (caller.host, *caller.vouched_by))
    for address in (node.spec.addr, *node.spec.public_addrs):
        host = HostPort.parse(address, 0).host if address else ""
        if problem := not_dialable(host, loopback=local) if host else "":
            raise AccessDenied(
                f"the address {address!r} of the {node.kind} {node.host_id} {problem}, so proxies do not connect to it",
                hint=f"set teleport.advertise_ip or {_SECTION[node.kind]}.public_addr to where this host is reached",
            )

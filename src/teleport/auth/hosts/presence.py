"""Who is here: heartbeats of hosts, and the watches that keep the caches of services filled.

A host announces only itself, in the role of its certificate. A watch sends hosts what they may list, never a secret,
one JSON value a line; silence is broken, so that a dead stream is noticed (`silence`).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Final

import msgspec

from teleport import counted
from teleport.api import messages as m
from teleport.audit.events import NodeDelete, new_event
from teleport.auth.authorizer import Authorizer
from teleport.auth.hosts.joining import KIND_OF_ROLE, Joining
from teleport.auth.hosts.silence import Silence
from teleport.auth.hosts.succession import KEPT, may_announce, may_withdraw, replaced
from teleport.auth.hosts.together import Together
from teleport.auth.hosts.tunnels_lost import TunnelsLost
from teleport.auth.hosts.unchanged import Unchanged, digest_of
from teleport.auth.hosts.watched import FEW_HOSTS, Encoded, Shown, nothing
from teleport.auth.server import Caller
from teleport.auth.state import ClusterState
from teleport.authz.locks import Locked, find_lock
from teleport.backend.follow import follow
from teleport.backend.interface import (
    Changes,
    Condition,
    DeleteOp,
    Exists,
    Item,
    PutOp,
    Write,
)
from teleport.errors import AccessDenied, BadRequest, CompareFailed, TeleportError
from teleport.identity import HostIdentity, Identity, SystemRole
from teleport.resources.codec import checked, from_json, to_json
from teleport.resources.forced_labels import with_forced
from teleport.resources.kinds import Kind, Verb
from teleport.resources.names import is_loopback, not_dialable
from teleport.resources.server import Server
from teleport.resources.values import Duration, HostPort
from teleport.store import records

log = logging.getLogger(__name__)

PRESENCE: Final = timedelta(seconds=600)  # `protocols.md` 6
TIDY_EVERY: Final = 60.0  # seconds
TIDY_AGAIN: Final = 1.0  # seconds, for nodes that are new: each time all nodes are read
RECHECK: Final = 1.0  # seconds after which a watch is asked anew whether its caller may have it, when something changed
RECHECK_CALM: Final = 300.0  # when nothing changed that could tell
WATCHABLE: Final = frozenset(
    {
        Kind.ROLE,
        Kind.USER,
        Kind.NODE,
        Kind.PROXY,
        Kind.AUTH_SERVER,
        Kind.KUBE_SERVICE,
        Kind.CERT_AUTHORITY,
        Kind.LOCK,
        Kind.MFA_LEASE,
        Kind.TRUSTED_CLUSTER,
        Kind.REMOTE_CLUSTER,
        Kind.HOST_CERT,
        Kind.WEB_CERTIFICATE,
        Kind.CLUSTER_NAME,
        Kind.CLUSTER_AUTH_PREFERENCE,
        Kind.CLUSTER_NETWORKING_CONFIG,
        Kind.SESSION_RECORDING_CONFIG,
        Kind.CLUSTER_AUDIT_CONFIG,
        Kind.WEB_SESSION,
    }
)


_SECTION: Final = {"node": "ssh_service", "kube_service": "kubernetes_service"}


class Presence:
    """The handlers of heartbeats and watches, and the care for what was left behind."""

    def __init__(
        self, state: ClusterState, authorizer: Authorizer, joining: Joining, tunnels: TunnelsLost | None = None
    ) -> None:
        """`tunnels`: what proxies say of tunnels that ended."""
        self._state = state
        self._tunnels = tunnels or TunnelsLost(state.clock)
        self._unchanged = Unchanged()
        self._silence = Silence()
        self._records = Together(state.backend.get, self._commit)
        self._joining = joining
        self._authorizer = authorizer
        self._encoded = Encoded()
        self._tidied = float("-inf")
        self._since = state.clock.monotonic()  # nobody counts as lost before all had the time to be heard again

    async def heartbeat(self, caller: Caller, request: m.HeartbeatRequest) -> m.Heard:
        """Announces the caller; what is silent after that is listed as lost, for a week."""
        counted.HEARTBEATS.add()
        identity, item = caller.identity, bytes(request.item)
        forced = await self._joining.forced_labels(identity) if isinstance(identity, HostIdentity) else {}
        digest = digest_of(item, caller.certificate, (caller.host, *caller.vouched_by), forced)
        if await self._as_before(caller, digest):
            return self._heard(identity)
        server = from_json(item)
        if not isinstance(server, Server):
            raise BadRequest(f"a {server.kind} does not announce itself")
        kind = Kind(server.kind)
        await self._authorizer.require(caller, Verb.UPDATE, kind, {"resource": {"metadata": {"name": server.host_id}}})
        if not isinstance(identity, HostIdentity) or KIND_OF_ROLE.get(identity.role) != _prefix(kind):
            raise AccessDenied(f"this certificate does not announce a {kind}")
        if server.sub_kind:
            raise AccessDenied("a node service does not announce itself as a plain sshd")
        addresses = [HostPort.parse(address, 0).host for address in server.spec.public_addrs]
        await self._joining.check_names(server.host_id, identity.role, [server.hostname], addresses, nodes=False)
        if kind in (Kind.NODE, Kind.KUBE_SERVICE):
            _check_dialable(server, caller)
        now = self._state.clock.now()
        metadata = msgspec.structs.replace(server.metadata, expires=now + PRESENCE)
        lost_after = self._unchanged.lost_after if kind is Kind.NODE else 0
        spec = msgspec.structs.replace(
            server.spec, heard=now, lost_after=lost_after, silent_for=Duration(0), tunnel_lost_for=Duration(0)
        )
        said = checked(with_forced(msgspec.structs.replace(server, metadata=metadata, spec=spec), forced))
        key = _prefix(kind) + server.host_id
        stored: Server | None = None

        def write(item: Item | None) -> Write | None:
            nonlocal stored
            stored = _server(item)
            if stored is not None and stored.agentless:
                raise AccessDenied(f"{server.host_id} is registered as a host with a plain sshd")
            return PutOp(key, to_json(said), now + KEPT) if may_announce(said, stored, now) else None

        revision = await (self._records.change if lost_after else self._records.alone)(key, write)
        if kind is Kind.NODE:
            if revision is None:
                self._unchanged.forget(server.host_id)
            else:
                self._unchanged.wrote(server.host_id, digest, revision, self._state.clock.monotonic(), lost_after)
        if kind is Kind.NODE and stored is None and not server.spec.use_tunnel:  # behind a tunnel it displaces nobody
            await self._tidy_soon()
        return self._heard(identity)

    def _heard(self, identity: Identity) -> m.Heard:
        if not isinstance(identity, HostIdentity) or identity.role is not SystemRole.NODE:
            return m.Heard()
        return m.Heard(within=self._unchanged.within(identity.host_id, self._state.clock.monotonic()))

    async def _as_before(self, caller: Caller, digest: bytes) -> bool:
        """Whether it is on record already, by an announcement of this very certificate: then it was looked at whole,
        and only what may have happened to the host meanwhile is decided anew."""
        identity = caller.identity
        if not isinstance(identity, HostIdentity) or identity.role is not SystemRole.NODE:
            return False
        host_id = identity.host_id
        revision = self._unchanged.revision(host_id, digest, self._state.clock.monotonic())
        if revision is None or self._tunnels.concerns(host_id):  # that it is heard is news then
            return False
        await self._authorizer.require(caller, Verb.UPDATE, Kind.NODE, {"resource": {"metadata": {"name": host_id}}})
        item = await self._state.backend.get(records.NODES + host_id)
        return item is not None and item.revision == revision

    async def withdraw(self, caller: Caller, request: m.Named) -> m.Done:
        """The caller stops; `request.name` is the epoch that stops, so that a newer one stays."""
        identity = caller.identity
        prefix = KIND_OF_ROLE.get(identity.role) if isinstance(identity, HostIdentity) else None
        if prefix is None or not isinstance(identity, HostIdentity):
            raise AccessDenied("only a host withdraws its presence")
        key = prefix + identity.host_id

        def write(item: Item | None) -> Write | None:
            stored = _server(item)
            if stored is None or stored.agentless:
                return None
            return DeleteOp(key) if may_withdraw(request.name, stored) else None

        await self._records.alone(key, write)
        return m.Done()

    async def _commit(self, writes: Sequence[Write], conditions: Sequence[Condition]) -> int:
        return await self._state.commit(writes, conditions=conditions, events=[])

    async def run(self) -> None:
        """Tidies every minute until cancelled."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            try:
                await self.tidy()
            except TeleportError as error:
                log.warning("presence could not be tidied: %s", error)

    async def _tidy_soon(self) -> None:
        """Tidies for a node that is new, at once; for the next ones of many that come together, within a minute."""
        now = self._state.clock.monotonic()
        if now - self._since >= TIDY_EVERY and now - self._tidied >= TIDY_AGAIN:
            self._tidied = now
            await self.tidy()

    async def tidy(self) -> None:
        """Removes lost nodes whose name and address a new host has taken; their certificates stay good."""
        items = {item.key: item for item in await self._state.backend.range(records.NODES)}
        nodes = [server for item in items.values() if (server := _server(item)) is not None]
        for gone in replaced(nodes, self._state.clock.now()):
            item = items[records.NODES + gone.host_id]
            event = new_event(
                NodeDelete,
                self._state.clock.now(),
                str(uuid.uuid4()),
                cluster_name=self._state.cluster,
                user="system",
                name=gone.host_id,
                hostname=gone.hostname,
                keep_identity=True,
            )
            with suppress(CompareFailed):  # it has come back
                await self._state.commit(
                    [DeleteOp(item.key)], conditions=[Exists(item.key, item.revision)], events=[event]
                )

    async def watch(self, caller: Caller, request: m.WatchRequest) -> AsyncIterator[bytes]:
        """A snapshot of some kinds, then every change. For services only: a list shows each user what it may see of a
        kind, and a watch would have to decide that for every item and change."""
        if not isinstance(caller.identity, HostIdentity):
            raise AccessDenied("only services of the cluster watch", hint="list instead")
        if not request.kinds:
            raise BadRequest(f"a watch names kinds: {', '.join(sorted(WATCHABLE))}")
        kinds = []
        for name in sorted(set(request.kinds)):  # however it is asked for, those who watch the same share what it costs
            try:
                kinds.append(Kind(name))
            except ValueError:
                raise BadRequest(f"{name[:64]!r} is no kind of resource") from None
            if kinds[-1] not in WATCHABLE:
                raise BadRequest(f"{kinds[-1]} cannot be watched")
        await self._authorizer.require_listing(caller, *kinds)
        checked_at = self._state.clock.monotonic()
        prefixes = tuple(_watched_prefix(kind) for kind in kinds)
        # Followed whatever was asked for: what decides whether the caller may go on watching. So nothing has to be read
        # again while nothing changes: of ten thousand watches, that would take most of a processor.
        own = records.HOSTS + caller.identity.host_id
        deciding = (records.AUTHORITIES, records.LOCKS, own)
        followed = [*prefixes, *(one for one in deciding if not one.startswith(prefixes))]
        shown = Shown(caller.identity, prefixes, self._encoded)
        changed = False  # since it was asked, something that decides
        said_at = checked_at
        patient = request.patient and caller.identity.role in FEW_HOSTS  # much hangs on proxies, and they are few
        with self._silence.watch(patient) as pace:

            def pause() -> float:
                """What is to be asked anew is asked soon, also when nothing more happens."""
                return RECHECK if changed else pace.pause

            stream = follow(self._state.backend, followed, heartbeat=pause, shared=True)
            async with aclosing(stream):
                async for change in stream:
                    now = self._state.clock.monotonic()
                    events = change.events if isinstance(change, Changes) else ()
                    turned = any(_of_authority(event.key) for event in events)
                    changed = changed or any(event.key.startswith(deciding) for event in events)
                    if caller.identity.expires <= self._state.clock.now():
                        return
                    if now - checked_at >= (RECHECK if changed else RECHECK_CALM) or (changed and not events):
                        checked_at, changed = now, False
                        if not await self._still(caller) or not (turned or await self._believed(caller)):
                            return
                    line = shown.line(change)
                    # a change that shows nothing begins the pause anew: what was promised is kept all the same
                    if line is None and (not events or now - said_at >= pace.seconds / 4):
                        line = nothing(change.revision, pace.anew())
                    if line is not None:
                        said_at = now
                        yield line
                    del change, events, line  # while nothing changes, a watch keeps nothing
                    if turned and not await self._believed(caller):
                        return  # that its authority ended is the last it hears: it must not trust those keys either

    async def _still(self, caller: Caller) -> bool:
        """Whether the caller still belongs here: a watch must not outlive its right.

        Locks on the host are left out on purpose: one that is locked has to hear of it, to end its sessions.
        """
        identity = caller.identity
        if not isinstance(identity, HostIdentity) or identity.expires <= self._state.clock.now():
            return False
        if await self._revoked(identity):
            return False
        return await self._authorizer.counts(identity)

    async def _believed(self, caller: Caller) -> bool:
        """Whether the authority that signed the caller's certificate still counts."""
        try:
            await self._state.tls_identity(caller.certificate)
        except AccessDenied:
            return False
        return True

    async def _revoked(self, identity: HostIdentity) -> bool:
        """Whether this very certificate was ended: whoever holds it is perhaps not the host."""
        subject = Locked(serial=identity.serial)
        return find_lock(await self._state.locks_heard_of(), subject, self._state.clock.now()) is not None


def _of_authority(key: str) -> bool:
    return key.startswith(records.AUTHORITIES)


def _server(item: Item | None) -> Server | None:
    found = from_json(item.value) if item is not None else None
    return found if isinstance(found, Server) else None


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


def _watched_prefix(kind: Kind) -> str:
    """Where the things of a kind are; singletons share a folder, and only the one asked for is meant."""
    prefix = _prefix(kind)
    return prefix + str(kind).replace("_", "-") if prefix == records.CLUSTER else prefix


def _prefix(kind: Kind) -> str:
    return records.PREFIX_OF_KIND[kind]

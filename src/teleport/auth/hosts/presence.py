"""The watches that keep the caches of services filled, and the care for hosts that were left behind.

A watch sends hosts what they may list, never a secret, one JSON value a line; silence is broken, so that a dead stream
is noticed (`silence`).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Final

from teleport.api import messages as m
from teleport.audit.events import NodeDelete, new_event
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.hosts.silence import Silence
from teleport.auth.hosts.succession import replaced, server_of
from teleport.auth.hosts.watched import FEW_HOSTS, Encoded, Shown, nothing
from teleport.auth.state import ClusterState
from teleport.auth.watching import Watching
from teleport.authz.locks import Locked, find_lock
from teleport.backend.follow import follow
from teleport.backend.interface import Changes, DeleteOp, Exists, Item, Snapshot
from teleport.errors import AccessDenied, BadRequest, CompareFailed, TeleportError
from teleport.identity import HostIdentity
from teleport.resources.codec import at_a_glance
from teleport.resources.kinds import Kind
from teleport.resources.names import canonical_host
from teleport.resources.server import Glance
from teleport.store import records

log = logging.getLogger(__name__)

TIDY_EVERY: Final = 60.0  # seconds
TIDY_AGAIN: Final = 1.0  # seconds, for nodes that are new: each time all nodes are looked at
RECHECK: Final = 1.0  # seconds after which a watch is asked anew whether its caller may have it, when something changed
RECHECK_CALM: Final = 1800.0  # when nothing changed that could tell
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


class Presence:
    """The handler of watches, and the care for what was left behind."""

    def __init__(self, state: ClusterState, authorizer: Authorizer) -> None:
        self._state = state
        self._silence = Silence()
        self._authorizer = authorizer
        self._encoded = Encoded()
        self._tidied = float("-inf")
        self._since = state.clock.monotonic()  # nobody counts as lost before all had the time to be heard again

    async def run(self) -> None:
        """Tidies every minute until cancelled."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            await self._tidy()

    async def _tidy(self) -> None:
        try:
            await self.tidy()
        except TeleportError as error:
            log.warning("presence could not be tidied: %s", error)

    async def tidy_soon(self) -> None:
        """Tidies for a node that is new, at once; for the next ones of many that come together, within a minute."""
        now = self._state.clock.monotonic()
        if now - self._since >= TIDY_EVERY and now - self._tidied >= TIDY_AGAIN:
            self._tidied = now
            await self._tidy()

    async def tidy(self) -> None:
        """Removes lost nodes whose name and address a new host has taken; their certificates stay good."""
        now = self._state.clock.now()
        items = {item.key: item for item in await self._state.backend.range(records.NODES)}
        # to read all of ten thousand would hold up everybody for half a second, each minute, and mostly nobody is lost
        seen = _glances(items)
        lost = {canonical_host(one.hostname) for one in seen.values() if one.lost(now)}
        alike = [items[key] for key, one in seen.items() if lost and canonical_host(one.hostname) in lost]
        nodes = [server for item in alike if (server := server_of(item)) is not None]
        for gone in replaced(nodes, now):
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
        checked_at = float("-inf")  # once there is a snapshot: what happened until then is in it, and no change
        prefixes = tuple(_watched_prefix(kind) for kind in kinds)
        # Followed whatever was asked for: what decides whether the caller may go on watching. So nothing has to be read
        # again while nothing changes: of ten thousand watches, that would take most of a processor.
        own = records.HOSTS + caller.identity.host_id
        deciding = (records.AUTHORITIES, records.LOCKS, own)
        followed = [*prefixes, *(one for one in deciding if not one.startswith(prefixes))]
        shown = Shown(caller.identity, prefixes, self._encoded)
        changed = False  # since it was asked, something that decides
        watching = caller.watching or Watching()
        patient = request.patient and caller.identity.role in FEW_HOSTS  # much hangs on proxies, and they are few
        with self._silence.watch(patient) as pace:

            def pause() -> float:
                """What is to be asked anew is asked soon, also when nothing more happens."""
                return watching.rest(RECHECK if changed else RECHECK_CALM)

            watching.begin(pace)
            begun = False
            stream = follow(self._state.backend, followed, heartbeat=pause, shared=True)
            async with aclosing(stream):
                async for change in stream:
                    watching.wake()
                    now = self._state.clock.monotonic()
                    events = change.events if isinstance(change, Changes) else ()
                    turned = any(_of_authority(event.key) for event in events)
                    # another snapshot: what happened before it was not told
                    if begun and (isinstance(change, Snapshot) or any(one.key.startswith(deciding) for one in events)):
                        changed = True
                        watching.doubt()
                    begun = True
                    if caller.identity.expires <= self._state.clock.now():
                        return
                    if now - checked_at >= (RECHECK if changed else RECHECK_CALM) or (changed and not events):
                        checked_at, changed = now, False
                        watching.doubt()  # once in a while all is found out anew
                        if not await self._still(caller) or not (turned or await self._believed(caller)):
                            return
                    line = shown.line(change)
                    if line is None and not watching.pause:
                        line = nothing(change.revision, pace.anew())
                    if line is not None:
                        watching.tells(change.revision)
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


def _glances(items: Mapping[str, Item]) -> dict[str, Glance]:
    """Of those that can be read."""
    found = {}
    for key, item in items.items():
        try:
            found[key] = at_a_glance(item.value)
        except BadRequest as error:
            log.warning("a host cannot be read key=%s: %s", key, error)
    return found


def _of_authority(key: str) -> bool:
    return key.startswith(records.AUTHORITIES)


def _watched_prefix(kind: Kind) -> str:
    """Where the things of a kind are; singletons share a folder, and only the one asked for is meant."""
    prefix = _prefix(kind)
    return prefix + str(kind).replace("_", "-") if prefix == records.CLUSTER else prefix


def _prefix(kind: Kind) -> str:
    return records.PREFIX_OF_KIND[kind]

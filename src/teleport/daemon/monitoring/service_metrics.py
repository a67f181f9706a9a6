"""What of the services of a daemon is shown to monitors, beside tunnels, disks and the process (`operations.md` 4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from cryptography.x509 import load_pem_x509_certificate

from teleport import counted
from teleport.audit.shipper import Shipper
from teleport.daemon.credentials import Credentials
from teleport.daemon.monitoring.diag import Readiness
from teleport.daemon.monitoring.metrics import Gauge, Metrics
from teleport.daemon.restarts.leaving import Doors
from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.resources.authority import Authority, AuthorityType, RotationMode, RotationState
from teleport.store.cache import Cache

if TYPE_CHECKING:
    from teleport.auth.service import AuthService
    from teleport.clock import Clock
    from teleport.daemon.view import View
    from teleport.node.service import NodeService

log = logging.getLogger(__name__)

STATE: Final = Gauge("process_state", "State of this daemon: 0 ok, 1 recovering, 2 degraded, 3 starting.")
COMPONENTS: Final = Gauge(
    "teleport_component_state", "The same by part, as /readyz names it: 0 ok, 2 degraded, 3 starting.", "component"
)
READY: Final = Gauge("teleport_ready", "1 when /readyz answers 200: every service takes connections.")
CONNECTIONS: Final = Gauge("teleport_connections_open", "Open connections, by listener.", "listener")
CACHE_ITEMS: Final = Gauge("teleport_cache_items", "Items in the caches of this daemon.", "cache")
CACHE_AGE: Final = Gauge("teleport_cache_age_seconds", "Seconds since a cache heard from its source.", "cache")
CERTIFICATES: Final = Gauge(
    "teleport_host_certificate_not_after", "When the certificates of this host end, in seconds since 1970.", "role"
)
SPOOLED: Final = Gauge("teleport_audit_spool_events", "Audit events of this daemon that auth does not hold yet.")
BEHIND: Final = Gauge(
    "teleport_audit_spool_behind_seconds", "Seconds since auth last took such events; 0 while none waits."
)

EVENTS_WAITING: Final = Gauge(
    "teleport_audit_events_waiting",
    "Events, at least, that hosts have brought and that wait to be taken into the log.",
    of="auth",
)
STORE_HELD: Final = Gauge(
    "teleport_audit_store_held_seconds", "How long another process has held up the audit log; 0 when none does.",
    of="auth",
)  # fmt: skip
COPIES_FAILING: Final = Gauge(
    "teleport_audit_copy_failing_seconds",
    "How long a receiver of copies has not taken audit events; 0 when it does.",
    "copy",
    of="auth",
)
S3_TROUBLE: Final = Gauge(
    "teleport_recordings_s3_failing", "1 while recordings stay here that should be in S3.", of="auth with S3"
)
AUTHORITIES: Final = Gauge(
    "teleport_authority_not_after",
    "When the authorities of this cluster end, in seconds since 1970.",
    "type",
    of="auth",
)
ROTATIONS: Final = Gauge(
    "teleport_rotation_state",
    "Rotations of authorities: 0 none, 1 goes on by itself, 2 waits for a person.",
    "type",
    of="auth",
)
ROTATION_AGE: Final = Gauge(
    "teleport_rotation_age_seconds", "How long ago the rotation began that is under way; 0 without one.", "type",
    of="auth",
)  # fmt: skip

SESSIONS: Final = Gauge("server_interactive_sessions_total", "Sessions with a terminal that run here now.", of="node")
ALL_SESSIONS: Final = Gauge("teleport_node_sessions", "Sessions that run here now, with and without one.", of="node")
PROXY_SESSIONS: Final = Gauge(
    "proxy_ssh_sessions_total", "SSH connections of people at this proxy, which lead to hosts.", of="proxy"
)
SERVERS: Final = Gauge("teleport_registered_servers", "Services that announce themselves, by kind.", "type", of="proxy")
LOST: Final = Gauge("teleport_lost_servers", "Services that fell silent, or lost their tunnel.", "type", of="proxy")

LOOK: Final = 5.0  # seconds between looks at the authorities


def of_every(
    metrics: Metrics,
    readiness: Readiness,
    doors: Doors,
    caches: list[Cache],
    held: Mapping[SystemRole, Credentials],
    clock: Clock,
) -> None:
    """Of every daemon; `caches` and `held` may grow afterwards."""
    metrics.add(STATE, lambda: readiness.state)
    metrics.add(READY, lambda: int(readiness.status()[0] == 200))
    metrics.add(COMPONENTS, lambda: {name: float(state) for name, state in readiness.components().items()})
    metrics.add(CONNECTIONS, lambda: {name: float(door.open) for name, door in doors.every().items()})
    metrics.add(CACHE_ITEMS, lambda: {cache.name: float(cache.size) for cache in caches})
    metrics.add(CACHE_AGE, lambda: {cache.name: cache.age(clock.now()) for cache in caches if cache.ready})
    metrics.add(CERTIFICATES, lambda: {role.value.lower(): one.expires.timestamp() for role, one in held.items()})
    metrics.count(counted.ALL)


def of_delivery(metrics: Metrics, shipper: Shipper) -> None:
    """Of the way that audit events of this daemon take to auth."""
    metrics.add(SPOOLED, lambda: float(shipper.waiting))
    metrics.add(BEHIND, shipper.behind)


def of_auth(metrics: Metrics, service: AuthService, watched: Authorities) -> None:
    metrics.add(EVENTS_WAITING, service.evidence.waiting.coming)
    metrics.add(STORE_HELD, service.evidence.waiting.seconds)
    metrics.add(COPIES_FAILING, service.evidence.copies.failing)
    metrics.add(AUTHORITIES, lambda: watched.ends)
    metrics.add(ROTATIONS, lambda: watched.rotations)
    metrics.add(ROTATION_AGE, lambda: watched.ages)
    metrics.count(counted.AUTH)
    of_delivery(metrics, service.evidence.shipper)
    if service.brings_to_s3:
        metrics.add(S3_TROUBLE, lambda: int(bool(service.recordings_problem)))
        metrics.count(counted.S3)


def of_node(metrics: Metrics, service: NodeService) -> None:
    registry = service.tools.registry
    metrics.add(SESSIONS, lambda: sum(1 for one in registry if one.about.interactive))
    metrics.add(ALL_SESSIONS, lambda: len(registry))


def of_proxy(metrics: Metrics, view: View, connections: Callable[[], int]) -> None:
    metrics.add(PROXY_SESSIONS, connections)
    metrics.count(counted.PROXY)

    def split(lost: bool) -> dict[str, float]:
        now = view.clock.now()
        kinds = {"node": view.nodes(), "proxy": view.proxies(), "kube_service": view.kube_services()}
        return {kind: float(sum(1 for one in found if one.lost(now) == lost)) for kind, found in kinds.items()}

    metrics.add(SERVERS, lambda: split(False))
    metrics.add(LOST, lambda: split(True))


class Authorities:
    """What auth's storage says of the cluster's authorities, looked up every few seconds."""

    def __init__(self, service: AuthService, clock: Clock) -> None:
        self._service, self._clock = service, clock
        self.ends: Mapping[str, float] = {}
        self.rotations: Mapping[str, float] = {}
        self.ages: Mapping[str, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except TeleportError as error:
                log.debug("the authorities cannot be looked at: %s", error)
            await asyncio.sleep(LOOK)

    async def look(self) -> None:
        now = self._clock.now()
        found = {
            str(kind): await self._service.state.authority(kind) for kind in (AuthorityType.USER, AuthorityType.HOST)
        }
        under_way = {kind: one.spec.rotation.state is RotationState.IN_PROGRESS for kind, one in found.items()}
        self.ends = {kind: _ends(one) for kind, one in found.items()}
        self.rotations = {
            kind: (1 if one.spec.rotation.mode is RotationMode.AUTO else 2) if under_way[kind] else 0
            for kind, one in found.items()
        }
        self.ages = {
            kind: (now - one.spec.rotation.started).total_seconds()
            if under_way[kind] and one.spec.rotation.started is not None
            else 0.0
            for kind, one in found.items()
        }


def _ends(authority: Authority) -> float:
    """The first end of the certificates that its active keys have, in seconds since 1970; 0 when they have none."""
    certificates = [load_pem_x509_certificate(pair.cert.encode()) for pair in authority.spec.active_keys.tls]
    return min((one.not_valid_after_utc.timestamp() for one in certificates), default=0.0)

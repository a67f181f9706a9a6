"""What the services of one daemon stand on: its host and sockets, who it is, the way to auth, and what it runs.

It is made in two steps: what is there before anything starts, and (`joined`) what the first answer of auth brings.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.clock import Clock
from teleport.daemon.announce import Announcer
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Credentials
from teleport.daemon.followers import Followers, with_rotation
from teleport.daemon.following import Follower
from teleport.daemon.host import Host
from teleport.daemon.monitoring import tunnel_metrics
from teleport.daemon.monitoring.diag import Readiness
from teleport.daemon.monitoring.metrics import Metrics
from teleport.daemon.reaching import WayToAuth
from teleport.daemon.restarts.leaving import Doors
from teleport.daemon.sockets import Sockets
from teleport.daemon.tasks import Tasks
from teleport.identity import SystemRole
from teleport.resources.server import Server

if TYPE_CHECKING:
    from teleport.auth.service import AuthService
    from teleport.daemon.tunnel_side import Behind
    from teleport.daemon.view import View
    from teleport.node.dynamic_labels import HostLabels
    from teleport.tunnel.agent import TunnelAgent

log = logging.getLogger(__name__)

DECIDED_BY: Final = (
    "roles/",
    "users/",
    "locks/",
    "cluster/",
    "authorities/",
    "trusted_clusters/",
)  # what open sessions are decided anew for when it changes
FIRST_TUNNEL: Final = 10.0  # seconds that a service waits for a tunnel before it announces itself


@dataclass(slots=True)
class Ground:
    """Of one daemon. `held` and `clients` are those of its services, by role."""

    config: Config
    clock: Clock
    host: Host
    sockets: Sockets
    readiness: Readiness
    kept: Followers
    held: dict[SystemRole, Credentials]
    tasks: Tasks
    stack: AsyncExitStack
    metrics: Metrics
    doors: Doors
    way: WayToAuth
    announcers: dict[str, Announcer]
    look: asyncio.Event  # for recordings that another process left
    is_newest: Callable[[], bool]
    clients: dict[SystemRole, AuthClient] = field(default_factory=dict)
    agents: list[TunnelAgent] = field(default_factory=list)
    service: AuthService | None = None  # where auth is of the same process
    _emitter: Emitter | None = None

    @property
    def emitter(self) -> Emitter:
        """Of this host's events, once its cluster is known."""
        assert self._emitter is not None, "services start after the host has joined"
        return self._emitter

    def joined(self, emitter: Emitter, clients: dict[SystemRole, AuthClient], service: AuthService | None) -> None:
        self._emitter, self.clients, self.service = emitter, clients, service

    @property
    def shown(self) -> bool:
        """Whether monitors can ask this daemon for numbers."""
        return "diag" in self.sockets

    async def view(self, role: SystemRole) -> View:
        """What a service knows of the cluster, followed from now on."""
        return await self.way.view(self.host, role, self.clients[role], self.held[role].cluster.cluster)

    async def announce(
        self, client: AuthClient, describe: Callable[[], Server], service: str, follower: Follower
    ) -> Announcer:
        """Makes a service known, now and for as long as the daemon runs."""
        announcer = Announcer(client, lambda: with_rotation(describe(), follower))
        self.announcers[service] = announcer
        await announcer.announce()
        self.tasks.start(announcer.run(), f"{service} presence")
        self.readiness.watch(f"{service} presence", lambda: announcer.problem)
        return announcer

    async def keep_tunnels(
        self, side: Behind, view: View, role: SystemRole, changed: Callable[[], None], conn_type: str
    ) -> None:
        """Keeps tunnels to the proxies, and reaches auth by them. The service is announced once one stands, or cannot
        be made for now."""
        from teleport.daemon.tunnel_side import keep_tunnels

        client = self.clients[role]
        proxies = [(server.host, server.port) for server in self.config.auth_servers]
        agent = keep_tunnels(side, self.host, view, lambda: self.held[role], changed, proxies, self.emitter, conn_type)
        self.doors.ssh[f"{conn_type} tunnel"] = agent
        self.tasks.start(agent.run(), f"tunnels of the {conn_type} service")
        self.agents.append(agent)
        if len(self.agents) == 1:
            tunnel_metrics.of_node(self.metrics, lambda: sum(one.tunnels for one in self.agents))
        what = "tunnels" if conn_type == "node" else f"{conn_type} tunnels"
        self.readiness.watch(what, lambda: "" if agent.tunnels else "no proxy is reached by a tunnel")
        if not await agent.wait_first(FIRST_TUNNEL):
            log.warning("no proxy is reached by a tunnel yet; the %s service is announced, and tried again", conn_type)
        if self.way.relay is not None:
            self.way.relay.by_tunnel, client.way = agent.to_auth, agent.way
            agent.turn.heeded_by(client, view.cache, side.busy)
            if agent.tunnels:
                await client.renewed()  # what was opened before goes by the tunnel from here on


async def keep_labels(labels: HostLabels) -> None:
    """Until cancelled, also where no label changes."""
    await labels.run()
    await asyncio.Event().wait()

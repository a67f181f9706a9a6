"""The node service as this daemon runs it: view, labels, recordings, launcher, and what a killed run left behind."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from teleport import __version__
from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.backend.interface import Event, Put
from teleport.clock import Clock
from teleport.daemon.config import ports
from teleport.daemon.config.values import NodeConfig as NodeSettings
from teleport.daemon.connection_count import RemoteControl
from teleport.daemon.credentials import Credentials
from teleport.daemon.former_node import found_by_successors
from teleport.daemon.host import Host
from teleport.daemon.host_logins import pam_settings, tell_host_users
from teleport.daemon.recorded import Recorded
from teleport.daemon.session_telling import SessionTeller
from teleport.daemon.ssh_proof import host_key
from teleport.daemon.view import AnyUsers, View
from teleport.identity import SystemRole
from teleport.kernel.watcher import Watcher
from teleport.launcher.client import Launcher
from teleport.node.dynamic_labels import HostLabels
from teleport.node.needs import NodeConfig
from teleport.node.reserved import Reserved
from teleport.node.service import NodeService
from teleport.node.tracking import tracked
from teleport.recording.trust import signer
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.resources.values import HostPort
from teleport.store.records import HOSTS
from teleport.transport.entrance import ConnectionLimits

if TYPE_CHECKING:
    from teleport.tunnel.agent import TunnelAgent

log = logging.getLogger(__name__)


class NodeSide:
    """Everything of the node in one daemon."""

    def __init__(
        self,
        settings: NodeSettings,
        host: Host,
        nodename: str,
        view: View,
        client: AuthClient,
        emitter: Emitter,
        clock: Clock,
        launcher: Launcher,
        held: Credentials,
        *,
        address: str,
        web_proxy: str,
        connections: ConnectionLimits,
        changed: Callable[[], None],
        watcher: Watcher | None = None,
        reserved: Reserved | None = None,
    ) -> None:
        self._settings = settings
        self._host = host
        self.emitter = emitter
        self._nodename = nodename
        self._clock = clock
        self._held = held
        self._address = address
        self.agent: TunnelAgent | None = None  # where proxies reach this host by tunnels
        self.labels = HostLabels(
            settings.labels.static,
            settings.labels.dynamic,
            changed,
            forced=lambda: view.forced_labels(host.host_id, SystemRole.NODE),
        )
        view.own_host = host.host_id
        view.cache.subscribe(HOSTS + host.host_id, lambda _: changed())
        self._host_users = host.log_dir / "host_users"
        self._host_users.mkdir(mode=0o700, parents=True, exist_ok=True)

        def mode() -> str:
            return str(view.recording_mode())

        self.recorded = Recorded(
            "upload",
            host,
            nodename,
            client,
            emitter,
            clock,
            sign=signer(lambda: (self._held.ssh_key, self._held.ssh_cert)),
            quota=settings.recording_quota,
            mode=mode,
        )
        self.service = NodeService(
            NodeConfig(
                cluster=view.cluster,
                host_id=UUID(host.host_id),
                hostname=nodename,
                address=address,
                web_proxy=web_proxy,
                recording_mode=mode,
                permit_user_env=settings.permit_user_env,
                port_forwarding=settings.port_forwarding,
                pam=pam_settings(settings.pam),
                host_users=str(self._host_users),
                connections=connections,
            ),
            certificates=AnyUsers(view),
            rules=view,
            present=view.present,
            control=RemoteControl(client),
            labels=self.labels,
            launcher=launcher,
            recordings=self.recorded.spool,
            emitter=emitter,
            clock=clock,
            host_keys=[host_key(held)],
            watcher=watcher,
            reserved=reserved,
        )
        registry = self.service.tools.registry
        self.teller = SessionTeller(client, host.epoch, lambda: tracked(registry))
        registry.changed = self.teller.changed

    # daemon.tunnel_side.Behind

    def accepted(self, transport: asyncio.Transport) -> None:
        self.service.accepted(transport)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        self.service.in_background(work, "audit")

    def busy(self) -> bool:
        """A connection is open, or a session lives on that everybody has left."""
        return self.service.busy

    def lease_changed(self, event: Event) -> None:
        """A lease of a second factor came into view or went out of it."""
        if isinstance(event, Put):
            self.service.lease_came()
        else:
            self.service.lease_gone()

    def describe(self) -> Server:
        """This node as presence carries it."""
        return Server(
            kind="node",
            metadata=Metadata(name=self._host.host_id, labels=self.labels.announced()),
            spec=ServerSpec(
                addr=self._address,
                public_addrs=self._public(),
                hostname=self._nodename,
                cmd_labels=self.labels.command_states(),
                use_tunnel=self.agent is not None,
                proxy_ids=self.agent.proxies if self.agent is not None else (),
                version=__version__,
                epoch=str(self._host.epoch),
                started=self._clock.now(),
            ),
        )

    def _public(self) -> tuple[str, ...]:
        """The public addresses; port 0 stands for the one by which the node is reached."""
        port = HostPort.parse(self._address, ports.SSH).port if self._address else ports.SSH
        return tuple(str(replace(one, port=one.port or port)) for one in self._settings.public_addrs)

    async def tell_host_users(self) -> None:
        """Puts on record which accounts are made and removed for sessions; until cancelled."""
        facts = {
            "cluster_name": self.emitter.cluster,
            "server_id": self._host.host_id,
            "server_hostname": self._nodename,
            "server_addr": self._address,
            "namespace": "default",
        }
        await tell_host_users(self.emitter.emit, facts, self._host_users)

    async def renewed(self, held: Credentials) -> None:
        """New connections see the renewed certificate."""
        self._held = held
        await self.service.reload([host_key(held)])
        if self.agent is not None:
            self.agent.renewed()

    async def serve(self, listeners: Sequence[socket.socket], started: Callable[[], None]) -> None:
        """Serves sessions until cancelled; then the spool ends what still records."""
        try:
            async with found_by_successors(self._host, self.service.accepted):
                await self.service.run(listeners, started)
        finally:
            await self.recorded.spool.close()

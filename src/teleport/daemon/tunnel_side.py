"""The tunnels of a node as its daemon keeps them: with which certificates, to whom, and to what they lead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

from teleport.audit.emitter import Emitter
from teleport.audit.events import Event, TunnelEnded, new_event
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.live_settings import NETWORKING
from teleport.daemon.node_side import NodeSide
from teleport.daemon.view import View
from teleport.identity import HostIdentity
from teleport.resources.values import HostPort
from teleport.ssh.client import ClientKey
from teleport.store.records import HOSTS
from teleport.tunnel.agent import AgentConfig, TunnelAgent
from teleport.tunnel.seeds import tunnel_addresses


def keep_tunnels(
    side: NodeSide,
    host: Host,
    view: View,
    held: Callable[[], Credentials],
    changed: Callable[[], None],
    proxies: Sequence[tuple[str, int]],
    emitter: Emitter,
) -> TunnelAgent:
    """What keeps the tunnels by which the node is reached from here on; to be run. `proxies` are configured web
    addresses, `changed` hears that what the node announces is other now."""

    def key() -> ClientKey:
        now = held()
        return ClientKey(now.ssh_key.openssh_pem().reveal(), now.ssh_cert.line())

    def ended(proxy: HostIdentity, peer: tuple[str, int], reason: str) -> None:
        event = new_event(
            TunnelEnded,
            view.clock.now(),
            str(uuid4()),
            cluster_name=view.cluster,
            server_id=host.host_id,
            addr_remote=str(HostPort(*peer)),
            proto="ssh",
            host=proxy.host_id,
            role=str(proxy.role),
            reason=reason,
        )
        side.service.in_background(_emit(emitter, event), "audit")

    agent = side.agent = TunnelAgent(
        AgentConfig(view.cluster, UUID(host.host_id), host.epoch, tuple(name for name, _ in proxies)),
        hosts=view,
        key=key,
        seeds=lambda: tunnel_addresses(proxies),
        accept=side.service.accepted,
        changed=changed,
        clock=view.clock,
        connections=lambda: view.networking().spec.tunnel_strategy.connections,
        ended=ended,
    )
    view.cache.subscribe(NETWORKING, lambda _: agent.settings_changed())
    for prefix in ("locks/", "authorities/", HOSTS):
        view.cache.subscribe(prefix, lambda _: agent.reconsider())
    return agent


async def _emit(emitter: Emitter, event: Event) -> None:
    await emitter.emit(event)

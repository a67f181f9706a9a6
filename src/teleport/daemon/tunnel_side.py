"""The tunnels of a node as its daemon keeps them: with which certificates, to whom, and to what they lead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.node_side import NodeSide
from teleport.daemon.view import View
from teleport.ssh.client import ClientKey
from teleport.tunnel.agent import AgentConfig, TunnelAgent
from teleport.tunnel.seeds import tunnel_addresses


def keep_tunnels(
    side: NodeSide,
    host: Host,
    view: View,
    held: Callable[[], Credentials],
    changed: Callable[[], None],
    proxies: Sequence[tuple[str, int]],
) -> TunnelAgent:
    """What keeps the tunnels by which the node is reached from here on; to be run. `proxies` are configured web
    addresses, `changed` hears that what the node announces is other now."""

    def key() -> ClientKey:
        now = held()
        return ClientKey(now.ssh_key.openssh_pem().reveal(), now.ssh_cert.line())

    side.agent = TunnelAgent(
        AgentConfig(view.cluster, UUID(host.host_id), host.epoch),
        hosts=view,
        key=key,
        seeds=lambda: tunnel_addresses(proxies),
        accept=side.service.accepted,
        changed=changed,
    )
    return side.agent

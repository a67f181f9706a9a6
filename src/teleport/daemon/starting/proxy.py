"""How the proxy starts: web, SSH, tunnels, other proxies, Kubernetes clients, in this order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from teleport.daemon import clusters_seen, keypairs, tunnels_lost
from teleport.daemon.followers import of_client
from teleport.daemon.live_settings import follow_keep_alive
from teleport.daemon.lock_age import LockAge
from teleport.daemon.monitoring import tunnel_metrics
from teleport.daemon.proxy_side import ProxySide
from teleport.daemon.recording_side import host_of
from teleport.daemon.sockets import PEER
from teleport.daemon.starting.ground import DECIDED_BY, Ground
from teleport.identity import SystemRole
from teleport.store.records import MFA_LEASES, NODES

if TYPE_CHECKING:
    from teleport.daemon.recording_side import RecordingSide
    from teleport.daemon.view import View
    from teleport.proxy.ssh_router import SshRouter


async def start_proxy(ground: Ground, servers: list[tuple[str, int]]) -> SshRouter:
    """`servers`: where auth is reached, host and port."""
    config, role = ground.config, SystemRole.PROXY
    assert config.proxy is not None
    client = ground.clients[role]
    view = await ground.view(role)
    follower = await ground.kept.of_service(role, client, view, ground.service)
    side = ProxySide(
        config.proxy,
        ground.host,
        config.nodename,
        view,
        client,
        ground.emitter,
        ground.clock,
        ground.held[role],
        ground.sockets.proxy_addresses(),
        servers,
        config.limits,
    )
    ground.doors.web["proxy web"], ground.doors.ssh["proxy ssh"] = side.web.edge, side.router
    ground.doors.ssh["proxy tunnel"] = side.tunnels
    follow_keep_alive(view, side.router)
    recorded = (await _start_recording(ground, side.recording, view)).recorded
    web_ready, ssh_ready = asyncio.Event(), asyncio.Event()
    await ground.tasks.start_ready(
        side.web.run(ground.sockets["proxy web"], None, web_ready.set), "proxy web", web_ready
    )
    listeners = [ground.sockets[name] for name in ("proxy ssh",) if name in ground.sockets]
    await ground.tasks.start_ready(side.router.run(listeners, ssh_ready.set), "proxy ssh", ssh_ready)
    if side.tls is not None:
        ground.metrics.add(keypairs.NOT_AFTER, side.tls.ends)
        ground.tasks.start(side.tls.follow(), "certificates of the web listener")
    await _start_tunnels(ground, side)
    await _start_kube(ground, side, view)
    ground.doors.ssh["proxy clusters"] = side.clusters.trusted
    ground.tasks.start(side.clusters.trusted.run(), "tunnels to other clusters")
    ground.tasks.start(side.links.run(), "connections of hosts to auth")
    _show(ground, side, view)
    ground.tasks.start(clusters_seen.tell(client, side.clusters.online), "other clusters that are here")
    registry = side.tunnels.registry
    lost = tunnels_lost.tell(client, registry.keys, lambda: registry.turns, lambda host: view.node(host) is not None)
    ground.tasks.start(lost, "hosts whose tunnels ended")
    announcer = await ground.announce(client, side.describe, "proxy", follower)
    side.peers.changed = announcer.changed
    if side.acme is not None:
        ground.tasks.start(side.acme.run(ground.is_newest), "certificates by ACME")
    ground.readiness.watch("proxy peer", lambda: side.peers.problem, serves=True)
    ground.kept.run(follower, role, of_client(client, side.renewed, announcer.changed))
    ground.tasks.start(recorded.uploader.run(), "recording upload of the proxy")
    ground.tasks.start(recorded.recover_again(), "recovery of recordings of the proxy")
    ground.readiness.ready("proxy")
    return side.router


def _show(ground: Ground, side: ProxySide, view: View) -> None:
    """Numbers for monitors."""
    tunnel_metrics.of_proxy(ground.metrics, view, side.tunnels, side.clusters.trusted.counts)
    if ground.shown:
        from teleport.daemon.monitoring import service_metrics

        service_metrics.of_proxy(ground.metrics, view, lambda: side.router.open)


async def _start_recording(ground: Ground, side: RecordingSide, view: View) -> RecordingSide:
    """Recording at the proxy: what an earlier run left is ended before the first session."""
    side.recorded.look = ground.look
    ground.stack.callback(side.recorded.close)
    ground.doors.settle.append(side.recorded.settle)
    for prefix in (*DECIDED_BY, MFA_LEASES):
        view.cache.subscribe(prefix, lambda _: side.service.reconsider())
    view.cache.subscribe(NODES, lambda event: side.service.host_changed(host_of(event)))
    await side.recorded.recover()
    ground.tasks.start(LockAge(view, side.service.reconsider).run(), "age of locks at the proxy")
    return side


async def _start_tunnels(ground: Ground, side: ProxySide) -> None:
    """The proxy's end of reverse tunnels; without a listener of its own it is handed connections by the web's."""
    listeners = [ground.sockets["proxy tunnel"]] if "proxy tunnel" in ground.sockets else []
    serving = asyncio.Event()
    await ground.tasks.start_ready(side.tunnels.run(listeners, serving.set), "proxy tunnel", serving)
    ground.doors.peer[PEER] = side.peers.server
    asking = asyncio.Event()
    await ground.tasks.start_ready(side.peers.run(ground.sockets, asking.set), PEER, asking)


async def _start_kube(ground: Ground, side: ProxySide, view: View) -> None:
    """The listener for Kubernetes clients, where the file asks for one."""
    config = ground.config
    if config.proxy is None or ("proxy kube" not in ground.sockets and not config.proxy.one_port):
        return
    from teleport.daemon.kube.elsewhere import KubeElsewhere
    from teleport.daemon.kube.reach import KubeReach
    from teleport.daemon.kube.side import KubeSide

    kube = side.kube = KubeSide(
        config.proxy.kube_clusters,
        ground.host,
        config.nodename,
        view,
        ground.emitter,
        ground.clock,
        side.held,
        config.limits,
        side.headers,
        KubeReach(view, side.held, side.peers.leading),
        side.recording.recorded,
        KubeElsewhere(view, side.clusters.remotes, side.clusters.tunnels, side.router.identity),
        ground.clients[SystemRole.PROXY],
        side.router,
    )
    side.clusters.trusted.serve_kube(kube.take_from)
    ground.doors.web["proxy kube"] = kube.server
    serving = asyncio.Event()
    listeners = [ground.sockets["proxy kube"]] if "proxy kube" in ground.sockets else []
    await ground.tasks.start_ready(kube.run(listeners, serving.set), "proxy kube", serving)

"""How the SSH node starts: what an earlier run left of recordings is ended first, then connections are taken."""

from __future__ import annotations

import asyncio

from teleport.daemon import cluster_ports, revocations
from teleport.daemon.followers import of_client
from teleport.daemon.live_settings import follow_keep_alive
from teleport.daemon.lock_age import LockAge
from teleport.daemon.node_side import NodeSide
from teleport.daemon.starting.ground import DECIDED_BY, Ground, keep_labels
from teleport.daemon.watching import open_watcher
from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.node.reserved import ClusterPorts
from teleport.node.service import NodeService
from teleport.store.records import MFA_LEASES


async def start_node(ground: Ground, launcher_end: LauncherEnd) -> NodeService:
    """`launcher_end`: the daemon's end of its launcher."""
    config, role = ground.config, SystemRole.NODE
    assert config.node is not None
    launcher = Launcher(launcher_end)
    ground.stack.callback(launcher.close)
    watcher = open_watcher(config.node.enhanced_recording)
    if watcher is not None:
        ground.stack.callback(watcher.close)
    client = ground.clients[role]
    view = await ground.view(role)
    follower = await ground.kept.of_service(role, client, view, ground.service)

    def changed() -> None:
        announcer = ground.announcers.get("node")
        if announcer is not None:
            announcer.changed()
            side.service.reconsider()

    listeners = [ground.sockets["node"]] if "node" in ground.sockets else []
    web = ground.sockets.proxy_addresses().public_web if config.proxy is not None else ()
    reserved = ClusterPorts(ground.sockets.ports)
    side = NodeSide(
        config.node,
        ground.host,
        config.nodename,
        view,
        client,
        ground.emitter,
        ground.clock,
        launcher,
        ground.held[role],
        address=str(ground.sockets.advertised("node", config.node.public_addrs)) if listeners else "",
        web_proxy=str(web[0]) if web else "",
        connections=config.limits,
        changed=changed,
        watcher=watcher,
        reserved=reserved,
    )
    recorded = side.recorded
    recorded.look = ground.look
    ground.stack.callback(recorded.close)
    ground.doors.ssh["node"] = side.service
    ground.doors.settle.append(recorded.settle)
    follow_keep_alive(view, side.service)
    for prefix in DECIDED_BY:
        view.cache.subscribe(prefix, lambda _: side.service.reconsider())
    view.cache.subscribe(MFA_LEASES, side.lease_changed)
    await recorded.recover()
    await side.labels.first()
    serving = asyncio.Event()
    ground.tasks.start(recorded.uploader.run(), "recording upload")
    await ground.tasks.start_ready(side.serve(listeners, serving.set), "node", serving)
    ground.tasks.start(_launcher_lives(launcher), "launcher")
    if ground.shown:
        from teleport.daemon.monitoring import service_metrics

        service_metrics.of_node(ground.metrics, side.service)
    if not listeners:
        await ground.keep_tunnels(side, view, role, changed, "node")
    announcer = await ground.announce(client, side.describe, "node", follower)
    ground.tasks.start(recorded.recover_again(), "recovery of recordings")
    ground.tasks.start(side.tell_host_users(), "accounts made for sessions")
    ground.tasks.start(keep_labels(side.labels), "labels")
    ground.tasks.start(cluster_ports.keep(reserved, (*config.auth_servers, *web)), "addresses of the cluster")
    ground.tasks.start(side.teller.run(), "running sessions")
    ground.tasks.start(LockAge(view, side.service.reconsider).run(), "age of locks")
    ground.tasks.start(revocations.keep(view, client, ground.host.data_dir), "revocation list")
    ground.kept.run(follower, role, of_client(client, side.renewed, announcer.changed))
    ground.readiness.ready("node")
    return side.service


async def _launcher_lives(launcher: Launcher) -> None:
    await launcher.wait_failed()
    raise TeleportError(
        "the launcher ended; no session can be started without it", hint="restart the daemon; the log says why it ended"
    )

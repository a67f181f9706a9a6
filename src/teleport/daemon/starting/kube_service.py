"""How the Kubernetes service starts."""

from __future__ import annotations

import asyncio

from teleport.daemon import identities
from teleport.daemon.followers import of_client
from teleport.daemon.kube.service_side import KubeServiceSide
from teleport.daemon.sockets import KUBE
from teleport.daemon.starting.ground import Ground, keep_labels
from teleport.errors import BadRequest
from teleport.identity import SystemRole


async def start_kube_service(ground: Ground) -> None:
    """Raises `BadRequest` where nothing can reach it."""
    config, role = ground.config, SystemRole.KUBE
    assert config.kube is not None
    client = ground.clients[role]
    view = await ground.view(role)
    follower = await ground.kept.of_service(role, client, view, ground.service)

    def changed() -> None:
        announcer = ground.announcers.get(KUBE)
        if announcer is not None:
            announcer.changed()

    listeners = [ground.sockets[KUBE]] if KUBE in ground.sockets else []
    side = KubeServiceSide(
        config.kube,
        ground.host,
        config.nodename,
        view,
        ground.emitter,
        ground.clock,
        lambda: ground.held[role],
        config.limits,
        address=str(ground.sockets.advertised(KUBE, config.kube.public_addrs)) if listeners else "",
        changed=changed,
    )
    ground.doors.web[KUBE] = side.server
    await side.labels.first()
    serving = asyncio.Event()
    await ground.tasks.start_ready(side.serve(listeners, serving.set), KUBE, serving)
    if not listeners:
        if not identities.through_proxy(ground.host, config):
            raise BadRequest(
                "kubernetes_service has no listen_addr, and auth_servers names no proxy to keep tunnels to",
                hint="set one of the two",
            )
        await ground.keep_tunnels(side, view, role, changed, KUBE)
    announcer = await ground.announce(client, side.describe, KUBE, follower)
    ground.tasks.start(keep_labels(side.labels), "labels of Kubernetes clusters")
    ground.kept.run(follower, role, of_client(client, side.renewed, announcer.changed))
    ground.readiness.ready(KUBE)

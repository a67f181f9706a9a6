"""How auth starts to serve. It listens before the others start, since they are its clients."""

from __future__ import annotations

import asyncio

from teleport.auth.service import AuthService
from teleport.daemon import auth_side, telling
from teleport.daemon.followers import of_listener
from teleport.daemon.starting.ground import Ground
from teleport.identity import SystemRole
from teleport.resources.server import Server


async def start_auth(ground: Ground, service: AuthService) -> None:
    """`service` is open: its storage is there, and this host has its certificates of it."""
    config, role = ground.config, SystemRole.AUTH
    assert config.auth is not None
    client = ground.clients[role]
    own, admin = [await ground.kept.of_auth(service, one) for one in (role, SystemRole.ADMIN)]
    context = await auth_side.api_context(service, ground.held[role])
    ground.doors.auth["auth"] = service.edge
    refused = auth_side.Refused(ground.emitter, ground.host, config.nodename)
    service.edge.begin_with(refused.headers(config.auth))
    ground.tasks.start(refused.run(), "refused connections")
    serving = asyncio.Event()
    await ground.tasks.start_ready(service.run(ground.sockets["auth"], context, serving.set), "auth", serving)
    announcer = await ground.announce(client, lambda: _described(ground), "auth", own)
    effects = of_listener(service, context, client, announcer.changed)
    ground.kept.run(own, role, effects)
    ground.kept.run(admin, SystemRole.ADMIN)
    ground.tasks.start(auth_side.tell_of_changes(service, [own.changed, admin.changed]), "authorities")
    for part, problem in service.problems().items():
        ground.readiness.watch(part, problem, serves=True)
    if ground.shown:
        from teleport.daemon.monitoring import service_metrics

        watched = service_metrics.Authorities(service, ground.clock)
        await watched.look()
        service_metrics.of_auth(ground.metrics, service, watched)
        ground.tasks.start(watched.run(), "authorities, for monitors")
    if config.auth.key_token is not None:
        _watch_keys(ground, service)
    ground.readiness.ready("auth")


def _watch_keys(ground: Ground, service: AuthService) -> None:
    """Keys of authorities that are elsewhere can be away."""
    from teleport.daemon.key_check import KeyCheck

    check = KeyCheck(service.state.keys)
    ground.tasks.start(check.run(), "keys of authorities")
    ground.readiness.watch("keys of authorities", lambda: check.problem, serves=True)


def _described(ground: Ground) -> Server:
    assert ground.config.auth is not None
    address = ground.sockets.advertised("auth", ground.config.auth.public_addrs)
    return telling.describe_auth(ground.config, ground.host, address, ground.clock.now())

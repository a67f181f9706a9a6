"""How the services of a daemon reach auth: where it is, a client for each identity, a view of the cluster kept filled.

Every service is a client of auth over the same API, also within one process.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from teleport.api.client import AuthClient
from teleport.clock import Clock
from teleport.daemon import identities, left_behind
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.remote import watch
from teleport.daemon.sockets import Sockets
from teleport.daemon.tasks import Tasks
from teleport.daemon.view import NODE_KINDS, PROXY_KINDS, View
from teleport.errors import ConnectionProblem
from teleport.identity import SystemRole
from teleport.pki.x509cert import auth_server_name
from teleport.store.cache import Cache
from teleport.transport.tls import cluster_client_context

if TYPE_CHECKING:
    from teleport.transport.auth_relay import AuthRelay

FIRST_VIEW: Final = 60.0  # seconds until the first view of the cluster must have come


class WayToAuth:
    """What it opens is closed by `stack`, what it runs is ended by `tasks`."""

    def __init__(self, config: Config, clock: Clock, tasks: Tasks, stack: AsyncExitStack) -> None:
        self._config = config
        self._clock = clock
        self._tasks = tasks
        self._stack = stack
        self.caches: list[Cache] = []
        self.relay: AuthRelay | None = None  # where auth is reached through a proxy

    async def servers(self, host: Host, sockets: Sockets) -> list[tuple[str, int]]:
        """Where this daemon's services reach auth; through a proxy by a relay on the loopback."""
        config = self._config
        if config.auth is not None:
            return [sockets.own_address("auth")]
        servers = [(server.host, server.port) for server in config.auth_servers]
        if not identities.through_proxy(host, config):
            return servers
        from teleport.transport.auth_relay import AuthRelay

        self.relay = await self._stack.enter_async_context(AuthRelay(servers))
        return [self.relay.address]

    def client(
        self, held: dict[SystemRole, Credentials], role: SystemRole, servers: list[tuple[str, int]]
    ) -> AuthClient:
        made: list[tuple[Credentials, ssl.SSLContext]] = []

        def context() -> ssl.SSLContext:
            current = held[role]
            if not made or made[0][0] is not current:
                made[:] = [
                    (
                        current,
                        cluster_client_context(
                            current.cluster.tls_ca_certs, current.tls_cert_file, current.tls_key_file
                        ),
                    )
                ]
            return made[0][1]

        client = AuthClient(servers, context, auth_server_name(held[role].cluster.cluster))
        self._stack.push_async_callback(client.close)
        return client

    async def view(self, host: Host, role: SystemRole, client: AuthClient, cluster: str) -> View:
        """A filled view of the cluster, kept filled."""
        kinds = PROXY_KINDS if role is SystemRole.PROXY else NODE_KINDS
        cache = Cache(
            f"{role.value.lower()} cache",
            self._clock,
            jitter=lambda: random.uniform(0.5, 1.0),  # noqa: S311 - spreads retries, guards nothing
        )
        self.caches.append(cache)
        filled = asyncio.Event()
        name = f"{role.value.lower()} cache"
        try:
            async with asyncio.timeout(FIRST_VIEW):
                filling = self._tasks.start_ready(cache.run(lambda: watch(client, kinds), filled.set), name, filled)
                await left_behind.unless(filling, lambda: left_behind.why(self._config, host, role))
        except TimeoutError:
            raise ConnectionProblem(
                f"auth did not say within {FIRST_VIEW:.0f} s what the {role.value.lower()} service must know",
                hint="check auth_servers and that the auth service runs; the log says what was tried",
            ) from None
        if self._config.auth is None:
            self._tasks.start(
                left_behind.tell(
                    # a watch that is open may be silent for long, and ends where it is silent for too long
                    lambda: 0.0 if client.hears else cache.age(self._clock.now()),
                    lambda: left_behind.why(self._config, host, role),
                ),
                f"{name}, when it is cut off",
            )
        return View(cache, self._clock, cluster)

"""The followers of one daemon (`following`): one for each of its identities, with what each service does for it."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from teleport.api import messages as m
from teleport.api.client import AuthClient
from teleport.clock import Clock
from teleport.daemon import credentials, identities
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Credentials
from teleport.daemon.following import Authorities, Effects, Follower
from teleport.daemon.host import Host
from teleport.daemon.tasks import Tasks
from teleport.daemon.view import View
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import SystemRole
from teleport.resources.authority import AuthorityType
from teleport.resources.server import Server

if TYPE_CHECKING:
    from teleport.auth.service import AuthService
    from teleport.transport.tls import MutualServer

log = logging.getLogger(__name__)


def _jitter() -> float:
    return random.random()  # noqa: S311 - spreads requests, guards nothing


class Followers:
    """Makes them, and runs them in `tasks`. `held` is what every connection is made with, by role."""

    def __init__(
        self,
        config: Config,
        host: Host,
        held: dict[SystemRole, Credentials],
        clock: Clock,
        tasks: Tasks,
        may: Callable[[], bool],
    ) -> None:
        self._config, self._host, self._held, self._clock = config, host, held, clock
        self._tasks, self._may = tasks, may

    def _make(self, role: SystemRole, source: Callable[[], Awaitable[Authorities]], ask: credentials.Ask) -> Follower:
        return Follower(
            self._host,
            role,
            self._held,
            source=source,
            ask=ask,
            names=lambda: identities.names_of(self._config, role),
            clock=self._clock,
            may=self._may,
            jitter=_jitter,
        )

    def _ask_beside(self, service: AuthService, role: SystemRole) -> credentials.Ask:
        """Asks the auth service of this daemon, which needs no proof; not for a host that was expelled."""

        async def ask(ssh_key: str, tls_key: str) -> m.HostCredentials:
            if not await service.has_role(self._host.host_id, role):
                raise AccessDenied(
                    f"this host has been expelled as {role.value.lower()}",
                    hint="restart the daemon to take it in again",
                )
            names = identities.names_of(self._config, role)
            return await service.local_host(self._host.host_id, self._config.nodename, role, names, ssh_key, tls_key)

        return ask

    async def of_service(
        self, role: SystemRole, client: AuthClient, view: View, service: AuthService | None = None
    ) -> Follower:
        """Of a node or proxy, which reads the authorities from its view and asks auth for certificates: `service`, when
        it is in this daemon, so that not even keys that were replaced at once lock this host out. The identity is as
        the authorities ask when this returns, if auth could be asked."""

        async def source() -> Authorities:
            return view.authorities()

        beside = self._ask_beside(service, role) if service is not None else None
        follower = self._make(role, source, beside or identities.renewal(client, self._config, role))
        follower.effects = of_client(client)
        await _first(follower, role)
        view.cache.subscribe("authorities/", follower.changed)
        return follower

    async def of_auth(self, service: AuthService, role: SystemRole) -> Follower:
        """Of auth, or of its administrator, which have the authorities beside them: `auth_side.tell_of_changes`."""

        async def source() -> Authorities:
            return {kind: await service.state.authority(kind) for kind in AuthorityType}

        follower = self._make(role, source, self._ask_beside(service, role))
        await _first(follower, role)
        return follower

    def run(self, follower: Follower, role: SystemRole, effects: Effects | None = None) -> None:
        """Follows from here on, with `effects`."""
        if effects is not None:
            follower.effects = effects
        follower.started()
        self._tasks.start(follower.run(), f"{role.value.lower()} renewal")


async def _first(follower: Follower, role: SystemRole) -> None:
    try:
        await follower.step()
    except TeleportError as error:  # what is held may still do; it is tried again when the service runs
        log.warning("certificates of the role %s could not be renewed: %s", role.value.lower(), error)


def of_client(
    client: AuthClient,
    shown: Callable[[Credentials], Awaitable[None]] | None = None,
    said: Callable[[], None] = lambda: None,
) -> Effects:
    """What a service does that reaches auth by `client`; `shown` is called besides when certificates changed.

    Connections to auth are made anew when they would show other certificates, and when what proved auth may be what is
    not trusted any more.
    """

    async def trust(_: Credentials, dropped: bool) -> None:
        if dropped:
            await client.renewed()

    async def changed(held: Credentials) -> None:
        if shown is not None:
            await shown(held)
        await client.renewed()

    return Effects(trust, changed, said)


def of_listener(service: AuthService, context: MutualServer, client: AuthClient, said: Callable[[], None]) -> Effects:
    """What auth does: its listener believes whom the authorities trust, and shows what it should."""
    other = of_client(client)

    async def trust(held: Credentials, dropped: bool) -> None:
        await service.believe_now()
        await other.trust(held, dropped)

    async def shown(held: Credentials) -> None:
        context.load_cert_chain(held.server_tls_cert_file, held.tls_key_file)
        await other.shown(held)

    return Effects(trust, shown, said)


def with_rotation(server: Server, follower: Follower) -> Server:
    """What a service announces, with how far it has followed."""
    spec = msgspec.structs.replace(server.spec, rotation=dict(follower.reached))
    return msgspec.structs.replace(server, spec=spec)

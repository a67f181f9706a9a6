"""The HTTPS listener of a proxy, put together: which routes there are, and those of ping, other clusters and tunnels.

The web service holds no secret of a person: it passes what was typed to auth and the answer back (`login_routes`,
`link_routes`). Routes that try passwords are limited by address before anything is asked of auth. Errors have the
field's form (`{"error": {"message"}}`, made in `answers`); a failed login always reads the same.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from teleport import __version__
from teleport.api import messages as m
from teleport.api import routes
from teleport.authz.second_factor import takes_passkeys
from teleport.clock import Clock
from teleport.errors import AccessDenied, NotFound
from teleport.pki.web_proof import HEADER
from teleport.resources.cluster import AuthPreference
from teleport.transport.balancers import Headers
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.http_listener import HTTPListener
from teleport.transport.limits import who_tries
from teleport.web import app_pages, pages
from teleport.web import messages as wm
from teleport.web.admin_routes import AdminRoutes
from teleport.web.answers import answering
from teleport.web.attempts import Attempts
from teleport.web.bodies import reply
from teleport.web.clusters import OtherClusters, list_clusters, relay_to_cluster
from teleport.web.evidence_asking import Asking
from teleport.web.evidence_routes import EvidenceRoutes
from teleport.web.file_routes import FileRoutes
from teleport.web.lease_routes import LeaseRoutes
from teleport.web.leaves import Leaves
from teleport.web.link_routes import LinkRoutes
from teleport.web.login_routes import LoginRoutes
from teleport.web.pages import secure
from teleport.web.passkey_routes import PasskeyRoutes
from teleport.web.recording_routes import RecordingRoutes
from teleport.web.session import Caller, Ways
from teleport.web.session_routes import SessionRoutes
from teleport.web.sessions import WebSessions
from teleport.web.terminal_reach import ShellWays
from teleport.web.terminal_routes import TerminalRoutes
from teleport.web.tunnel import Relays, peer_of, relay_inside, relay_to_auth
from teleport.wire.alpn import UPGRADE_PATH

MAX_BODY = 64 * 1024  # bytes; nothing that comes here is larger
MAX_TUNNELS = 2000  # websockets to auth at once
TUNNELS_OF_ONE = 1000  # of them from one address: the hosts of a whole site may share one


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the web service says of its cluster, and where it reaches auth."""

    cluster: str
    ssh: wm.SSHAddresses
    auth_servers: tuple[tuple[str, int], ...]
    kube: wm.KubeAddresses = field(default_factory=wm.KubeAddresses)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


class WebService:
    """Serves one listening socket until cancelled."""

    def __init__(
        self,
        config: WebConfig,
        auth: Caller,
        clock: Clock,
        *,
        max_tunnels: int = MAX_TUNNELS,
        preference: Callable[[], AuthPreference] = AuthPreference,
        vouch: Callable[[str, int], bytes] = lambda host, port: b"",
        authorities: Callable[[], tuple[str, bool]] = lambda: ("", False),
        headers: Headers | None = None,
        ways: Ways | None = None,
        shells: ShellWays | None = None,
    ) -> None:
        """`preference`: how people prove themselves, as it is now. `vouch` makes the line that tells auth who comes by
        the tunnel (`wire.vouch`), from address and port. `authorities`: the digest of the authorities as they are, and
        whether they are being rotated. `headers`: what balancers say before TLS. `ways`: what browsers' sessions need;
        without it there are none. `shells`: the way to hosts for them; without it there are no files and terminals."""
        self._config = config
        self._preference = preference
        self._vouch = vouch
        self._authorities = authorities
        self._auth = auth
        self._clock = clock
        self._attempts = Attempts(clock)
        self.edge = HTTPListener("proxy web", limits=config.connections, headers=headers)
        self._relays = Relays(max_tunnels, time.monotonic)
        self.others: OtherClusters | None = None  # that trust this one
        self.sessions = WebSessions(auth, ways, clock) if ways is not None else None
        self._leaves = Leaves(config.cluster, lambda: self.others, clock)
        self._admin = (
            AdminRoutes(self.sessions, config.cluster, config.auth_servers, clock)
            if self.sessions is not None
            else None
        )
        self._files = (
            FileRoutes(self.sessions, self._attempts, shells, config.cluster, self.edge, clock)
            if self.sessions is not None and shells is not None
            else None
        )
        self._browsers = (
            SessionRoutes(self.sessions, self._attempts, config.cluster, clock, self._leaves)
            if self.sessions is not None
            else None
        )
        self.terminals = (
            TerminalRoutes(self.sessions, shells, config.cluster, lambda: self.others, self.edge.staying)
            if self.sessions is not None and shells is not None
            else None
        )

    def build_app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[answering])
        app.on_response_prepare.append(secure)
        add = app.router.add_route
        logins, leases = LoginRoutes(self._auth, self._attempts), LeaseRoutes(self._auth, self._attempts)
        links = LinkRoutes(self._auth, self._attempts, self._browsers)
        asking = Asking(self.sessions, self._leaves) if self.sessions is not None else None
        for prefix in ("", "/v1"):
            if self._admin is not None:
                self._admin.add(add, prefix)
            if self._browsers is not None:
                self._browsers.add(add, prefix)
                PasskeyRoutes(self._browsers, self._attempts, self._auth).add(add, prefix)
            if asking is not None:
                EvidenceRoutes(asking, self._clock).add(add, prefix)
                RecordingRoutes(asking).add(add, prefix)
            if self.terminals is not None:
                self.terminals.add(add, prefix)
            if self._files is not None:
                self._files.add(add, prefix)
        for prefix in ("", "/v1"):
            add("GET", f"{prefix}/webapi/ping", self._ping)
            add("GET", f"{prefix}/webapi/ping/{{connector}}", self._ping)
            add("GET", f"{prefix}/webapi/find", self._find)
            add("GET", f"{prefix}/webapi/motd", self._motd)
            add("GET", f"{prefix}/webapi/ca", self._cluster_ca)
            logins.add(add, prefix)
            leases.add(add, prefix)
            links.add(add, prefix)
            add("GET", f"{prefix}/webapi/auth/tunnel", self._tunnel)
            add("GET", f"{prefix}/webapi/sites", self._sites)
            add("GET", f"{prefix}{UPGRADE_PATH}", self._upgrade)
        add("GET", "/", pages.to_web)
        add("GET", "/web/lease/{token}", pages.lease_page)
        add("GET", "/web/login/{id}", pages.login_page)
        add("GET", "/web/static/{name}", pages.static)
        app_pages.AppPages().add(add)  # last: they are all that is left below /web
        return app

    async def run(self, listener: socket.socket, context: ssl.SSLContext | None, started: Callable[[], None]) -> None:
        """Serves `listener`, by TLS when a context is given; calls `started` once connections are taken."""
        edge = self.edge
        runner = edge.runner(self.build_app(), shutdown_timeout=2)
        await runner.setup()
        try:
            async with (
                self.sessions.followed() if self.sessions is not None else nullcontext(),
                edge.serve(runner, listener, context),
            ):
                started()
                await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    # what clients ask first

    def _settings(self) -> wm.ProxySettings:
        return wm.ProxySettings(
            kube=self._config.kube,
            ssh=self._config.ssh,
            tls_routing_enabled=self.edge.port is not None or msgspec.UNSET,
        )

    def _ping_reply(self, auth: wm.AuthSettings | None) -> web.Response:
        major = int(__version__.split(".")[0])
        digest, rotating = self._authorities()
        return reply(
            wm.PingReply(
                server_version=__version__,
                min_client_version=f"{max(major - 1, 0)}.0.0",
                cluster_name=self._config.cluster,
                proxy=self._settings(),
                auth=auth,
                authorities=digest,
                rotating=rotating,
            )
        )

    async def _ping(self, _: web.Request) -> web.Response:
        spec = self._preference().spec
        has_motd = bool(spec.message_of_the_day)
        return self._ping_reply(
            wm.AuthSettings(
                type="local",
                second_factor=spec.second_factor.value,
                has_motd=has_motd,
                allow_passwordless=takes_passkeys(spec),
            )
        )

    async def _motd(self, _: web.Request) -> web.Response:
        """What everybody is to read before logging in; so it is for everybody's eyes."""
        return reply(wm.MessageOfTheDay(text=self._preference().spec.message_of_the_day))

    async def _find(self, _: web.Request) -> web.Response:
        return self._ping_reply(None)

    async def _cluster_ca(self, _: web.Request) -> web.Response:
        """The public half of the host authority, for clients that know the pin."""
        return reply(await self._auth.call(routes.CLUSTER_CA, m.Empty()))

    # the way to auth for clients with certificates, and for joining hosts

    async def _tunnel(self, request: web.Request) -> web.StreamResponse:
        _no_browsers(request)
        client, transport, cluster = peer_of(request), request.transport, request.query.get("cluster", "")
        relay = self._relays.enter(
            who_tries(request.remote or ""), transport.abort if transport else lambda: None, of_one=TUNNELS_OF_ONE
        )
        try:
            with self.edge.endless(request):
                if cluster not in ("", self._config.cluster):
                    return await relay_to_cluster(
                        request, self._elsewhere(), cluster, lambda: self._relays.carried(relay)
                    )
                return await relay_to_auth(
                    request,
                    self._config.auth_servers,
                    lambda: self._vouch(*client),
                    lambda: self._relays.carried(relay),
                )
        finally:
            self._relays.leave(relay)

    def _elsewhere(self) -> OtherClusters:
        if self.others is None:
            raise NotFound("this proxy leads to no other cluster")
        return self.others

    async def _sites(self, request: web.Request) -> web.Response:
        """The clusters that trust this one, as far as a user may go there."""
        if HEADER not in request.headers and self._browsers is not None:
            return await self._browsers.sites(request)
        if "Origin" in request.headers:
            raise AccessDenied("this list is for tsh")
        return list_clusters(request, self._elsewhere())

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        """A connection to this port within a request, for clients behind a balancer that ends TLS.

        It counts as one that came by itself: at first with a slot of the listener's, then as whoever has it counts.
        """
        if self.edge.port is None:
            raise NotFound("this proxy does not serve everything on one port")
        _no_browsers(request)
        client = peer_of(request)
        # A session inside ends by itself: a daemon that leaves waits for it, as for one at a port of SSH's own.
        with self.edge.staying(request):
            return await relay_inside(request, lambda far: self.edge.inside(far, client))


def _no_browsers(request: web.Request) -> None:
    if "Origin" in request.headers:
        raise AccessDenied("browsers have no business with tunnels")

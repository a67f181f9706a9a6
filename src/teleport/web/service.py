"""The routes of the HTTPS listener: ping, certificates for a login, invitation links, the tunnel to auth.

The web service holds no secret of a person: it passes what was typed to auth and the answer back. Routes that try
passwords are limited by address before anything is asked of auth. Errors have the field's form
(`{"error": {"message"}}`); a failed login always reads the same.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec
from aiohttp import web

from teleport import __version__
from teleport.api import messages as m
from teleport.api import routes
from teleport.api.codec import STATUS
from teleport.authz.second_factor import takes_passkeys
from teleport.clock import Clock, rfc3339
from teleport.errors import AccessDenied, NotFound, TeleportError
from teleport.pki.web_proof import HEADER
from teleport.resources.cluster import AuthPreference
from teleport.spans import Kind, Span, span
from teleport.transport.balancers import Headers
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.http_listener import HTTPListener
from teleport.transport.limits import who_tries
from teleport.web import app_pages, pages
from teleport.web import messages as wm
from teleport.web.admin_routes import AdminRoutes
from teleport.web.attempts import Attempts, named
from teleport.web.bodies import body_of, browser_login_reply, certs_reply, client_address, failure, reply
from teleport.web.clusters import OtherClusters, list_clusters, relay_to_cluster
from teleport.web.evidence_asking import Asking
from teleport.web.evidence_routes import EvidenceRoutes
from teleport.web.file_routes import FileRoutes
from teleport.web.leaves import Leaves
from teleport.web.link_routes import LinkRoutes
from teleport.web.origin import PageUnproved, check_change, check_csrf
from teleport.web.pages import secure, with_csrf_cookie
from teleport.web.passkey_routes import PasskeyRoutes
from teleport.web.recording_routes import RecordingRoutes
from teleport.web.session import SessionOver, Ways
from teleport.web.session_routes import RENEW, SessionRoutes
from teleport.web.sessions import WebSessions
from teleport.web.terminal_reach import ShellWays
from teleport.web.terminal_routes import TerminalRoutes
from teleport.web.tunnel import Relays, peer_of, relay_inside, relay_to_auth
from teleport.wire.alpn import UPGRADE_PATH

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # bytes; nothing that comes here is larger
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
MAX_TUNNELS = 2000  # websockets to auth at once
TUNNELS_OF_ONE = 1000  # of them from one address: the hosts of a whole site may share one

Req = TypeVar("Req", bound=m.Request)
Rep = TypeVar("Rep", bound=m.Message)


class AuthCaller(Protocol):
    """What the web service asks of auth."""

    async def call(self, route: routes.Route[Req, Rep], request: Req) -> Rep: ...


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
        auth: AuthCaller,
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
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._edge])
        app.on_response_prepare.append(secure)
        add = app.router.add_route
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
            add("POST", f"{prefix}/webapi/ssh/certs", self._ssh_certs)
            add("POST", f"{prefix}/webapi/mfa/login/begin", self._login_begin)
            add("POST", f"{prefix}/webapi/mfa/login/finish", self._ssh_certs)
            add("POST", f"{prefix}/webapi/login/browser", self._begin_browser_login)
            add("GET", f"{prefix}/webapi/login/browser/{{id}}", self._browser_login)
            add("POST", f"{prefix}/webapi/login/browser/{{id}}", self._finish_browser_login)
            add("POST", f"{prefix}/webapi/login/browser/{{id}}/certs", self._collect_browser_login)
            add("GET", f"{prefix}/webapi/mfa/lease/{{token}}", self._lease_asked)
            add("POST", f"{prefix}/webapi/mfa/lease/{{token}}", self._approve_lease)
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

    # the edge

    @web.middleware
    async def _edge(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        with _span(request) as answering:
            answer = await self._answered(request, handler)
            answering.set("http.response.status_code", answer.status)
            return answer

    async def _answered(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            check_change(request)
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return failure(413, "the request is too large")
        except web.HTTPException as error:
            answer = failure(error.status, "there is no such page" if error.status == 404 else error.reason)
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer
        except SessionOver as error:
            return failure(401, error.message, hint=error.hint)
        except PageUnproved as error:
            status = 401 if request.path.endswith(RENEW) else 403  # who has no page's cookie has no session's
            return with_csrf_cookie(request, failure(status, error.message, hint=error.hint))
        except TeleportError as error:
            return failure(STATUS.get(error.code, 500), error.message, hint=error.hint)
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("web: %s failed", request.match_info.route.resource)
            return failure(500, "the proxy failed to do this; its log names the reason")

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

    # log in

    async def _login_begin(self, request: web.Request) -> web.Response:
        """A challenge for the second factor of a login. Nothing is tried here, but it is limited as attempts are."""
        self._attempts.limit(request)
        asked = await body_of(request, wm.LoginBeginRequest)
        made = await self._auth.call(routes.LOGIN_CHALLENGE, m.LoginChallengeRequest(user=asked.user))
        keys = wm.assertion_options(made.webauthn) if made.webauthn is not None else None
        return reply(wm.LoginChallenge(challenge_id=made.id, totp_challenge=made.totp, webauthn_challenge=keys))

    async def _ssh_certs(self, request: web.Request) -> web.Response:
        self._attempts.limit(request)
        asked = await body_of(request, wm.SSHCertsRequest)
        whose = named(asked.user, asked.password, passwordless=asked.passwordless)
        login = m.LoginRequest(
            passwordless=asked.passwordless,
            user=asked.user,
            password=asked.password,
            otp_token=asked.otp_token or asked.hotp_token,
            factor=asked.factor(),
            user_agent=request.headers.get("User-Agent", ""),
            public_key=wm.from_base64(asked.pub_key, "pub_key"),
            ttl=asked.ttl / 1e9,
            client_addr=client_address(request),
            compatibility=asked.compatibility or "standard",
            route_to_cluster=asked.RouteToCluster,
        )
        certs = await self._attempts.tried(request, whose, self._auth.call(routes.LOGIN, login))
        return reply(certs_reply(certs))

    # log in with a browser, for a tsh elsewhere

    async def _begin_browser_login(self, request: web.Request) -> web.Response:
        self._attempts.limit(request)
        asked = await body_of(request, wm.BrowserLoginBegin)
        begin = m.BeginBrowserLoginRequest(
            public_key=wm.from_base64(asked.pub_key, "pub_key"),
            ttl=asked.ttl / 1e9,
            client_addr=client_address(request),
            route_to_cluster=asked.RouteToCluster,
        )
        return reply(browser_login_reply(await self._auth.call(routes.BEGIN_BROWSER_LOGIN, begin)))

    async def _browser_login(self, request: web.Request) -> web.Response:
        self._attempts.limit(request)
        asked = m.BrowserLoginRequest(id=request.match_info["id"])
        found = await self._attempts.tried(
            request, "a login", self._auth.call(routes.BROWSER_LOGIN, asked), proves=False
        )
        return reply(browser_login_reply(found))

    async def _finish_browser_login(self, request: web.Request) -> web.Response:
        self._attempts.limit(request)
        check_csrf(request)
        asked = await body_of(request, wm.BrowserLoginAnswer)
        whose = named(asked.user, asked.password, passwordless=asked.passwordless)
        finish = m.FinishBrowserLoginRequest(
            passwordless=asked.passwordless,
            id=request.match_info["id"],
            code=asked.code,
            user=asked.user,
            password=asked.password,
            otp_token=asked.otp_token,
            factor=asked.factor(),
            client_addr=client_address(request),
            user_agent=request.headers.get("User-Agent", ""),
        )
        await self._attempts.tried(request, whose, self._auth.call(routes.FINISH_BROWSER_LOGIN, finish))
        return web.json_response({"message": "ok"})

    async def _collect_browser_login(self, request: web.Request) -> web.Response:
        """What tsh asks every other second. An id that is guessed costs an attempt."""
        asked = m.BrowserLoginRequest(id=request.match_info["id"])
        found = await self._attempts.tried(
            request, "a login", self._auth.call(routes.COLLECT_BROWSER_LOGIN, asked), proves=False
        )
        if found.certs is None:
            return web.json_response({"message": "nobody has answered yet"}, status=202)
        return reply(certs_reply(found.certs))

    # leases of plain ssh

    async def _lease_asked(self, request: web.Request) -> web.Response:
        """Who asks for a lease, for whoever holds its link, and what a hardware key is asked."""
        self._attempts.limit(request)
        asked = m.LeaseApprovalRequest(token=request.match_info["token"])
        found = await self._attempts.tried(
            request, "a link", self._auth.call(routes.LEASE_APPROVAL, asked), proves=False
        )
        assert found.challenge.webauthn is not None, "a link is for a hardware key"
        return reply(
            wm.LeaseAsked(
                user=found.user,
                cluster=found.cluster,
                client_addr=found.client_addr,
                key_fingerprint=found.key_fingerprint,
                until=rfc3339(found.until),
                challenge_id=found.challenge.id,
                webauthn_challenge=wm.assertion_options(found.challenge.webauthn),
            )
        )

    async def _approve_lease(self, request: web.Request) -> web.Response:
        self._attempts.limit(request)
        check_csrf(request)
        answer = await body_of(request, wm.ApproveLease)
        factor = m.FactorResponse(
            challenge_id=answer.challenge_id, webauthn=answer.webauthn_challenge_response.message()
        )
        asked = m.ApproveLeaseRequest(token=request.match_info["token"], factor=factor)
        await self._attempts.tried(request, "a link", self._auth.call(routes.APPROVE_LEASE, asked))
        return web.json_response({"message": "ok"})

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


def _span(request: web.Request) -> Span:
    """Of a call of the API. What lasts as long as a session is in none, and nothing is heard of traces of strangers."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else ""
    begins = route.startswith("/webapi/") and "Upgrade" not in request.headers
    found = span("proxy.web", Kind.SERVER, parent=None, begins=begins)
    found.set("http.request.method", request.method if request.method in METHODS else "_OTHER")
    found.set("http.route", route)
    return found


def _no_browsers(request: web.Request) -> None:
    if "Origin" in request.headers:
        raise AccessDenied("browsers have no business with tunnels")

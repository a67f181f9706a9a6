"""The routes of the HTTPS listener: ping, certificates for a login, invitation links, the tunnel to auth.

The web service holds no secret of a person: it passes what was typed to auth and the answer back. Routes that try
passwords are limited by address before anything is asked of auth. Errors have the field's form
(`{"error": {"message"}}`); a failed login always reads the same.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from importlib import resources
from typing import Protocol, TypeVar

import msgspec
from aiohttp import web

from teleport import __version__
from teleport.api import messages as m
from teleport.api import routes
from teleport.api.codec import STATUS
from teleport.clock import Clock, rfc3339
from teleport.errors import AccessDenied, BadRequest, LimitExceeded, NotFound, TeleportError
from teleport.resources.cluster import AuthPreference
from teleport.resources.names import peer_address
from teleport.resources.values import HostPort
from teleport.transport.balancers import Headers
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.http_listener import HTTPListener
from teleport.transport.limits import Patience, RateLimit, is_own, who_tries
from teleport.web import messages as wm
from teleport.web.tunnel import peer_of, relay_inside, relay_to_auth
from teleport.wire.alpn import UPGRADE_PATH

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # bytes; nothing that comes here is larger
CSRF_COOKIE = "__Host-grv_csrf"
CSRF_HEADER = "X-CSRF-Token"
BODY_TIMEOUT = 15.0  # seconds for a body to come
FREE_FAILURES = 5  # of one user's logins from one address, before the next attempts have to wait
FREE_OF_ADDRESS = 30  # of all logins from one address
MAX_TUNNELS = 2000  # websockets to auth at once
TUNNELS_OF_ONE = 256  # of them from one address: the hosts of a whole site may share one

Req = TypeVar("Req", bound=m.Request)
Rep = TypeVar("Rep", bound=m.Message)
T = TypeVar("T")

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # invitation links carry a secret
    "Strict-Transport-Security": "max-age=31536000",
    "Cache-Control": "no-store",
    "Server": "teleport",  # which library serves is nobody's business
}


class AuthCaller(Protocol):
    """What the web service asks of auth."""

    async def call(self, route: routes.Route[Req, Rep], request: Req) -> Rep: ...


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the web service says of its cluster, and where it reaches auth."""

    cluster: str
    ssh: wm.SSHAddresses
    auth_servers: tuple[tuple[str, int], ...]
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    one_port: bool = False  # everything is reached by the web listener


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
    ) -> None:
        """`preference`: how people prove themselves, as it is now. `vouch` makes the line that tells auth who comes by
        the tunnel (`wire.vouch`), from address and port. `authorities`: the digest of the authorities as they are, and
        whether they are being rotated. `headers`: what balancers say before TLS."""
        self._config = config
        self._preference = preference
        self._vouch = vouch
        self._authorities = authorities
        self._max_tunnels = max_tunnels
        self._auth = auth
        self._clock = clock
        self._passwords = RateLimit()
        self._patience = Patience(free=FREE_FAILURES, forgiven=1 / 60, longest=60)  # with a user, from an address
        self._with_address = Patience(free=FREE_OF_ADDRESS, forgiven=1 / 10, longest=10)
        self.edge = HTTPListener("proxy web", limits=config.connections, headers=headers)
        self._tunnels: Counter[str] = Counter()  # open ones, by address

    def build_app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._edge])
        app.on_response_prepare.append(_secure)
        add = app.router.add_route
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
            add("POST", f"{prefix}/webapi/mfa/token/{{token}}/registerchallenge", self._register_challenge)
            add("GET", f"{prefix}/webapi/mfa/lease/{{token}}", self._lease_asked)
            add("POST", f"{prefix}/webapi/mfa/lease/{{token}}", self._approve_lease)
            add("GET", f"{prefix}/webapi/users/password/token/{{token}}", self._password_token)
            add("PUT", f"{prefix}/webapi/users/password/token", self._finish_password_token)
            add("GET", f"{prefix}/webapi/auth/tunnel", self._tunnel)
            add("GET", f"{prefix}{UPGRADE_PATH}", self._upgrade)
        add("GET", "/", self._to_web)
        add("GET", "/web", self._landing)
        add("GET", "/web/invite/{token}", self._invite_page)
        add("GET", "/web/reset/{token}", self._invite_page)
        add("GET", "/web/lease/{token}", self._lease_page)
        add("GET", "/web/login/{id}", self._login_page)
        add("GET", "/web/static/{name}", self._static)
        return app

    async def run(self, listener: socket.socket, context: ssl.SSLContext | None, started: Callable[[], None]) -> None:
        """Serves `listener`, by TLS when a context is given; calls `started` once connections are taken."""
        edge = self.edge
        runner = edge.runner(self.build_app(), shutdown_timeout=2)
        await runner.setup()
        try:
            async with edge.serve(runner, listener, context):
                started()
                await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    # the edge

    @web.middleware
    async def _edge(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _error(413, "the request is too large")
        except web.HTTPException as error:
            answer = _error(error.status, "there is no such page" if error.status == 404 else error.reason)
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer
        except TeleportError as error:
            return _error(STATUS.get(error.code, 500), error.message)
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("web: %s failed", request.match_info.route.resource)
            return _error(500, "the proxy failed to do this; its log names the reason")

    def _limit(self, request: web.Request) -> None:
        if not self._passwords.allow(who_tries(request.remote or ""), self._clock.monotonic()):
            raise LimitExceeded("too many attempts from this address; wait a moment")

    async def _tried(self, request: web.Request, name: str, attempt: Awaitable[T], *, proves: bool = True) -> T:
        """Does `attempt` with what belongs to `name` (a user, a link), unless too many have failed just now.

        Who fails waits longer and longer before the next attempt on the same name; and a little after many failures on
        whatever names, since many people may share the address. A success clears both, unless it `proves` nothing of
        whoever asks. This host is never kept waiting.
        """
        address, now = who_tries(request.remote or ""), self._clock.monotonic()
        keys = ((self._patience, f"{address} {name[:256]}"), (self._with_address, address))
        wait = 0.0 if is_own(address) else max(patience.wait(key, now) for patience, key in keys)
        if wait:
            if isinstance(attempt, Coroutine):
                attempt.close()
            raise LimitExceeded(f"too many failed attempts from this address; try again in {math.ceil(wait)} s")
        try:
            done = await attempt
        except (AccessDenied, NotFound):
            for patience, key in keys:
                patience.failed(key, self._clock.monotonic())
            raise
        for patience, key in keys if proves else ():
            patience.succeeded(key)
        return done

    # what clients ask first

    def _settings(self) -> wm.ProxySettings:
        return wm.ProxySettings(
            kube=wm.KubeAddresses(), ssh=self._config.ssh, tls_routing_enabled=self._config.one_port or msgspec.UNSET
        )

    def _ping_reply(self, auth: wm.AuthSettings | None) -> web.Response:
        major = int(__version__.split(".")[0])
        digest, rotating = self._authorities()
        return _json(
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
            wm.AuthSettings(type="local", second_factor=spec.second_factor.value, has_motd=has_motd)
        )

    async def _motd(self, _: web.Request) -> web.Response:
        """What everybody is to read before logging in; so it is for everybody's eyes."""
        return _json(wm.MessageOfTheDay(text=self._preference().spec.message_of_the_day))

    async def _find(self, _: web.Request) -> web.Response:
        return self._ping_reply(None)

    async def _cluster_ca(self, _: web.Request) -> web.Response:
        """The public half of the host authority, for clients that know the pin."""
        return _json(await self._auth.call(routes.CLUSTER_CA, m.Empty()))

    # log in

    async def _login_begin(self, request: web.Request) -> web.Response:
        """A challenge for the second factor of a login. Nothing is tried here, but it is limited as attempts are."""
        self._limit(request)
        asked = await _body(request, wm.LoginBeginRequest)
        made = await self._auth.call(routes.LOGIN_CHALLENGE, m.LoginChallengeRequest(user=asked.user))
        keys = wm.assertion_options(made.webauthn) if made.webauthn is not None else None
        return _json(wm.LoginChallenge(challenge_id=made.id, totp_challenge=made.totp, webauthn_challenge=keys))

    async def _ssh_certs(self, request: web.Request) -> web.Response:
        self._limit(request)
        asked = await _body(request, wm.SSHCertsRequest)
        login = m.LoginRequest(
            user=asked.user,
            password=asked.password,
            otp_token=asked.otp_token or asked.hotp_token,
            factor=asked.factor(),
            user_agent=request.headers.get("User-Agent", ""),
            public_key=wm.from_base64(asked.pub_key, "pub_key"),
            ttl=asked.ttl / 1e9,
            client_addr=_client_address(request),
            compatibility=asked.compatibility or "standard",
            route_to_cluster=asked.RouteToCluster,
        )
        certs = await self._tried(request, asked.user, self._auth.call(routes.LOGIN, login))
        return _json(_certs_reply(certs))

    # log in with a browser, for a tsh elsewhere

    async def _begin_browser_login(self, request: web.Request) -> web.Response:
        self._limit(request)
        asked = await _body(request, wm.BrowserLoginBegin)
        begin = m.BeginBrowserLoginRequest(
            public_key=wm.from_base64(asked.pub_key, "pub_key"),
            ttl=asked.ttl / 1e9,
            client_addr=_client_address(request),
            route_to_cluster=asked.RouteToCluster,
        )
        return _json(_browser_login_reply(await self._auth.call(routes.BEGIN_BROWSER_LOGIN, begin)))

    async def _browser_login(self, request: web.Request) -> web.Response:
        self._limit(request)
        asked = m.BrowserLoginRequest(id=request.match_info["id"])
        found = await self._tried(request, "a login", self._auth.call(routes.BROWSER_LOGIN, asked), proves=False)
        return _json(_browser_login_reply(found))

    async def _finish_browser_login(self, request: web.Request) -> web.Response:
        self._limit(request)
        _check_csrf(request)
        asked = await _body(request, wm.BrowserLoginAnswer)
        finish = m.FinishBrowserLoginRequest(
            id=request.match_info["id"],
            code=asked.code,
            user=asked.user,
            password=asked.password,
            otp_token=asked.otp_token,
            factor=asked.factor(),
            client_addr=_client_address(request),
            user_agent=request.headers.get("User-Agent", ""),
        )
        await self._tried(request, asked.user, self._auth.call(routes.FINISH_BROWSER_LOGIN, finish))
        return web.json_response({"message": "ok"})

    async def _collect_browser_login(self, request: web.Request) -> web.Response:
        """What tsh asks every other second. An id that is guessed costs an attempt."""
        asked = m.BrowserLoginRequest(id=request.match_info["id"])
        found = await self._tried(
            request, "a login", self._auth.call(routes.COLLECT_BROWSER_LOGIN, asked), proves=False
        )
        if found.certs is None:
            return web.json_response({"message": "nobody has answered yet"}, status=202)
        return _json(_certs_reply(found.certs))

    async def _login_page(self, request: web.Request) -> web.Response:
        return self._page(request, "login.html")

    # invitations and resets

    async def _password_token(self, request: web.Request) -> web.Response:
        self._limit(request)
        token = request.match_info["token"]
        asked = m.UserTokenRequest(token=token)
        info = await self._tried(request, "a link", self._auth.call(routes.USER_TOKEN, asked))
        return _json(
            wm.PasswordTokenReply(
                tokenId=token,
                user=info.user,
                qr=_qr_png(info.totp_url) if info.totp_url else "",
                kind=info.kind,
                cluster=info.cluster,
                second_factor=info.second_factor,
                totp_secret=info.totp_secret,
                totp_url=info.totp_url,
                expires=rfc3339(info.expires),
            )
        )

    async def _register_challenge(self, request: web.Request) -> web.Response:
        """What a new hardware key is asked with, for whoever holds a link."""
        self._limit(request)
        _check_csrf(request)
        asked = m.UserTokenRequest(token=request.match_info["token"])
        made = await self._tried(request, "a link", self._auth.call(routes.USER_TOKEN_CHALLENGE, asked))
        if made.webauthn is None:
            raise BadRequest("hardware keys do not count here")
        return _json(wm.RegisterChallenge(challenge_id=made.id, webauthn=wm.creation_options(made.webauthn)))

    async def _finish_password_token(self, request: web.Request) -> web.Response:
        self._limit(request)
        _check_csrf(request)
        asked = await _body(request, wm.PasswordTokenRequest)
        await self._auth.call(
            routes.FINISH_USER_TOKEN,
            m.FinishUserTokenRequest(
                token=asked.token,
                password=wm.from_base64(asked.password, "password"),
                otp_token=asked.second_factor_token,
                proof=m.NewFactorProof(id=asked.challenge_id, webauthn=asked.webauthn_creation_response.message())
                if asked.webauthn_creation_response is not None
                else None,
                device_name=asked.device_name,
                client_addr=_client_address(request),
            ),
        )
        return web.json_response({"message": "ok"})

    # leases of plain ssh

    async def _lease_asked(self, request: web.Request) -> web.Response:
        """Who asks for a lease, for whoever holds its link, and what a hardware key is asked."""
        self._limit(request)
        asked = m.LeaseApprovalRequest(token=request.match_info["token"])
        found = await self._tried(request, "a link", self._auth.call(routes.LEASE_APPROVAL, asked), proves=False)
        assert found.challenge.webauthn is not None, "a link is for a hardware key"
        return _json(
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
        self._limit(request)
        _check_csrf(request)
        answer = await _body(request, wm.ApproveLease)
        factor = m.FactorResponse(
            challenge_id=answer.challenge_id, webauthn=answer.webauthn_challenge_response.message()
        )
        asked = m.ApproveLeaseRequest(token=request.match_info["token"], factor=factor)
        await self._tried(request, "a link", self._auth.call(routes.APPROVE_LEASE, asked))
        return web.json_response({"message": "ok"})

    async def _lease_page(self, request: web.Request) -> web.Response:
        return self._page(request, "lease.html")

    async def _invite_page(self, request: web.Request) -> web.Response:
        return self._page(request, "invite.html")

    def _page(self, request: web.Request, name: str) -> web.Response:
        """A page that sends something: with the cookie that it repeats."""
        response = web.Response(body=_file(name), content_type="text/html", charset="utf-8")
        value = request.cookies.get(CSRF_COOKIE) or secrets.token_urlsafe(24)
        response.set_cookie(CSRF_COOKIE, value, secure=True, samesite="Strict", path="/")
        return response

    async def _landing(self, _: web.Request) -> web.Response:
        return web.Response(body=_file("index.html"), content_type="text/html", charset="utf-8")

    async def _to_web(self, _: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/web"})

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
        if name not in _static_names():
            raise NotFound("there is no such page")
        kind = kinds["." + name.rpartition(".")[2]]
        return web.Response(body=_file(name), content_type=kind, charset="utf-8")

    # the way to auth for clients with certificates, and for joining hosts

    async def _tunnel(self, request: web.Request) -> web.StreamResponse:
        client = peer_of(request)
        return await self._relayed(
            request, lambda: relay_to_auth(request, self._config.auth_servers, lambda: self._vouch(*client))
        )

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        """A connection to this port within a request, for clients behind a balancer that ends TLS."""
        if self.edge.port is None:
            raise NotFound("this proxy does not serve everything on one port")
        client = peer_of(request)
        return await self._relayed(request, lambda: relay_inside(request, lambda far: self.edge.inside(far, client)))

    async def _relayed(
        self, request: web.Request, relay: Callable[[], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Relays, within the bounds of what one address and all of them may have."""
        if "Origin" in request.headers:
            raise AccessDenied("browsers have no business with tunnels")
        address = who_tries(request.remote or "")
        if self._tunnels[address] >= TUNNELS_OF_ONE:
            raise LimitExceeded("this proxy relays as many connections from one address as it may; close some")
        if self._tunnels.total() >= self._max_tunnels:
            raise LimitExceeded("this proxy relays as many connections as it may; try again")
        self._tunnels[address] += 1
        try:
            with self.edge.endless(request):
                return await relay()
        finally:
            self._tunnels[address] -= 1
            if not self._tunnels[address]:
                del self._tunnels[address]


def _browser_login_reply(found: m.BrowserLogin) -> wm.BrowserLoginReply:
    return wm.BrowserLoginReply(
        id=found.id, client_addr=found.client_addr, expires=rfc3339(found.expires), code=found.code
    )


def _certs_reply(certs: m.UserCerts) -> wm.SSHCertsReply:
    return wm.SSHCertsReply(
        username=certs.username,
        cert=wm.to_base64(certs.cert),
        tls_cert=wm.to_base64(certs.tls_cert),
        host_signers=[
            wm.HostSigner(
                domain_name=signer.domain_name,
                checking_keys=[wm.to_base64(key) for key in signer.checking_keys],
                tls_certs=[wm.to_base64(cert) for cert in signer.tls_certs],
            )
            for signer in certs.host_signers
        ],
    )


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    """Every answer carries these, also an error and the opening of a tunnel."""
    response.headers.update(SECURITY_HEADERS)


def _check_csrf(request: web.Request) -> None:
    """The page proves itself by repeating its cookie in a header, which no other site can read. Programs send neither.

    A browser names an `Origin` with every request that could come from another site, so without a cookie that is
    refused too.
    """
    cookie, header = request.cookies.get(CSRF_COOKIE), request.headers.get(CSRF_HEADER, "")
    if cookie is None and "Origin" not in request.headers:
        return
    if not cookie or not hmac.compare_digest(cookie.encode(), header.encode(errors="surrogateescape")):
        raise AccessDenied("this request did not come from the page of this proxy; load the page again")


def _client_address(request: web.Request) -> str:
    host, port = peer_address(request.transport.get_extra_info("peername") if request.transport else None)
    return str(HostPort(host, port)) if host else ""


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            body = await request.read()
    except TimeoutError:
        raise BadRequest(f"the request did not come whole within {BODY_TIMEOUT:.0f} s") from None
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request cannot be read: {error}") from None


def _json(reply: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    body = msgspec.json.encode({"error": {"message": message}})
    return web.Response(status=status, body=body, content_type="application/json")


def _qr_png(text: str) -> str:
    """A QR code as PNG in base64."""
    import base64
    import io

    import segno

    image = io.BytesIO()
    segno.make(text, error="m").save(image, kind="png", scale=5)
    return base64.b64encode(image.getvalue()).decode()


def _static_names() -> frozenset[str]:
    folder = resources.files("teleport.web") / "static"
    return frozenset(entry.name for entry in folder.iterdir() if entry.name.endswith((".js", ".css", ".svg")))


def _file(name: str) -> bytes:
    return (resources.files("teleport.web") / "static" / name).read_bytes()

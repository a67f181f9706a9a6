"""The routes of browsers that log in: sessions, what is one's own, clusters and nodes (`protocols.md` 2).

Each handler asks `WebSessions.of` whose request it is before anything else; what it shows is what auth answers to that
user. Routes of other modules (terminals, files) do the same with `SessionRoutes.sessions`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import Clock, rfc3339
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.resources.kinds import Kind, Verb
from teleport.web import messages as wm
from teleport.web.attempts import Attempts
from teleport.web.bodies import body_of, client_address, reply
from teleport.web.leaves import Leaves
from teleport.web.origin import check_csrf, check_same_origin
from teleport.web.pages import qr_png
from teleport.web.session import WebSession
from teleport.web.sessions import COOKIE, Proved, WebSessions
from teleport.web.tunnel import peer_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RENEW: Final = "/webapi/sessions/renew"
# What a page's menus go by; auth decides anew about everything that is asked.
SHOWN: Final[tuple[tuple[Kind, tuple[Verb, ...]], ...]] = (
    (Kind.USER, (Verb.LIST, Verb.CREATE, Verb.UPDATE, Verb.DELETE)),
    (Kind.ROLE, (Verb.LIST, Verb.CREATE, Verb.UPDATE, Verb.DELETE)),
    (Kind.TOKEN, (Verb.LIST, Verb.CREATE, Verb.DELETE)),
    (Kind.LOCK, (Verb.LIST, Verb.CREATE, Verb.DELETE)),
    (Kind.EVENT, (Verb.LIST,)),
    (Kind.SESSION, (Verb.LIST, Verb.READ)),
    (Kind.TRUSTED_CLUSTER, (Verb.LIST, Verb.CREATE, Verb.DELETE)),
    (Kind.REMOTE_CLUSTER, (Verb.LIST, Verb.DELETE)),
    (Kind.CERT_AUTHORITY, (Verb.LIST, Verb.ROTATE)),
    (Kind.NODE, (Verb.LIST,)),
)


class LoginRequest(wm.KeyProof, frozen=True, kw_only=True):
    """POST /webapi/sessions/web (`protocols.md` 2.2)."""

    user: str
    password: str = msgspec.field(name="pass")
    second_factor_token: str = ""


class SessionReply(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its page knows it."""

    type: str = "bearer"
    token: str
    expires_in: int  # seconds that the token holds
    sessionExpires: str
    sessionInactiveTimeout: int  # milliseconds; 0: none
    user: str
    cluster: str


class PasswordRequest(wm.KeyProof, frozen=True, kw_only=True):
    """PUT /webapi/users/password; the passwords in base64, as browsers send them."""

    old_password: str
    new_password: str
    second_factor_token: str = ""


class DeviceRequest(wm.KeyProof, frozen=True, kw_only=True):
    """POST /webapi/mfa/devices/begin, and .../:name/remove: what proves an older device, or the password."""

    name: str = ""
    type: str = ""
    passwordless: bool = False  # of the type webauthn: a passkey
    password: str = ""
    second_factor_token: str = ""


class NewDeviceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/mfa/devices."""

    id: str
    totp_code: str = ""
    webauthn_creation_response: wm.CredentialCreation | None = None


class SessionRoutes:
    """Handlers and where they are reached."""

    def __init__(
        self,
        sessions: WebSessions,
        attempts: Attempts,
        cluster: str,
        clock: Clock,
        leaves: Leaves,
    ) -> None:
        self.sessions = sessions
        self._attempts = attempts
        self._cluster = cluster
        self._clock = clock
        self._leaves = leaves

    def add(self, add: Callable[[str, str, Handler], Any], prefix: str) -> None:
        """Puts the routes into an application."""
        api = f"{prefix}/webapi"
        add("POST", f"{api}/sessions/web", self.log_in)
        add("POST", f"{api}/sessions", self.log_in)  # as older clients call it
        add("DELETE", f"{api}/sessions", self.log_out)
        add("POST", f"{prefix}{RENEW}", self.renew)
        add("GET", f"{api}/user/status", self.status)
        add("GET", f"{api}/user/sessions", self.own_sessions)
        add("DELETE", f"{api}/user/sessions", self.end_others)
        add("DELETE", f"{api}/user/sessions/{{id}}", self.end_one)
        add("PUT", f"{api}/users/password", self.change_password)
        add("GET", f"{api}/mfa/devices", self.devices)
        add("POST", f"{api}/mfa/devices/challenge", self.device_challenge)
        add("POST", f"{api}/mfa/devices/begin", self.begin_device)
        add("POST", f"{api}/mfa/devices", self.finish_device)
        add("POST", f"{api}/mfa/devices/{{name}}/remove", self.remove_device)
        add("GET", f"{api}/sites/{{site}}/context", self.context)
        for nodes in ("nodes", "namespaces/default/nodes"):
            add("GET", f"{api}/sites/{{site}}/{nodes}", self.nodes)
        add("GET", f"{api}/sites/{{site}}/kube_clusters", self.kube_clusters)

    # sessions

    async def log_in(self, request: web.Request) -> web.Response:
        """A new session, whatever cookie came along: that one ends."""
        self._attempts.limit(request)
        check_same_origin(request)
        check_csrf(request)
        asked = await body_of(request, LoginRequest)
        proved = Proved(
            user=asked.user,
            password=asked.password,
            otp_token=asked.second_factor_token,
            factor=asked.factor(),
            client_addr=client_address(request),
            user_agent=request.headers.get("User-Agent", ""),
        )
        return await self.entered(request, await self._attempts.tried(request, asked.user, self.sessions.begin(proved)))

    async def entered(self, request: web.Request, session: WebSession) -> web.Response:
        """Hands a session that has just begun to its browser; whatever session that had ends."""
        await self.sessions.replaced(request)
        response = self._told(session)
        age = int((session.expires - self._clock.now()).total_seconds())
        response.set_cookie(
            COOKIE, session.cookie(), secure=True, httponly=True, samesite="Strict", path="/", max_age=max(age, 1)
        )
        return response

    async def log_out(self, request: web.Request) -> web.Response:
        session = await self.sessions.of(request, page=True)
        await self.sessions.end(session, client_address(request))
        response = _done()
        response.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
        return response

    async def renew(self, request: web.Request) -> web.Response:
        """A new token for the page, also for one that has just been loaded and has none."""
        return self._told(await self.sessions.of(request, page=True))

    async def status(self, request: web.Request) -> web.Response:
        """Whether the session goes on."""
        session = await self.sessions.of(request)
        return web.json_response(
            {
                "user": session.user,
                "cluster": self._cluster,
                "created": rfc3339(session.created),
                "expires": rfc3339(session.expires),
                "factor": session.factor,
            }
        )

    async def own_sessions(self, request: web.Request) -> web.Response:
        """Where else the user is logged in with a browser."""
        session = await self.sessions.of(request)
        found = await self._ask(session, request, routes.OWN_WEB_SESSIONS, m.Empty())
        return web.json_response(
            {
                "sessions": [
                    {
                        "id": one.id,
                        "current": one.id == session.id,
                        "created": rfc3339(one.created),
                        "used": rfc3339(one.used),
                        "expires": rfc3339(one.expires),
                        "addr": one.addr,
                        "user_agent": one.user_agent,
                        "factor": one.factor,
                    }
                    for one in found.sessions
                ]
            }
        )

    async def end_others(self, request: web.Request) -> web.Response:
        """Logs out everywhere else; with `all=true` here, too."""
        session = await self.sessions.of(request)
        everywhere = request.query.get("all") == "true"
        asked = m.EndOwnWebSessionsRequest(keep="" if everywhere else session.id)
        found = await self._ask(session, request, routes.END_OWN_WEB_SESSIONS, asked)
        response = web.json_response({"ended": found.ended})
        if everywhere:
            self.sessions.ended(session.id, "logged out everywhere")
            response.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
        return response

    async def end_one(self, request: web.Request) -> web.Response:
        session = await self.sessions.of(request)
        asked = m.EndOwnWebSessionsRequest(id=request.match_info["id"])
        found = await self._ask(session, request, routes.END_OWN_WEB_SESSIONS, asked)
        if not found.ended:
            raise NotFound("there is no such session of yours")
        return _done()

    # what is one's own

    async def change_password(self, request: web.Request) -> web.Response:
        self._attempts.limit(request)
        session = await self.sessions.of(request)
        asked = await body_of(request, PasswordRequest)
        change = m.ChangePasswordRequest(
            old=wm.from_base64(asked.old_password, "old_password"),
            new=wm.from_base64(asked.new_password, "new_password"),
            factor=_factor(asked, asked.second_factor_token),
            keep=session.id,
        )
        await self._attempts.tried(
            request, session.user, self._ask(session, request, routes.CHANGE_PASSWORD, change), proves=False
        )
        return _done()

    async def devices(self, request: web.Request) -> web.Response:
        session = await self.sessions.of(request)
        return reply(await self._ask(session, request, routes.OWN_FACTORS, m.Empty()))

    async def device_challenge(self, request: web.Request) -> web.Response:
        """What the user's devices are asked, before something of one's own is changed."""
        session = await self.sessions.of(request)
        made = await self._ask(session, request, routes.FACTOR_CHALLENGE, m.Empty())
        keys = wm.assertion_options(made.webauthn) if made.webauthn is not None else None
        return reply(wm.LoginChallenge(challenge_id=made.id, totp_challenge=made.totp, webauthn_challenge=keys))

    async def begin_device(self, request: web.Request) -> web.Response:
        self._attempts.limit(request)
        session = await self.sessions.of(request)
        asked = await body_of(request, DeviceRequest)
        begin = m.BeginFactorRequest(
            name=asked.name,
            type=asked.type,
            passwordless=asked.passwordless,
            factor=_factor(asked, asked.second_factor_token),
            password=wm.from_base64(asked.password, "password"),
        )
        made = await self._attempts.tried(
            request, session.user, self._ask(session, request, routes.BEGIN_FACTOR, begin), proves=False
        )
        return web.json_response(
            {
                "id": made.id,
                "totp_secret": made.totp_secret,
                "qr": qr_png(made.totp_url) if made.totp_url else "",
                "webauthn": wm.creation_options(made.webauthn) if made.webauthn is not None else None,
            }
        )

    async def finish_device(self, request: web.Request) -> web.Response:
        self._attempts.limit(request)
        session = await self.sessions.of(request)
        asked = await body_of(request, NewDeviceRequest)
        made = asked.webauthn_creation_response
        proof = m.NewFactorProof(
            id=asked.id, totp_code=asked.totp_code, webauthn=made.message() if made is not None else None
        )
        await self._ask(session, request, routes.FINISH_FACTOR, proof)
        return _done()

    async def remove_device(self, request: web.Request) -> web.Response:
        self._attempts.limit(request)
        session = await self.sessions.of(request)
        asked = await body_of(request, DeviceRequest)
        removal = m.RemoveFactorRequest(
            name=request.match_info["name"],
            factor=_factor(asked, asked.second_factor_token),
            password=wm.from_base64(asked.password, "password"),
        )
        await self._attempts.tried(
            request, session.user, self._ask(session, request, routes.REMOVE_FACTOR, removal), proves=False
        )
        return _done()

    # clusters

    async def sites(self, request: web.Request) -> web.Response:
        """This cluster, and those that the user may go to from here."""
        session = await self.sessions.of(request)
        try:
            found = self._leaves.listed(session, peer_of(request))
        except AccessDenied:  # whose roles give no session anywhere goes to no other cluster, and may be here
            found = [(self._cluster, True)]
        return web.json_response(
            {"sites": [{"name": name, "status": "online" if online else "offline"} for name, online in found]}
        )

    async def context(self, request: web.Request) -> web.Response:
        """Who the user is, and what menus may show."""
        session = await self._here(request)
        may = self.sessions.may
        return web.json_response(
            {
                "user": session.user,
                "cluster": self._cluster,
                "roles": list(session.identity.roles),
                "expires": rfc3339(session.expires),
                "acl": {str(kind): [str(verb) for verb in verbs if may(session, kind, verb)] for kind, verbs in SHOWN},
            }
        )

    async def nodes(self, request: web.Request) -> web.Response:
        """A page of nodes, of this cluster or, as that one decides, of another: `search`, `label` (again and again),
        `sort`, `start`, `limit`."""
        session = await self.sessions.of(request)
        query = request.query
        sort = query.get("sort", "hostname")
        asked = m.FindNodesRequest(
            search=query.get("search", ""),
            labels=query.getall("label", []),
            sort=sort.removeprefix("-"),
            descending=sort.startswith("-"),
            start=_number(query.get("start", "0")),
            limit=_number(query.get("limit", "50")),
        )
        caller = self._leaves.caller(session, peer_of(request), request.match_info["site"])
        return reply(await caller.call(routes.FIND_NODES, asked))

    async def kube_clusters(self, request: web.Request) -> web.Response:
        """A page of the Kubernetes clusters that the user may use, of this cluster or, as that one decides, of another:
        `search`, `start`, `limit`."""
        session = await self.sessions.of(request)
        query = request.query
        asked = m.FindKubeClustersRequest(
            search=query.get("search", ""),
            start=_number(query.get("start", "0")),
            limit=_number(query.get("limit", "50")),
        )
        caller = self._leaves.caller(session, peer_of(request), request.match_info["site"])
        return reply(await caller.call(routes.FIND_KUBE_CLUSTERS, asked))

    # parts

    async def _here(self, request: web.Request) -> WebSession:
        """The session of who asks about this cluster."""
        session = await self.sessions.of(request)
        site = request.match_info["site"]
        if site not in (self._cluster, "-current-"):
            raise NotFound(f"the cluster {site[:100]!r} is not known here, or is not shown in browsers")
        return session

    async def _ask(self, session: WebSession, request: web.Request, route: routes.Route[Any, Any], asked: Any) -> Any:
        """Calls auth as the user."""
        return await session.caller(peer_of(request)).call(route, asked)

    def _told(self, session: WebSession) -> web.Response:
        token, until = session.bearer()
        return reply(
            SessionReply(
                token=token,
                expires_in=max(int((until - self._clock.now()).total_seconds()), 0),
                sessionExpires=rfc3339(session.expires),
                sessionInactiveTimeout=int(session.idle_timeout * 1000),
                user=session.user,
                cluster=self._cluster,
            )
        )


def _factor(proof: wm.KeyProof, code: str) -> m.FactorResponse | None:
    return proof.factor() or (m.FactorResponse(totp_code=code) if code else None)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise BadRequest(f"{text[:20]!r} is no number")
    return int(text)


def _done() -> web.Response:
    return web.json_response({"message": "ok"})

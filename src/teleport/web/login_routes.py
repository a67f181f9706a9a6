"""Logins of `tsh`: by password and second factor here, or by a browser that answers for a tsh elsewhere.

Nothing of a person is kept here: what was typed goes to auth, and the answer back. What tries anything is limited by
address before auth is asked, and a failed login always reads the same. Who collects the answer of a browser asks often:
there only what auth refuses counts as an attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.web import messages as wm
from teleport.web.attempts import Attempts, named
from teleport.web.bodies import body_of, browser_login_reply, certs_reply, client_address, reply
from teleport.web.origin import check_csrf
from teleport.web.session import Caller
from teleport.web.session_routes import Handler


class LoginRoutes:
    """Handlers and where they are reached."""

    def __init__(self, auth: Caller, attempts: Attempts) -> None:
        """`auth` is called as the proxy itself."""
        self._auth = auth
        self._attempts = attempts

    def add(self, add: Callable[[str, str, Handler], Any], prefix: str) -> None:
        """Puts the routes into an application."""
        add("POST", f"{prefix}/webapi/ssh/certs", self._ssh_certs)
        add("POST", f"{prefix}/webapi/mfa/login/begin", self._login_begin)
        add("POST", f"{prefix}/webapi/mfa/login/finish", self._ssh_certs)
        add("POST", f"{prefix}/webapi/login/browser", self._begin_browser_login)
        add("GET", f"{prefix}/webapi/login/browser/{{id}}", self._browser_login)
        add("POST", f"{prefix}/webapi/login/browser/{{id}}", self._finish_browser_login)
        add("POST", f"{prefix}/webapi/login/browser/{{id}}/certs", self._collect_browser_login)

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

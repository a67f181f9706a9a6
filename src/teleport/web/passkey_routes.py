"""Signing in with a passkey: the routes of the sign-in page that ask for no name and no password.

Both are for strangers: they are limited as attempts are, and auth keeps nothing for a challenge. What is refused reads
as any login that is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.web import messages as wm
from teleport.web.attempts import Attempts
from teleport.web.bodies import body_of, client_address, reply
from teleport.web.origin import check_csrf, check_same_origin
from teleport.web.session import Caller
from teleport.web.session_routes import Handler, SessionRoutes
from teleport.web.sessions import Proved


class PasskeyRoutes:
    """Handlers and where they are reached."""

    def __init__(self, sessions: SessionRoutes, attempts: Attempts, auth: Caller) -> None:
        """`auth` is called as the proxy itself."""
        self._sessions = sessions
        self._attempts = attempts
        self._auth = auth

    def add(self, add: Callable[[str, str, Handler], Any], prefix: str) -> None:
        """Puts the routes into an application."""
        add("POST", f"{prefix}/webapi/mfa/login/passkey", self.challenge)
        add("POST", f"{prefix}/webapi/sessions/passkey", self.log_in)

    async def challenge(self, request: web.Request) -> web.Response:
        """What any passkey is asked."""
        self._attempts.limit(request)
        check_same_origin(request)
        check_csrf(request)
        made = await self._auth.call(routes.PASSKEY_CHALLENGE, m.Empty())
        assert made.webauthn is not None, "it is for a passkey"
        asked = wm.assertion_options(made.webauthn)
        return reply(wm.LoginChallenge(challenge_id=made.id, totp_challenge=False, webauthn_challenge=asked))

    async def log_in(self, request: web.Request) -> web.Response:
        """A new session, of whoever the passkey says that it is; whatever cookie came along, that one ends."""
        self._attempts.limit(request)
        check_same_origin(request)
        check_csrf(request)
        asked = await body_of(request, wm.PasskeyLogin)
        proved = Proved(
            user="",
            password="",
            otp_token="",
            factor=asked.factor(),
            client_addr=client_address(request),
            user_agent=request.headers.get("User-Agent", ""),
            passwordless=True,
        )
        begin = self._sessions.sessions.begin(proved)
        return await self._sessions.entered(request, await self._attempts.tried(request, "a passkey", begin))

"""What is behind the links of invitations and resets: whoever holds one sets a password and a second factor, once.

That proves as much as a login does: a page that asks for it is signed in at once. A program gets no session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import rfc3339
from teleport.errors import BadRequest
from teleport.web import messages as wm
from teleport.web.attempts import Attempts
from teleport.web.bodies import body_of, client_address, reply
from teleport.web.origin import check_csrf, check_page, check_same_origin
from teleport.web.pages import qr_png
from teleport.web.session import Caller
from teleport.web.session_routes import SessionRoutes


class LinkRoutes:
    """Handlers and where they are reached."""

    def __init__(self, auth: Caller, attempts: Attempts, browsers: SessionRoutes | None) -> None:
        """Without `browsers` nobody is signed in."""
        self._auth = auth
        self._attempts = attempts
        self._browsers = browsers

    def add(
        self, add: Callable[[str, str, Callable[[web.Request], Awaitable[web.Response]]], Any], prefix: str
    ) -> None:
        """Puts the routes into an application."""
        api = f"{prefix}/webapi"
        add("POST", f"{api}/mfa/token/{{token}}/registerchallenge", self.challenge)
        add("GET", f"{api}/users/password/token/{{token}}", self.show)
        add("PUT", f"{api}/users/password/token", self.finish)

    async def show(self, request: web.Request) -> web.Response:
        """Whose link it is, and what an authenticator app needs."""
        self._attempts.limit(request)
        token = request.match_info["token"]
        asked = m.UserTokenRequest(token=token)
        info = await self._attempts.tried(request, "a link", self._auth.call(routes.USER_TOKEN, asked))
        return reply(
            wm.PasswordTokenReply(
                tokenId=token,
                user=info.user,
                qr=qr_png(info.totp_url) if info.totp_url else "",
                kind=info.kind,
                cluster=info.cluster,
                second_factor=info.second_factor,
                passwordless=info.passwordless,
                totp_secret=info.totp_secret,
                totp_url=info.totp_url,
                expires=rfc3339(info.expires),
            )
        )

    async def challenge(self, request: web.Request) -> web.Response:
        """What a new hardware key is asked with."""
        self._attempts.limit(request)
        check_csrf(request)
        body = await body_of(request, wm.RegisterChallengeRequest)
        asked = m.UserTokenChallengeRequest(token=request.match_info["token"], passwordless=body.passwordless)
        made = await self._attempts.tried(request, "a link", self._auth.call(routes.USER_TOKEN_CHALLENGE, asked))
        if made.webauthn is None:
            raise BadRequest("hardware keys do not count here")
        return reply(wm.RegisterChallenge(challenge_id=made.id, webauthn=wm.creation_options(made.webauthn)))

    async def finish(self, request: web.Request) -> web.Response:
        """Sets what was chosen. With `sign_in` a page of this proxy, which proves that it is one, is signed in, too;
        where that user may not log in, it reads what a program reads."""
        self._attempts.limit(request)
        check_csrf(request)
        asked = await body_of(request, wm.PasswordTokenRequest)
        made = asked.webauthn_creation_response
        finish = m.FinishUserTokenRequest(
            token=asked.token,
            password=wm.from_base64(asked.password, "password"),
            otp_token=asked.second_factor_token,
            proof=m.NewFactorProof(id=asked.challenge_id, webauthn=made.message()) if made is not None else None,
            device_name=asked.device_name,
            client_addr=client_address(request),
        )
        session = None
        if asked.sign_in and self._browsers is not None:
            check_same_origin(request)
            check_page(request)
            agent = request.headers.get("User-Agent", "")
            session = await self._browsers.sessions.begin_by_link(finish, agent)
        else:
            await self._auth.call(routes.FINISH_USER_TOKEN, finish)
        if session is None or self._browsers is None:
            return web.json_response({"message": "ok"})
        return await self._browsers.entered(request, session)

"""Leases of plain ssh, for whoever holds the link to one: who asks for it, and the answer of a hardware key.

Both are limited by address before anything is asked of auth; the approval is a page's own (CSRF).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import rfc3339
from teleport.web import messages as wm
from teleport.web.attempts import Attempts
from teleport.web.bodies import body_of, reply
from teleport.web.origin import check_csrf
from teleport.web.session import Caller
from teleport.web.session_routes import Handler


class LeaseRoutes:
    """Handlers and where they are reached."""

    def __init__(self, auth: Caller, attempts: Attempts) -> None:
        """`auth` is called as the proxy itself."""
        self._auth = auth
        self._attempts = attempts

    def add(self, add: Callable[[str, str, Handler], Any], prefix: str) -> None:
        """Puts the routes into an application."""
        add("GET", f"{prefix}/webapi/mfa/lease/{{token}}", self._lease_asked)
        add("POST", f"{prefix}/webapi/mfa/lease/{{token}}", self._approve_lease)

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

"""Rotations in the browser: who would be left behind by one, and its steps.

Auth decides about each step as for `tctl auth rotate`. A page says besides in which phase it showed the authorities, so
that nobody takes a step out of a state that somebody else has changed meanwhile.
"""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web
from msgspec.structs import replace

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import BadRequest
from teleport.web.admin_desk import Add, Desk, number, told
from teleport.web.bodies import body_of

MOST_SHOWN: Final = 200  # of those who would be left behind; the rest is counted
GRACE: Final = 48 * 3600  # seconds


class RotateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /webapi/sites/:site/authorities/rotate: one step of these authorities, from the phase that was shown."""

    types: list[str]  # user, host, jwt, openssh
    phase: str
    seen: str
    mode: str = "manual"
    grace_period: float = float(GRACE)  # seconds, of a rotation that begins; 0: keys are replaced at once
    force: bool = False  # go on although live services have not followed


class RotationRoutes:
    """Handlers and where they are reached."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def add(self, add: Add, prefix: str) -> None:
        """Puts the routes into an application."""
        api = f"{prefix}/webapi/sites/{{site}}/authorities"
        add("GET", f"{api}/plan", self.plan)
        add("POST", f"{api}/rotate", self.rotate)

    async def plan(self, request: web.Request) -> web.Response:
        """Which keys end when, and whose certificates would count no more."""
        session = await self._desk.session(request)
        asked = m.RotationPlanRequest(
            types=request.query.getall("type", []), grace_period=number(request, "grace_period", GRACE)
        )
        found = await self._desk.ask(session, request, routes.ROTATION_PLAN, asked)
        rest = max(len(found.left_behind) - MOST_SHOWN, 0)
        return told(replace(found, left_behind=found.left_behind[:MOST_SHOWN], more=found.more + rest))

    async def rotate(self, request: web.Request) -> web.Response:
        session = await self._desk.session(request)
        asked = await body_of(request, RotateBody)
        if not asked.types or not asked.seen:
            raise BadRequest("a step names its authorities, and the phase in which they were seen")
        step = m.RotateRequest(
            types=asked.types,
            phase=asked.phase,
            mode=asked.mode,
            grace_period=asked.grace_period,
            force=asked.force,
            seen=asked.seen,
        )
        return told(await self._desk.ask(session, request, routes.ROTATE, step))

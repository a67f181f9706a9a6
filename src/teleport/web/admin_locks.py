"""Locks in the browser: somebody or something is stopped at once, open sessions included."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import msgspec
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import Clock, rfc3339
from teleport.errors import BadRequest, NotFound, TeleportError
from teleport.resources.codec import checked, to_json
from teleport.resources.lock import TARGETS, Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.web.admin_desk import Add, Desk, done, told
from teleport.web.bodies import body_of
from teleport.web.session import WebSession


class LockRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/sites/:site/locks: one target, and until when."""

    target: dict[str, str]  # user, role, login, node, mfa_device, serial or session, and its name
    message: str = ""
    ttl: float = 0  # seconds; 0: until `expires`, or until it is removed
    expires: datetime | None = None
    confirm: bool = False  # also when nobody is left who may edit roles


class LockRoutes:
    """Handlers and where they are reached."""

    def __init__(self, desk: Desk, clock: Clock) -> None:
        self._desk = desk
        self._clock = clock

    def add(self, add: Add, prefix: str) -> None:
        """Puts the routes into an application."""
        api = f"{prefix}/webapi/sites/{{site}}/locks"
        add("GET", api, self.found)
        add("POST", api, self.create)
        add("DELETE", f"{api}/{{name}}", self.remove)

    async def found(self, request: web.Request) -> web.Response:
        """All locks, those in force first."""
        session = await self._desk.session(request)
        found, more = await self._desk.all_of(session, request, "lock")
        now = self._clock.now()
        shown = [_shown(lock, now) for lock in found if isinstance(lock, Lock)]
        shown.sort(key=lambda lock: (not lock["in_force"], lock["kind"], lock["target"]))
        return told({"items": shown, "more": more})

    async def create(self, request: web.Request) -> web.Response:
        session = await self._desk.session(request)
        asked = await body_of(request, LockRequest)
        unknown = set(asked.target) - set(TARGETS)
        if unknown or len(asked.target) != 1:
            raise BadRequest(f"a lock is on one of {', '.join(TARGETS)}")
        target = LockTarget(**asked.target)
        spec = LockSpec(target=target, message=asked.message, expires=self._end(asked))
        lock = checked(Lock(metadata=Metadata(name=str(uuid.uuid4())), spec=spec))
        store = m.StoreRequest(item=m.Document(to_json(lock)), confirm=asked.confirm)
        await self._desk.ask(session, request, routes.STORE["lock"], store)
        # afterwards: nothing is in the way of a lock
        return told({"name": lock.name, "warning": await self._unknown(session, request, target)})

    async def remove(self, request: web.Request) -> web.Response:
        session = await self._desk.session(request)
        asked = m.ExpelRequest(name=request.match_info["name"])
        await self._desk.ask(session, request, routes.REMOVE["lock"], asked)
        return done()

    def _end(self, asked: LockRequest) -> datetime | None:
        """When the lock ends; None for never. Raises `BadRequest`."""
        now = self._clock.now()
        if asked.ttl and asked.expires is not None:
            raise BadRequest("ttl and expires both say when the lock ends")
        if asked.ttl:
            if not 1 <= asked.ttl <= 10 * 365 * 86400:
                raise BadRequest("a lock holds for a second at least and for ten years at most, or until it is removed")
            return (now + timedelta(seconds=asked.ttl)).replace(microsecond=0)
        if asked.expires is not None and (asked.expires.tzinfo is None or asked.expires <= now):
            raise BadRequest("a lock ends at a time to come, written with its zone")
        return asked.expires

    async def _unknown(self, session: WebSession, request: web.Request, target: LockTarget) -> str:
        """What is wrong with the target's name; empty when something has it, or nobody can tell."""
        if target.kind not in ("user", "role", "node"):
            return ""
        try:
            asked = m.GetRequest(name=getattr(target, target.kind))
            await self._desk.ask(session, request, routes.GET[target.kind], asked)
        except NotFound:
            return f"there is no {target.kind} of this name: the lock stops nobody now"
        except TeleportError:
            return ""  # several hosts have that name, and all are meant; or the user may lock and not look
        return ""


def _shown(lock: Lock, now: datetime) -> dict[str, Any]:
    ends = [end for end in (lock.spec.expires, lock.metadata.expires) if end is not None]
    target = lock.spec.target
    return {
        "name": lock.name,
        "kind": target.kind,
        "target": getattr(target, target.kind) if target.kind else "",
        "message": lock.spec.message,
        "expires": rfc3339(min(ends)) if ends else None,
        "in_force": lock.in_force(now),
    }

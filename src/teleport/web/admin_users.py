"""Users in the browser: who there is, invitations and resets, roles and traits (`protocols.md` 2)."""

from __future__ import annotations

import msgspec
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import BadRequest
from teleport.web.admin_desk import Add, Desk, done, flag, number, told
from teleport.web.bodies import body_of, reply


class InviteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/users."""

    name: str
    roles: list[str]
    traits: dict[str, list[str]] = {}
    ttl: float = 3600  # seconds that the link holds


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """PUT /webapi/users: all of a user that is changed here, as it was at `revision`."""

    name: str
    roles: list[str]
    traits: dict[str, list[str]] | None = None  # None: as they are
    revision: int
    confirm: bool = False  # also when nobody is left who may edit roles


class ResetRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/users/password/token."""

    name: str
    ttl: float = 8 * 3600


class UserRoutes:
    """Handlers and where they are reached."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def add(self, add: Add, prefix: str) -> None:
        """Puts the routes into an application."""
        api = f"{prefix}/webapi/users"
        add("GET", api, self.found)
        add("POST", api, self.invite)
        add("PUT", api, self.change)
        add("DELETE", f"{api}/{{username}}", self.remove)
        add("POST", f"{api}/{{username}}/unlock", self.unlock)
        add("POST", f"{api}/password/token", self.reset)

    async def found(self, request: web.Request) -> web.Response:
        """A page of users: `search`, `sort`, `start`, `limit`."""
        session = await self._desk.session(request)
        sort = request.query.get("sort", "name")
        asked = m.FindUsersRequest(
            search=request.query.get("search", ""),
            sort=sort.removeprefix("-"),
            descending=sort.startswith("-"),
            start=number(request, "start", 0),
            limit=number(request, "limit", 50),
        )
        return reply(await self._desk.ask(session, request, routes.FIND_USERS, asked))

    async def invite(self, request: web.Request) -> web.Response:
        """A new user, and the link for the first login: the only time that it is shown."""
        session = await self._desk.session(request)
        asked = await body_of(request, InviteRequest)
        add = m.AddUserRequest(name=asked.name, roles=asked.roles, traits=asked.traits, ttl=asked.ttl)
        return _link(await self._desk.ask(session, request, routes.ADD_USER, add))

    async def change(self, request: web.Request) -> web.Response:
        """Roles and traits. Refused when somebody else changed the user since it was looked at."""
        session = await self._desk.session(request)
        asked = await body_of(request, ChangeRequest)
        if asked.revision < 1:
            raise BadRequest("a change names the revision that it is of", hint="load the list again")
        update = m.UpdateUserRequest(
            name=asked.name, roles=asked.roles, traits=asked.traits, revision=asked.revision, force=asked.confirm
        )
        await self._desk.ask(session, request, routes.UPDATE_USER, update)
        return done()

    async def remove(self, request: web.Request) -> web.Response:
        session = await self._desk.session(request)
        asked = m.ExpelRequest(name=request.match_info["username"], force=flag(request, "confirm"))
        await self._desk.ask(session, request, routes.REMOVE["user"], asked)
        return done()

    async def unlock(self, request: web.Request) -> web.Response:
        """Ends the lockout after failed logins; locks that somebody made stay."""
        session = await self._desk.session(request)
        asked = m.UnlockUserRequest(name=request.match_info["username"])
        return reply(await self._desk.ask(session, request, routes.UNLOCK_USER, asked))

    async def reset(self, request: web.Request) -> web.Response:
        """Ends password and second factors, and answers the link for new ones."""
        session = await self._desk.session(request)
        asked = await body_of(request, ResetRequest)
        reset = m.ResetUserRequest(name=asked.name, ttl=asked.ttl)
        return _link(await self._desk.ask(session, request, routes.RESET_USER, reset))


def _link(made: m.UserToken) -> web.Response:
    return told({"user": made.user, "url": made.url, "expires": made.expires})

"""Roles in the browser: as YAML and as a document side by side, what is wrong with one, and what it gives.

Looking a role over needs no cluster, as with `tctl roles lint`; but it is work, so it is for those who may list roles,
for a few at once, and beside the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import msgspec
import yaml
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.authz.lint import lint_role
from teleport.authz.sentences import role_sentences
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.resources.codec import MAX_DOCUMENT, Resource, from_json, to_document, to_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.parse import parse_resources, to_yaml
from teleport.resources.role import Role
from teleport.resources.yaml_document import MAX_DEPTH, InvalidDocument, Problems
from teleport.transport.turns import Turns
from teleport.web.admin_desk import Add, Desk, done, flag, told
from teleport.web.bodies import body_of
from teleport.web.session import WebSession

AT_ONCE: Final = 2  # roles that are looked over
OF_ONE: Final = 4  # of one user that wait
MOST: Final = 2 * MAX_DOCUMENT  # bytes that come: a role as large as auth takes one, as text in JSON
SOURCE: Final = "role"


class RoleText(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/roles and /webapi/roles/check, PUT /webapi/roles/:name: the role as text, or as a document."""

    yaml: str = ""
    document: dict[str, Any] | None = None  # for a check, in place of the text
    revision: int = 0  # that a change is of
    confirm: bool = False  # also when nobody is left who may edit roles
    compare: bool = False  # for a check: also whom it touches


class RoleRoutes:
    """Handlers and where they are reached."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._looking = Turns("roles", at_once=AT_ONCE, of_one=OF_ONE)

    def add(self, add: Add, prefix: str) -> None:
        """Puts the routes into an application."""
        api = f"{prefix}/webapi/roles"
        add("GET", api, self.found)
        add("POST", api, self.create)
        add("POST", f"{api}/check", self.check)
        add("GET", f"{api}/{{name}}", self.one)
        add("PUT", f"{api}/{{name}}", self.change)
        add("DELETE", f"{api}/{{name}}", self.remove)

    async def found(self, request: web.Request) -> web.Response:
        """All roles, each with its first sentences."""
        session = await self._desk.session(request)
        found, more = await self._desk.all_of(session, request, "role")
        return told({"items": [_summary(role) for role in found if isinstance(role, Role)], "more": more})

    async def one(self, request: web.Request) -> web.Response:
        """A role whole, with the revision that a change names."""
        session = await self._desk.session(request)
        asked = m.GetRequest(name=request.match_info["name"])
        found = await self._desk.ask(session, request, routes.GET["role"], asked)
        role = from_json(bytes(found.item))
        assert isinstance(role, Role)
        async with self._looking.of(session.user):
            text = await asyncio.to_thread(to_yaml, role)
        return told({"name": role.name, "revision": found.revision, "yaml": text, **_shown(role)})

    async def check(self, request: web.Request) -> web.Response:
        """What is wrong with a role, with its place; what it would give, and with `compare` whom it touches."""
        session = await self._desk.session(request)
        listed = await self._desk.ask(session, request, routes.LIST["role"], m.ListRequest(limit=1))
        if not listed.items:
            raise AccessDenied("you may not list roles")
        asked = await self._asked(session, request)
        problems = Problems()
        async with self._looking.of(session.user):
            text = asked.yaml if asked.document is None else await asyncio.to_thread(_as_text, asked.document)
            try:
                role = await asyncio.to_thread(_read, text, problems)
            except InvalidDocument as invalid:
                wrong = [_place(one.line, one.path, found=one.found, allowed=one.allowed) for one in invalid.problems]
                return told({"ok": False, "yaml": text, "problems": wrong})
        notices = [_place(one.line, one.path, text=one.text) for one in problems.notices]
        answer = {"ok": True, "yaml": text, "name": role.name, "problems": [], "notices": notices, **_shown(role)}
        if asked.compare:
            item = m.Document(b"[" + to_json(role) + b"]")
            try:
                answer["touches"] = await self._desk.ask(
                    session, request, routes.DIFF_ACCESS, m.AccessDiffRequest(roles=item)
                )
            except TeleportError as error:
                answer["touches_unknown"] = error.message
        return told(answer)

    async def create(self, request: web.Request) -> web.Response:
        session = await self._desk.session(request)
        asked = await self._asked(session, request)
        role = await self._role(session, asked)
        store = m.StoreRequest(item=m.Document(to_json(role)), confirm=asked.confirm)
        stored = await self._desk.ask(session, request, routes.STORE["role"], store)
        return done(stored.note)

    async def change(self, request: web.Request) -> web.Response:
        """Refused when somebody else changed or removed the role since it was looked at."""
        session = await self._desk.session(request)
        asked = await self._asked(session, request)
        if asked.revision < 1:
            raise BadRequest("a change names the revision that it is of", hint="load the role again")
        role = await self._role(session, asked)
        if role.name != request.match_info["name"]:
            raise BadRequest(
                f"a role keeps its name; the text is of {role.name!r}", hint="make a new role, and remove this one"
            )
        store = m.StoreRequest(
            item=m.Document(to_json(role)), force=True, confirm=asked.confirm, revision=asked.revision
        )
        stored = await self._desk.ask(session, request, routes.STORE["role"], store)
        return done(stored.note)

    async def remove(self, request: web.Request) -> web.Response:
        session = await self._desk.session(request)
        asked = m.ExpelRequest(name=request.match_info["name"], force=flag(request, "confirm"))
        await self._desk.ask(session, request, routes.REMOVE["role"], asked)
        return done()

    async def _asked(self, session: WebSession, request: web.Request) -> RoleText:
        """What was sent. Much is taken from those only who could probably do something with it."""
        may = any(self._desk.may(session, Kind.ROLE, verb) for verb in (Verb.CREATE, Verb.UPDATE))
        return await body_of(request, RoleText, most=MOST if may else 0)

    async def _role(self, session: WebSession, asked: RoleText) -> Role:
        async with self._looking.of(session.user):
            return await asyncio.to_thread(_read, asked.yaml, Problems())


def _read(text: str, problems: Problems) -> Role:
    """The one role of a text. Raises `InvalidDocument` with every mistake, `BadRequest`."""
    found: list[Resource] = parse_resources(text, SOURCE, problems)
    if len(found) != 1:
        raise BadRequest(f"this is for one role, the text has {len(found)} resources")
    (role,) = found
    if not isinstance(role, Role):
        raise BadRequest(f"this is for a role, the text has a {role.kind}")
    return role


def _as_text(document: Mapping[str, Any]) -> str:
    """A document as the text that is looked over. Raises `BadRequest` for one that nobody could read."""
    if _deeper(document, MAX_DEPTH):
        raise BadRequest(f"the document is deeper than {MAX_DEPTH} levels")
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _deeper(value: object, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return not levels or any(_deeper(one, levels - 1) for one in inside)


def _shown(role: Role) -> dict[str, Any]:
    return {
        "document": to_document(role),
        "sentences": [asdict(one) for one in role_sentences(role)],
        "remarks": [asdict(one) for one in lint_role(role)],
    }


def _summary(role: Role) -> dict[str, Any]:
    return {
        "name": role.name,
        "version": role.version,
        "description": role.metadata.description,
        "logins": list(role.allow.logins),
        "node_labels": {key: list(values) for key, values in role.allowed_node_labels.items()},
        "rules": len(role.allow.rules),
        "remarks": len(lint_role(role)),
    }


def _place(line: int, path: str, **what: str) -> dict[str, Any]:
    return {"line": line, "path": path, **what}

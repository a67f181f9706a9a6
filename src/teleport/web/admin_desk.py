"""What the routes of administration have in common: whose request it is, and that auth is asked as that user.

Nothing is decided here: each route calls the one of auth that tctl calls for the same thing, with the user's own
certificate and the browser's address, and shows the answer. A change shows the page's token besides the bearer's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import BadRequest, NotFound
from teleport.resources.codec import Resource, from_json
from teleport.resources.kinds import Kind, Verb
from teleport.web.origin import SAFE, check_page
from teleport.web.session import WebSession
from teleport.web.sessions import WebSessions
from teleport.web.tunnel import peer_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Add = Callable[[str, str, Handler], Any]
MOST_PAGES: Final = 20  # of a list that is shown whole
ASKED_AT_ONCE: Final = 1000  # resources of a page


class Desk:
    """Asks auth as the user of a browser's session."""

    def __init__(self, sessions: WebSessions, cluster: str) -> None:
        self._sessions = sessions
        self.cluster = cluster

    async def session(self, request: web.Request) -> WebSession:
        """Whose request it is. Raises `SessionOver`, `AccessDenied`, `NotFound` for another cluster's."""
        session = await self._sessions.of(request)
        if request.method not in SAFE:
            check_page(request)
        site = request.match_info.get("site", self.cluster)
        if site not in (self.cluster, "-current-"):
            raise NotFound(f"the cluster {site[:100]!r} is not known here, or is not shown in browsers")
        return session

    def may(self, session: WebSession, kind: Kind, verb: Verb) -> bool:
        """Whether auth would probably allow it: for how much work is taken on, never for whether something is done."""
        return self._sessions.may(session, kind, verb)

    async def ask(self, session: WebSession, request: web.Request, route: routes.Route[Any, Any], asked: Any) -> Any:
        """Calls auth as the user."""
        return await session.caller(peer_of(request)).call(route, asked)

    async def all_of(self, session: WebSession, request: web.Request, kind: str) -> tuple[list[Resource], bool]:
        """Every resource of a kind that the user may see, and whether there are more than a list shows."""
        found = [from_json(bytes(item)) async for item in self.documents(session, request, kind)]
        return found, len(found) >= MOST_PAGES * ASKED_AT_ONCE

    async def documents(self, session: WebSession, request: web.Request, kind: str) -> AsyncIterator[m.Document]:
        """As `all_of`, as they travel."""
        start = ""
        for _ in range(MOST_PAGES):
            asked = m.ListRequest(start_key=start, limit=ASKED_AT_ONCE)
            page = await self.ask(session, request, routes.LIST[kind], asked)
            for item in page.items:
                yield item
            if not page.next_key or page.next_key == start:
                return
            start = page.next_key


def number(request: web.Request, name: str, default: int) -> int:
    """A number of the query."""
    text = request.query.get(name, "") or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise BadRequest(f"{name} is a number, not {text[:20]!r}")
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    """Whether the query says `true`."""
    return request.query.get(name) == "true"


def told(message: msgspec.Struct | dict[str, Any]) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=msgspec.json.encode(message), content_type="application/json")


def done(note: str = "") -> web.Response:
    """It was done; `note` is what a person should know of how."""
    return told({"message": "ok", **({"note": note} if note else {})})

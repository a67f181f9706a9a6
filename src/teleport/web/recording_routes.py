"""The routes of recordings: found, played, taken along as files.

Each reading is on record at auth before its first byte comes, and says what it was for. An export is never a page of
this origin: it is an attachment, of no type that browsers show, and may do nothing if one does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import BadRequest, NotFound
from teleport.recording.export import ExportFormat
from teleport.recording.format.frames import canonical_name
from teleport.web.bodies import reply
from teleport.web.evidence_asking import Asking, attachment, moment, number, text
from teleport.web.recording_feed import converted, exported, played
from teleport.web.session import WebSession

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE: Final = 200
MATCHES: Final = 50
KINDS: Final = {
    ExportFormat.CAST: "application/x-asciicast",
    ExportFormat.HTML: "application/octet-stream",
    ExportFormat.TEXT: "application/octet-stream",
}
ENDINGS: Final = {ExportFormat.CAST: "cast", ExportFormat.HTML: "html", ExportFormat.TEXT: "txt"}


class RecordingRoutes:
    """Handlers and where they are reached."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def add(self, add: Callable[[str, str, Handler], Any], prefix: str) -> None:
        """Puts the routes into an application."""
        site = f"{prefix}/webapi/sites/{{site}}"
        add("GET", f"{site}/recordings", self.page)
        add("GET", f"{site}/recordings/search", self.search)
        add("GET", f"{site}/recordings/{{sid}}/{{form:cast|html|text}}", self.export)
        for namespace in ("", "/namespaces/default"):
            add("GET", f"{site}{namespace}/sessions/{{sid}}/stream", self.play)

    async def page(self, request: web.Request) -> web.Response:
        """Recordings, newest first."""
        session = await self._asking.here(request)
        asked = m.ListRecordingsRequest(
            limit=number(request, "limit", 50, PAGE), newest_first=True, **_filters(request)
        )
        return reply(await self._asking.ask(session, request, routes.LIST_RECORDINGS, asked))

    async def search(self, request: web.Request) -> web.Response:
        """Sessions that showed `text`. One answer holds what a few seconds found; `startKey` goes on."""
        session = await self._asking.here(request)
        asked = m.SearchRecordingsRequest(
            text=text(request, "text"), limit=number(request, "limit", 20, MATCHES), **_filters(request)
        )
        return reply(await self._asking.ask(session, request, routes.SEARCH_RECORDINGS, asked))

    async def play(self, request: web.Request) -> web.StreamResponse:
        """Lines for the player (`web.recording_feed`)."""
        session = await self._asking.here(request)
        name = _name(request)
        pieces = converted(self._bytes(session, request, name, "play"), played, name)
        return await self._asking.stream(request, session, pieces, {"Content-Type": "application/x-ndjson"})

    async def export(self, request: web.Request) -> web.StreamResponse:
        """A file that plays or tells it."""
        session = await self._asking.here(request)
        name, form = _name(request), ExportFormat(request.match_info["form"])
        pieces = converted(self._bytes(session, request, name, str(form)), exported(form), name)
        headers = attachment(f"{name}.{ENDINGS[form]}", KINDS[form])
        return await self._asking.stream(request, session, pieces, headers)

    async def _bytes(
        self, session: WebSession, request: web.Request, name: str, form: str
    ) -> AsyncGenerator[bytes, None]:
        """The recording as it is stored."""
        asked = m.RecordingRequest(sid=name, form=form)
        async with aclosing(self._asking.caller(session, request).download(routes.READ_RECORDING, asked)) as pieces:
            async for piece in pieces:
                yield piece


def _filters(request: web.Request) -> dict[str, Any]:
    return {
        "user": text(request, "user"),
        "host": text(request, "host"),
        "login": text(request, "login"),
        "kind": text(request, "kind"),
        "start": moment(request, "from"),
        "end": moment(request, "to"),
        "start_key": text(request, "startKey"),
    }


def _name(request: web.Request) -> str:
    try:
        return canonical_name(request.match_info["sid"])
    except BadRequest as error:
        raise NotFound(error.message) from None

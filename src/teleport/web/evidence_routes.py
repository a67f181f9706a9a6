"""The routes about what happened and happens: events, sessions that run, numbers over time.

Auth decides, for the user, as it does for tctl: who may not list events gets none here either.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import msgspec
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import Clock, rfc3339
from teleport.errors import BadRequest, LimitExceeded, NotFound
from teleport.recording.sanitise import one_line
from teleport.web.bodies import reply
from teleport.web.evidence_asking import Asking, attachment, moment, number, text
from teleport.web.session import WebSession

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE: Final = 500  # events of one answer
EXPORTED: Final = 1000  # events that an export asks for at a time
TYPES: Final = 50
CAUSE: Final = 400  # characters of why events wait
HOURS: Final = 31 * 24  # that a picture may show
COLUMNS: Final = (
    "time", "event", "code", "user", "login", "server_hostname", "sid", "addr.remote", "success", "message", "error",
    "uid",
)  # fmt: skip
_FORMULA: Final = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20")  # the wide forms count, too


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """GET .../dashboard: hours in which something was counted."""

    start: str
    end: str
    hours: list[m.HourCounts]
    complete: bool  # false: ask again, not everything is counted yet
    waiting: m.EventsWaiting | None  # what is not counted, since it is not in the log yet


class EvidenceRoutes:
    """Handlers and where they are reached."""

    def __init__(self, asking: Asking, clock: Clock) -> None:
        self._asking = asking
        self._clock = clock

    def add(self, add: Callable[[str, str, Handler], Any], prefix: str) -> None:
        """Puts the routes into an application."""
        site = f"{prefix}/webapi/sites/{{site}}"
        add("GET", f"{site}/events/search", self.search)
        add("GET", f"{site}/events/export", self.export)
        add("GET", f"{site}/dashboard", self.dashboard)
        for namespace in ("", "/namespaces/default"):
            add("GET", f"{site}{namespace}/sessions", self.sessions)
            add("GET", f"{site}{namespace}/sessions/{{sid}}", self.session)
            add("GET", f"{site}{namespace}/sessions/{{sid}}/events", self.session_events)

    async def search(self, request: web.Request) -> web.Response:
        """A page of events, newest first unless `order=asc`."""
        session = await self._asking.here(request)
        return await self._page(session, request, _query(request, number(request, "limit", 50, PAGE)))

    async def session_events(self, request: web.Request) -> web.Response:
        """The events of one session, oldest first."""
        session = await self._asking.here(request)
        asked = m.SearchEventsRequest(
            sid=_sid(request),
            limit=number(request, "limit", PAGE, PAGE),
            start_key=text(request, "startKey"),
            oldest_first=True,
        )
        return await self._page(session, request, asked)

    async def _page(self, session: WebSession, request: web.Request, asked: m.SearchEventsRequest) -> web.Response:
        page = await self._asking.ask(session, request, routes.SEARCH_EVENTS, asked)
        body = {
            "events": [_event(line) for line in page.lines],
            "startKey": page.next_key,
            "waiting": _waiting(page.waiting),
            "notice": one_line(page.notice, CAUSE),
        }
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    async def export(self, request: web.Request) -> web.StreamResponse:
        """All that a search finds, newest first: the stored lines, which can be proved, or a table."""
        session = await self._asking.here(request)
        form = request.query.get("format", "jsonl")
        if form not in ("jsonl", "csv"):
            raise BadRequest(f"there is no form {form[:20]!r} of events", hint="jsonl, csv")
        asked = _query(request, EXPORTED)
        stamp = self._clock.now().strftime("%Y%m%d-%H%M%S")
        kind = "application/jsonl" if form == "jsonl" else "text/csv; charset=utf-8"
        lines = self._all(session, request, asked)
        pieces = lines if form == "jsonl" else _table(lines)
        return await self._asking.stream(request, session, pieces, attachment(f"events-{stamp}.{form}", kind))

    async def _all(
        self, session: WebSession, request: web.Request, asked: m.SearchEventsRequest
    ) -> AsyncGenerator[bytes, None]:
        for _ in range(self._asking.pages(request)):
            page = await self._asking.ask(session, request, routes.SEARCH_EVENTS, asked)
            if page.lines:
                yield "".join(f"{line}\n" for line in page.lines).encode()
            if not page.next_key or page.next_key == asked.start_key:
                return
            asked = msgspec.structs.replace(asked, start_key=page.next_key)
        raise LimitExceeded("that cluster's log has no end; ask for a shorter time", hint="from and to say which")

    async def sessions(self, request: web.Request) -> web.Response:
        """Those that run and that the user may join or see."""
        session = await self._asking.here(request)
        return reply(await self._asking.ask(session, request, routes.RUNNING_SESSIONS, m.Empty()))

    async def session(self, request: web.Request) -> web.Response:
        """One of them; of one that two hosts tell of, both."""
        session = await self._asking.here(request)
        sid = _sid(request)
        running = await self._asking.ask(session, request, routes.RUNNING_SESSIONS, m.Empty())
        found = [one for one in running.sessions if one.sid == sid]
        if not found:
            raise NotFound("there is no session with this id that you may join or see")
        return reply(m.RunningSessions(sessions=found))

    async def dashboard(self, request: web.Request) -> web.Response:
        """Numbers of the last hours."""
        session = await self._asking.here(request)
        hours = number(request, "hours", 24, HOURS)
        end = self._clock.now().replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        start = end - timedelta(hours=hours)
        found = await self._asking.ask(
            session, request, routes.COUNT_EVENTS, m.CountEventsRequest(start=start, end=end)
        )
        return reply(
            Dashboard(
                start=rfc3339(start),
                end=rfc3339(end),
                hours=found.hours,
                complete=found.complete,
                waiting=_waiting(found.waiting),
            )
        )


def _query(request: web.Request, limit: int) -> m.SearchEventsRequest:
    types = [one for given in request.query.getall("include", []) for one in given.replace(";", ",").split(",") if one]
    if len(types) > TYPES or any(len(one) > 64 for one in types):
        raise BadRequest(f"include names up to {TYPES} types of events")
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest("order is asc or desc")
    return m.SearchEventsRequest(
        start=moment(request, "from"),
        end=moment(request, "to"),
        types=types,
        user=text(request, "user"),
        host=text(request, "host"),
        login=text(request, "login"),
        sid=text(request, "sid"),
        text=text(request, "text"),
        limit=limit,
        start_key=text(request, "startKey"),
        oldest_first=order == "asc",
    )


def _waiting(found: m.EventsWaiting | None) -> m.EventsWaiting | None:
    """Another cluster's word, perhaps."""
    return found and msgspec.structs.replace(found, cause=one_line(found.cause, CAUSE))


def _sid(request: web.Request) -> str:
    sid = request.match_info["sid"]
    if len(sid) > 100:
        raise NotFound("there is no session with this id")
    return sid


def _event(line: str) -> dict[str, Any]:
    """The event, as it stands in the log; a line that damage made no JSON is shown as it is."""
    try:
        found = msgspec.json.decode(line.encode())
    except (msgspec.DecodeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"event": "damaged", "line": line}


async def _table(lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events as a table. No cell begins as a formula does, or with what a spreadsheet leaves out before one."""
    try:
        yield _row(COLUMNS)
        async for some in lines:
            rows = []
            for line in some.splitlines():
                event = _event(line.decode())
                rows.append(_row([_cell(event.get(name, "")) for name in COLUMNS]))
            yield b"".join(rows)
    finally:
        await lines.aclose()


def _cell(value: object) -> str:
    shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    shown = one_line(shown, 4096)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def _row(cells: tuple[str, ...] | list[str]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerow(cells)
    return written.getvalue().encode()

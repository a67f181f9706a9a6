"""What the routes of the record have in common: whose request it is, what its query says, answers that are streamed.

The record of another cluster is kept there: it is asked as `web.leaves` does it, and decides.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import datetime
from typing import Any, Final

from aiohttp import web

from teleport.api import routes
from teleport.errors import BadRequest, ConnectionProblem, LimitExceeded
from teleport.web.leaves import Leaves
from teleport.web.session import UserCaller, WebSession
from teleport.web.sessions import WebSessions
from teleport.web.tunnel import peer_of

MOST: Final = 32  # streams of all sessions at once
MOST_OF_ONE: Final = 4  # of one user, in all browsers
STILL: Final = 60.0  # seconds without progress after which a stream is given up
UNSENT: Final = 128 * 1024  # bytes that the kernel holds and has not sent
PAGES_ELSEWHERE: Final = 200  # of another cluster's list
MAX_TEXT: Final = 200  # characters of anything that is searched for


class Asking:
    """Asks auth as the user of a browser's session, and streams answers to it."""

    def __init__(self, sessions: WebSessions, leaves: Leaves) -> None:
        self.sessions = sessions
        self._leaves = leaves
        self._streams: Counter[str] = Counter()

    async def here(self, request: web.Request) -> WebSession:
        """The session of who asks. Raises `SessionOver`, and as `Leaves.caller` for a cluster that cannot be asked."""
        session = await self.sessions.of(request)
        self.caller(session, request)
        return session

    def caller(self, session: WebSession, request: web.Request) -> UserCaller:
        """What calls the auth of the cluster that the request names, as the user."""
        return self._leaves.caller(session, peer_of(request), request.match_info["site"])

    def pages(self, request: web.Request) -> int:
        """How many pages of a list are asked for, one after the other: another cluster may never come to an end."""
        own = request.match_info["site"] in (self._leaves.cluster, "-current-")
        return sys.maxsize if own else PAGES_ELSEWHERE

    async def ask(self, session: WebSession, request: web.Request, route: routes.Route[Any, Any], asked: Any) -> Any:
        """Calls that auth as the user."""
        return await self.caller(session, request).call(route, asked)

    async def stream(
        self,
        request: web.Request,
        session: WebSession,
        pieces: AsyncGenerator[bytes, None],
        headers: dict[str, str],
    ) -> web.StreamResponse:
        """Sends `pieces` while the session lasts and the browser takes them. What goes wrong before the first piece is
        told as usual; later the connection breaks off, so that nobody takes a part for the whole."""
        with self._slot(session), session.socket():
            response = web.StreamResponse(headers=headers)
            sending = asyncio.create_task(_send(request, response, pieces), name="stream to a browser")
            ending = asyncio.create_task(session.ended.wait(), name="end of the session of a stream")
            try:
                await asyncio.wait({sending, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    raise ConnectionProblem("the session has ended")
                await sending
            except Exception:
                if not response.prepared:
                    raise
                if request.transport is not None:
                    request.transport.abort()
            finally:
                for task in (sending, ending):
                    task.cancel()
                await asyncio.gather(sending, ending, return_exceptions=True)
            return response

    @contextmanager
    def _slot(self, session: WebSession) -> Iterator[None]:
        if self._streams[session.user] >= MOST_OF_ONE or self._streams.total() >= MOST:
            raise LimitExceeded("too many recordings and exports are being sent already", hint="wait until one ends")
        self._streams[session.user] += 1
        try:
            yield
        finally:
            self._streams[session.user] -= 1
            if not self._streams[session.user]:
                del self._streams[session.user]


async def _send(request: web.Request, response: web.StreamResponse, pieces: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(pieces):
        piece = await anext(pieces, b"")
        _show_progress(request)
        await response.prepare(request)
        while piece:
            async with asyncio.timeout(STILL):
                await response.write(piece)
            piece = await anext(pieces, b"")
        with suppress(ConnectionResetError):
            await response.write_eof()


def _show_progress(request: web.Request) -> None:
    """Has the kernel hold little of what is not on its way yet. It would take megabytes, and then nothing until a third
    of that has gone: on a slow line longer than `STILL`."""
    below = request.transport.get_extra_info("socket") if request.transport is not None else None
    if below is not None and below.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):  # the reader is gone
            below.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


def attachment(name: str, kind: str) -> dict[str, str]:
    """Headers of what is kept as a file, and is never a page of ours, whatever it holds and whoever opens it here."""
    return {
        "Content-Type": kind,
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    }


def number(request: web.Request, name: str, default: int, most: int) -> int:
    """A number of the query from 1 to `most`."""
    text = request.query.get(name, "") or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most):
        raise BadRequest(f"{name} is a number from 1 to {most}, not {text[:20]!r}")
    return int(text)


def text(request: web.Request, name: str) -> str:
    """A text of the query."""
    found = request.query.get(name, "")
    if len(found) > MAX_TEXT:
        raise BadRequest(f"{name} has at most {MAX_TEXT} characters")
    return found


def moment(request: web.Request, name: str) -> datetime | None:
    """A time of the query, RFC 3339 with its zone; None when it names none."""
    found = request.query.get(name, "")
    if not found:
        return None
    try:
        when = datetime.fromisoformat(found)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise BadRequest(f"{name} is no time: {found[:40]!r}", hint="as in 2026-05-01T10:00:00Z")
    return when

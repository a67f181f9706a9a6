"""The route of web terminals: who may open one, how many there may be, and where each ends (`docs/web-terminal.md`).

Rules: nothing is done for a websocket before its cookie, its origin and its page's token were looked at; it ends with
the browser's session; what it asks of a host is decided by that host, with the certificate of that session.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from aiohttp import web

from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.web.clusters import OtherClusters
from teleport.web.session import SessionOver, WebSession
from teleport.web.sessions import WebSessions
from teleport.web.terminal_reach import Destination, ShellWays, parsed_host
from teleport.web.terminal_session import Terminal, refuse, unless_ended
from teleport.web.terminal_socket import HELLO, Closing, Gone, TerminalSocket
from teleport.web.tunnel import peer_of
from teleport.wire import web_terminal as wt
from teleport.wire.web_terminal import End, Kind

log = logging.getLogger(__name__)

OF_SESSION: Final = 32  # terminals of one browser's session
OF_USER: Final = 64
OF_PROXY: Final = 4096
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TerminalRoutes:
    """Handlers, and what is open."""

    def __init__(
        self,
        sessions: WebSessions,
        ways: ShellWays,
        cluster: str,
        others: Callable[[], OtherClusters | None],
        staying: Callable[[web.Request], AbstractContextManager[None]],
    ) -> None:
        """`staying` marks a request that became a websocket: a daemon that leaves waits for it."""
        self._sessions = sessions
        self._ways = ways
        self._cluster = cluster
        self._others = others
        self._staying = staying
        self._of_session: Counter[str] = Counter()
        self._of_user: Counter[str] = Counter()

    def add(self, add: Callable[[str, str, Handler], Any], prefix: str) -> None:
        """Puts the routes into an application."""
        add("GET", f"{prefix}/webapi/sites/{{site}}/connect", self.connect)

    @property
    def open(self) -> int:
        """How many terminals there are."""
        return self._of_user.total()

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """A terminal, as long as its socket is open."""
        session = await self._sessions.at_door(request)
        socket = TerminalSocket()
        if not socket.response.can_prepare(request):
            raise BadRequest("a terminal is a websocket")
        params = wt.Params.parse(request.query.get("params", ""))
        to = self._destination(request, params)
        with self._staying(request), session.socket():
            await socket.prepare(request)
            try:
                with self._counted(session):
                    await unless_ended(session, socket, self._serve(session, socket, params, to, request))
            except Gone:
                pass  # nobody is left to be told
            except Closing as end:
                await socket.close(end.code, end.reason)
            except wt.BadMessage as error:
                log.info("terminal of %s cut off: %s", session.user, error.message)
                await socket.close(End.BAD, error.message)
            finally:
                await socket.close(End.AGAIN, "the proxy leaves")  # does nothing when it is closed
        return socket.response

    async def _serve(
        self, session: WebSession, socket: TerminalSocket, params: wt.Params, to: Destination, request: web.Request
    ) -> None:
        try:
            hello = await socket.expect(Kind.HELLO, wt.Hello, HELLO)
            await self._sessions.enters(session, hello.token, request)
        except SessionOver as error:
            raise Closing(End.NOT_LOGGED_IN, error.message) from None
        except AccessDenied as error:
            await refuse(socket, error)
            return
        await Terminal(self._ways, session, socket, params, to, peer_of(request)).run(hello)

    def _destination(self, request: web.Request, params: wt.Params) -> Destination:
        site = request.match_info["site"]
        if site == "-current-":
            site = self._cluster
        if site != self._cluster and self._others() is None:
            raise NotFound(f"the cluster {site[:100]!r} is not known here")
        if len(site) > 200 or not site.isprintable():
            raise NotFound("there is no such cluster")
        host, port = parsed_host(params.server_id)
        return Destination(site, host, port, params.login)

    @contextmanager
    def _counted(self, session: WebSession) -> Iterator[None]:
        """Counts a terminal. Raises `Closing` when there are too many."""
        if (
            self._of_session[session.id] >= OF_SESSION
            or self._of_user[session.user] >= OF_USER
            or self.open >= OF_PROXY
        ):
            raise Closing(End.TOO_MANY, "there are too many terminals; close some")
        for counts, key in ((self._of_session, session.id), (self._of_user, session.user)):
            counts[key] += 1
        try:
            yield
        finally:
            for counts, key in ((self._of_session, session.id), (self._of_user, session.user)):
                counts[key] -= 1
                if not counts[key]:
                    del counts[key]

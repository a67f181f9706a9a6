"""One terminal of a page: reaches the host, begins or comes back to a session there, and ends it as it has to end.

How it ends decides what becomes of the session on the host. A page that says so, and a browser's session that is
over, end it: the host hears end-of-file and the channel's close. A page that went away, a connection that was lost and
a proxy that leaves end nothing: the connection breaks, and the host keeps the session for two minutes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from teleport.errors import (
    SECOND_FACTOR_DUE,
    AccessDenied,
    BadRequest,
    ConnectionProblem,
    LimitExceeded,
    NotFound,
    TeleportError,
)
from teleport.recording.sanitise import one_line
from teleport.ssh.client_session import RemoteExit, RemoteSession, ToldSession
from teleport.ssh.surface import TerminalRequest, TerminalSize
from teleport.web.session import WebSession
from teleport.web.terminal_factor import FactorRefused, session_certificate
from teleport.web.terminal_flow import INPUT, Input, Output
from teleport.web.terminal_reach import Destination, Reached, ShellWays, reach
from teleport.web.terminal_socket import Closing, Gone, TerminalSocket
from teleport.wire import returning
from teleport.wire import web_terminal as wt
from teleport.wire.web_terminal import End, Kind

log = logging.getLogger(__name__)

WAITS: Final = 120  # seconds that a host keeps a session whose terminal is gone
LAST_OUTPUT: Final = 10.0  # seconds for the page to take the rest, once the session is over
REPAINT: Final = 0.3  # seconds after which a terminal that is back gets its true size in any case
ENDING: Final = 1.0  # seconds for a host to take the end of a session
OVER: Final = "your session has ended; log in again"
WINDOW: Final = 256 * 1024  # bytes on their way from the host: what is seen before an interrupt is felt
_TERM: Final = "xterm-256color"
_RESUME: Final = "terminal"  # what a session signs: how a terminal comes back
REFUSED: Final = 5.0  # seconds for a host to say that it refuses
BESIDE: Final = 4096  # bytes of a host's refusal that are kept
_CODES: Final = (
    (AccessDenied, "denied"),
    (NotFound, "not_found"),
    (ConnectionProblem, "unreachable"),
    (LimitExceeded, "limit"),
    (BadRequest, "bad_request"),
)


class SessionGone(NotFound):
    """There is nothing to come back to."""


async def refuse(socket: TerminalSocket, error: TeleportError) -> None:
    """Tells the page what failed, or is refused. Raises `Closing`."""
    if isinstance(error, SessionGone):
        code = "gone"
    elif isinstance(error, FactorRefused):
        code = "mfa"
    else:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "failed")
    await socket.send(Kind.ERROR, wt.Failed(code=code, message=one_line(error.message), hint=one_line(error.hint)))
    raise Closing(End.DONE, "")


async def unless_ended(session: WebSession, socket: TerminalSocket, work: Coroutine[Any, Any, None]) -> None:
    """Does the work for a page, until the browser's session ends: then what runs is ended, the socket closed, and
    `Gone` raised."""
    doing = asyncio.create_task(work, name=f"terminal of {session.user}")
    ended = asyncio.create_task(session.ended.wait(), name="end of a web session")
    try:
        await asyncio.wait([doing, ended], return_when=asyncio.FIRST_COMPLETED)
        if session.ended.is_set():
            doing.cancel()
            # The page hears it at once, whether or not the host does.
            await asyncio.gather(socket.close(End.NOT_LOGGED_IN, OVER), doing, return_exceptions=True)
            raise Gone
        doing.result()
    finally:
        for task in (doing, ended):
            task.cancel()
        await asyncio.gather(doing, ended, return_exceptions=True)


class Terminal:
    """Serves one page."""

    def __init__(
        self,
        ways: ShellWays,
        session: WebSession,
        socket: TerminalSocket,
        params: wt.Params,
        to: Destination,
        peer: tuple[str, int],
    ) -> None:
        self._ways = ways
        self._session = session
        self._socket = socket
        self._params = params
        self._to = to
        self._peer = peer
        self._back: wt.Resumed | None = None  # where it comes back to
        self._window = uuid4()
        self._size = params.term
        self._output = Output(0)
        self._input: Input | None = None
        self._remote: RemoteSession | None = None
        self._beside = bytearray()  # what the host says beside the output, before it is known that a session runs
        self._runs = False
        self._shown = asyncio.Event()  # a program has shown something
        self._repaint: asyncio.TimerHandle | None = None
        self._due = 0  # bytes of credit that the page was not told of yet
        self._telling: asyncio.Task[None] | None = None

    async def run(self, hello: wt.Hello) -> None:
        """Until it is over. Raises `Gone`, `Closing`, `BadMessage`."""
        self._output.granted(hello.credit)
        try:
            if hello.resume:
                self._back = self._resumed(hello.resume)
            await self._go()
        except TeleportError as error:
            if isinstance(error, wt.BadMessage):
                raise
            if self._back is not None and isinstance(error, ConnectionProblem):
                raise Closing(End.AGAIN, error.message) from None  # the page tries on, for as long as the host waits
            await refuse(self._socket, error)

    def _resumed(self, signed: str) -> wt.Resumed:
        text = self._session.signed(_RESUME, signed[: wt.MAX_MESSAGE])
        if text is None:
            raise AccessDenied(
                "This terminal was opened in another session of a browser, so it does not come back here.",
                hint="join it, from the list of active sessions",
            )
        found = wt.read(text.encode(), wt.Resumed)
        if found.cluster != self._to.cluster:
            raise BadRequest("the terminal was on a host of another cluster")
        self._to = Destination(found.cluster, found.host_id, 0, found.login)
        self._window = UUID(found.window)
        return found

    # the beginning

    async def _go(self) -> None:
        reached = await self._reach()
        try:
            try:
                told = await self._begin(reached)
                if told is None:
                    await self._not_refused()
            except SessionGone:
                reached, told = await self._former(reached)
            await self._started(told, reached)
            await self._both_ways()
        finally:
            if self._repaint is not None:
                self._repaint.cancel()
            if self._session.ended.is_set():
                await self._end()
                await reached.close()
            else:
                reached.cut()

    async def _reach(self) -> Reached:
        certificate = self._session.certificate
        try:
            return await reach(self._ways, self._session, certificate, self._to, self._peer)
        except TeleportError as error:
            if SECOND_FACTOR_DUE not in error.message:
                raise
        if self._to.cluster != self._session.identity.cluster:
            raise AccessDenied(
                f"the cluster {self._to.cluster} asks for a second factor of its own, which cannot be given from here",
                hint=f"ask an administrator of {self._to.cluster}: require_session_mfa of the roles that are mapped",
            )
        caller = self._session.caller(self._peer)
        certificate = await session_certificate(caller, self._socket, self._session.key.public, self._to)
        return await reach(self._ways, self._session, certificate, self._to, self._peer)

    async def _former(self, reached: Reached) -> tuple[Reached, ToldSession]:
        """The session that a page comes back to may be one of an older process of this host, which was replaced and
        runs its sessions to their end. Raises `SessionGone`."""
        for way in self._ways.former(reached.host_id, self._peer):
            reached.cut()
            self._output, credit = Output(0), self._output.credit.left
            self._output.granted(credit)
            self._shown.clear()
            self._beside.clear()
            with suppress(TeleportError):
                reached = await reach(self._ways, self._session, reached.certificate, self._to, self._peer, by=way)
                told = None
                try:
                    told = await self._begin(reached)
                finally:
                    if told is None:  # it is not there, or this one's time is over: nobody else has that connection
                        reached.cut()
                if told is not None:
                    return reached, told
        raise SessionGone("This session is over.", hint="open a new terminal")

    async def _begin(self, reached: Reached) -> ToldSession | None:
        """Starts a session, joins one, or comes back; what the host says of it, if it says so."""
        environment = {returning.TERMINAL_VARIABLE: str(self._window)}
        size = TerminalSize(self._size.w, self._size.h)
        sid, mode = self._params.sid, self._params.mode
        if self._back is not None:
            sid, mode = self._back.sid, self._back.mode
            # A program repaints when the size changes: this one is not the true one yet.
            size = TerminalSize(self._size.w, max(self._size.h - 1, 1))
        if sid:
            environment["TELEPORT_SESSION"] = sid
            if mode:
                environment["TELEPORT_JOIN_MODE"] = mode
        else:
            environment["TELEPORT_DETACH"] = f"{WAITS}s"
        self._remote = await reached.client.start(
            terminal=TerminalRequest(_TERM, size, b"\0"),
            environment=environment,
            on_output=self._came,
            window=WINDOW,
        )
        self._output.of(self._remote)  # what has come until then waits there
        self._input = Input(self._remote, self._granted)
        return self._remote.told

    async def _started(self, told: ToldSession | None, reached: Reached) -> None:
        """Tells the page that the session runs."""
        self._runs = True
        sid, resume, mode = "", "", ""
        if told is not None:
            sid, mode = told.sid, told.mode
            back = wt.Resumed(
                sid=told.sid,
                host_id=reached.host_id,
                login=self._to.login,
                cluster=self._to.cluster,
                window=str(self._window),
                mode=mode if self._params.sid else "",
            )
            resume = self._session.sign(_RESUME, msgspec.json.encode(back).decode())
        await self._socket.send(
            Kind.STARTED,
            wt.Started(
                sid=sid,
                server_id=reached.host_id,
                login=self._to.login,
                mode=mode,
                credit=INPUT,
                resume=resume,
                resumed=self._back is not None,
                lives_for=told.waits if told is not None else 0,
            ),
        )
        if self._back is not None:
            self._repaint = asyncio.get_running_loop().call_later(REPAINT, self._true_size)
        self._beside.clear()

    async def _not_refused(self) -> None:
        """A host that says nothing of the session is of another version, or refuses it: then it says why beside the
        output, and ends. Raises that as `TeleportError`."""
        assert self._remote is not None
        over = asyncio.create_task(self._remote.wait(), name="a refusal")
        shown = asyncio.create_task(self._shown.wait(), name="first output")
        try:
            await asyncio.wait([over, shown], timeout=REFUSED, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (over, shown):
                task.cancel()
            await asyncio.gather(over, shown, return_exceptions=True)
        if over.cancelled() or self._shown.is_set():
            return
        found = over.result()
        if found.status is None and not found.signal:
            raise ConnectionProblem("The connection to the host was lost.", hint="try again")
        if self._back is not None:
            raise SessionGone("This session is over.", hint="open a new terminal")
        what, _, then = one_line(self._beside.decode("utf-8", "replace").strip()).partition(" Next: ")
        raise AccessDenied(what or "the host refused the session", hint=then.rstrip("."))

    def _came(self, data: bytes, is_stderr: bool) -> None:
        """Output of the host."""
        if not is_stderr:
            self._shown.set()
        elif not self._runs and len(self._beside) < BESIDE:
            self._beside += data
        if self._repaint is not None:
            self._true_size()
        self._output.came(data)

    def _true_size(self) -> None:
        if self._repaint is not None:
            self._repaint.cancel()
            self._repaint = None
        if self._remote is not None:
            self._remote.resize(TerminalSize(self._size.w, self._size.h))

    def _granted(self, size: int) -> None:
        """The page may send more. It is told so by one message at a time: one that reads nothing has none pile up."""
        self._due += size
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_credit(), name="credit of a terminal")

    async def _tell_credit(self) -> None:
        with suppress(Gone):
            while self._due:
                due, self._due = self._due, 0
                await self._socket.send(Kind.CREDIT, wt.Credit(bytes=due))

    # while it runs

    async def _both_ways(self) -> None:
        assert self._remote is not None
        assert self._input is not None
        over = asyncio.create_task(self._remote.wait(), name="end on the host")
        page = asyncio.create_task(self._listen(), name="what a page says")
        shown = asyncio.create_task(self._show(), name="what a page is shown")
        credit = asyncio.create_task(self._input.run(), name="input that a host takes")
        tasks = (over, page, shown, credit)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if over.done() and not page.done() and not shown.done():
                self._output.end()
                await asyncio.wait([page, shown], timeout=LAST_OUTPUT, return_when=asyncio.FIRST_COMPLETED)
            if page.done():
                page.result()  # raises, unless the page says that it is done
                await self._end()
                raise Closing(End.DONE, "")
            if shown.done():
                shown.result()
            if credit.done():
                credit.result()
            await self._tell_end(over.result())
        finally:
            ending = tasks if self._telling is None else (*tasks, self._telling)
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _listen(self) -> None:
        """Until the page says that it is done. Raises `Gone`, `BadMessage`."""
        assert self._input is not None
        while True:
            kind, payload = await self._socket.receive()
            match kind:
                case Kind.RAW:
                    self._session.touched()
                    self._input.came(payload)
                case Kind.RESIZE:
                    self._size = wt.read(payload, wt.Resize).parsed
                    self._true_size()
                case Kind.CREDIT:
                    self._output.granted(wt.read(payload, wt.Credit).bytes)
                case Kind.QUIT:
                    return
                case Kind.FACTOR | None:
                    pass  # an answer that came too late; a type of a newer page
                case _:
                    raise wt.BadMessage("a message came out of turn")

    async def _show(self) -> None:
        while data := await self._output.next():
            await self._socket.output(data)

    async def _tell_end(self, found: RemoteExit) -> None:
        """Raises `Closing`."""
        if found.message == returning.ELSEWHERE:
            raise Closing(End.ELSEWHERE, returning.ELSEWHERE)
        if found.status is None and not found.signal:
            raise Closing(End.AGAIN, "the connection to the host was lost")
        over = wt.Over(reason=one_line(found.message), status=found.status, signal=found.signal)
        await self._socket.send(Kind.CLOSED, over)
        raise Closing(End.DONE, "")

    async def _end(self) -> None:
        """Ends the session, or this part in it: it does not come back."""
        if self._remote is None:
            return
        self._remote.resume_output()  # the end comes after what is under way
        with suppress(OSError, TimeoutError):
            self._remote.write_eof()
            self._remote.close()
            async with asyncio.timeout(ENDING):
                await self._remote.wait()

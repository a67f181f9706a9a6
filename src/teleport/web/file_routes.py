"""Files of hosts, uploaded and downloaded by browsers: `/webapi/sites/:site/nodes/:server/:login/scp`.

The proxy runs SFTP as the user of the browser's session, with that session's own key (`terminal_reach`). What may be
moved is decided and put on record at the host, as for `tsh scp`: options of roles, rules about paths, hashes. Here a
file passes through: it is never held, never looked at, and never shown as a page.

A download is asked for with the page's token or, by a link, with a ticket (`file_tickets`); an upload with the page's
token alone. A transfer ends at once when the browser's session does. An upload that is cut leaves at the host what had
come by then, as tsh scp does.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import Clock
from teleport.errors import SECOND_FACTOR_DUE, AccessDenied, BadRequest, LimitExceeded, NotFound, TeleportError
from teleport.transfer.sftp import Refused, Sftp
from teleport.web import messages as wm
from teleport.web.attempts import Attempts
from teleport.web.bodies import body_of, failure, reply
from teleport.web.file_names import attachment
from teleport.web.file_streams import blocks, open_to_read, open_to_write, write_all
from teleport.web.file_tickets import LIFE, File, Tickets
from teleport.web.session import WebSession, over
from teleport.web.sessions import WebSessions
from teleport.web.terminal_reach import Destination, ShellWays, parsed_host, reach
from teleport.web.tunnel import peer_of
from teleport.wire.sftp import Status

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")
OF_SESSION: Final = 8  # transfers at once
OF_USER: Final = 32
OF_PROXY: Final = 1000
STALLED: Final = 120.0  # seconds in which nothing moves, after which a transfer ends
ENDING: Final = 1.0  # seconds for a transfer to notice that its session is over
_REFUSED: Final[dict[int, int]] = {Status.NO_SUCH_FILE: 404, Status.PERMISSION_DENIED: 403}
_LONGEST: Final = 255  # characters of a host's or login's name


class Edge(Protocol):
    """What listens."""

    def proved(self, request: web.Request) -> None:
        """Whoever asks has proved who it is: a long request holds up nobody else."""
        ...


class TicketRequest(wm.KeyProof, frozen=True, kw_only=True):
    """POST .../scp/ticket: for which file, and what a device answers where a second factor is due."""

    location: str
    second_factor_token: str = ""


class TicketReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a link needs."""

    ticket: str
    expires_in: int  # seconds


class UploadReply(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    path: str  # on the host
    size: int


class FileRoutes:
    """Handlers and where they are reached."""

    def __init__(
        self, sessions: WebSessions, attempts: Attempts, ways: ShellWays, cluster: str, edge: Edge, clock: Clock
    ) -> None:
        self._sessions = sessions
        self._attempts = attempts
        self._ways = ways
        self._cluster = cluster
        self._edge = edge
        self._tickets = Tickets(clock, lambda: secrets.token_urlsafe(12))
        self._running: Counter[str] = Counter()  # by browser's session
        self._of_user: Counter[str] = Counter()

    def add(self, add: Callable[[str, str, Handler], Any], prefix: str) -> None:
        """Puts the routes into an application."""
        scp = f"{prefix}/webapi/sites/{{site}}/nodes/{{server}}/{{login}}/scp"
        add("GET", scp, self.download)
        add("POST", scp, self.upload)
        add("POST", f"{scp}/challenge", self.challenge)
        add("POST", f"{scp}/ticket", self.ticket)

    # handlers

    async def challenge(self, request: web.Request) -> web.Response:
        """What the user's devices are asked before files go to or come from a host whose roles ask for that."""
        session = await self._sessions.of(request)
        to = self._destination(request)
        self._refuse_elsewhere(to)
        asked = m.SessionChallengeRequest(host=to.host, port=to.port, login=to.login)
        made = await session.caller(peer_of(request)).call(routes.SESSION_CHALLENGE, asked)
        keys = wm.assertion_options(made.webauthn) if made.webauthn is not None else None
        return reply(wm.LoginChallenge(challenge_id=made.id, totp_challenge=made.totp, webauthn_challenge=keys))

    async def ticket(self, request: web.Request) -> web.Response:
        """A ticket for one file; it says nothing about whether there is one, or may be had."""
        session = await self._sessions.of(request)
        to = self._destination(request)
        asked = await body_of(request, TicketRequest)
        factor = asked.factor() or (
            m.FactorResponse(challenge_id=asked.challenge_id, totp_code=asked.second_factor_token)
            if asked.second_factor_token
            else None
        )
        certificate = ""
        if factor is not None:
            self._attempts.limit(request)
            self._refuse_elsewhere(to)
            proof = m.SessionCertRequest(host=to.host, port=to.port, login=to.login, factor=factor)
            call = session.caller(peer_of(request)).call(routes.SESSION_CERT, proof)
            certificate = (await self._attempts.tried(request, session.user, call, proves=False)).cert
        made = self._tickets.make(session, _file(to, asked.location), certificate)
        return reply(TicketReply(ticket=made, expires_in=LIFE))

    async def download(self, request: web.Request) -> web.StreamResponse:
        """The file at `location`."""
        to, location = self._destination(request), request.query.get("location", "")
        ticket = request.query.get("ticket", "")
        if ticket:
            file = _file(to, location)
            session = await self._sessions.of_link(request, lambda one: self._tickets.holds(one, file, ticket))
            certificate = self._tickets.take(session, file, ticket)
        else:
            session, certificate = await self._sessions.of(request), ""
        with self._counted(session):
            return await _while_it_lasts(session, self._sent(request, session, to, certificate, location))

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """What comes is written to `location`, or there as `filename` if that is a folder."""
        session = await self._sessions.of(request)
        to, location = self._destination(request), request.query.get("location", "")
        if request.content_type.startswith("multipart/"):
            raise BadRequest("a file is sent as it is, not within a form", hint="send it as application/octet-stream")
        ticket = request.query.get("ticket", "")
        certificate = self._tickets.take(session, _file(to, location), ticket) if ticket else ""
        with self._counted(session):
            self._edge.proved(request)
            return await _while_it_lasts(session, self._received(request, session, to, certificate, location))

    # the two ways

    async def _sent(
        self, request: web.Request, session: WebSession, to: Destination, certificate: str, location: str
    ) -> web.StreamResponse:
        async with self._sftp(request, session, to, certificate) as sftp:
            file = await open_to_read(sftp, location)
            async with aclosing(blocks(sftp, file)) as content:
                first = await anext(content, None)  # what is refused is told, as long as nothing was sent
                response = web.StreamResponse(headers=attachment(file.name))
                if file.size or first is None:
                    response.content_length = file.size
                await response.prepare(request)
                done = False
                try:
                    while first is not None:
                        async with asyncio.timeout(STALLED):
                            await response.write(first)
                        session.touched()
                        first = await anext(content, None)
                    await response.write_eof()
                    done = True
                except (TeleportError, TimeoutError) as error:
                    log.info("download of %s from %s cut: %s", session.user, to.host, error or "nobody takes it")
                except OSError as error:  # of whichever kind: the browser is gone
                    raise ConnectionResetError(str(error)) from error
                finally:
                    if not done:
                        _cut(request)  # or what came would pass for the whole
            with suppress(TeleportError):  # the file is out
                await sftp.close_handle(file.handle)
            return response

    async def _received(
        self, request: web.Request, session: WebSession, to: Destination, certificate: str, location: str
    ) -> web.StreamResponse:
        async with self._sftp(request, session, to, certificate) as sftp:
            path, handle = await open_to_write(sftp, location, request.query.get("filename", ""))
            try:
                size = await write_all(sftp, handle, _body(request), lambda _: session.touched())
            except BaseException:
                with suppress(TeleportError):
                    await sftp.close_handle(handle)
                raise
            await sftp.close_handle(handle)
            return reply(UploadReply(path=path.encode(errors="replace").decode(), size=size))

    # parts

    def _refuse_elsewhere(self, to: Destination) -> None:
        """Raises `AccessDenied` where no device of the user's could answer."""
        if to.cluster != self._cluster:
            raise AccessDenied(
                f"the cluster {to.cluster} asks for a second factor of its own, which cannot be given from here",
                hint=f"ask an administrator of {to.cluster}: require_session_mfa of the roles that are mapped",
            )

    def _destination(self, request: web.Request) -> Destination:
        """Where to. Raises `NotFound` for what no host is called."""
        asked = request.match_info
        cluster = self._cluster if asked["site"] == "-current-" else asked["site"]
        host, port = parsed_host(asked["server"])
        names = (host, cluster, asked["login"])
        if "@" in host + cluster or not all(name.isprintable() and len(name) <= _LONGEST for name in names):
            raise NotFound("there is no such host", hint="choose one of the list")
        return Destination(cluster, host, port, asked["login"])

    @contextmanager
    def _counted(self, session: WebSession) -> Iterator[None]:
        """Raises `LimitExceeded`."""
        if self._running[session.id] >= OF_SESSION:
            raise LimitExceeded(f"more than {OF_SESSION} files at the same time", hint="wait until one is through")
        if self._of_user[session.user] >= OF_USER:
            raise LimitExceeded(
                f"more than {OF_USER} files of one user at the same time", hint="wait until one is through"
            )
        if self._running.total() >= OF_PROXY:
            raise LimitExceeded("this proxy moves as many files as it may", hint="try again later")
        self._running[session.id] += 1
        self._of_user[session.user] += 1
        try:
            with session.socket():
                yield
        finally:
            self._running[session.id] -= 1
            self._of_user[session.user] -= 1
            self._running += Counter()  # forgets those that have none
            self._of_user += Counter()

    @asynccontextmanager
    async def _sftp(
        self, request: web.Request, session: WebSession, to: Destination, certificate: str
    ) -> AsyncIterator[Sftp]:
        """SFTP on the host. Raises `TeleportError`."""
        reached = await reach(self._ways, session, certificate or session.certificate, to, peer_of(request))
        try:
            sftp = Sftp(reached.client, to.host)
            try:
                await sftp.begin()
                yield sftp
            finally:
                await sftp.close()
        finally:
            if session.ended.is_set():
                reached.cut()
            else:
                await reached.close()


def _file(to: Destination, location: str) -> File:
    return File(to.cluster, to.host, to.port, to.login, location)


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    """What is sent, as it comes. Raises `BadRequest` when it stops coming, `ConnectionResetError` when it is cut."""
    while True:
        try:
            async with asyncio.timeout(STALLED):
                data = await request.content.readany()
        except TimeoutError:
            raise BadRequest(f"nothing more of the file came within {STALLED:.0f} s", hint="send it again") from None
        except (aiohttp.ClientPayloadError, aiohttp.ClientError, web.RequestPayloadError) as error:
            raise ConnectionResetError("the upload was cut") from error
        if not data:
            return
        yield data


async def _while_it_lasts(session: WebSession, work: Coroutine[Any, Any, web.StreamResponse]) -> web.StreamResponse:
    """Does the work for as long as the session lasts. Raises `SessionOver` when that ends first."""
    task = asyncio.create_task(work, name=f"a file for the web session {session.id}")
    ended = asyncio.create_task(session.ended.wait(), name=f"end of the web session {session.id}")
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise over()
        try:
            return task.result()
        except Refused as error:
            by_role = error.message.startswith("Your roles ")
            hint = "ask an administrator; tsh status shows your roles" if by_role else error.hint
            return failure(_REFUSED.get(error.status, 400), error.message, hint=hint)
        except TeleportError as error:
            if SECOND_FACTOR_DUE in error.message:  # said by the proxy, or by the host
                return failure(403, error.message, hint=error.hint, kind="mfa")
            raise
    finally:
        task.cancel()
        ended.cancel()
        await asyncio.wait({task, ended}, timeout=ENDING)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()

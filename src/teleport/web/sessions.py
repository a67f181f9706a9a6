"""The sessions of browsers that this proxy serves: taken up from their cookies, kept in memory, ended in time.

The cookie holds the session's id and a secret (`pki.web_secret`). Auth keeps the rest: any proxy of the cluster takes a
session up, also after a restart. A session holds its user's key, in memory alone, and calls auth with it: what a page
shows is decided there, as for the user's tsh. A proxy that was shown no cookie can make up no session.

Rules: a request counts only with the cookie *and* a bearer token of that session, or the page's CSRF token, and never
from another origin; a login always makes a new session; `WebSession.ended` is set within moments of what ends it, and
whoever serves a socket for a session waits for it. What one of them holds and does is `session`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import Clock
from teleport.errors import AccessDenied, LimitExceeded, TeleportError
from teleport.pki.keys import PrivateKey, PublicKey, generate_p256
from teleport.pki.web_secret import SIZE, WebSecret, parse_cookie
from teleport.resources.kinds import Kind, Verb
from teleport.resources.names import canonical_address
from teleport.transport.limits import RateLimit, who_tries
from teleport.web.bodies import client_address
from teleport.web.origin import check_page, check_same_origin
from teleport.web.session import Caller, SessionOver, Ways, WebSession, over

log = logging.getLogger(__name__)

COOKIE: Final = "__Host-session"
BACKGROUND: Final = "X-Background"  # header of requests that nobody caused: they keep no session alive
UNUSED: Final = 600.0  # seconds after which a session without requests and sockets leaves the memory
SWEEP: Final = 5.0  # seconds between looks at what has come to its end
MOST: Final = 20_000  # sessions in memory
TAKEN_UP: Final = 20.0  # cookies that one address may have looked at by auth in a second
TAKEN_UP_BURST: Final = 200.0
REFUSED: Final = 10_000  # cookies that are remembered as refused
REFUSED_FOR: Final = 30.0  # seconds, of one that auth refused


@dataclass(frozen=True, slots=True)
class Proved:
    """What a person typed and touched."""

    user: str
    password: str
    otp_token: str
    factor: m.FactorResponse | None
    client_addr: str
    user_agent: str
    passwordless: bool = False  # `factor` is a passkey's answer, which says who it is


@dataclass(slots=True)
class TakingUp:
    """Who waits for one session to be taken up: they do it one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class WebSessions:
    """Those that this proxy serves."""

    def __init__(self, auth: Caller, ways: Ways, clock: Clock) -> None:
        """`auth` is called as the proxy itself."""
        self._auth = auth
        self._ways = ways
        self._clock = clock
        self._sessions: OrderedDict[str, WebSession] = OrderedDict()  # used longest ago first
        self._taking_up: dict[str, TakingUp] = {}
        self._rate = RateLimit(TAKEN_UP, TAKEN_UP_BURST)
        self._refused: OrderedDict[str, float] = OrderedDict()  # cookies, by their proof, and until when
        self._gone: list[WebSession] = []  # whose connections are being closed

    # beginning and ending

    async def begin(self, proved: Proved) -> WebSession:
        """A new session. Raises the one `AccessDenied` of logins."""
        secret, key = WebSecret(os.urandom(SIZE)), generate_p256()
        asked = _wanted(secret, key, proved.user_agent)
        found = await self._auth.call(
            routes.BEGIN_WEB_SESSION,
            m.BeginWebSessionRequest(
                user=proved.user,
                password=proved.password,
                otp_token=proved.otp_token,
                factor=proved.factor,
                public_key=asked.public_key,
                sealed_key=asked.sealed_key,
                proof=asked.proof,
                client_addr=proved.client_addr,
                user_agent=asked.user_agent,
                passwordless=proved.passwordless,
            ),
        )
        return self._keep(WebSession(found, secret, key, self._ways, self._clock))

    async def begin_by_link(self, finish: m.FinishUserTokenRequest, user_agent: str) -> WebSession | None:
        """Sets what comes with a link, and begins a session by it; None when its user may not log in now."""
        secret, key = WebSecret(os.urandom(SIZE)), generate_p256()
        asked = msgspec.structs.replace(finish, session=_wanted(secret, key, user_agent))
        found = (await self._auth.call(routes.FINISH_USER_TOKEN, asked)).session
        return self._keep(WebSession(found, secret, key, self._ways, self._clock)) if found is not None else None

    async def replaced(self, request: web.Request) -> None:
        """Ends the session whose cookie came with a login: the browser forgets it now."""
        try:
            check_same_origin(request)
            former = await self._by_cookie(request)
            await self.end(former, client_address(request), "replaced by a login")
        except TeleportError:
            return  # there was none, or auth is away: it lapses

    def may(self, session: WebSession, kind: Kind, verb: Verb) -> bool:
        """Whether the user may do this, as far as is known here: for menus."""
        return self._ways.may(session.identity, kind, verb)

    async def end(self, session: WebSession, client_addr: str, why: str = "logged out") -> None:
        """Ends it, everywhere. Raises `ConnectionProblem` when auth cannot be told; here it has ended all the same."""
        self._drop(session, why)
        await self._auth.call(
            routes.END_WEB_SESSION, m.EndWebSessionRequest(id=session.id, proof=session.proof, client_addr=client_addr)
        )

    def ended(self, made: str, why: str) -> None:
        """Auth has ended it."""
        session = self._sessions.get(made)
        if session is not None:
            self._drop(session, why)

    # whose request it is

    async def of(self, request: web.Request, *, page: bool = False) -> WebSession:
        """The session of a request that proves it: by the cookie, and by a bearer token or, where `page` allows it, by
        the token of the page (CSRF). Raises `SessionOver`, `AccessDenied`."""
        check_same_origin(request)
        session = await self._by_cookie(request)
        if not session.bearer_holds(bearer_of(request)):
            if not page:
                raise SessionOver("the page's token is missing or too old", hint="load the page again")
            check_page(request)
        return await self._in_use(session, request)

    async def of_link(self, request: web.Request, proved: Callable[[WebSession], bool]) -> WebSession:
        """As `of`, for what a link of the page leads to: `proved` says whether its address holds what proves it."""
        check_same_origin(request)
        session = await self._by_cookie(request)
        if not proved(session):
            raise SessionOver("this link was used, is too old, or is not yours", hint="ask for the file again")
        return await self._in_use(session, request)

    async def at_door(self, request: web.Request) -> WebSession:
        """Whose websocket it would be: its cookie says, and it must name our origin. Its page still has to prove itself
        (`enters`): until then nothing is done for it."""
        check_same_origin(request, must=True)
        return await self._by_cookie(request)

    async def enters(self, session: WebSession, token: str, request: web.Request) -> None:
        """The page behind a websocket shows its bearer token. Raises `SessionOver`, `AccessDenied`."""
        if session.ended.is_set() or not session.bearer_holds(token):
            raise SessionOver("the page's token is missing or too old", hint="load the page again")
        await self._in_use(session, request)

    async def _by_cookie(self, request: web.Request) -> WebSession:
        shown = parse_cookie(request.cookies.get(COOKIE, ""))
        if shown is None:
            raise over()
        made, secret = shown
        session = self._sessions.get(made)
        if session is None:
            session = await self._take_up(made, secret, request)
        if not session.opened_by(secret):
            raise over()
        self._sessions.move_to_end(made)
        return session

    async def _in_use(self, session: WebSession, request: web.Request) -> WebSession:
        bound = session.identity.source_ip
        if bound and canonical_address(request.remote or "") != bound:
            raise AccessDenied("your session holds from the address of the login alone", hint="log in again")
        session.asked = self._clock.monotonic()
        if BACKGROUND not in request.headers:
            session.touched()
        await self.fresh(session, client_address(request))
        return session

    async def _take_up(self, made: str, secret: WebSecret, request: web.Request) -> WebSession:
        proof = secret.proof
        if self._refused.get(proof, 0.0) > self._clock.monotonic():
            raise over()
        taking = self._taking_up.setdefault(made, TakingUp())
        taking.waiting += 1
        try:
            async with taking.lock:
                known = self._sessions.get(made)
                if known is not None:
                    return known
                if not self._rate.allow(who_tries(request.remote or ""), self._clock.monotonic()):
                    raise LimitExceeded("too many sessions are asked for from this address; wait a moment")
                try:
                    found = await self._auth.call(
                        routes.USE_WEB_SESSION,
                        m.UseWebSessionRequest(id=made, proof=proof, client_addr=client_address(request)),
                    )
                    key = secret.open(found.sealed_key, PublicKey.parse(found.public_key).blob)
                except AccessDenied:
                    self._remember_refused(proof, self._clock.monotonic() + REFUSED_FOR)
                    raise over() from None
                return self._keep(WebSession(found, secret, key, self._ways, self._clock))
        finally:
            taking.waiting -= 1
            if not taking.waiting:  # before, others would have a lock of their own, and the session there were twice
                del self._taking_up[made]

    async def fresh(self, session: WebSession, client_addr: str) -> None:
        """Tells auth of the use now and then, and has certificates made anew in time; without `client_addr`, where the
        browser is, only the former. Raises `SessionOver`."""
        if not (session.use_untold() or (client_addr and session.stale())):
            return
        async with session.renewing:
            now, certs = self._clock.monotonic(), bool(client_addr) and session.stale()
            if not (session.use_untold() or certs):
                return  # another request saw to it
            asked = m.UseWebSessionRequest(id=session.id, proof=session.proof, client_addr=client_addr, certs=certs)
            try:
                found = await self._auth.call(routes.USE_WEB_SESSION, asked)
            except AccessDenied as denied:
                self._drop(session, denied.message, REFUSED_FOR)
                raise over() from None
            except TeleportError:
                if session.identity.expires <= self._clock.now():
                    raise
                return  # auth is away for a moment; what the session holds still counts
            session.told, session.idle_timeout = now, found.idle_timeout
            if found.certs is not None:
                session.renewed(found)

    # looking after them

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """For as long as the block runs sessions end with what ends them."""
        stop = self._ways.follow(self.look, lambda made: self.ended(made, "ended elsewhere"))
        task = asyncio.create_task(self._sweep(), name="web sessions")
        try:
            yield
        finally:
            stop()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            for session in [*self._sessions.values(), *self._gone]:
                session.leave()
                await asyncio.gather(*session.closing, return_exceptions=True)
            self._sessions.clear()

    def look(self) -> None:
        """Ends those that are over as the cluster is now."""
        for session in list(self._sessions.values()):
            why = self._ways.why_ended(session.identity, session.expires)
            if why:
                self._drop(session, why)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            try:
                await self.sweep()
            except TeleportError as error:
                log.warning("web sessions could not be looked after: %s", error)

    async def sweep(self) -> None:
        """Ends idle and expired sessions, and lets go of those that nobody asks for."""
        self._gone = [one for one in self._gone if one.closing]
        self.look()
        now = self._clock.monotonic()
        for session in list(self._sessions.values()):
            if session.idle_timeout and now - max(session.used, session.idle_asked) >= session.idle_timeout:
                await self._idle(session)
            elif session.use_untold():
                with suppress(SessionOver):
                    await self.fresh(session, "")
            elif not session.sockets and now - session.asked >= UNUSED:
                self._forget(session)

    async def _idle(self, session: WebSession) -> None:
        """Nobody uses it here. Auth knows whether somebody does elsewhere; if so, it stays open here, too."""
        asked = m.EndWebSessionRequest(id=session.id, proof=session.proof, idle=True)
        session.idle_asked = self._clock.monotonic()  # asked again after as long a time
        await self._auth.call(routes.END_WEB_SESSION, asked)

    def _keep(self, session: WebSession) -> WebSession:
        self._sessions[session.id] = session
        while len(self._sessions) > MOST:
            unused = next((one for one in self._sessions.values() if not one.sockets), None)
            if unused is None or unused is session:
                break
            self._forget(unused)
        why = self._ways.why_ended(session.identity, session.expires)
        if why:  # it came while this was under way
            self._drop(session, why)
            raise over()
        return session

    def _forget(self, session: WebSession) -> None:
        self._sessions.pop(session.id, None)
        session.leave()
        self._gone.append(session)

    def _drop(self, session: WebSession, why: str, refused_for: float = float("inf")) -> None:
        self._sessions.pop(session.id, None)
        self._remember_refused(session.proof, self._clock.monotonic() + refused_for)
        session.end(why)
        self._gone.append(session)

    def _remember_refused(self, proof: str, until: float) -> None:
        """Auth is not asked for it again before that: an ended session never comes back. One that auth refused may have
        been asked for from an address that it is not bound to."""
        self._refused[proof] = until
        while len(self._refused) > REFUSED:
            self._refused.popitem(last=False)


def bearer_of(request: web.Request) -> str:
    """The token beside the cookie; empty when there is none."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _wanted(secret: WebSecret, key: PrivateKey, user_agent: str) -> m.NewWebSession:
    """What auth gets of a session's secret and key."""
    return m.NewWebSession(
        public_key=key.public.line(""),
        sealed_key=secret.seal(key, os.urandom),
        proof=secret.proof,
        user_agent=user_agent,
    )

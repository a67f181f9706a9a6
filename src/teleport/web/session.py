"""One browser that is logged in: its certificates and key, its calls of auth, and what proves requests to be its own.

Rules: the key is in memory alone; the cookie's secret leaves in the cookie and nowhere else, others get proofs made of
it; what auth said last decides until when certificates count; once `ended` is set nobody gets a caller any more, and
the connections that there were are closed. Which browsers there are is `sessions`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, TypeVar

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import Clock
from teleport.errors import AccessDenied
from teleport.identity import UserIdentity
from teleport.pki.keys import PrivateKey
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.web_secret import WebSecret
from teleport.resources.kinds import Kind, Verb

log = logging.getLogger(__name__)

BEARER_LIFE: Final = timedelta(minutes=10)
SIGNED_ANEW: Final = 10.0  # seconds between attempts at a certificate of one key that is to sign
USE_TOLD: Final = 60.0  # seconds between what auth is told of the use
MOST_PLACES: Final = 4  # addresses of one session that connections to auth are kept for
MOST_CLUSTERS: Final = 4  # other clusters, of one address each time

Req = TypeVar("Req", bound=m.Request)
Rep = TypeVar("Rep", bound=m.Message)
K = TypeVar("K")


class SessionOver(AccessDenied):
    """Who asks has to log in first."""


def over() -> SessionOver:
    """The one answer to whoever is not logged in, whatever the reason."""
    return SessionOver("you are not logged in, or your session has ended", hint="log in again")


class Caller(Protocol):
    """Calls auth as somebody."""

    async def call(self, route: routes.Route[Req, Rep], request: Req) -> Rep: ...


class UserCaller(Caller, Protocol):
    """Calls auth as the user of a session."""

    def download(self, route: routes.Route[Req, Any], request: Req) -> AsyncGenerator[bytes, None]: ...

    async def renewed(self) -> None:
        """The certificate is another one: nothing new runs on the connections that there are."""
        ...

    async def close(self) -> None: ...


Pair = Callable[[], tuple[m.UserCerts, PrivateKey]]
Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Ways(Protocol):
    """What the proxy knows and reaches."""

    def identify(self, certificate: str) -> UserIdentity:
        """Whose SSH certificate (a line) it is. Raises `AccessDenied`."""
        ...

    def user_signer(self) -> bytes:
        """The key (SSH blob) that signs users' certificates now: a rotation changes it, and ends the former one. Empty
        while nothing is known."""
        ...

    def why_ended(self, identity: UserIdentity, expires: datetime) -> str:
        """Why a session of this identity is over, as the cluster is now; empty when it is not."""
        ...

    def may(self, identity: UserIdentity, kind: Kind, verb: Verb) -> bool:
        """Whether auth would probably allow a call; what menus show goes by it, and nothing else."""
        ...

    def user_caller(self, pair: Pair, address: tuple[str, int]) -> UserCaller:
        """Calls auth with the certificates and key that `pair` gives, for a browser at this address."""
        ...

    def cluster_caller(self, pair: Pair, cluster: str, dial: Dial) -> UserCaller:
        """Calls the auth of another cluster, over connections that `dial` makes."""
        ...

    def follow(self, changed: Callable[[], None], removed: Callable[[str], None]) -> Callable[[], None]:
        """Calls `changed` when locks, users or roles have changed, and `removed` with the id of each session that has
        ended; call what is returned to end that."""
        ...


class WebSession:
    """One browser that is logged in."""

    def __init__(self, found: m.WebSession, secret: WebSecret, key: PrivateKey, ways: Ways, clock: Clock) -> None:
        assert found.certs is not None
        self.id = found.id
        self.user = found.user
        self.created = found.created
        self.expires = found.expires
        self.factor = found.factor
        self.key = key
        self.ended = asyncio.Event()
        self.why = ""  # once it has ended, for the log
        self.idle_timeout = found.idle_timeout  # seconds; 0: none
        self._secret = secret
        self._ways = ways
        self._clock = clock
        self._certs = found.certs
        self.identity = ways.identify(found.certs.cert)
        self.used = self.told = clock.monotonic()  # when somebody last did something, and when auth heard of it
        self.asked = clock.monotonic()  # when a request last came
        self.idle_asked = float("-inf")  # when auth was last asked whether it is idle
        self._renewed = (b"", 0.0)  # the key that was to sign its certificates when they were last made anew, and when
        self.sockets = 0
        self.renewing = asyncio.Lock()
        self._callers: OrderedDict[str, UserCaller] = OrderedDict()
        self._elsewhere: OrderedDict[tuple[str, str], UserCaller] = OrderedDict()
        self.closing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"WebSession({self.user!r}, {self.id!r})"

    @property
    def certificate(self) -> str:
        """The SSH certificate, an OpenSSH line; with `key` it opens sessions on hosts as tsh's does."""
        return self._certs.cert

    @property
    def certs(self) -> m.UserCerts:
        """All that a login gives, as it was made last."""
        return self._certs

    def caller(self, address: tuple[str, int]) -> UserCaller:
        """Calls auth as the user, who is at `address` now. Raises `SessionOver`."""
        if self.ended.is_set():
            raise over()
        made = lambda: self._ways.user_caller(lambda: (self._certs, self.key), address)  # noqa: E731
        return self._kept(self._callers, address[0], MOST_PLACES, made)

    def caller_of(self, cluster: str, dial: Dial, address: tuple[str, int]) -> UserCaller:
        """Calls another cluster's auth as the user; `dial` connects with it. Raises `SessionOver`."""
        if self.ended.is_set():
            raise over()
        made = lambda: self._ways.cluster_caller(lambda: (self._certs, self.key), cluster, dial)  # noqa: E731
        return self._kept(self._elsewhere, (cluster, address[0]), MOST_CLUSTERS, made)

    def _kept(self, among: OrderedDict[K, UserCaller], key: K, most: int, made: Callable[[], UserCaller]) -> UserCaller:
        known = among.pop(key, None)
        among[key] = known if known is not None else made()
        while len(among) > most:
            self._close(among.popitem(last=False)[1].renewed())
        return among[key]

    def touched(self) -> None:
        """Somebody is there: a key was pressed, a page was asked for."""
        self.used = self._clock.monotonic()

    @contextmanager
    def socket(self) -> Iterator[None]:
        """For as long as the block runs the session stays in memory. The block ends when `ended` is set."""
        self.sockets += 1
        try:
            yield
        finally:
            self.sockets -= 1
            self.asked = self._clock.monotonic()

    def bearer(self) -> tuple[str, datetime]:
        """A token for the page, and its end."""
        until = min(self._clock.now() + BEARER_LIFE, self.expires)
        return self._secret.bearer(self.id, until), until

    def bearer_holds(self, token: str) -> bool:
        return self._secret.bearer_holds(self.id, token, self._clock.now())

    def sign(self, purpose: str, text: str) -> str:
        """`text`, with what proves that it comes from this session."""
        return f"{self._secret.tag(purpose, text)}.{text}"

    def signed(self, purpose: str, signed: str) -> str | None:
        """The text that `sign` was given for that purpose; None when this is not it."""
        tag, dot, text = signed.partition(".")
        return text if dot and self._secret.tag_holds(purpose, text, tag) else None

    def opened_by(self, secret: WebSecret) -> bool:
        return self._secret.same(secret)

    @property
    def proof(self) -> str:
        return self._secret.proof

    def cookie(self) -> str:
        return self._secret.cookie(self.id)

    def stale(self) -> bool:
        """Whether its certificates are to be made anew: two thirds of their time are over, or a rotation changed the
        key that signs, so that theirs counts for nothing soon."""
        issued, end = self.identity.issued or self.created, self.identity.expires
        if end < self.expires and end - self._clock.now() < (end - issued) / 3:
            return True
        wanted = self._ways.user_signer()
        if not wanted or wanted == parse_certificate_line(self._certs.cert).signer:
            return False
        asked_for, when = self._renewed  # auth may be behind what is known here: then it is asked now and then
        return wanted != asked_for or self._clock.monotonic() - when >= SIGNED_ANEW

    def use_untold(self) -> bool:
        """Whether it was used, and auth is to hear of it: often enough that it takes no session in use for idle."""
        every = min(USE_TOLD, self.idle_timeout / 4) if self.idle_timeout else USE_TOLD
        return self.used > self.told and self._clock.monotonic() - self.told >= every

    def renewed(self, found: m.WebSession) -> None:
        """Certificates were made anew."""
        assert found.certs is not None
        self._renewed = (self._ways.user_signer(), self._clock.monotonic())
        self._certs, self.identity = found.certs, self._ways.identify(found.certs.cert)
        for one in (*self._callers.values(), *self._elsewhere.values()):
            self._close(one.renewed())

    def end(self, why: str) -> None:
        """Nothing more is done with it here."""
        if not self.ended.is_set():
            self.why = why
            self.ended.set()
            log.info("web session of %s ended: %s", self.user, why)
            self.leave()

    def leave(self) -> None:
        """It leaves the memory and may be taken up again."""
        callers = (*self._callers.values(), *self._elsewhere.values())
        self._callers.clear()
        self._elsewhere.clear()
        for one in callers:
            self._close(one.close())

    def _close(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"connections of the web session {self.id}")
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)

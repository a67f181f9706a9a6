"""Tickets for files: what stands in a link to a download in place of the page's token, and carries a second factor.

A ticket is made in a browser's session, for one file on one host and one login, holds for half a minute and is good
once at a proxy: used ones are remembered for as long as they would hold, and who uses more than can be remembered is
refused. It is worth nothing without the cookie of that session. Where the roles ask for a second factor, the
certificate that it gave is inside: no secret, and of no use without the session's key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from teleport.clock import Clock
from teleport.errors import LimitExceeded
from teleport.web.session import SessionOver, WebSession

LIFE: Final = 30  # seconds
LONGEST: Final = 6 * 1024  # characters
MOST: Final = 20_000  # used ones that are remembered
OF_SESSION: Final = 1000  # of them from one browser's session
_PURPOSE: Final = "file ticket"


@dataclass(frozen=True, slots=True)
class File:
    """Which file a ticket is for."""

    cluster: str
    host: str
    port: int
    login: str
    location: str

    def digest(self) -> str:
        parts = (self.cluster, self.host, str(self.port), self.login, self.location)
        return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


class _Ticket(msgspec.Struct, frozen=True):
    id: str
    until: int
    file: str
    certificate: str = ""


class Tickets:
    """Makes and takes them."""

    def __init__(self, clock: Clock, new_id: Callable[[], str]) -> None:
        self._clock = clock
        self._new_id = new_id
        # Until when they would hold, and whose they are; used longest ago first.
        self._used: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._of_session: Counter[str] = Counter()

    def make(self, session: WebSession, file: File, certificate: str) -> str:
        until = int(self._clock.now().timestamp()) + LIFE
        made = msgspec.json.encode(_Ticket(self._new_id(), until, file.digest(), certificate)).decode()
        return base64.urlsafe_b64encode(session.sign(_PURPOSE, made).encode()).decode().rstrip("=")

    def holds(self, session: WebSession, file: File, ticket: str) -> bool:
        """Whether it is good now; it stays so."""
        return self._read(session, file, ticket) is not None

    def take(self, session: WebSession, file: File, ticket: str) -> str:
        """Uses it up, and gives the certificate inside, which may be empty. Raises `SessionOver`, `LimitExceeded`."""
        found = self._read(session, file, ticket)
        if found is None:
            raise SessionOver("this link was used, is too old, or is not yours", hint="ask for the file again")
        self._forget_old()
        if self._of_session[session.id] >= OF_SESSION or len(self._used) >= MOST:
            raise LimitExceeded("too many files were asked for by links just now", hint=f"wait {LIFE} s")
        self._used[found.id] = (found.until, session.id)
        self._of_session[session.id] += 1
        return found.certificate

    def _forget_old(self) -> None:
        now = self._clock.now().timestamp()
        while self._used and next(iter(self._used.values()))[0] < now:
            _, (_, whose) = self._used.popitem(last=False)
            self._of_session[whose] -= 1
            if not self._of_session[whose]:
                del self._of_session[whose]

    def _read(self, session: WebSession, file: File, ticket: str) -> _Ticket | None:
        if len(ticket) > LONGEST or not ticket.isascii():
            return None
        try:
            text = base64.b64decode(ticket + "=" * (-len(ticket) % 4), altchars=b"-_", validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
        signed = session.signed(_PURPOSE, text)
        if signed is None:
            return None
        found = msgspec.json.decode(signed, type=_Ticket)  # this session has written it
        good = found.until > self._clock.now().timestamp() and found.file == file.digest()
        return found if good and found.id not in self._used else None

"""Tickets for files: what stands in a link to a download in place of the page's token, and carries a second factor.

A ticket is made in a browser's session, for one file on one host and one login, holds for half a minute and is good
once at a proxy. It is worth nothing without the cookie of that session. Where the roles ask for a second factor, the
certificate that it gave is inside: no secret, and of no use without the session's key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from teleport.clock import Clock
from teleport.web.sessions import SessionOver, WebSession

LIFE: Final = 30  # seconds
LONGEST: Final = 6 * 1024  # characters
MOST: Final = 20_000  # used ones that are remembered
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
        self._used: OrderedDict[str, int] = OrderedDict()  # and until when they would hold

    def make(self, session: WebSession, file: File, certificate: str) -> str:
        until = int(self._clock.now().timestamp()) + LIFE
        made = msgspec.json.encode(_Ticket(self._new_id(), until, file.digest(), certificate)).decode()
        return base64.urlsafe_b64encode(session.sign(_PURPOSE, made).encode()).decode().rstrip("=")

    def holds(self, session: WebSession, file: File, ticket: str) -> bool:
        """Whether it is good now; it stays so."""
        return self._read(session, file, ticket) is not None

    def take(self, session: WebSession, file: File, ticket: str) -> str:
        """Uses it up, and gives the certificate inside, which may be empty. Raises `SessionOver`."""
        found = self._read(session, file, ticket)
        if found is None:
            raise SessionOver("this link was used, is too old, or is not yours", hint="ask for the file again")
        self._used[found.id] = found.until
        now = self._clock.now().timestamp()
        while self._used and (len(self._used) > MOST or next(iter(self._used.values())) < now):
            self._used.popitem(last=False)
        return found.certificate

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

"""Logging in with a browser for a tsh at a machine without one, or without a security key there.

tsh makes its key and asks for a login; a person answers on a page of the proxy, with password and second factor; tsh
fetches the certificates. They are for the key that tsh holds, so the link is no secret that opens anything: whoever
else fetches them has no use for them. What has to be kept from happening is that somebody answers for the tsh of a
stranger who sent them the link. So the page says where the tsh is, and takes no answer without the code that tsh shows
at its terminal; the login counts as one from that tsh's address. Five minutes, one answer.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import timedelta
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.auth.caller import Caller
from teleport.auth.people.logins import Logins, refused
from teleport.auth.state import ClusterState
from teleport.backend.interface import DeleteOp, Exists, PutOp
from teleport.errors import BadRequest, CompareFailed, NotFound
from teleport.pki.keys import PublicKey
from teleport.store import records
from teleport.store.records import BrowserLoginRecord

LIFE: Final = timedelta(minutes=5)
CODE_ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels, so that no words come of it (RFC 8628 section 6.1)
CODE_LENGTH: Final = 8
MAX_TRIES: Final = 5  # at the code
MAX_CLUSTER: Final = 255  # characters of a cluster's name


class BrowserLogins:
    """What tsh begins, a page answers, and tsh collects."""

    def __init__(self, state: ClusterState, logins: Logins) -> None:
        self._state = state
        self._logins = logins

    async def begin(self, caller: Caller, request: m.BeginBrowserLoginRequest) -> m.BrowserLogin:
        """A login for `request.public_key` that waits for its answer."""
        key = PublicKey.parse(request.public_key)
        if len(request.route_to_cluster) > MAX_CLUSTER:
            raise BadRequest("this cannot be the name of a cluster")
        made = secrets.token_urlsafe(24)
        code = "".join(secrets.choice(CODE_ALPHABET) for _ in range(CODE_LENGTH))
        expires = self._state.clock.now() + LIFE
        record = BrowserLoginRecord(
            public_key=key.line(""),  # anybody may begin: no more is kept than it takes
            ttl=request.ttl,
            route_to_cluster=request.route_to_cluster,
            client_addr=request.client_addr,
            code=code,
            expires=expires,
        )
        await self._state.commit([PutOp(_key(made), record.encode(), expires)], events=[])
        return m.BrowserLogin(id=made, code=code, client_addr=request.client_addr, expires=expires)

    async def show(self, caller: Caller, request: m.BrowserLoginRequest) -> m.BrowserLogin:
        """What the page says of it; the code is not among it."""
        record, _ = await self._find(request.id)
        return m.BrowserLogin(id=request.id, code="", client_addr=record.client_addr, expires=record.expires)

    async def finish(self, caller: Caller, request: m.FinishBrowserLoginRequest) -> m.Done:
        """A person's answer. Raises the one `AccessDenied` of logins for whatever they got wrong."""
        record, revision = await self._find(request.id)
        typed = request.code.upper().replace("-", "").replace(" ", "")
        if not hmac.compare_digest(typed.encode("utf-8", "surrogatepass"), record.code.encode()):
            await self._wrong_code(request.id, record, revision)
            raise BadRequest("this is not the code that tsh shows", hint="look at the terminal in which tsh runs")
        if record.certs is not None:
            raise _gone()
        login = m.LoginRequest(
            user=request.user,
            password=request.password,
            otp_token=request.otp_token,
            factor=request.factor,
            public_key=record.public_key,
            ttl=record.ttl,
            client_addr=record.client_addr,
            route_to_cluster=record.route_to_cluster,
            user_agent=request.user_agent,
            answered_from=request.client_addr,
            passwordless=request.passwordless,
        )
        certs = await self._logins.login(caller, login)
        answered = msgspec.structs.replace(record, certs=certs)
        try:
            await self._state.commit(
                [PutOp(_key(request.id), answered.encode(), record.expires)],
                conditions=[Exists(_key(request.id), revision)],
                events=[],
            )
        except CompareFailed:
            raise refused() from None
        return m.Done()

    async def collect(self, caller: Caller, request: m.BrowserLoginRequest) -> m.CollectedLogin:
        """The certificates, once, when there are any."""
        record, revision = await self._find(request.id)
        if record.certs is None:
            return m.CollectedLogin()
        try:
            await self._state.commit(
                [DeleteOp(_key(request.id))], conditions=[Exists(_key(request.id), revision)], events=[]
            )
        except CompareFailed:
            raise _gone() from None
        return m.CollectedLogin(certs=record.certs)

    async def _wrong_code(self, made: str, record: BrowserLoginRecord, revision: int) -> None:
        tries = record.tries + 1
        counted = msgspec.structs.replace(record, tries=tries)
        write = DeleteOp(_key(made)) if tries >= MAX_TRIES else PutOp(_key(made), counted.encode(), record.expires)
        try:
            await self._state.commit([write], conditions=[Exists(_key(made), revision)], events=[])
        except CompareFailed:
            raise _gone() from None

    async def _find(self, made: str) -> tuple[BrowserLoginRecord, int]:
        found = await self._state.record(_key(made), BrowserLoginRecord)
        if found is None or found[0].expires <= self._state.clock.now():
            raise _gone()
        return found


def _key(made: str) -> str:
    return records.secret_key(records.BROWSER_LOGINS, made)


def _gone() -> NotFound:
    return NotFound("this login was answered, is too old, or was never begun", hint="start again: tsh login --browser")

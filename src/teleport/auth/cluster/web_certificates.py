"""Certificates that proxies get by ACME, kept for all of them: who orders, what was issued, when to try again.

Only proxies come here, whatever roles say: a private key is among what they read, each time with an event. A proxy
orders names that it announces as its own public ones, no others, and only while it is its turn, so that a directory
hears of one order for a name at a time. A failure is everybody's: the next try is put off for all proxies.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.events import (
    AcmeAccountCreate,
    AcmeOrder,
    WebCertificateFailed,
    WebCertificateRead,
    WebCertificateUpdate,
)
from teleport.auth.caller import Caller
from teleport.auth.hosts.succession import server_of
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, Condition, Exists, PutOp
from teleport.errors import AccessDenied, BadRequest, CompareFailed, LimitExceeded, NotFound
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.acme import AccountKey, is_public_name
from teleport.pki.secret import Secret
from teleport.pki.web_chain import WebPair, read_pair
from teleport.resources.names import canonical_host
from teleport.resources.values import HostPort
from teleport.store import records

TURN: Final = timedelta(minutes=10)
CHALLENGE: Final = timedelta(minutes=10)
FIRST_RETRY: Final = timedelta(minutes=1)
LAST_RETRY: Final = timedelta(hours=8)
LONGEST: Final = 7 * 86400.0  # seconds that a directory may put orders off
MAX_TEXT: Final = 64 * 1024  # characters of a chain
LEFT: Final = 3  # of such a part of its life a certificate is renewed
TRIES: Final = 16


class WebCertificates:
    """The handlers of the routes about them."""

    def __init__(self, state: ClusterState, jitter: Callable[[], float] = random.random) -> None:
        self._state = state
        self._jitter = jitter

    def handlers(self) -> Mapping[str, Any]:
        return {
            routes.WEB_CERT_TURN.name: self.turn,
            routes.WEB_CERT_ACCOUNT.name: self.account,
            routes.WEB_CERT_CHALLENGE.name: self.challenge,
            routes.WEB_CERT_STORE.name: self.store,
            routes.WEB_CERT_FAILED.name: self.failed,
            routes.WEB_CERT_READ.name: self.read,
        }

    async def turn(self, caller: Caller, request: m.WebCertTurnRequest) -> m.WebCertTurn:
        """The turn of one proxy, with the account's key; or for how long it is not."""
        host = await self._proxy(caller, request, owns=True)
        now, key = self._state.clock.now(), records.acme_key(records.ACME_TURNS, request.directory, request.name)
        state, _ = await self._stored(request)
        if state.retry is not None and state.retry > now:
            return m.WebCertTurn(granted=False, seconds=(state.retry - now).total_seconds())
        if (due := _due(state)) is not None and due > now:  # the caller's view may be behind
            return m.WebCertTurn(granted=False, seconds=(due - now).total_seconds())
        held = await self._state.record(key, records.AcmeTurn)
        if held is not None and held[0].host_id != host and held[0].until > now:
            return m.WebCertTurn(granted=False, seconds=(held[0].until - now).total_seconds())
        where = records.acme_key(records.ACME_ACCOUNTS, request.directory)
        account = await self._state.record(where, records.AcmeAccount)
        turn = PutOp(key, records.AcmeTurn(host_id=host, until=now + TURN).encode(), now + TURN)
        writes, conditions = [turn], [_as_it_was(key, held[1] if held is not None else None)]
        if account is None:
            AccountKey(Secret(request.new_key.encode()))
            writes.append(PutOp(where, records.AcmeAccount(key=request.new_key).encode()))
            conditions.append(Absent(where))
        event = self._state.event(AcmeOrder, caller, name=request.name, directory=request.directory)
        try:
            await self._state.commit(writes, conditions=conditions, events=[event])
        except CompareFailed:
            return m.WebCertTurn(granted=False, seconds=1.0)
        made = account[0] if account is not None else records.AcmeAccount(key=request.new_key)
        return m.WebCertTurn(granted=True, seconds=TURN.total_seconds(), account_key=made.key, account_url=made.url)

    async def account(self, caller: Caller, request: m.WebCertAccountRequest) -> m.Done:
        await self._in_turn(caller, request)
        where = records.acme_key(records.ACME_ACCOUNTS, request.directory)
        stored = await self._state.record(where, records.AcmeAccount)
        if stored is None:
            raise NotFound("there is no key of an account yet")
        if not request.account_url.startswith("https://") or len(request.account_url) > 1000:
            raise BadRequest("an account at a directory is an https address")
        made = msgspec.structs.replace(stored[0], url=request.account_url)
        event = self._state.event(AcmeAccountCreate, caller, name=request.account_url, directory=request.directory)
        await self._state.commit([PutOp(where, made.encode())], conditions=[Exists(where, stored[1])], events=[event])
        return m.Done()

    async def challenge(self, caller: Caller, request: m.WebCertChallengeRequest) -> m.Done:
        await self._in_turn(caller, request)
        if len(request.digest) != 64 or set(request.digest) - set("0123456789abcdef"):
            raise BadRequest("the answer to a challenge is a digest of 32 bytes in hex")
        until = self._state.clock.now() + CHALLENGE
        await self._change(request, lambda now: {"challenge": request.digest, "challenge_until": until})
        return m.Done()

    async def store(self, caller: Caller, request: m.WebCertStoreRequest) -> m.Done:
        """Keeps a pair, from where every proxy reads it."""
        turn = await self._in_turn(caller, request)
        if len(request.chain) + len(request.key) > MAX_TEXT:
            raise BadRequest("a chain is not as long as that")
        pair = self._read(request.chain, request.key)
        now = self._state.clock.now()
        if not pair.fits(request.name):
            raise BadRequest(f"the certificate is for {', '.join(pair.names)[:200]}, and {request.name} was ordered")
        if pair.not_after <= now:
            raise BadRequest("the certificate has ended already")
        secret = records.acme_key(records.ACME_PAIRS, request.directory, request.name)
        event = self._state.event(
            WebCertificateUpdate, caller, name=request.name, directory=request.directory, valid_until=pair.not_after
        )
        writes = [PutOp(secret, records.AcmePair(chain=request.chain, key=request.key).encode())]
        fields = {
            "digest": pair.digest,
            "not_before": pair.not_before,
            "not_after": pair.not_after,
            "challenge": "",
            "challenge_until": None,
            "retry": None,
            "failures": 0,
            "error": "",
        }
        await self._change(request, lambda _: fields, writes=writes, events=[event], conditions=[turn])
        await self._let_go(request)
        return m.Done()

    async def failed(self, caller: Caller, request: m.WebCertFailedRequest) -> m.Done:
        """Puts the next try off, for all proxies: twice as long each time, or for as long as the directory asks."""
        turn = await self._in_turn(caller, request)
        event = self._state.event(
            WebCertificateFailed, caller, name=request.name, directory=request.directory, error=request.error[:1000]
        )
        asked = min(max(request.seconds, 0.0), LONGEST)

        def put_off(state: m.WebCertState) -> Mapping[str, Any]:
            failures = state.failures + 1
            wait = min(FIRST_RETRY * 2 ** min(failures - 1, 12), LAST_RETRY).total_seconds()
            wait = max(wait * (1 + self._jitter() / 4), asked)
            return {
                "challenge": "",
                "challenge_until": None,
                "retry": self._state.clock.now() + timedelta(seconds=wait),
                "failures": failures,
                "error": request.error[:1000],
            }

        await self._change(request, put_off, events=[event], conditions=[turn])
        await self._let_go(request)
        return m.Done()

    async def read(self, caller: Caller, request: m.WebCertNamed) -> m.WebCertPair:
        """The pair, for a proxy that has the name too."""
        await self._proxy(caller, request, owns=True)
        where = records.acme_key(records.ACME_PAIRS, request.directory, request.name)
        stored = await self._state.record(where, records.AcmePair)
        if stored is None:
            raise NotFound(f"there is no certificate of {request.name} by that directory")
        await self._state.tell(
            self._state.event(WebCertificateRead, caller, name=request.name, directory=request.directory)
        )
        return m.WebCertPair(chain=stored[0].chain, key=stored[0].key)

    # what they share

    async def _proxy(self, caller: Caller, request: m.WebCertNamed, *, owns: bool) -> str:
        """The calling proxy, which has to announce the name as a public one of its own."""
        identity = caller.identity
        if not (isinstance(identity, HostIdentity) and identity.role is SystemRole.PROXY):
            raise AccessDenied("only proxies have these certificates")
        if not is_public_name(request.name):
            raise BadRequest(f"{request.name[:253]!r} is no name that a directory gives certificates for")
        if not request.directory.startswith("https://") or len(request.directory) > 1000:
            raise BadRequest("an ACME directory is an https address", hint="proxy_service.acme.uri")
        if owns:
            announced = server_of(await self._state.backend.get(records.PROXIES + identity.host_id))
            addresses = announced.spec.public_addrs if announced is not None else ()
            if request.name not in {canonical_host(HostPort.parse(text, 0).host) for text in addresses}:
                raise AccessDenied(
                    f"this proxy does not announce {request.name} as its own", hint="proxy_service.public_addr"
                )
        return identity.host_id

    async def _in_turn(self, caller: Caller, request: m.WebCertNamed) -> Condition:
        """That it is the caller's turn, as a condition for what it writes."""
        host = await self._proxy(caller, request, owns=True)
        key = records.acme_key(records.ACME_TURNS, request.directory, request.name)
        held = await self._state.record(key, records.AcmeTurn)
        if held is None or held[0].host_id != host or held[0].until <= self._state.clock.now():
            raise LimitExceeded(f"it is another proxy's turn to order a certificate of {request.name}")
        return Exists(key, held[1])

    async def _let_go(self, request: m.WebCertNamed) -> None:
        key = records.acme_key(records.ACME_TURNS, request.directory, request.name)
        with suppress(NotFound, CompareFailed):
            await self._state.backend.delete(key)

    async def _stored(self, request: m.WebCertNamed) -> tuple[m.WebCertState, int | None]:
        item = await self._state.backend.get(_state_key(request))
        if item is None:
            return m.WebCertState(name=request.name, directory=request.directory), None
        return msgspec.json.decode(item.value, type=m.WebCertState), item.revision

    async def _change(
        self,
        request: m.WebCertNamed,
        change: Callable[[m.WebCertState], Mapping[str, Any]],
        *,
        writes: list[PutOp] | None = None,
        events: list[Any] | None = None,
        conditions: list[Condition] | None = None,
    ) -> None:
        for _ in range(TRIES):
            state, revision = await self._stored(request)
            made = msgspec.structs.replace(state, **change(state))
            put = PutOp(_state_key(request), msgspec.json.encode(made))
            try:
                await self._state.commit(
                    [put, *(writes or [])],
                    conditions=[_as_it_was(put.key, revision), *(conditions or [])],
                    events=events or [],
                )
                return
            except CompareFailed:
                continue
        raise CompareFailed(f"the certificate of {request.name} is being changed by many at once")

    def _read(self, chain: str, key: str) -> WebPair:
        return read_pair(chain.encode(), key.encode(), chain_name="what was issued", key_name="the request")


def _state_key(request: m.WebCertNamed) -> str:
    return records.acme_key(records.WEB_CERTIFICATES, request.directory, request.name)


def _due(state: m.WebCertState) -> datetime | None:
    """From when a certificate is renewed: a third of its life is left. None: there is none."""
    if state.not_before is None or state.not_after is None:
        return None
    return state.not_after - (state.not_after - state.not_before) / LEFT


def _as_it_was(key: str, revision: int | None) -> Condition:
    return Absent(key) if revision is None else Exists(key, revision)

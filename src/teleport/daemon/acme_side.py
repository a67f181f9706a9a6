"""Certificates of this proxy's public names by ACME: ordered, shared with the other proxies, renewed.

What there is, who orders and when to try again is kept by auth, and heard of by the view; so any proxy answers the
challenge of an order that another one made. Only names that the file gives in `public_addr` are ordered or answered
for, never one that a stranger asks for. While the directory or auth is away, what was got stays in use.

A certificate is renewed when a third of its life is left; each proxy waits a little longer than that, for a while of
its own, so that they do not ask all at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, Protocol, TypeVar

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import Clock
from teleport.daemon.config.values import AcmeConfig
from teleport.errors import ConnectionProblem, TeleportError
from teleport.pki.acme import AccountKey, challenge_pair, new_key, signing_request
from teleport.pki.secret import Secret
from teleport.pki.web_chain import WebPair, read_pair
from teleport.resources.names import canonical_host
from teleport.resources.server import Server
from teleport.resources.values import HostPort
from teleport.store.cache import Cache
from teleport.store.records import WEB_CERTIFICATES, acme_key
from teleport.transport.acme import AcmeClient, AcmeRefused
from teleport.transport.tls import restrict
from teleport.transport.web_certificates import load
from teleport.wire import alpn

log = logging.getLogger(__name__)

ORDER: Final = 480.0  # seconds for one order; the turn is longer
IN_VIEW: Final = 15.0  # seconds until a challenge must be in view here
ELSEWHERE: Final = 2.0  # seconds more, for the views of other proxies
AWAY: Final = 30.0  # seconds until auth is asked again
LOOK: Final = 3600.0  # seconds after which times are compared again whatever happens
LEFT: Final = 3  # of such a part of its life a certificate is renewed
SPREAD: Final = 60  # within such a part of its life all proxies have asked

Req = TypeVar("Req", bound=m.Request)
Rep = TypeVar("Rep", bound=m.Message)


class Auth(Protocol):
    """What is asked of auth."""

    async def call(self, route: routes.Route[Req, Rep], request: Req) -> Rep: ...


class Sees(Protocol):
    """What the proxy knows of its cluster (`view.View`)."""

    @property
    def cache(self) -> Cache: ...
    def proxies(self) -> list[Server]: ...


def next_order(state: m.WebCertState, spread: float) -> datetime | None:
    """When a certificate is ordered; None: at once. `spread`, from 0 to 1, is the proxy's own."""
    due = None
    if state.not_after is not None and state.not_before is not None:
        life = state.not_after - state.not_before
        due = state.not_after - life / LEFT + life / SPREAD * spread
    if state.retry is not None and (due is None or state.retry > due):
        return state.retry
    return due


class AcmeKeeper:
    """Keeps one proxy's names supplied. It is the `one_port.Choice` of what directories are answered with."""

    def __init__(
        self,
        settings: AcmeConfig,
        host_id: str,
        auth: Auth,
        view: Sees,
        clock: Clock,
        got: Callable[[Mapping[str, WebPair]], None],
    ) -> None:
        """`got` is called with all pairs by name whenever there is another one."""
        self.names: Sequence[str] = settings.names
        self._settings = settings
        self._auth = auth
        self._view = view
        self._clock = clock
        self._got = got
        self._pairs: dict[str, WebPair] = {}
        self._answers: dict[str, tuple[str, ssl.SSLContext]] = {}
        self._news = asyncio.Event()
        digest = hashlib.sha256(host_id.encode()).digest()
        self._spread = int.from_bytes(digest[:4], "big") / 2**32

    def state(self, name: str) -> m.WebCertState:
        """What the cluster knows of this name's certificate."""
        item = self._view.cache.get(acme_key(WEB_CERTIFICATES, self._settings.uri, name))
        if item is None:
            return m.WebCertState(name=name, directory=self._settings.uri)
        return msgspec.json.decode(item.value, type=m.WebCertState)

    def of(self, name: str) -> ssl.SSLContext | None:
        """What a directory that looks at a name is shown (RFC 8737); None for what nobody ordered."""
        if name not in self.names:
            return None
        state = self.state(name)
        if not state.challenge or state.challenge_until is None or state.challenge_until <= self._clock.now():
            return None
        made = self._answers.get(name)
        if made is None or made[0] != state.challenge:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            restrict(context)
            context.num_tickets = 0
            context.options |= ssl.OP_NO_TICKET
            context.set_alpn_protocols([alpn.ACME])
            load(context, challenge_pair(name, bytes.fromhex(state.challenge), self._clock.now()))
            made = self._answers[name] = (state.challenge, context)
        return made[1]

    async def run(self, newest: Callable[[], bool] = lambda: True) -> None:
        """Keeps going until cancelled. `newest`: whether no newer process of this host has taken over ordering."""
        unsubscribe = self._view.cache.subscribe(WEB_CERTIFICATES, lambda _: self._news.set())
        try:
            while True:
                self._news.clear()
                wait = LOOK
                for name in self.names:
                    try:
                        wait = min(wait, await self._keep(name, newest))
                    except TeleportError as error:
                        log.warning("the certificate of %s has to wait: %s", name, error.message)
                        wait = min(wait, AWAY)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(wait, 0.1)):
                        await self._news.wait()
        finally:
            unsubscribe()

    async def _keep(self, name: str, newest: Callable[[], bool]) -> float:
        """Does what is due for one name; the seconds until something will be."""
        state = self.state(name)
        held = self._pairs.get(name)
        if state.digest and (held is None or held.digest != state.digest):
            await self._fetch(name)
        due, now = next_order(state, self._spread), self._clock.now()
        if due is not None and due > now:
            return (due - now).total_seconds()
        return await self._order(name) if newest() else AWAY

    async def _fetch(self, name: str) -> None:
        asked = m.WebCertNamed(name=name, directory=self._settings.uri)
        found = await self._auth.call(routes.WEB_CERT_READ, asked)
        pair = read_pair(found.chain.encode(), found.key.encode(), chain_name="auth's answer", key_name="auth's answer")
        if not pair.fits(name):
            raise ConnectionProblem(f"auth answered with a certificate of {', '.join(pair.names)}", hint="tctl status")
        held = self._pairs.get(name)
        if held is not None and held.digest == pair.digest:
            return
        self._pairs[name] = pair
        self._got({one: self._pairs[one] for one in self.names if one in self._pairs})
        log.info("a certificate of %s by ACME is shown, valid until %s", name, pair.not_after.isoformat())

    async def _order(self, name: str) -> float:
        """Orders, if it is this proxy's turn."""
        named = {"name": name, "directory": self._settings.uri}
        asked = m.WebCertTurnRequest(**named, new_key=new_key().reveal().decode())
        turn = await self._auth.call(routes.WEB_CERT_TURN, asked)
        if not turn.granted:
            return min(max(turn.seconds, 1.0), LOOK)
        log.info("a certificate of %s is ordered at %s", name, self._settings.uri)
        try:
            async with asyncio.timeout(ORDER):
                chain, key = await self._obtain(name, turn)
        except (TeleportError, TimeoutError) as error:
            text = error.message if isinstance(error, TeleportError) else "the order came to no end in time"
            hint = error.hint if isinstance(error, TeleportError) else ""
            wait = error.wait if isinstance(error, AcmeRefused) else 0.0
            log.warning("no certificate of %s: %s%s", name, text, f" ({hint})" if hint else "")
            failed = m.WebCertFailedRequest(**named, error=text, seconds=wait)
            await self._auth.call(routes.WEB_CERT_FAILED, failed)
            return AWAY
        stored = m.WebCertStoreRequest(**named, chain=chain.decode(), key=key.reveal().decode())
        await self._auth.call(routes.WEB_CERT_STORE, stored)
        return AWAY  # the view says earlier that it is there

    async def _obtain(self, name: str, turn: m.WebCertTurn) -> tuple[bytes, Secret]:
        key = new_key()
        request = signing_request(name, key)

        async def answer(digest: bytes) -> None:
            await self._answer(name, digest.hex())

        account = AccountKey(Secret(turn.account_key.encode()))
        async with AcmeClient(self._settings.uri, account, turn.account_url) as client:
            if not client.account:
                await self._register(client, name)
            try:
                chain = await client.obtain(name, request, answer)
            except AcmeRefused as error:
                if error.kind != "accountDoesNotExist":
                    raise
                await self._register(client, name)  # the directory has forgotten it
                chain = await client.obtain(name, request, answer)
        return chain, key

    async def _register(self, client: AcmeClient, name: str) -> None:
        url = await client.register(self._settings.email)
        made = m.WebCertAccountRequest(name=name, directory=self._settings.uri, account_url=url)
        await self._auth.call(routes.WEB_CERT_ACCOUNT, made)

    async def _answer(self, name: str, digest: str) -> None:
        """Has every proxy show the answer to a challenge; returns when they do, as far as it can be known here."""
        told = m.WebCertChallengeRequest(name=name, directory=self._settings.uri, digest=digest)
        await self._auth.call(routes.WEB_CERT_CHALLENGE, told)
        seen = asyncio.Event()
        unsubscribe = self._view.cache.subscribe(WEB_CERTIFICATES, lambda _: seen.set())
        try:
            async with asyncio.timeout(IN_VIEW):
                while self.state(name).challenge != digest:
                    seen.clear()
                    await seen.wait()
        except TimeoutError:
            raise ConnectionProblem(
                "what the directory is to be shown did not come back from auth",
                hint="the log says whether auth is away",
            ) from None
        finally:
            unsubscribe()
        if self._others(name):
            await asyncio.sleep(ELSEWHERE)

    def _others(self, name: str) -> int:
        """Proxies that may be asked about the name, beside this one."""
        now = self._clock.now()
        hosts = [
            {canonical_host(HostPort.parse(text, 0).host) for text in one.spec.public_addrs}
            for one in self._view.proxies()
            if not one.lost(now)
        ]
        return sum(1 for names in hosts if name in names) - 1


__all__ = ["AcmeKeeper", "next_order"]

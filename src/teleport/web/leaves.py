"""Clusters that trust this one, as browsers' sessions ask them: over there it is decided.

A call is made as tsh makes it (`tsh ls --cluster`): TLS with the user's own certificate, ended at the other cluster's
auth, through the tunnel of its proxies. That maps the user's roles to its own and answers or refuses; nothing is
decided here, but who may go there at all.

Its answers may be a liar's. They are bounded in time, in bytes, in how many things they hold and in the length of
each text, and they are data: no text of theirs is ever markup, an address or a status of ours. In particular no
answer of theirs ends or renews the session here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final, TypeVar

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import Clock
from teleport.errors import KINDS, ConnectionProblem, NotFound, TeleportError
from teleport.pki import sshsig, web_proof
from teleport.pki.sshformat import parse_certificate_line
from teleport.recording.sanitise import one_line
from teleport.web.clusters import OtherClusters
from teleport.web.session import UserCaller, WebSession

Req = TypeVar("Req", bound=m.Request)
Rep = TypeVar("Rep", bound=m.Message)

SECONDS: Final = 10.0  # for an answer
BYTES: Final = 4 * 1024 * 1024  # of an answer
STREAMED: Final = 256 * 1024 * 1024  # bytes of a recording
ITEMS: Final = 1000  # of a list, where fewer were not asked for
TEXT: Final = 1024  # characters of one text
LINE: Final = 64 * 1024  # of an event
SAID: Final = 500  # characters of a refusal
DEPTH: Final = 12


class Leaves:
    """The way of browsers' sessions to this cluster's auth, or to another's."""

    def __init__(self, cluster: str, others: Callable[[], OtherClusters | None], clock: Clock) -> None:
        self.cluster = cluster
        self._others = others
        self._clock = clock

    def listed(self, session: WebSession, peer: tuple[str, int]) -> list[tuple[str, bool]]:
        """This cluster and those that the user may go to from here, and whether each is connected. Raises
        `TeleportError`."""
        others = self._others()
        found = others.listed(self._proof(session, web_proof.CLUSTERS), peer[0]) if others is not None else []
        return [(self.cluster, True), *found]

    def caller(self, session: WebSession, peer: tuple[str, int], site: str) -> UserCaller:
        """What calls the auth of that cluster as the user. Raises `NotFound` for one that is none, or none for them,
        and `ConnectionProblem` at once for one that is away."""
        if site in (self.cluster, "-current-"):
            return session.caller(peer)
        online = dict(self.listed(session, peer)).get(site)
        if online is None:
            raise unknown(site)
        if not online:
            raise away(site)

        async def dial() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            others = self._others()
            if others is None:
                raise unknown(site)
            return await others.to_auth(self._proof(session, web_proof.to_auth_of(site)), peer, site)

        return Careful(site, session.caller_of(site, dial, peer))

    def _proof(self, session: WebSession, purpose: str) -> str:
        return web_proof.encode(
            parse_certificate_line(session.certificate).blob,
            lambda message: sshsig.sign(session.key, message),
            audience=self.cluster,
            purpose=purpose,
            now=self._clock.now(),
        )


class Careful:
    """Calls another cluster's auth and believes no measure of what it answers (`web.session.UserCaller`)."""

    def __init__(self, cluster: str, calls: UserCaller) -> None:
        self._cluster = cluster
        self._calls = calls

    async def call(self, route: routes.Route[Req, Rep], request: Req) -> Rep:
        try:
            async with asyncio.timeout(SECONDS):
                found = await self._calls.call(route, request)
        except TimeoutError:
            raise self._silent() from None
        except TeleportError as error:
            raise self._told(error) from None
        return bounded(found, getattr(request, "limit", ITEMS), as_it_is=route is routes.SEARCH_EVENTS)

    async def download(self, route: routes.Route[Req, Any], request: Req) -> AsyncGenerator[bytes, None]:
        left = STREAMED
        try:
            async with aclosing(self._calls.download(route, request)) as pieces:
                async for piece in pieces:
                    left -= len(piece)
                    if left < 0:
                        raise ConnectionProblem(
                            f"the cluster {self._cluster} sends more than {STREAMED} bytes of it",
                            hint="read it at that cluster's own address",
                        )
                    yield piece
        except TeleportError as error:
            raise self._told(error) from None

    async def renewed(self) -> None:
        await self._calls.renewed()

    async def close(self) -> None:
        await self._calls.close()

    def _silent(self) -> TeleportError:
        return ConnectionProblem(
            f"the cluster {self._cluster} does not answer within {SECONDS:.0f} s", hint="try again later"
        )

    def _told(self, error: TeleportError) -> TeleportError:
        """What it says, as its words: of one line, not too long, of a kind that leads the page nowhere."""
        if isinstance(error, ConnectionProblem):
            return ConnectionProblem(
                one_line(f"the cluster {self._cluster} does not answer: {error.message}", SAID),
                hint="try again later; at that cluster's own address everything is there",
            )
        kind = KINDS.get(error.code, TeleportError)
        return kind(
            one_line(f"The cluster {self._cluster} refuses: {error.message}", SAID), hint=one_line(error.hint, SAID)
        )


def bounded(answer: Rep, most: int, *, as_it_is: bool = False) -> Rep:
    """The answer, cut to what a page can show: `most` things in each list, each text of one line and not too long.
    `as_it_is`: texts are cut alone, since what reads them shows nothing of them raw."""
    text = (lambda one: one[:LINE]) if as_it_is else (lambda one: one_line(one, TEXT))
    cut = _cut(msgspec.to_builtins(answer), max(most, 1), DEPTH, text)
    return msgspec.convert(cut, type(answer))


def _cut(value: Any, most: int, depth: int, text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return text(value)
    if not depth:
        return None
    if isinstance(value, dict):
        kept = list(value.items())[:ITEMS]
        return {text(str(key)): _cut(one, most, depth - 1, text) for key, one in kept}
    if isinstance(value, list):
        return [_cut(one, most, depth - 1, text) for one in value[:most]]
    return value


def unknown(site: str) -> NotFound:
    return NotFound(f"the cluster {site[:100]!r} is not known here, or is not shown in browsers")


def away(site: str) -> ConnectionProblem:
    return ConnectionProblem(
        f"the cluster {site[:100]} is not connected now",
        hint="its proxies keep a tunnel to this cluster; ask its administrators, or look again later",
    )

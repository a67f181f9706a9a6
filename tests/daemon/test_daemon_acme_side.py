"""When a proxy orders certificates, what it answers a directory with, and what it keeps while others are away."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import Item
from teleport.clock import Clock
from teleport.daemon.acme_side import AcmeKeeper, next_order
from teleport.daemon.config.values import AcmeConfig
from teleport.errors import ConnectionProblem
from teleport.pki.web_chain import WebPair, read_pair
from teleport.resources.server import Server
from teleport.store.records import WEB_CERTIFICATES, acme_key
from teleport.testing.auth import present_clock
from teleport.testing.public_authority import PublicAuthority

NAME, OTHER, DIRECTORY = "a.example.test", "b.example.test", "https://directory.test/dir"
AUTHORITY = PublicAuthority()
DAY = timedelta(days=1)


class Seen:
    """What a proxy sees of its cluster: a view with one prefix."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.told: list[Callable[[Any], None]] = []

    @property
    def cache(self) -> Any:
        return self

    def get(self, key: str) -> Item | None:
        return self.items.get(key)

    def subscribe(self, prefix: str, told: Callable[[Any], None]) -> Callable[[], None]:
        assert prefix == WEB_CERTIFICATES
        self.told.append(told)
        return lambda: self.told.remove(told)

    def proxies(self) -> list[Server]:
        return []

    def put(self, state: m.WebCertState) -> None:
        key = acme_key(WEB_CERTIFICATES, state.directory, state.name)
        self.items[key] = Item(key=key, value=msgspec.json.encode(state), revision=len(self.items) + 1, expires=None)
        for told in list(self.told):
            told(None)


class Auth:
    """Auth, of which one pair is read; all else fails as it does when auth is away."""

    def __init__(self, pair: m.WebCertPair | None = None) -> None:
        self.pair = pair
        self.asked: list[str] = []
        self.heard = asyncio.Event()

    async def call(self, route: routes.Route[Any, Any], request: m.Request) -> Any:
        self.asked.append(route.name)
        self.heard.set()
        if route is routes.WEB_CERT_READ and self.pair is not None:
            return self.pair
        raise ConnectionProblem("auth is away", hint="wait")


def state(now: datetime, **fields: Any) -> m.WebCertState:
    return m.WebCertState(name=NAME, directory=DIRECTORY, **fields)


def keeper(
    auth: Auth, seen: Seen, clock: Clock, got: Callable[[Mapping[str, WebPair]], None] = lambda _: None
) -> AcmeKeeper:
    return AcmeKeeper(AcmeConfig(DIRECTORY, "", (NAME,)), "host", auth, seen, clock, got)


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left_or_later_after_failures() -> None:
    now = present_clock().now()
    assert next_order(state(now), 0.5) is None
    held = {"not_before": now, "not_after": now + 90 * DAY}
    assert next_order(state(now, **held), 0.0) == now + 60 * DAY
    last = next_order(state(now, **held), 1.0)
    assert last is not None
    assert now + 60 * DAY < last <= now + 62 * DAY, "proxies do not come all at once, and none comes late"
    later, sooner = now + 70 * DAY, now + 5 * DAY
    assert next_order(state(now, **held, retry=later), 0.0) == later
    assert next_order(state(now, **held, retry=sooner), 0.0) == now + 60 * DAY
    assert next_order(state(now, retry=sooner), 0.0) == sooner


def test_only_an_order_that_is_open_for_a_name_of_this_proxy_is_answered() -> None:
    clock, seen = present_clock(), Seen()
    answering = keeper(Auth(), seen, clock)
    assert answering.of(NAME) is None
    until = clock.now() + timedelta(minutes=1)
    for name in (NAME, OTHER):
        seen.put(m.WebCertState(name=name, directory=DIRECTORY, challenge="ab" * 32, challenge_until=until))
    assert answering.of(OTHER) is None, "it is no name of this proxy, whoever ordered it"
    assert answering.of("") is None
    first = answering.of(NAME)
    assert isinstance(first, ssl.SSLContext)
    assert answering.of(NAME) is first, "a stranger who asks again costs nothing"
    clock.advance(61)
    assert answering.of(NAME) is None


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "of another name"])
async def test_what_was_got_is_shown_and_kept_while_auth_is_away(wrong: bool, tmp_path: Path) -> None:
    clock, seen, got = present_clock(), Seen(), list[Mapping[str, WebPair]]()
    issued = AUTHORITY.issue(OTHER if wrong else NAME)
    pair = read_pair(issued.chain, issued.key, chain_name="c", key_name="k")
    auth = Auth(m.WebCertPair(chain=issued.chain.decode(), key=issued.key.decode()))
    shown = asyncio.Event()

    def show(pairs: Mapping[str, WebPair]) -> None:
        got.append(pairs)
        shown.set()

    task = asyncio.create_task(keeper(auth, seen, clock, show).run())
    try:
        seen.put(state(clock.now(), digest=pair.digest, not_before=pair.not_before, not_after=pair.not_after))
        if wrong:
            async with asyncio.timeout(10):
                while routes.WEB_CERT_READ.name not in auth.asked:
                    auth.heard.clear()
                    await auth.heard.wait()
            assert not got, "a certificate of another name is not shown"
            return
        async with asyncio.timeout(10):
            await shown.wait()
        assert [pairs[NAME].digest for pairs in got] == [pair.digest]
        auth.pair = None
        auth.heard.clear()
        seen.put(state(clock.now(), digest="another", not_before=pair.not_before, not_after=pair.not_after))
        async with asyncio.timeout(10):
            await auth.heard.wait()
        assert len(got) == 1, "the former one stays"
        assert not task.done(), "and it goes on"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_older_process_of_the_host_orders_nothing() -> None:
    clock, seen, auth = present_clock(), Seen(), Auth()
    asked = asyncio.Event()

    def newest() -> bool:
        asked.set()
        return False

    task = asyncio.create_task(keeper(auth, seen, clock).run(newest))
    try:
        async with asyncio.timeout(10):
            await asked.wait()
        assert auth.asked == []
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

"""Certificates that proxies share: who may order, read and store them, and when it is tried again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.auth.test_auth_api import document

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, LimitExceeded, TeleportError
from teleport.identity import SystemRole
from teleport.pki.acme import new_key
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec, Rule
from teleport.resources.server import Server, ServerSpec
from teleport.testing.auth import Credentials, RunningAuth, present_clock, running_auth
from teleport.testing.public_authority import PublicAuthority

NAME, DIRECTORY = "teleport.example.test", "https://directory.test/dir"
AUTHORITY = PublicAuthority()


def turn_request(name: str = NAME) -> m.WebCertTurnRequest:
    return m.WebCertTurnRequest(name=name, directory=DIRECTORY, new_key=new_key().reveal().decode())


async def announced(auth: RunningAuth, proxy: Credentials, *names: str) -> None:
    """The proxy says that these are its public names."""
    spec = ServerSpec(addr="192.0.2.1:443", hostname="p", epoch="1", public_addrs=tuple(f"{one}:443" for one in names))
    found = Server(kind="proxy", metadata=Metadata(name=proxy.host_id), spec=spec)
    await auth.call(proxy, routes.HEARTBEAT, m.HeartbeatRequest(item=document(found)))


def stored(made: Any = None, name: str = NAME) -> m.WebCertStoreRequest:
    issued = made or AUTHORITY.issue(name)
    return m.WebCertStoreRequest(name=name, directory=DIRECTORY, chain=issued.chain.decode(), key=issued.key.decode())


async def first_line(auth: RunningAuth, who: Credentials) -> dict[str, Any]:
    def watch() -> bytes:
        with auth.client(who) as client:
            return next(client.download(routes.WATCH, m.WatchRequest(kinds=["web_certificate"])))

    found: dict[str, Any] = msgspec.json.decode((await auth.in_thread(watch)).splitlines()[0])
    return found


async def test_one_proxy_orders_and_all_with_the_name_get_the_pair(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True, clock=present_clock()) as auth:
        one, two, other = [await auth.host(SystemRole.PROXY) for _ in range(3)]
        for proxy in (one, two):
            await announced(auth, proxy, NAME)
        await announced(auth, other, "elsewhere.example.test")
        turn = await auth.call(one, routes.WEB_CERT_TURN, turn_request())
        assert turn.granted
        assert "PRIVATE KEY" in turn.account_key
        waits = await auth.call(two, routes.WEB_CERT_TURN, turn_request())
        assert (waits.granted, waits.account_key) == (False, "")
        assert 0 < waits.seconds <= 600
        again = await auth.call(one, routes.WEB_CERT_TURN, turn_request())
        assert (again.granted, again.account_key) == (True, turn.account_key), "the first key stays the account's"
        for who, refused in ((two, LimitExceeded), (other, AccessDenied)):
            for route, request in (
                (routes.WEB_CERT_STORE, stored()),
                (routes.WEB_CERT_CHALLENGE, m.WebCertChallengeRequest(name=NAME, directory=DIRECTORY, digest="0" * 64)),
                (routes.WEB_CERT_FAILED, m.WebCertFailedRequest(name=NAME, directory=DIRECTORY, error="x", seconds=9)),
            ):
                with pytest.raises(refused):
                    await auth.call(who, route, request)
        challenge = m.WebCertChallengeRequest(name=NAME, directory=DIRECTORY, digest="ab" * 32)
        await auth.call(one, routes.WEB_CERT_CHALLENGE, challenge)
        (item,) = (await first_line(auth, two))["put"]
        assert item["value"]["challenge"] == "ab" * 32
        for wrong, said in (
            (stored(AUTHORITY.issue("other.example.test")), "was ordered"),
            (stored(AUTHORITY.issue(NAME, key=AUTHORITY.issue(NAME).key)), "does not belong"),
            (stored(AUTHORITY.issue(NAME, end=auth.clock.now() - timedelta(hours=1))), "has ended"),
        ):
            with pytest.raises(BadRequest, match=said):
                await auth.call(one, routes.WEB_CERT_STORE, wrong)
        issued = AUTHORITY.issue(NAME)
        await auth.call(one, routes.WEB_CERT_STORE, stored(issued))
        named = m.WebCertNamed(name=NAME, directory=DIRECTORY)
        pair = await auth.call(two, routes.WEB_CERT_READ, named)
        assert (pair.chain, pair.key) == (issued.chain.decode(), issued.key.decode())
        assert "PRIVATE" not in repr(pair)
        with pytest.raises(AccessDenied):
            await auth.call(other, routes.WEB_CERT_READ, named)
        (item,) = (await first_line(auth, two))["put"]
        assert item["value"]["challenge"] == ""
        assert item["value"]["not_after"]
        assert "PRIVATE" not in str(item), "no key travels by a watch"
        with pytest.raises(LimitExceeded):
            await auth.call(one, routes.WEB_CERT_STORE, stored())  # the turn is over
        early = await auth.call(two, routes.WEB_CERT_TURN, turn_request())
        assert not early.granted, "whoever has not heard of the new one orders no second"
        assert early.seconds > 30 * 86400
        read = await auth.events("web_certificate.read")
        assert [event["name"] for event in read] == [NAME]


async def test_nobody_but_proxies_comes_near_whatever_roles_say(tmp_path: Path) -> None:
    """Not an administrator's role with every right, not a node, not tctl: the key is a proxy's."""
    async with running_auth(tmp_path, sqlite=True, clock=present_clock()) as auth:
        proxy = await auth.host(SystemRole.PROXY)
        await announced(auth, proxy, NAME)
        await auth.call(proxy, routes.WEB_CERT_TURN, turn_request())
        await auth.call(proxy, routes.WEB_CERT_STORE, stored())
        rules = Conditions(rules=(Rule(resources=("*",), verbs=("*",)),))
        everything = Role(metadata=Metadata(name="everything"), spec=RoleSpec(allow=rules))
        await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=document(everything)))
        named = m.WebCertNamed(name=NAME, directory=DIRECTORY)
        for who in (await auth.user("eve", ["everything"]), await auth.host(SystemRole.NODE), await auth.admin()):
            for route, request in (
                (routes.WEB_CERT_READ, named),
                (routes.WEB_CERT_TURN, turn_request()),
                (routes.WEB_CERT_STORE, stored()),
            ):
                with pytest.raises(AccessDenied):
                    await auth.call(who, route, request)
        for who in (await auth.host(SystemRole.NODE), await auth.user("eve", ["everything"])):
            with pytest.raises(AccessDenied):
                await first_line(auth, who)


@pytest.mark.parametrize("name", ["localhost", "*.example.test", "192.0.2.1", "Teleport.Example.test", "a/b.test", ""])
async def test_what_is_no_public_name_is_never_ordered(tmp_path: Path, name: str) -> None:
    async with running_auth(tmp_path) as auth:
        proxy = await auth.host(SystemRole.PROXY)
        with pytest.raises(TeleportError):
            await auth.call(proxy, routes.WEB_CERT_TURN, turn_request(name))


async def test_a_failure_puts_the_next_order_off_for_all_and_longer_each_time(tmp_path: Path) -> None:
    """And for as long as the directory asks, within a week; success forgets it."""
    clock = present_clock()
    async with running_auth(tmp_path, sqlite=True, clock=clock) as auth:
        one, two = [await auth.host(SystemRole.PROXY) for _ in range(2)]
        waits = []

        async def fail(seconds: float) -> float:
            for proxy in (one, two):
                await announced(auth, proxy, NAME)
            assert (await auth.call(one, routes.WEB_CERT_TURN, turn_request())).granted
            failed = m.WebCertFailedRequest(name=NAME, directory=DIRECTORY, error="no such name", seconds=seconds)
            await auth.call(one, routes.WEB_CERT_FAILED, failed)
            turns = [await auth.call(proxy, routes.WEB_CERT_TURN, turn_request()) for proxy in (one, two)]
            assert [turn.granted for turn in turns] == [False, False]
            assert turns[0].seconds == turns[1].seconds
            clock.advance(turns[0].seconds)
            return float(turns[0].seconds)

        for _ in range(3):
            waits.append(await fail(0))
        for minutes, wait in zip((1, 2, 4), waits, strict=True):
            assert minutes * 60 <= wait <= minutes * 75 + 1
        assert 660 <= await fail(660) <= 661
        failures = await auth.events("web_certificate.failed", wait_for=4)
        assert {event["error"] for event in failures} == {"no such name"}

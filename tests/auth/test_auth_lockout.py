"""The lockout after failed logins cannot keep somebody out from everywhere, nor is it a way to guess faster (T23)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.factors.lockout import (
    LOCK_TIME,
    MAX_FAILURES,
    MOST_PLACES,
    PLACE_KEPT,
    count_failure,
    locked_at,
    locked_until,
    logged_in,
    place_of,
    unlocked,
)
from teleport.errors import AccessDenied
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.store.records import UserSecret
from teleport.testing.auth import PASSWORD, running_auth
from teleport.testing.clock import FakeClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOME, OFFICE = place_of("192.0.2.7:4000"), place_of("[2001:db8::7]:4000")


def failed(secret: UserSecret, *places: str | None, now: datetime = NOW) -> UserSecret:
    for place in places:
        secret = count_failure(secret, now, place)
    return secret


def at_home() -> UserSecret:
    return logged_in(UserSecret(password_hash="x"), NOW, HOME)


def test_strangers_do_not_lock_out_somebody_who_is_where_they_always_are() -> None:
    secret = failed(at_home(), *(f"198.51.100.{number}" for number in range(200)))
    assert locked_at(secret, "203.0.113.9", NOW), "strangers are out, wherever they come from"
    assert not locked_at(secret, HOME, NOW)
    again = logged_in(secret, NOW, HOME)
    assert not locked_at(again, HOME, NOW)
    assert locked_at(again, "203.0.113.9", NOW), "the login of the user gives strangers no further tries"


def test_failures_from_a_shared_address_close_that_address_and_no_other() -> None:
    """Somebody behind the same NAT."""
    secret = logged_in(at_home(), NOW, OFFICE)
    secret = failed(secret, *[HOME] * MAX_FAILURES)
    assert locked_at(secret, HOME, NOW)
    assert not locked_at(secret, OFFICE, NOW)
    assert not locked_at(secret, "203.0.113.9", NOW)
    assert not locked_at(secret, HOME, NOW + LOCK_TIME)


def test_many_addresses_together_have_as_many_tries_as_one() -> None:
    secret = failed(UserSecret(), *(f"198.51.100.{number}" for number in range(MAX_FAILURES)))
    assert locked_at(secret, "203.0.113.9", NOW)
    assert locked_at(secret, "", NOW)


def test_an_unknown_address_and_one_that_was_long_ago_count_as_new() -> None:
    secret = failed(at_home(), *[""] * MAX_FAILURES)
    assert locked_at(secret, "", NOW)
    later = NOW + PLACE_KEPT
    assert locked_at(failed(at_home(), *[OFFICE] * MAX_FAILURES, now=later), HOME, later)
    assert logged_in(UserSecret(), NOW, "").places == []


def test_a_lock_is_not_lengthened_and_failures_are_forgotten_with_time_and_with_a_login() -> None:
    secret = failed(at_home(), *[HOME] * MAX_FAILURES)
    end = locked_until(secret, NOW)
    assert end == NOW + LOCK_TIME
    assert locked_until(failed(secret, HOME, now=NOW + timedelta(minutes=5)), NOW) == end
    four = failed(at_home(), *[HOME] * (MAX_FAILURES - 1))
    assert not locked_at(failed(logged_in(four, NOW, HOME), HOME), HOME, NOW)
    assert not locked_at(failed(four, HOME, now=NOW + timedelta(minutes=31)), HOME, NOW + timedelta(minutes=31))


def test_unlocking_ends_every_lockout_and_places_stay_known() -> None:
    secret = failed(at_home(), *[HOME] * MAX_FAILURES, *[OFFICE] * MAX_FAILURES)
    assert locked_until(secret, NOW) is not None
    free = unlocked(secret)
    assert locked_until(free, NOW) is None
    assert not locked_at(failed(free, *[OFFICE] * MAX_FAILURES), HOME, NOW)


def test_places_are_bounded_and_an_ipv6_network_is_one() -> None:
    secret = UserSecret()
    for number in range(3 * MOST_PLACES):
        secret = logged_in(secret, NOW + timedelta(minutes=number), f"192.0.2.{number}")
    assert len(secret.places) == MOST_PLACES
    assert secret.places[-1].place == f"192.0.2.{3 * MOST_PLACES - 1}"
    assert place_of("[2001:db8::1]:22") == place_of("[2001:db8::2]:99") == OFFICE != place_of("[2001:db8:1::1]:22")
    assert place_of("192.0.2.7") == HOME == place_of("[::ffff:192.0.2.7]:4")


def test_a_record_of_an_older_release_has_no_places() -> None:
    import msgspec

    assert msgspec.json.decode(b'{"password_hash":"x","failures":[]}', type=UserSecret).places == []


def test_whoever_holds_a_certificate_and_fails_at_the_second_factor_closes_every_place() -> None:
    secret = failed(at_home(), *[None] * (MAX_FAILURES - 1))
    assert locked_until(secret, NOW) is None
    secret = failed(secret, None)
    assert all(locked_at(secret, place, NOW) for place in (HOME, OFFICE, "", None))
    assert not any(locked_at(secret, place, NOW + LOCK_TIME) for place in (HOME, OFFICE, "", None))


async def test_a_stranger_who_fails_locks_out_strangers(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        secret = await auth.person("ann", ["editor"])
        proxy = await auth.host(SystemRole.PROXY)

        async def log_in(address: str, password: str = PASSWORD) -> None:
            assert isinstance(auth.clock, FakeClock)
            auth.clock.advance(30)
            request = m.LoginRequest(
                user="ann", password=password, otp_token=auth.code(secret),
                public_key=generate_p256().public.line(), ttl=600, client_addr=address,
            )  # fmt: skip
            await auth.call(proxy, routes.LOGIN, request)

        await log_in("192.0.2.7:1000")
        for number in range(MAX_FAILURES + 3):
            with pytest.raises(AccessDenied):
                await log_in(f"198.51.100.{number}:1000", "a guess of a password")
        with pytest.raises(AccessDenied):
            await log_in("203.0.113.9:1000")
        await log_in("192.0.2.7:2000")
        (told,) = await auth.events("user.locked")
        assert told.get("place", "") == ""
        for _ in range(MAX_FAILURES):
            with pytest.raises(AccessDenied):
                await log_in("192.0.2.7:3000", "a guess of a password")
        with pytest.raises(AccessDenied):
            await log_in("192.0.2.7:4000")
        assert [one.get("place", "") for one in await auth.events("user.locked", wait_for=2)] == ["", "192.0.2.7"]
        assert (await auth.call(await auth.admin(), routes.UNLOCK_USER, m.UnlockUserRequest(name="ann"))).was_locked
        await log_in("192.0.2.7:5000")
        await log_in("203.0.113.9:5000")

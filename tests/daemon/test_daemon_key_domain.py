"""What a proxy says of security keys that no browser would take at its address."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from teleport.backend.interface import Changes, Item, Put, Snapshot
from teleport.daemon.key_domain import follow_key_domain
from teleport.daemon.live_settings import PREFERENCE
from teleport.daemon.view import View
from teleport.resources.cluster import AuthPreference, AuthPreferenceSpec, SecondFactor, Webauthn
from teleport.resources.codec import to_json
from teleport.store.cache import Cache
from teleport.testing.clock import FakeClock

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def setting(revision: int, factor: SecondFactor, rp_id: str = "") -> Item:
    spec = AuthPreferenceSpec(second_factor=factor, webauthn=Webauthn(rp_id=rp_id))
    return Item(PREFERENCE, to_json(AuthPreference(spec=spec)), revision, None)


def test_it_is_said_at_the_start_and_when_a_setting_makes_it_so(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock(NOW)
    cache = Cache("test", clock, jitter=lambda: 0.0)
    cache._take(Snapshot([setting(1, SecondFactor.WEBAUTHN)], 1))
    with caplog.at_level(logging.WARNING):
        follow_key_domain(View(cache, clock, "example.test"), "::1")
    (said,) = caplog.messages
    assert "bound to ::1" in said
    assert "webauthn.rp_id" in said
    for revision, (factor, rp_id, told) in enumerate(
        [
            (SecondFactor.ON, "", 1),  # still so, and said before
            (SecondFactor.ON, "example.test", 1),
            (SecondFactor.OTP, "", 1),
            (SecondFactor.OPTIONAL, "", 2),
        ],
        2,
    ):
        cache._take(Changes([Put(setting(revision, factor, rp_id))], revision))
        assert len(caplog.messages) == told, factor


@pytest.mark.parametrize("host", ["localhost", "proxy.example.test"])
def test_a_name_needs_no_word(host: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock(NOW)
    cache = Cache("test", clock, jitter=lambda: 0.0)
    cache._take(Snapshot([setting(1, SecondFactor.WEBAUTHN)], 1))
    follow_key_domain(View(cache, clock, "example.test"), host)
    assert not caplog.messages

"""The rate limit of what callers without proof may try."""

from __future__ import annotations

import pytest

from teleport.transport.limits import Failures, Heard, Patience, RateLimit, who_tries


def test_a_burst_is_allowed_then_the_rate_holds() -> None:
    limit = RateLimit(rate=10, burst=10)
    assert [limit.allow("a", 0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert limit.allow("b", 0.0), "one address does not use up another's attempts"
    assert limit.allow("a", 0.1)
    assert not limit.allow("a", 0.1)
    assert [limit.allow("a", 60.0) for _ in range(11)] == [True] * 10 + [False]


def test_memory_is_bounded() -> None:
    limit = RateLimit(addresses=100)
    for number in range(1000):
        limit.allow(str(number), 0.0)
    assert len(limit._buckets) == 100


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_an_ipv6_network_is_one_address(address: str, counts_as: str) -> None:
    """Whoever has one IPv6 address has 2^64 of them."""
    assert who_tries(address) == counts_as


def test_patience_grows_to_its_bound_and_comes_back() -> None:
    patience = Patience(free=3, forgiven=1 / 60, longest=60)
    waits = []
    now = 0.0
    for _ in range(12):
        patience.failed("a", now)
        waits.append(patience.wait("a", now))
        now += waits[-1]
    assert waits[:2] == [0, 0]
    assert sorted(waits) == waits
    assert waits[-1] == 60
    assert patience.wait("b", now) == 0
    assert patience.wait("a", now) == 0
    patience.failed("a", now)
    assert patience.wait("a", now) == 60
    patience.succeeded("a")
    assert patience.wait("a", now) == 0


def test_failures_are_forgiven_and_few_are_remembered() -> None:
    failures = Failures(forgiven=1 / 10, most=50, addresses=100)
    for number in range(1000):
        failures.add(str(number), 0.0)
        failures.add("often", 0.0)
    assert len(failures._counts) == 100
    assert failures.count("often", 0.0) == 50
    assert failures.count("often", 100.0) == 40
    assert failures.count("often", 1000.0) == 0
    assert failures.count("0", 0.0) == 0


def test_strangers_are_counted_when_there_are_too_many_to_name() -> None:
    heard = Heard(rate=1, burst=2)
    assert [heard.told("x", 0.0) for _ in range(5)] == ["x", "x", None, None, None]
    told = heard.told("x", 1.0)
    assert told is not None
    assert "3 attempts" in told
    assert heard.told("x", 3.0) == "x"

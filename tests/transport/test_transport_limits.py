"""The rate limit of what callers without proof may try."""

from __future__ import annotations

import pytest

from teleport.transport.limits import RateLimit, who_tries


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

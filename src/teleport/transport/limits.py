"""How often one address may try passwords (`operations.md` 11) or to join. Pure: time is handed in, memory bounded."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

RATE = 10.0  # attempts a second
BURST = 10.0
MAX_ADDRESSES = 10_000


def who_tries(address: str) -> str:
    """What counts as one address: an IPv6 host has a whole /64 to itself, so all of that is one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class RateLimit:
    """A token bucket for each address; the addresses seen longest ago are forgotten first."""

    def __init__(self, rate: float = RATE, burst: float = BURST, addresses: int = MAX_ADDRESSES) -> None:
        self._rate, self._burst, self._addresses = rate, burst, addresses
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, address: str, now: float) -> bool:
        """Whether one more attempt from `address` is within the rate at `now` (seconds, monotonic)."""
        tokens, then = self._buckets.pop(address, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._addresses:
            self._buckets.popitem(last=False)
        return allowed

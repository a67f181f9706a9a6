"""How often one address may try passwords (`operations.md` 11). Pure: time is handed in, memory is bounded."""

from __future__ import annotations

from collections import OrderedDict

RATE = 10.0  # attempts a second
BURST = 10.0
MAX_ADDRESSES = 10_000


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

"""How often one address may try passwords (`operations.md` 11) or to join. Pure: time is handed in, memory bounded."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

RATE = 10.0  # attempts a second
BURST = 10.0
MAX_ADDRESSES = 10_000


def who_tries(address: str) -> str:
    """What counts as one address: an IPv6 host has a whole /64 to itself, so all of that is one."""
    if ":" not in address:
        return address  # asked for with every connection
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

    def wait(self, address: str, now: float) -> float:
        """Seconds until one more attempt from `address` is within the rate; 0 when it is now."""
        tokens, then = self._buckets.get(address, (self._burst, now))
        return max((1 - min(self._burst, tokens + (now - then) * self._rate)) / self._rate, 0.0)


def is_own(address: str) -> bool:
    """Whether an address (as `who_tries` gives it) is of this host itself, whose administrator is never shut out."""
    return address.startswith("127.") or address in ("::/64", "::1", "")


class Failures:
    """How often addresses failed lately. Failures are forgiven with time; memory is bounded, the oldest go first."""

    def __init__(self, *, forgiven: float, most: float, addresses: int = MAX_ADDRESSES) -> None:
        """`forgiven` failures a second; of one address no more than `most` count."""
        self._forgiven, self._most, self._addresses = forgiven, most, addresses
        self._counts: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def add(self, address: str, now: float) -> float:
        """Counts one more failure at `now` (seconds, monotonic); gives how many count."""
        count = min(self.count(address, now) + 1, self._most)
        self._counts.pop(address, None)
        self._counts[address] = (count, now)
        if len(self._counts) > self._addresses:
            self._counts.popitem(last=False)
        return count

    def count(self, address: str, now: float) -> float:
        """How many failures count at `now`."""
        count, then = self._counts.get(address, (0.0, now))
        return max(count - (now - then) * self._forgiven, 0.0)

    def since(self, address: str, now: float) -> float:
        """Seconds since the last failure; infinite when none is known."""
        found = self._counts.get(address)
        return now - found[1] if found is not None else float("inf")

    def forget(self, address: str) -> None:
        """Somebody from there succeeded."""
        self._counts.pop(address, None)


class Patience:
    """Makes those wait who failed often, longer with each failure, up to a bound.

    Keys are an address, or an address with what was tried from there; whoever is kept waiting learns for how long.
    """

    def __init__(self, *, free: int, forgiven: float, longest: float, addresses: int = MAX_ADDRESSES) -> None:
        """`free` failures cost nothing, then 1, 2, 4 ... seconds up to `longest` pass before the next attempt."""
        self._free, self._longest = free, longest
        self._failures = Failures(forgiven=forgiven, most=free + 16, addresses=addresses)

    def failed(self, key: str, now: float) -> None:
        self._failures.add(key, now)

    def succeeded(self, key: str) -> None:
        self._failures.forget(key)

    def wait(self, key: str, now: float) -> float:
        """Seconds until `key` may try again; 0 when it may now."""
        excess = self._failures.count(key, now) - self._free
        if excess < 0:
            return 0.0
        return max(min(2.0 ** int(excess), self._longest) - self._failures.since(key, now), 0.0)


class Heard:
    """Which of the failures of strangers are put on record one by one; the others are counted, and their number told.

    Each record costs a disk sync and a place in the audit log, and strangers cost themselves nothing.
    """

    def __init__(self, rate: float = 10.0, burst: float = 200.0) -> None:
        self._limit = RateLimit(rate, burst, addresses=1)
        self._unheard = 0

    def told(self, reason: str, now: float) -> str | None:
        """What the record of a failure at `now` says, with those before it that were not recorded; None: no record."""
        if not self._limit.allow("", now):
            self._unheard += 1
            return None
        count, self._unheard = self._unheard, 0
        return f"{reason}; before it {count} attempts, too many to be recorded one by one" if count else reason

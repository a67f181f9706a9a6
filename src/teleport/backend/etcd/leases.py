"""etcd's leases under items that expire: what takes them away when no auth server is there to sweep.

An item's expiry is judged by our clocks, to the microsecond, and sweeping removes it; etcd's lease is coarser and only
comes after that. Many items share one: all that expire in the same minute (hour, when that is far off).
"""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from weakref import WeakValueDictionary

from teleport.backend.etcd import messages as m
from teleport.backend.etcd.peers import LEASE_GRANT, Peers, Refused
from teleport.backend.etcd.refusals import Kind
from teleport.clock import Clock

GRACE: Final = 600.0  # seconds after the expiry: clocks of auth servers may differ by less
FAR: Final = 3600.0  # seconds ahead, from which an hour's items share a lease
NONE_BEYOND: Final = 400 * 86400.0  # seconds ahead; such items are only ever swept


@dataclass(frozen=True, slots=True)
class _Lease:
    number: int
    until: float  # of the loop's clock: etcd ends it no earlier


class Leases:
    """Of one open storage."""

    def __init__(self, peers: Peers, clock: Clock) -> None:
        self._peers = peers
        self._clock = clock
        self._granted: dict[tuple[int, int], _Lease] = {}
        self._asking: WeakValueDictionary[tuple[int, int], asyncio.Lock] = WeakValueDictionary()

    async def covering(self, expires: datetime | None) -> int:
        """A lease that lasts well beyond `expires`; 0 for none."""
        if expires is None:
            return 0
        remaining = max(0.0, (expires - self._clock.now()).total_seconds())
        if remaining > NONE_BEYOND:
            return 0
        width = 60 if remaining < FAR else 3600
        number = math.ceil(expires.timestamp() / width)
        ttl = number * width - expires.timestamp() + remaining + GRACE
        return await self._get((width, number), remaining + GRACE / 2, ttl)

    async def lasting(self, seconds: float) -> int:
        """A lease that lasts for `seconds` from now at least, shared by all who ask so for some time."""
        return await self._get((0, 0), seconds, 3 * seconds)

    def forget(self) -> None:
        """etcd does not know one of them any more (it was restored, or somebody revoked it)."""
        self._granted.clear()

    async def _get(self, key: tuple[int, int], needed: float, ttl: float) -> int:
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:
            now = _time()
            found = self._granted.get(key)
            if found is not None and found.until - now >= needed:
                return found.number
            self._granted = {one: lease for one, lease in self._granted.items() if lease.until > now}
            number = secrets.randbits(62) + 1  # ours, so that asking twice grants once
            request = m.LeaseGrantRequest(TTL=math.ceil(ttl), ID=number)
            with suppress(Refused):  # taken by the attempt before, whose answer was lost
                await self._peers.call(LEASE_GRANT, request, "write to", told=(Kind.TAKEN,))
            self._granted[key] = _Lease(number, now + ttl)
            return number


def _time() -> float:
    return asyncio.get_running_loop().time()

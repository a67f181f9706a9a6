"""How many connections and people a service takes: `teleport.connection_limits` of the configuration.

Counted for each service of a daemon and by the address of the client, which at a node is the one that the proxy vouched
for: a user who is turned away takes nothing from the others behind the same proxy.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from teleport import counted
from teleport.transport.limits import RateLimit


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `average` connections or requests in `period` seconds, `burst` at once."""

    period: float
    average: int
    burst: int


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of one service."""

    max_connections: int = 15_000  # of one client address at the same time
    max_users: int = 250  # at the same time
    rates: tuple[Rate, ...] = ()


class Entrance:
    """Counts who is inside, by address."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._most = limits.max_connections
        self._rates = [RateLimit(rate.average / rate.period, rate.burst) for rate in limits.rates]
        self._inside: Counter[str] = Counter()

    def enter(self, address: str, now: float | None) -> str:
        """Counts a connection from `address`; the reason when it may not come in and was not counted.

        Without a time it is not held against the rates.
        """
        if self._inside[address] >= self._most:
            counted.REFUSED.add("address")
            return f"more than {self._most} connections from one address"
        if now is not None and not self.allows(address, now):
            return "more connections from one address than the configured rate"
        self._inside[address] += 1
        return ""

    def allows(self, address: str, now: float) -> bool:
        """Whether one more connection or request is within every configured rate."""
        allowed = all(rate.allow(address, now) for rate in self._rates) if self._rates else True
        if not allowed:
            counted.REFUSED.add("address")
        return allowed

    def leave(self, address: str) -> None:
        """A connection that came in is over."""
        self._inside[address] -= 1
        if self._inside[address] <= 0:
            del self._inside[address]


class Users:
    """Counts the different people who have a connection now."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.most = limits.max_users
        self._connections: Counter[str] = Counter()

    def enter(self, name: str) -> bool:
        """Counts a connection of `name`; False when they would be one too many."""
        if name not in self._connections and len(self._connections) >= self.most:
            counted.REFUSED.add("users")
            return False
        self._connections[name] += 1
        return True

    def leave(self, name: str) -> None:
        """A connection of `name` is over."""
        self._connections[name] -= 1
        if self._connections[name] <= 0:
            del self._connections[name]

"""What the pool of a host's tunnels knows: the tunnels that stand, what is tried, and which proxies there are. Pure.

Rules of what is known of proxies:
- What a proxy says of others adds to what is known and takes nothing away: a proxy that proved itself is known while it
  is held and for `REMEMBERED` afterwards, whatever others say; where it was reached, and its own word about that, come
  before theirs. So one that is hostile, or behind the times, makes nobody leave the others. What one said counts while
  its tunnel stands (while none does, what all of them said last), within `MOST` proxies and `MOST_ADDRESSES` of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from teleport.tunnel.pool_events import MOST, Proxy

SEEDS: Final = ""  # the target that stands for the configured addresses; every other target is a proxy's UUID
SPREAD: Final = 1.0  # seconds within which a tunnel that lived is made anew
MOST_ADDRESSES: Final = 4  # of one proxy, by its own word and by the others' together
REMEMBERED: Final = 300.0  # seconds for which a proxy that was held is known though nobody names it


@dataclass(frozen=True, slots=True)
class Held:
    """A tunnel that stands."""

    host_id: str
    epoch: int
    since: float
    leaving: bool = False
    stale: bool = False  # it leaves because a certificate, ours or the proxy's, is a former one, or others are enough
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Not before `until`; after so many attempts in a row that gave nothing."""

    failures: int
    until: float


@dataclass(frozen=True, slots=True)
class State:
    """All that the pool knows."""

    running: bool = False
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # addresses by proxy; follows from the others
    told: Mapping[str, tuple[Proxy, ...]] = field(default_factory=dict)  # by the proxy that said so last
    proved: Mapping[str, float] = field(default_factory=dict)  # proxies that were held, and since when they are not
    spent: float = 0.0  # until when the failures of proxies that were never reached are paid for, at `APART` each
    reached_at: Mapping[str, str] = field(default_factory=dict)  # addresses of those that are or were held
    held: Mapping[int, Held] = field(default_factory=dict)
    attempts: Mapping[int, tuple[str, float]] = field(default_factory=dict)  # target, and when it began
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    announced: tuple[str, ...] = ()
    last: int = 0  # the number of the last attempt
    counts: Mapping[str, int] = field(default_factory=dict)  # by who told, to how many a tunnel is kept; 0: to all
    spreads: Mapping[str, float] = field(default_factory=dict)  # by who told, seconds over which its hosts come back

    @property
    def most(self) -> int:
        """To how many proxies a tunnel is kept; 0: to all, which one of those that are heard can ask for alone."""
        heard = [count for teller, count in self.counts.items() if teller in self.reached_by]
        counts = heard or list(self.counts.values())
        return max(counts) if counts and all(counts) else 0

    @property
    def reached_by(self) -> tuple[str, ...]:
        """The proxies that lead here, sorted."""
        return tuple(sorted({one.host_id for one in self.held.values()}))

    def met(self, target: str) -> bool:
        """Whether the target is the configuration's, or a proxy that has proved itself."""
        return target == SEEDS or target in self.proved or target in self.reached_by

    def spread(self, target: str) -> float:
        """Seconds over which those that have lost this target come back."""
        told = max(self.spreads.values(), default=0.0) if target == SEEDS else self.spreads.get(target, 0.0)
        return max(told, SPREAD)

    def serving(self, host_id: str) -> bool:
        """Whether there is a tunnel to a process of that proxy which does not leave."""
        return any(one.host_id == host_id and not one.leaving for one in self.held.values())


def heard_of(state: State) -> Mapping[str, tuple[Proxy, ...]]:
    """What counts of what was said."""
    heard = {teller: said for teller, said in state.told.items() if teller in state.reached_by}
    return heard or state.told


def reckoned(state: State, now: float) -> State:
    """With what is known now: who is held, was held a short while ago, or is named by those who are heard."""
    proved = {host_id: since for host_id, since in state.proved.items() if now - since < REMEMBERED or not state.held}
    proved = dict(sorted(proved.items(), key=lambda one: -one[1])[:MOST])
    held = state.reached_by
    told = {teller: said for teller, said in state.told.items() if teller in held or teller in proved}
    counts = {teller: count for teller, count in state.counts.items() if teller in told}
    spreads = {teller: spread for teller, spread in state.spreads.items() if teller in told}
    at = {host_id: address for host_id, address in state.reached_at.items() if host_id in held or host_id in proved}
    state = replace(state, proved=proved, told=told, reached_at=at, counts=counts, spreads=spreads)
    heard = heard_of(state)
    named = Counter(host_id for said in heard.values() for host_id in {one.host_id for one in said})
    others = sorted((host_id for host_id in named if host_id not in held), key=lambda one: (-named[one], one))
    known = dict.fromkeys((*held, *others, *proved))
    addresses = {host_id: _addresses(state, heard, host_id) for host_id in list(known)[:MOST]}
    pauses = {target: pause for target, pause in state.pauses.items() if target == SEEDS or target in addresses}
    return replace(state, known=addresses, pauses=pauses)


def _addresses(state: State, heard: Mapping[str, tuple[Proxy, ...]], host_id: str) -> tuple[str, ...]:
    """Of a proxy: where it was reached and its own word first, with room for what the others say of one that has moved.
    What nobody says any more is remembered."""
    own = [address for one in state.told.get(host_id, ()) if one.host_id == host_id for address in one.addresses]
    others = [
        address
        for teller in sorted(heard)
        for one in heard[teller]
        if one.host_id == host_id != teller
        for address in one.addresses
    ]
    at = state.reached_at.get(host_id, "")
    if at and at not in own and (own or others):  # by a configured address, that is, or before it moved
        own = [*own[:1], at, *own[1:]]
    first = MOST_ADDRESSES // 2
    found = dict.fromkeys((*own[:first], *others[:first], *own[first:], *others[first:]))
    return tuple(found)[:MOST_ADDRESSES] or state.known.get(host_id, ())

"""A bound on connections whose peer has not shown yet that it is worth keeping (threats T17, T23)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from teleport import counted
from teleport.transport.entrance import ConnectionLimits, Entrance
from teleport.transport.limits import Failures, is_own, who_tries

log = logging.getLogger(__name__)

LEAST_SHARE: Final = 16  # connections, however often an address failed
TOLERATED: Final = 20.0  # failures of an address before its share shrinks
FORGIVEN: Final = 1 / 3  # failures a second
REMEMBERED: Final = 200.0  # failures of one address at most: ten minutes are enough for anybody
EACH_SECONDS: Final = 30.0  # between two lines about the same thing in the log


class Slot:
    """One connection, from its beginning to its end, as it counts for those who come after it."""

    __slots__ = ("_close", "_inside", "_proved", "_since", "_slots", "_waiting", "address")

    def __init__(self, slots: Slots, address: str, close: Callable[[], None]) -> None:
        self._slots = slots
        self._since = slots._now() if slots._patience else 0.0
        self._close = close
        self._waiting = True
        self._inside = False
        self._proved = False
        self.address = address  # as it counts

    def arrived(self, address: str) -> bool:
        """The client's true address is known, by itself or because a proxy vouched; False: it may not come in."""
        return self._slots._arrived(self, who_tries(address))

    def moved(self, address: str) -> None:
        """It counts for this address from here on; whether it may come in is asked later."""
        self._slots._move(self, who_tries(address))

    def released(self) -> None:
        """The connection needs no slot any more, though its peer has proved nothing."""
        self._slots._release(self)

    def proved(self) -> None:
        """The peer has authenticated: what its address did before is forgotten."""
        self._proved = True
        self._slots._failures.forget(self.address)
        self.released()

    def over(self, *, blamed: bool = True) -> None:
        """The connection has ended; that its peer proved nothing counts against its address when `blamed`."""
        self._slots._over(self, blamed and not self._proved)


class Slots:
    """Connections that have not authenticated (or asked for anything) yet, by the address they come from.

    Above the bound, the oldest one of the address that has most of them is closed: whoever opens many and says nothing
    keeps nobody else out. One address has at most half of them. An address that failed often has a smaller share, down
    to `LEAST_SHARE`, within which its newest connections win: behind one address there may be many people, and those
    who know their way need a slot for a moment only. What failed is forgiven with time, and forgotten as soon as
    somebody from there proves who they are. Addresses of this host itself are never punished.
    """

    def __init__(
        self,
        bound: int,
        what: str = "listener",
        *,
        limits: ConnectionLimits | None = None,
        rated: bool = True,
        of_one: int = 0,
        patience: float = 0.0,
        now: Callable[[], float] | None = None,
    ) -> None:
        """`what` is the listener's name in the log; `now` gives seconds (the loop's time when left out).

        `of_one` is how many one address may have at most, when not half of them.

        `patience`: seconds that a connection may take before it makes room for others of its address.

        `rated` says that the rates of `limits` are of connections; else whoever knows of requests asks `allows`.
        """
        self._bound = bound
        self._what = what
        self._entrance = Entrance(limits) if limits is not None else None
        self._rated = rated
        self._most = of_one or max(bound // 2, 1)
        self._patience = patience
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._waiting: dict[str, dict[Slot, None]] = {}  # by address, oldest first
        self._failures = Failures(forgiven=FORGIVEN, most=REMEMBERED)
        self._told: dict[str, tuple[float, int]] = {}  # when the log last named it, and how often it was since
        self.taken = 0
        self.turned_away = 0

    def take(self, address: str, close: Callable[[], None]) -> Slot:
        """A slot for a connection from `address`; `close` ends it if the slot is needed, at once when there is none."""
        slot = Slot(self, who_tries(address), close)
        if not self._make_room(slot.address):
            slot._waiting = False
            close()
            return slot
        self._waiting.setdefault(slot.address, {})[slot] = None
        self.taken += 1
        return slot

    def share(self, address: str) -> int:
        """How many connections from `address` (as it counts) may wait at once."""
        most = self._most
        if is_own(address):
            return most
        excess = self._failures.count(address, self._now()) - TOLERATED
        return most if excess < 0 else max(most >> int(excess / 10 + 1), min(LEAST_SHARE, most))

    def allows(self, address: str) -> bool:
        """Whether one more request from `address` is within the configured rates."""
        return self._entrance is None or self._entrance.allows(who_tries(address), self._now())

    def _make_room(self, address: str) -> bool:
        """Closes a connection when there is no room for one more from `address`; False when that one is to go."""
        own = self._waiting.get(address, {})
        if len(own) < self.share(address):
            if self.taken < self._bound:
                return True
            heaviest = max(self._waiting, key=lambda one: len(self._waiting[one]))
        else:
            heaviest = address
        slot = next(iter(self._waiting[heaviest]))
        self.turned_away += 1
        counted.REFUSED.add("unproved")
        if heaviest == address and self._now() - slot._since < self._patience:
            self._tell("refused: as many as there may be are being greeted", address)
            return False
        self._release(slot)
        self._tell("closed to make room: nothing was proved on them", heaviest)
        slot._close()
        return True

    def _tell(self, why: str, address: str) -> None:
        """A line in the log, for many of the same kind once in a while."""
        now = self._now()
        then, count = self._told.get(why, (now - EACH_SECONDS, 0))
        if now - then < EACH_SECONDS:
            self._told[why] = (then, count + 1)
            return
        self._told[why] = (now, 0)
        log.warning("%s: connections %s count=%d last=%s", self._what, why, count + 1, address)

    def _arrived(self, slot: Slot, address: str) -> bool:
        self._move(slot, address)
        if self._entrance is not None:
            reason = self._entrance.enter(address, self._now() if self._rated else None)
            if reason:
                self._tell(f"refused: {reason}", address)
                return False
            slot._inside = True
        return True

    def _move(self, slot: Slot, address: str) -> None:
        if slot._waiting and address != slot.address:
            self._unhold(slot)
            slot.address = address
            if self._waiting.get(address) and not self._make_room(address):
                slot._waiting = False
                self.taken -= 1
                slot._close()
                return
            self._waiting.setdefault(address, {})[slot] = None

    def _over(self, slot: Slot, blamed: bool) -> None:
        if slot._inside and self._entrance is not None:
            slot._inside = False
            self._entrance.leave(slot.address)
        if slot._waiting and blamed and not is_own(slot.address):
            self._failures.add(slot.address, self._now())
        self._release(slot)

    def _release(self, slot: Slot) -> None:
        if slot._waiting:
            slot._waiting = False
            self._unhold(slot)
            self.taken -= 1

    def _unhold(self, slot: Slot) -> None:
        held = self._waiting[slot.address]
        del held[slot]
        if not held:
            del self._waiting[slot.address]

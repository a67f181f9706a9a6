"""A bound on connections whose peer has not shown yet that it is worth keeping (threat T17)."""

from __future__ import annotations

from collections.abc import Callable


class Slots:
    """Connections that have not authenticated (or asked for anything) yet, by the address they come from.

    Above the bound, the oldest one of the address that has most of them is closed: whoever opens many and says nothing
    keeps nobody else out.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._waiting: dict[str, dict[object, Callable[[], None]]] = {}  # by address, oldest first
        self.taken = 0
        self.turned_away = 0

    def take(self, address: str, close: Callable[[], None]) -> Callable[[], None]:
        """A slot's release, which may be called many times. `close` ends the connection if its slot is needed."""
        token = object()
        if self.taken >= self._bound:
            self._make_room()
        self._waiting.setdefault(address, {})[token] = close
        self.taken += 1
        return lambda: self._release(address, token)

    def _make_room(self) -> None:
        address = max(self._waiting, key=lambda one: len(self._waiting[one]))
        token, close = next(iter(self._waiting[address].items()))
        self._release(address, token)
        self.turned_away += 1
        close()

    def _release(self, address: str, token: object) -> None:
        held = self._waiting.get(address, {})
        if held.pop(token, None) is not None:
            self.taken -= 1
            if not held:
                del self._waiting[address]

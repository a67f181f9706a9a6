"""What a watch says of changes that come at once: what became of each thing last, whatever happened before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest

from teleport.api import messages as m
from teleport.auth.hosts.watched import Encoded, Shown
from teleport.backend.interface import Changes, Deleted, Event, Item, Put
from teleport.daemon import remote
from teleport.identity import HostIdentity, SystemRole

LOCK = b'{"kind":"lock"}'


def _line(*events: Event) -> m.WatchLine:
    shown = Shown(HostIdentity("h", "c", SystemRole.PROXY, datetime(2040, 1, 1, tzinfo=UTC)), ("locks/",), Encoded())
    line = shown.line(Changes(list(events), 13))
    assert line is not None
    return msgspec.json.decode(line, type=m.WatchLine)


class _Client:
    def __init__(self, line: m.WatchLine) -> None:
        self._line = line

    def watch(self, request: m.WatchRequest) -> Any:
        async def lines() -> Any:
            yield self._line

        return lines()


X, Y = Item("locks/x", LOCK, 12, None), Item("locks/y", LOCK, 13, None)


@pytest.mark.parametrize(
    ("events", "there"),
    [
        ([Deleted("locks/x", 11), Put(X), Put(Y)], {"locks/x", "locks/y"}),
        ([Put(X), Deleted("locks/x", 12), Put(Y)], {"locks/y"}),
        ([Put(X), Deleted("locks/x", 12), Put(X), Deleted("locks/x", 12)], set()),
    ],
)
async def test_a_lock_that_was_removed_and_made_again_at_once_is_there(events: list[Event], there: set[str]) -> None:
    line = _line(*events)
    held = {"locks/x"}
    async for change in remote.watch(cast(Any, _Client(line)), ["lock"]):
        assert isinstance(change, Changes)
        for event in change.events:
            held.add(event.key) if isinstance(event, Put) else held.discard(event.key)
    assert held == there

"""Watching: what changed after a revision, as whole transactions, from one open stream to the servers."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from teleport.backend.etcd import messages as m
from teleport.backend.etcd.layout import Reading
from teleport.backend.etcd.peers import Peers
from teleport.backend.feed import Entry
from teleport.backend.interface import Event, WatchCompacted


async def changes(peers: Peers, reading: Reading, after: int) -> AsyncGenerator[tuple[list[Entry], int], None]:
    """The changes after revision `after`, and up to which revision they are all; at first, none.

    Raises `WatchCompacted`, and other `TeleportError`s when the stream breaks: go on with another one.
    """
    start, end = reading.layout.all_items
    request = m.WatchCreateRequest(
        key=start, range_end=end, start_revision=reading.base + after + 1, progress_notify=True
    )
    watching = await peers.open_watch(request)
    try:
        position = after
        answer = watching.first
        while True:
            assert answer is not None
            if answer.compact_revision:
                raise WatchCompacted(f"cannot watch from revision {position}: its changes are no longer kept")
            if answer.canceled:
                raise watching.canceled(answer.cancel_reason)
            entries = entries_of(reading, answer)
            if entries:
                position = entries[-1].revision
            elif not answer.created:  # nothing came up to here
                position = max(position, int(answer.header.revision) - reading.base)
            yield entries, position
            answer = await watching.read()
    finally:
        watching.close()


def entries_of(reading: Reading, answer: m.Message) -> list[Entry]:
    """The events of an answer by transaction. etcd never splits one over two answers."""
    found: list[Entry] = []
    events: list[Event] = []
    for told in answer.events:
        event = reading.event(told.kv, told.type == m.DELETE)
        if events and events[-1].revision != event.revision:
            found.append(Entry(events[-1].revision, tuple(events)))
            events = []
        events.append(event)
    if events:
        found.append(Entry(events[-1].revision, tuple(events)))
    return found

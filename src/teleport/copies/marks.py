"""How far a place itself says that it has events: a mark that lies beside them and shares their fate. Pure.

Auth's own cursor says what was brought. A database that was put back from an older copy, emptied, replaced, or that
failed over to a server that was behind, has less than that, and only what it holds itself can tell. The mark is a
cursor, too, by store: a row for each auth server, whose names are of one cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from teleport.audit.cursor import Cursor, StorePlace
from teleport.errors import BadRequest


class Lacking(Exception):
    """A place has not got what was brought there. Never leaves this package."""

    def __init__(self, mark: Cursor) -> None:
        super().__init__("events are missing that were there")
        self.mark = mark


@runtime_checkable
class Marked(Protocol):
    """A place that keeps a mark."""

    async def bring(self, lines: Sequence[bytes], before: Cursor, after: Cursor) -> None:
        """Returns when the place has said that it holds the lines, and `after` as its mark, no sooner than them.
        Raises `Lacking`, and has taken nothing, when its mark does not cover `before`; `TeleportError` otherwise."""
        ...


def is_behind(cursor: Cursor, end: Cursor) -> bool:
    """Whether a cursor is behind all that was before `end`."""
    return all(
        (cursor.at(store).file, cursor.at(store).offset) >= (place.file, place.offset)
        for store, place in end.places.items()
    )


def covers(mark: Cursor, cursor: Cursor) -> bool:
    """Whether a place with that mark has all that the cursor says was brought."""
    return all(_reaches(mark.at(store), place) for store, place in cursor.places.items())


def lowered(cursor: Cursor, mark: Cursor) -> Cursor:
    """From where events are brought again: what the place does not have, and what it cannot be sure of."""
    sure = {
        store: place if _reaches(mark.at(store), place) else _sure(mark.at(store), place)
        for store, place in cursor.places.items()
    }
    return Cursor({store: place for store, place in sure.items() if place.file})


def written(cursor: Cursor) -> list[tuple[str, str]]:
    """A mark as rows: the store, and the place in it."""
    return [(store, str(Cursor({store: place}))) for store, place in sorted(cursor.places.items())]


def read(places: Iterable[str]) -> Cursor:
    """The mark of rows' places. What cannot be read marks nothing: then events come again."""
    found: dict[str, StorePlace] = {}
    for text in places:
        try:
            found |= Cursor.parse(text).places
        except BadRequest:
            continue
    return Cursor(found)


def _reaches(mark: StorePlace, place: StorePlace) -> bool:
    here, there = (mark.file, mark.offset), (place.file, place.offset)
    return here > there or (here == there and mark.check == place.check)


def _sure(mark: StorePlace, place: StorePlace) -> StorePlace:
    """A mark at the same place with another check is of another log."""
    return StorePlace() if (mark.file, mark.offset) == (place.file, place.offset) else mark

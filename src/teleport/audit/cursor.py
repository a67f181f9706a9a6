"""Where a reader of the log stands: a cursor into each auth server's store. Pure.

A place in a store is the name of a day file, how many of its bytes were read, and a check of the last of them: so that
a cursor that was made on another log, or on one that was put back from a copy, is refused and does not skip events.
Readers keep a cursor as text and hand it back as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from teleport.errors import BadRequest

CHECKED: Final = 256  # bytes before a place that its check covers: a line's hash and receipt are among them
MOST_STORES: Final = 1000
MOST_TEXT: Final = 256 * 1024  # characters of a cursor
_VERSION: Final = 1
_STORE: Final = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,127}")
_FILE: Final = re.compile(r"\d{4}-\d\d-\d\d\.00:00:00\.log")
_CHECK: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, order=True)
class StorePlace:
    """A place in the store of one auth server; the default is its beginning."""

    file: str = ""
    offset: int = 0
    check: str = ""


def check_of(before: bytes) -> str:
    """The check of a place, of the bytes before it: those `CHECKED` at most, from the beginning of the file on."""
    return hashlib.sha256(before[-CHECKED:]).hexdigest()[:16] if before else ""


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    stores: dict[str, tuple[str, int, str]]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The places of all stores that were read; the beginning of those that are not named."""

    places: Mapping[str, StorePlace] = field(default_factory=dict)

    def __str__(self) -> str:
        stores = {name: (place.file, place.offset, place.check) for name, place in sorted(self.places.items())}
        return msgspec.json.encode(_Written(_VERSION, stores)).decode()

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """What `str` gave; of an empty text the beginning of the log. Raises `BadRequest`."""
        if not text:
            return cls()
        try:
            if len(text) > MOST_TEXT:
                raise ValueError("too long")
            written = msgspec.json.decode(text, type=_Written)
            places = {name: StorePlace(*place) for name, place in written.stores.items()}
            if written.version != _VERSION or len(places) > MOST_STORES:
                raise ValueError("of another version, or with too many stores")
            if not all(_STORE.fullmatch(name) and _is_place(place) for name, place in places.items()):
                raise ValueError("not a place of a store")
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise BadRequest(
                f"this is no cursor into the audit log: {error}"[:300],
                hint="hand back a cursor as it was given; without one reading begins at the oldest event",
            ) from None
        return cls(places)

    def at(self, store: str) -> StorePlace:
        """Where reading of a store goes on."""
        return self.places.get(store, StorePlace())

    def after(self, store: str, place: StorePlace) -> Cursor:
        """The cursor once a store has been read up to `place`."""
        return Cursor({**self.places, store: place})


def _is_place(place: StorePlace) -> bool:
    return (
        _FILE.fullmatch(place.file) is not None
        and 0 <= place.offset < 2**63
        and (_CHECK.fullmatch(place.check) is not None if place.offset else not place.check)
    )

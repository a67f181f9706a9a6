"""Where things lie under the prefix, and what a stored value looks like. Pure.

    <prefix>schema               JSON: the version of this layout
    <prefix>item/<key>           an item; its key in UTF-8, whose order of bytes is the order of code points
    <prefix>slot/<process>/<n>   what a process writes with each transaction, to know whether it happened (`slots`)

A value begins with a byte that says which form it has: 1, then the value; or 2, then when the item expires
(microseconds since 1970, eight bytes, big-endian), then the value.

Revisions are etcd's own, counted from the one that made the schema, so that an empty storage is at 0. Others may use
the same cluster under other prefixes: their changes take revisions, too, which we then never see.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from teleport.backend.etcd.messages import Message
from teleport.backend.interface import Deleted, Event, Item, Put, prefix_end
from teleport.errors import TeleportError

_STAYS: Final = b"\x01"
_EXPIRES: Final = b"\x02"
_HEAD: Final = struct.Struct(">q")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def pack(value: bytes, expires: datetime | None) -> bytes:
    """What is stored for an item."""
    if expires is None:
        return _STAYS + value
    return _EXPIRES + _HEAD.pack((expires - _EPOCH) // timedelta(microseconds=1)) + value


def unpack(stored: bytes) -> tuple[bytes, datetime | None]:
    """Value and expiry. Raises `ValueError` for what `pack` never made."""
    form, rest = stored[:1], stored[1:]
    if form == _STAYS:
        return rest, None
    if form != _EXPIRES or len(rest) < _HEAD.size:
        raise ValueError("not a stored item")
    (micros,) = _HEAD.unpack_from(rest)
    return rest[_HEAD.size :], _EPOCH + timedelta(microseconds=micros)


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys under one prefix."""

    prefix: str

    @property
    def whole(self) -> tuple[bytes, bytes]:
        """The range of everything that is ours."""
        start = self.prefix.encode()
        return start, _after(start)

    @property
    def schema(self) -> bytes:
        return f"{self.prefix}schema".encode()

    @property
    def items(self) -> bytes:
        return f"{self.prefix}item/".encode()

    @property
    def all_items(self) -> tuple[bytes, bytes]:
        return self.items, _after(self.items)

    def slots(self, process: str) -> tuple[bytes, bytes]:
        """The range of the slots of one process."""
        start = f"{self.prefix}slot/{process}/".encode()
        return start, _after(start)

    def slot(self, process: str, number: int) -> bytes:
        return f"{self.prefix}slot/{process}/{number}".encode()

    def item(self, key: str) -> bytes:
        return self.items + key.encode()

    def under(self, prefix: str, start: str) -> tuple[bytes, bytes]:
        """The range of the items under `prefix` whose keys come after `start`."""
        end = prefix_end(prefix)
        first = self.item(prefix)
        if start:
            first = max(first, self.item(start) + b"\0")
        return first, _after(self.items) if end is None else self.item(end)


@dataclass(frozen=True, slots=True)
class Reading:
    """Turns what etcd says into what the interface speaks of. `base`: the revision that made the schema."""

    layout: Layout
    base: int

    def key(self, stored: bytes) -> str:
        return stored[len(self.layout.items) :].decode()

    def item(self, stored: Message) -> Item:
        try:
            value, expires = unpack(stored.value)
            return Item(self.key(stored.key), value, stored.mod_revision - self.base, expires)
        except ValueError as error:  # UnicodeDecodeError is one
            raise TeleportError(
                f"the storage in etcd holds something at {stored.key.decode(errors='replace')} that is not of its form",
                hint=f"see who else writes under {self.layout.prefix}: etcdctl get --prefix --keys-only "
                f"{self.layout.prefix}",
            ) from error

    def event(self, told: Message, deleted: bool) -> Event:
        if deleted:
            return Deleted(self.key(told.key), told.mod_revision - self.base)
        return Put(self.item(told))


def _after(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`, which ends in a byte of ASCII."""
    return prefix[:-1] + bytes([prefix[-1] + 1])

"""What every storage engine offers: bytes by key, in order, with revisions, leases, transactions and watches.

Rules that all engines keep, and that the contract suite (`tests/backend/test_backend_contract.py`) checks:

- Keys are text without NUL, ordered by code point. Values are bytes. Prefixes are plain text: write the trailing
  separator (`nodes/`) when only whole path elements are meant.
- Every transaction that changes something gets the next revision; all that it wrote carries that one revision.
- A write that returned is durable, and every later read and watch sees it. A write whose caller was cancelled may or
  may not have happened.
- An item whose time has come (`expires <= now`) does not exist for any read, condition or write, at once. Its
  removal, and the `Deleted` that watchers see, follow when the engine sweeps.
- Values may be secrets: they are kept out of reprs and messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from teleport.errors import BadRequest, CompareFailed, LimitExceeded, TeleportError

MAX_KEY = 1024  # bytes in UTF-8
MAX_VALUE = 1024 * 1024  # bytes; fits the request limit of etcd (1.5 MiB)
MAX_WRITES = 1000  # in one transaction
LAST_CODE_POINT = "\U0010ffff"


class WatchCompacted(TeleportError):
    """The log of changes no longer reaches back to the asked revision: read everything again, then watch from there."""


class BackendClosed(TeleportError):
    """The storage was closed, or not opened yet."""


class ConditionFailed(CompareFailed):
    """A condition of a transaction did not hold; nothing was written."""

    def __init__(self, message: str, *, condition: Condition, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.condition = condition


@dataclass(frozen=True, slots=True)
class Item:
    """One stored value as of its last change."""

    key: str
    value: bytes = field(repr=False)
    revision: int  # of the transaction that wrote it
    expires: datetime | None = None  # aware, UTC

    def live(self, now: datetime) -> bool:
        """Whether the item still exists at `now`."""
        return self.expires is None or self.expires > now


@dataclass(frozen=True, slots=True)
class Put:
    """A key got a new value or a new expiry."""

    item: Item

    @property
    def key(self) -> str:
        return self.item.key

    @property
    def revision(self) -> int:
        return self.item.revision


@dataclass(frozen=True, slots=True)
class Deleted:
    """A key was deleted, or its time had come and it was swept."""

    key: str
    revision: int


Event = Put | Deleted


@dataclass(frozen=True, slots=True)
class PutOp:
    """Write a value, whether or not the key exists; without `expires` it stays for ever."""

    key: str
    value: bytes = field(repr=False)
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeleteOp:
    """Delete a key; `NotFound` fails the transaction unless `missing_ok`."""

    key: str
    missing_ok: bool = False


Write = PutOp | DeleteOp


@dataclass(frozen=True, slots=True)
class Exists:
    """The key exists and, when `revision` is given, was last changed by exactly that revision."""

    key: str
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """The key does not exist."""

    key: str


Condition = Exists | Absent


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything under the asked prefixes as of one revision, ordered by key."""

    items: Sequence[Item]
    revision: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed after the snapshot or changes before it. With no events it only says that the source is there."""

    events: Sequence[Event]
    revision: int


class Backend(Protocol):
    """The storage of a cluster. Opened with `async with engine:`; all calls belong to the loop that opened it."""

    async def get(self, key: str) -> Item | None:
        """The item, or None when there is none or its time has come."""
        ...

    async def range(self, prefix: str = "", *, start: str = "", limit: int = 0) -> list[Item]:
        """The items under `prefix` ordered by key, at most `limit` (0: all), only keys *after* `start`.

        `start` is exclusive: for the next page pass the last key of the page before.
        """
        ...

    async def snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        """All items under any of `prefixes`, and the revision they are of: where a watch may begin."""
        ...

    async def watched_snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        """As `snapshot`, for a watch that begins there: perhaps one that others were given, with what watches have
        heard since. Two of the same state share their `items`. Not for who must see what it has just written.
        """
        ...

    async def create(self, key: str, value: bytes, *, expires: datetime | None = None) -> int:
        """Write a key that must not exist; its revision. Raises `AlreadyExists`."""
        ...

    async def put(self, key: str, value: bytes, *, expires: datetime | None = None) -> int:
        """Write a key, whether or not it exists; its revision."""
        ...

    async def compare_and_swap(self, key: str, revision: int, value: bytes, *, expires: datetime | None = None) -> int:
        """Write a key that was last changed by `revision`; its new revision.

        Raises `CompareFailed` when it changed since or does not exist.
        """
        ...

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete a key, if given only when last changed by `revision`. Raises `NotFound`, `CompareFailed`."""
        ...

    async def renew(self, key: str, expires: datetime, *, revision: int | None = None) -> int:
        """Keep a lease: give an existing key a new expiry and keep its value; its new revision.

        Raises `NotFound` when it has lapsed already and `CompareFailed` when it is not of `revision` any more: in
        both cases the lease is lost.
        """
        ...

    async def commit(self, writes: Sequence[Write], *, conditions: Sequence[Condition] = ()) -> int:
        """All of `writes` in one transaction if all of `conditions` hold, else nothing; the revision after it.

        A key may be written once. Raises `ConditionFailed` (a `CompareFailed`) with the first condition that does not
        hold, `NotFound` for the deletion of a missing key, `BadRequest` and `LimitExceeded` for malformed writes.
        """
        ...

    async def revision(self) -> int:
        """The revision of the last change, 0 when there was none."""
        ...

    def watch(self, prefixes: Sequence[str], *, start: int) -> AsyncGenerator[list[Event], None]:
        """Every change after revision `start` under any of `prefixes`, in order, none twice, in non-empty batches.

        A batch never splits a transaction, so the revision of its last event is where to resume. Close it when done
        (`contextlib.aclosing`). Raises `WatchCompacted` when changes after `start` are no longer known (or `start`
        lies in the future, as after a restore from a backup), `BackendClosed` when the storage is closed.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted and let go of everything. May be called twice."""
        ...


def check_key(key: str) -> None:
    """Raises `BadRequest` unless `key` may name an item."""
    if not key:
        raise BadRequest("a storage key may not be empty")
    if "\0" in key:
        raise BadRequest("a storage key may not contain NUL")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise BadRequest("a storage key must be text that UTF-8 can hold") from error
    if size > MAX_KEY:
        raise LimitExceeded(f"a storage key of {size} bytes is too long: at most {MAX_KEY} are allowed")


def check_put(key: str, value: bytes, expires: datetime | None) -> None:
    """Raises `BadRequest` or `LimitExceeded` unless this may be stored."""
    check_key(key)
    if len(value) > MAX_VALUE:
        raise LimitExceeded(f"cannot store {key}: {len(value)} bytes, at most {MAX_VALUE} are allowed")
    if expires is not None and expires.tzinfo is None:
        raise BadRequest(f"cannot store {key}: its expiry names no time zone")


def prefix_end(prefix: str) -> str | None:
    """The first text after all texts that begin with `prefix`; None when there is none."""
    stem = prefix.rstrip(LAST_CODE_POINT)
    if not stem:
        return None
    after = ord(stem[-1]) + 1
    if 0xD800 <= after <= 0xDFFF:  # no text has these: they are halves of UTF-16 pairs
        after = 0xE000
    return stem[:-1] + chr(after)


def disjoint(prefixes: Sequence[str]) -> list[str]:
    """`prefixes` in order, without those that another one covers, so that reading each gives no item twice."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept

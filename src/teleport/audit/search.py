"""Finding events in the day files: by time, type, user, login, host, session and text, page by page.

Events come in order of the time they happened, newest or oldest first. A file is named after the day in which auth
took its events in, so one that is older than the range by more than a day is not opened. Files only grow: of each part
that was read once it is remembered which times its events have, so that a search for the newest reads the end of the
last file and no more. Lines are handed out as they are stored, so that they can be verified.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

import msgspec

from teleport.audit.sinks import DAY_FORMAT, DAY_GLOB
from teleport.errors import BadRequest

DEFAULT_LIMIT = 500  # `reference/audit-events.md` 4
MAX_LIMIT = 10_000
PART = 256 * 1024  # bytes of a file about which it is remembered which times are in them
_SKEW = timedelta(days=1)  # how far a host's clock may be ahead of auth's
_BEGINNING = 1980  # no event is older
_UID = 64  # characters of one that keys hold


@dataclass(frozen=True, slots=True)
class Query:
    """What to find. Empty fields do not restrict."""

    start: datetime | None = None  # inclusive
    end: datetime | None = None  # exclusive
    types: tuple[str, ...] = ()
    user: str = ""
    login: str = ""
    host: str = ""  # UUID or host name
    sid: str = ""
    text: str = ""  # anywhere in the line, any case
    limit: int = DEFAULT_LIMIT
    start_key: str = ""  # `next_key` of the page before
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What was found."""

    lines: list[bytes]
    next_key: str = ""  # empty on the last page


class Head(msgspec.Struct):
    """The fields of an event that are searched."""

    time: datetime
    uid: str
    event: str
    user: str = ""
    login: str = ""
    sid: str = ""
    server_id: str = ""
    server_hostname: str = ""
    host_id: str = ""
    hostname: str = ""
    emitter: str = ""
    epoch: int = 0
    seq: int = 0

    @property
    def tie(self) -> str:
        """What puts events of one moment in order. A host chooses its uids, but not its place in the chain."""
        return f"{self.uid[:_UID]} {self.emitter}/{self.epoch}/{self.seq}"


class _Bare(msgspec.Struct):
    """What is left of an event in which a field is not what it is in ours: it is shown, and no filter fits it."""

    time: datetime
    uid: str
    event: str
    emitter: str = ""
    epoch: int = 0
    seq: int = 0


_BARE = msgspec.json.Decoder(_Bare)
_HEAD = msgspec.json.Decoder(Head)
_Found = tuple[int, str, bytes]  # time in microseconds (negative when newest first), tie, line


def micros(when: datetime) -> int:
    """Microseconds since 1970."""
    if when.tzinfo is None:  # versions before took in such events
        when = when.replace(tzinfo=UTC)
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def first_file(since: datetime) -> str:
    """The name of the earliest day file in which events from `since` on can be."""
    if since.year < _BEGINNING:
        return ""  # the calendar ends somewhere, and early years have names of fewer digits
    return (since - _SKEW).astimezone(UTC).strftime(DAY_FORMAT)


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a file, of whole lines, and the first and last time in it (microseconds)."""

    start: int
    end: int
    first: int = -(2**63)
    last: int = 2**63


class Searcher:
    """Searches the store; keeps what it learned of old files."""

    def __init__(self, directory: Path) -> None:
        """`directory`: the audit store, with one folder for each auth server."""
        self._directory = directory
        self._inodes: dict[Path, int] = {}  # a file that was pruned is another one
        self._parts: dict[Path, tuple[_Part, ...]] = {}  # what is known of files, from their beginning

    async def search(self, query: Query) -> Page:
        """A page of events. `BadRequest` for a limit or key that cannot be meant."""
        return await asyncio.to_thread(self._search, query, place_after(query))

    async def find_uids(self, uids: set[str], since: datetime) -> set[str]:
        """Which of these events are in the store, among those of days from `since` on."""
        return await asyncio.to_thread(self._find_uids, frozenset(uids), since)

    def _find_uids(self, uids: frozenset[str], since: datetime) -> set[str]:
        found: set[str] = set()
        for path in self._files(since):
            with path.open("rb") as file:
                for raw in file:
                    head = read_head(raw) if raw.endswith(b"\n") else None  # else it is being written, or torn
                    if head is not None and head.uid in uids:
                        found.add(head.uid)
        return found

    def _files(self, since: datetime | None) -> list[Path]:
        earliest = first_file(since) if since is not None else ""
        paths = [path for path in self._directory.glob(f"*/{DAY_GLOB}") if not path.parent.is_symlink()]
        return sorted((path for path in paths if path.name >= earliest), key=lambda path: path.name)

    def _search(self, query: Query, after: tuple[int, str] | None) -> Page:
        files = self._files(query.start)
        if not query.oldest_first:
            files.reverse()
        found: list[_Found] = []
        wanted = query.limit + 1
        for path in files:
            parts = self._parts_of(path)
            for part in parts if query.oldest_first else reversed(parts):
                if not self._out_of_reach(part, query, after, found, wanted):
                    found = heapq.nsmallest(wanted, chain(found, self._matches(path, part, query, after)))
        lines = [_as_text(line) for _, _, line in found[: query.limit]]
        if len(found) <= query.limit:
            return Page(lines)
        order, tie, _ = found[query.limit - 1]
        return Page(lines, f"{order}/{tie}")

    def _parts_of(self, path: Path) -> list[_Part]:
        """The parts of a file: those that are known, and what came since."""
        try:
            about = path.stat()
        except FileNotFoundError:
            return []  # it was put away meanwhile
        size = about.st_size
        known = self._parts.get(path, ())
        if known and (known[-1].end > size or self._inodes[path] != about.st_ino):  # put back from a copy, or pruned
            known = ()
            self._parts.pop(path)
        self._inodes[path] = about.st_ino
        read = known[-1].end if known else 0
        return [*known, _Part(read, size)] if size > read else [*known]

    def _out_of_reach(
        self, part: _Part, query: Query, after: tuple[int, str] | None, found: Sequence[_Found], wanted: int
    ) -> bool:
        """Whether no event of a part can be on the page."""
        if after is not None and (part.last if query.oldest_first else -part.first) < after[0]:
            return True  # all of it was on pages before
        if query.end is not None and part.first >= micros(query.end):
            return True
        if query.start is not None and part.last < micros(query.start):
            return True
        if len(found) < wanted:
            return False
        return part.first > found[-1][0] if query.oldest_first else -part.last > found[-1][0]

    def _matches(self, path: Path, part: _Part, query: Query, after: tuple[int, str] | None) -> Iterable[_Found]:
        sign = 1 if query.oldest_first else -1
        low = None if query.start is None else micros(query.start)
        high = None if query.end is None else micros(query.end)
        text = query.text.casefold()
        new: list[_Part] = []
        begun, at, first, last = part.start, part.start, 2**63, -(2**63)
        with path.open("rb") as file:
            file.seek(part.start)
            for raw in file:
                if at >= part.end or not raw.endswith(b"\n"):
                    break  # what follows is another part's, or being written
                at += len(raw)
                head = read_head(raw)
                if head is not None:
                    when = micros(head.time)
                    first, last = min(first, when), max(last, when)
                    wanted = (low is None or when >= low) and (high is None or when < high)
                    if (
                        wanted
                        and fits(head, query)
                        and has_text(raw, text)
                        and (after is None or (sign * when, head.tie) > after)
                    ):
                        yield sign * when, head.tie, raw[:-1]
                if at - begun >= PART:
                    new.append(_Part(begun, at, first, last))
                    begun, first, last = at, 2**63, -(2**63)
        self._learn(path, new)

    def _learn(self, path: Path, new: Sequence[_Part]) -> None:
        """Remembers parts that come right behind those that are known. What is left of a file is read again."""
        known = self._parts.get(path, ())
        if new and new[0].start == (known[-1].end if known else 0):
            self._parts[path] = (*known, *new)


def read_head(line: bytes) -> Head | None:
    """What is searched of a line that is whole; None for damage, which is `verify`'s to report."""
    try:
        return _HEAD.decode(line)
    except msgspec.ValidationError:
        return _read_bare(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _read_bare(line: bytes) -> Head | None:
    try:
        bare = _BARE.decode(line)
    except msgspec.ValidationError:
        return None
    return Head(bare.time, bare.uid, bare.event, emitter=bare.emitter, epoch=bare.epoch, seq=bare.seq)


def _as_text(line: bytes) -> bytes:
    """The line as stored; where damage made it no UTF-8, readable all the same (`verify` will not believe it)."""
    return line.decode("utf-8", "replace").encode()


def fits(head: Head, query: Query) -> bool:
    """Whether an event is one that is asked for, but for its time and text."""
    return (
        (not query.types or head.event in query.types)
        and (not query.user or head.user == query.user)
        and (not query.login or head.login == query.login)
        and (not query.sid or head.sid == query.sid)
        and (
            not query.host
            or query.host in (head.server_id, head.server_hostname, head.host_id, head.hostname, head.emitter)
        )
    )


def has_text(line: bytes, folded: str) -> bool:
    """Whether a text, which has had its case folded, stands in a line."""
    return not folded or folded in line.decode("utf-8", "replace").casefold()


def place_after(query: Query) -> tuple[int, str] | None:
    """Behind which event a page begins: the order and tie of the key that the page before gave.

    The order is the event's time in microseconds since 1970, negative when the newest come first. Raises `BadRequest`
    for a limit or key that cannot be meant.
    """
    if not 0 < query.limit <= MAX_LIMIT:
        raise BadRequest(f"limit {query.limit}: between 1 and {MAX_LIMIT}", hint="use next_key for further pages")
    if not query.start_key:
        return None
    order, slash, tie = query.start_key.partition("/")
    if not slash or not order.removeprefix("-").isdecimal() or len(order) > 20:
        raise BadRequest("start_key is not one that a page gave", hint="begin again without it")
    return int(order), tie

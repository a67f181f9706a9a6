"""Finding events in the day files: by time, type, user, login, host, session and text, page by page.

Events come in order of the time they happened, newest or oldest first. A file is named after the day in which auth
took its events in, so one that is older than the range by more than a day is not opened; how far back a file's events
reach is remembered once it was read whole. Lines are handed out as they are stored, so that they can be verified.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from teleport.audit.sinks import DAY_FORMAT, DAY_GLOB
from teleport.errors import BadRequest

DEFAULT_LIMIT = 500  # `reference/audit-events.md` 4
MAX_LIMIT = 10_000
_SKEW = timedelta(days=1)  # how far a host's clock may be ahead of auth's


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


class _Head(msgspec.Struct):
    """The fields that are searched."""

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


_HEAD = msgspec.json.Decoder(_Head)
_Found = tuple[int, str, bytes]  # time in microseconds (negative when newest first), uid, line


def _micros(when: datetime) -> int:
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class Searcher:
    """Searches the store; keeps what it learned of old files."""

    def __init__(self, directory: Path) -> None:
        """`directory`: the audit store, with one folder for each auth server."""
        self._directory = directory
        self._spans: dict[tuple[Path, int], tuple[int, int]] = {}  # file and size: first and last time in it

    async def search(self, query: Query) -> Page:
        """A page of events. `BadRequest` for a limit or key that cannot be meant."""
        if not 0 < query.limit <= MAX_LIMIT:
            raise BadRequest(f"limit {query.limit}: between 1 and {MAX_LIMIT}", hint="use next_key for further pages")
        return await asyncio.to_thread(self._search, query, _parse_key(query))

    async def find_uids(self, uids: set[str], since: datetime) -> set[str]:
        """Which of these events are in the store, among those of days from `since` on."""
        return await asyncio.to_thread(self._find_uids, frozenset(uids), since)

    def _find_uids(self, uids: frozenset[str], since: datetime) -> set[str]:
        found: set[str] = set()
        for path in self._files(since):
            with path.open("rb") as file:
                for raw in file:
                    head = _read(raw)
                    if head is not None and head.uid in uids:
                        found.add(head.uid)
        return found

    def _files(self, since: datetime | None) -> list[Path]:
        earliest = (since - _SKEW).astimezone(UTC).strftime(DAY_FORMAT) if since is not None else ""
        paths = [path for path in self._directory.glob(f"*/{DAY_GLOB}") if not path.parent.is_symlink()]
        return sorted((path for path in paths if path.name >= earliest), key=lambda path: path.name)

    def _search(self, query: Query, after: tuple[int, str] | None) -> Page:
        files = self._files(query.start)
        if not query.oldest_first:
            files.reverse()
        found: list[_Found] = []
        wanted = query.limit + 1
        for path in files:
            span = self._spans.get((path, path.stat().st_size))
            if span is not None and self._out_of_reach(span, query, found, wanted):
                continue
            found = heapq.nsmallest(wanted, [*found, *self._matches(path, query, after)])
        lines = [_as_text(line) for _, _, line in found[: query.limit]]
        if len(found) <= query.limit:
            return Page(lines)
        order, uid, _ = found[query.limit - 1]
        return Page(lines, f"{order}/{uid}")

    def _out_of_reach(self, span: tuple[int, int], query: Query, found: Sequence[_Found], wanted: int) -> bool:
        """Whether no event of a file can be on the page."""
        first, last = span
        if query.end is not None and first >= _micros(query.end):
            return True
        if query.start is not None and last < _micros(query.start):
            return True
        if len(found) < wanted:
            return False
        return first > found[-1][0] if query.oldest_first else -last > found[-1][0]

    def _matches(self, path: Path, query: Query, after: tuple[int, str] | None) -> Iterable[_Found]:
        sign = 1 if query.oldest_first else -1
        low = None if query.start is None else _micros(query.start)
        high = None if query.end is None else _micros(query.end)
        text = query.text.casefold()
        first, last, size = 2**63, -(2**63), 0
        with path.open("rb") as file:
            for raw in file:
                size += len(raw)
                head = _read(raw)
                if head is None:
                    continue
                when = _micros(head.time)
                first, last = min(first, when), max(last, when)
                if (low is not None and when < low) or (high is not None and when >= high):
                    continue
                if not _fits(head, query) or (text and text not in raw.decode("utf-8", "replace").casefold()):
                    continue
                if after is None or (sign * when, head.uid) > after:
                    yield sign * when, head.uid, raw[:-1]
        self._spans[path, size] = (first, last)


def _read(raw: bytes) -> _Head | None:
    if not raw.endswith(b"\n"):
        return None  # being written, or torn
    try:
        return _HEAD.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # damage is `verify`'s to report


def _as_text(line: bytes) -> bytes:
    """The line as stored; where damage made it no UTF-8, readable all the same (`verify` will not believe it)."""
    return line.decode("utf-8", "replace").encode()


def _fits(head: _Head, query: Query) -> bool:
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


def _parse_key(query: Query) -> tuple[int, str] | None:
    if not query.start_key:
        return None
    order, slash, uid = query.start_key.partition("/")
    if not slash or not order.removeprefix("-").isdecimal() or len(order) > 20:
        raise BadRequest("start_key is not one that a page gave", hint="begin again without it")
    return int(order), uid

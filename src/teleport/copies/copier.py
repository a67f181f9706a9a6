"""Brings what the log holds to one other place, at least once, in order.

The log itself is the spool: what was brought is a cursor into it, kept in auth's database, that moves once the place
has said that it holds the events. So a place that is away costs no event and no operation, only a longer way to catch
up; and nothing of it has a bound that could be reached. A place that does not take events is named in the daemon's log
and in its metrics until it does.

Of several auth servers the holder of the lease brings everything. A place of each server by itself, such as the
standard output, gets what that server took in; of two processes of one host, the newer brings it. Whoever was
overtaken notices when it moves the cursor: events in between come twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec

from teleport.audit.checkpoints import LeaseElsewhere
from teleport.audit.cursor import Cursor
from teleport.audit.following import Stretch, end_of, read_on
from teleport.backend.interface import Absent, Backend, Exists, PutOp
from teleport.copies.marks import Lacking, Marked, covers, is_behind, lowered
from teleport.errors import CompareFailed, NotFound, TeleportError

COPIES: Final = "audit/copies/"
LOOK: Final = 1.0  # seconds between looks at a log that holds nothing new
WATCH: Final = 0.05  # seconds between looks at how far a place is that somebody waits for
FIRST_PAUSE: Final = 1.0
MOST_PAUSE: Final = 60.0
AGAIN: Final = 300.0  # seconds after which a failure that lasts is told again
LAST: Final = 2.0  # seconds at the end
LINES: Final = 500  # brought at once

log = logging.getLogger(__name__)


class Place(Protocol):
    """Where events are brought to."""

    doubtful: float
    """For how many seconds it may lose what it took: when it fails, events of that time are brought again."""

    async def write(self, lines: Sequence[bytes]) -> None:
        """Returns when the place has said that it holds the lines (stored ones, without newlines), perhaps more than
        once; raises `TeleportError` otherwise."""
        ...

    async def close(self) -> None: ...


class Later(TeleportError):
    """The place wants to be left alone for a while."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class TooLarge(TeleportError):
    """The place takes no `lines` of that size, however often they are brought."""

    def __init__(self, message: str, *, lines: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.lines = lines


def pauses(error: Exception, pause: float) -> tuple[float, float]:
    """For how long the place is left alone after a failure, and what that is after the next one."""
    return max(pause, error.seconds if isinstance(error, Later) else 0.0), min(2 * pause, MOST_PAUSE)


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record: how far, and which run of which host said so."""

    cursor: str
    host: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Source:
    """The log, as this process of this auth server sees it."""

    directory: Path
    durable: Callable[[], Awaitable[Mapping[str, str]]]
    host: str
    epoch: int


class Copier:
    """One place. `run` it; `problem` says why events do not arrive, and is empty while they do."""

    def __init__(
        self,
        name: str,
        place: Place,
        source: Source,
        backend: Backend,
        lease: Callable[[], AbstractAsyncContextManager[object]] | None,
        *,
        types: Sequence[str] = (),
        look: float = LOOK,
    ) -> None:
        """Without a `lease` the place is this server's alone: it gets what this server takes in from now on."""
        self.name = name
        self.problem = ""
        self.failing_since: float | None = None  # by the loop's clock
        self._place = place
        self._source = source
        self._backend = backend
        self._lease = lease
        self._types = tuple(types)
        self._look = look
        self._key = f"{COPIES}{name}" if lease is not None else f"{COPIES}{name}/{source.host}"
        self._asked = asyncio.Event()  # somebody waits for what is new
        self._recent: deque[tuple[float, Cursor]] = deque()  # when a stretch was brought, and the cursor before it
        self._told = 0.0
        self._lost: float | None = None  # when a search found that the place has less than was brought

    async def run(self) -> None:
        """Until cancelled."""
        pause = FIRST_PAUSE
        try:
            while True:
                wait, look = self._look, True
                self._asked.clear()
                try:
                    if await self.step():
                        wait = 0.0
                    self._well()
                    pause = FIRST_PAUSE
                except LeaseElsewhere:
                    self._well()
                except Exception as error:  # whatever it was: the place is tried again, and this is seen
                    self._failed(error if isinstance(error, TeleportError) else TeleportError(repr(error)))
                    wait, pause = pauses(error, pause)
                    look = False
                await self._rest(wait, until_asked=look)
        finally:
            await self._place.close()

    async def step(self) -> bool:
        """Brings what comes next; whether there is more. Raises `LeaseElsewhere` when another server does it."""
        if self._lease is not None:
            async with self._lease():
                pass
        cursor, revision, text = await self._load()
        stretch = await self._read(cursor)
        moved = str(stretch.cursor)
        lines = [one.line for one in stretch.taken]
        try:
            if isinstance(self._place, Marked):
                if lines or moved != text:
                    await self._place.bring(lines, cursor, stretch.cursor)
            elif lines:
                await self._place.write(lines)
        except Lacking as error:
            await self._again(cursor, error.mark, revision)
            return True
        except TeleportError:
            await self._go_back(revision)
            raise
        if lines:
            self._remember(cursor)
        if moved != text:
            await self._save(moved, revision)
        return stretch.more

    async def begin(self) -> None:
        """Of a place that is this server's alone: what is taken in from now on is brought, and by this process."""
        if self._lease is None:
            item = await self._backend.get(self._key)
            if item is None:
                await self._save(str(await self._end()), None)
                return
            kept = msgspec.json.decode(item.value, type=_Kept)
            if kept.epoch < self._source.epoch:
                await self._save(kept.cursor, item.revision)

    async def finish(self) -> None:
        """Brings what is there yet, where that is quick: to a place that is this server's alone."""
        if self._lease is None:
            try:
                async with asyncio.timeout(LAST):
                    while await self.step():
                        pass
            except (TeleportError, TimeoutError) as error:
                log.warning("audit events for %s wait for the next start: %s", self.name, error)
            finally:
                await self._place.close()

    async def has_all(self, within: float, mark: Callable[[], Awaitable[Cursor]]) -> bool:
        """Whether the place has what the log holds at this moment, or gets it `within` so many seconds, perhaps by
        another auth server. `mark` asks the place itself: when it has less than was brought, that is brought again."""
        source = self._source
        end = await asyncio.to_thread(end_of, source.directory, await source.durable())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            cursor, revision, _ = await self._load()  # before the mark, which never moves later than this
            if is_behind(cursor, end):
                found = await mark()
                if covers(found, cursor):
                    return True
                # Not for each search: while an auth server of an older version holds the lease it writes no mark.
                if self._lost is None or loop.time() - self._lost >= AGAIN:
                    with suppress(LeaseElsewhere):  # another process brings something, and sees the same
                        await self._again(cursor, found, revision)
                        self._lost = loop.time()
            if self.problem or loop.time() >= deadline:
                return False
            self._asked.set()
            await asyncio.sleep(WATCH)

    def failing(self) -> float:
        """For how many seconds events have not arrived; 0 when they do."""
        return 0.0 if self.failing_since is None else asyncio.get_running_loop().time() - self.failing_since

    @property
    def is_for_all(self) -> bool:
        """Whether it gets what all auth servers take in."""
        return self._lease is not None

    async def cursor(self) -> Cursor:
        """How far the place has events; the beginning of the log when it has none."""
        return (await self._load())[0]

    async def _rest(self, wait: float, *, until_asked: bool) -> None:
        if not until_asked:
            await asyncio.sleep(wait)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._asked.wait()

    async def _load(self) -> tuple[Cursor, int | None, str]:
        item = await self._backend.get(self._key)
        if item is None:
            start = Cursor() if self._lease is not None else await self._end()
            return start, None, ""
        kept = msgspec.json.decode(item.value, type=_Kept)
        if self._lease is None and kept.epoch > self._source.epoch:
            raise LeaseElsewhere("a newer process of this host writes here")
        return Cursor.parse(kept.cursor), item.revision, kept.cursor

    async def _end(self) -> Cursor:
        """Behind what this server has taken in by now. Of another server's store nothing is asked."""
        source = self._source
        end = await asyncio.to_thread(end_of, source.directory, await source.durable())
        return Cursor({name: place for name, place in end.places.items() if name == source.host})

    async def _read(self, cursor: Cursor) -> Stretch:
        source = self._source
        durable = await source.durable()
        only = None if self._lease is not None else source.host

        def read(start: Cursor) -> Stretch:
            return read_on(source.directory, start, durable, types=self._types, limit=LINES, only=only)

        try:
            return await asyncio.to_thread(read, cursor)
        except NotFound as error:
            log.error(
                "copies of audit events to %s begin again at the oldest event of the log, and some come twice: %s",
                self.name,
                error.message,
            )
            return await asyncio.to_thread(read, Cursor())

    async def _save(self, cursor: str, revision: int | None) -> int:
        value = msgspec.json.encode(_Kept(cursor, self._source.host, self._source.epoch))
        condition = Absent(self._key) if revision is None else Exists(self._key, revision)
        try:
            return await self._backend.commit([PutOp(self._key, value)], conditions=[condition])
        except CompareFailed:
            raise LeaseElsewhere("another process has brought the same events") from None

    async def _again(self, cursor: Cursor, mark: Cursor, revision: int | None) -> None:
        """The place has lost what it had, or never had a mark: from there on everything comes again."""
        log.error(
            "%s has fewer audit events than were brought there: it was put back from an older copy, emptied or "
            "replaced, or an older version filled it. What the log still holds is brought again",
            self.name,
        )
        await self._save(str(lowered(cursor, mark)), revision)

    def _remember(self, before: Cursor) -> None:
        now = asyncio.get_running_loop().time()
        self._recent.append((now, before))
        while self._recent and self._recent[0][0] < now - self._place.doubtful:
            self._recent.popleft()

    async def _go_back(self, revision: int | None) -> None:
        """What the place took shortly before it failed may be lost: it comes again."""
        now = asyncio.get_running_loop().time()
        doubtful = [cursor for when, cursor in self._recent if when >= now - self._place.doubtful]
        self._recent.clear()
        if doubtful:
            await self._save(str(doubtful[0]), revision)

    def _well(self) -> None:
        if self.problem:
            log.info("audit events arrive at %s again", self.name)
        self.problem, self.failing_since = "", None

    def _failed(self, error: TeleportError) -> None:
        now = asyncio.get_running_loop().time()
        if self.failing_since is None:
            self.failing_since = now
        if error.message != self.problem or now - self._told >= AGAIN:
            self._told = now
            log.error(
                "audit events do not arrive at %s; they stay in the log and are brought later: %s",
                self.name,
                error.message,
            )
        self.problem = error.message

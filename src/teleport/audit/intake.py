"""Auth's side of delivery: takes each chain in, in order, each event once, and refuses what cannot be true.

A batch is checked whole, then appended to the sinks, then the new head is saved, then it is acknowledged. A crash
between any two of these steps is repaired by `start` (the store is read on from the position saved with the heads)
and by the host delivering again. A batch is taken while holding the store's lock: another process of this host may
take the next one, and what is remembered here is loaded anew when it did. What is refused:

- another emitter than the authenticated host, or an event that names another server (threats T43, T46), unless that
  is a plain sshd for which a proxy speaks;
- an event that only auth can know, from a host (`codes.Origin`);
- an altered line, another history, a gap (the answer names the expected event), unless a restore lost what is missing;
- a line that is not written as events are written, has a field of another type, or holds what only auth remarks.

To each line auth adds when it came, by its own clock: the host's `time` is the host's word.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

from msgspec import UNSET

from teleport.audit.chain import ChainKey, Head, Linked, mark_received, mark_supplement
from teleport.audit.chain.link import EMITTER_ID
from teleport.audit.codes import CODES, Origin
from teleport.audit.events import MAX_LINE, REGISTRY, Event, ServerEvent, SessionEnd, UnknownEvent, is_canonical
from teleport.audit.restored import Lost, Restored
from teleport.audit.shipper import IntakeAck
from teleport.audit.sinks import Beyond, Sink, in_order
from teleport.clock import Clock
from teleport.errors import AccessDenied, BadRequest, CompareFailed

NOTHING = Head(0, "")
_REMARKS = ("received", "receipt", "supplement", "hash")
_LINE_OVERHEAD = 256  # hash and remarks
_PLAIN_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")  # of sessions and hosts: keys of the storage are made of them


class IntakeStore(Protocol):
    """What intake keeps in auth's database."""

    async def load_heads(self) -> tuple[Mapping[ChainKey, Head], str]:
        """All heads, and the position of the store that was saved with the newest of them."""
        ...

    async def save_heads(self, changed: Mapping[ChainKey, Head], position: str) -> None:
        """Durably sets these heads and the position."""
        ...

    async def claim_end(self, sid: str, uid: str, host_id: str) -> str:
        """Makes `uid` the end of session `sid` on `host_id` unless there is one; answers the uid of the one that
        counts. What other hosts say of the same session is no matter."""
        ...


class SharedRecords(Protocol):
    """What intake keeps besides where several auth servers share a folder of stores."""

    async def load_head(self, key: ChainKey) -> Head | None: ...

    async def load_positions(self) -> Mapping[str, str]:
        """How far each store was looked through. Raises `TeleportError` when the log has moved to another folder."""
        ...

    async def save_in(self, store: str, changed: Mapping[ChainKey, Head], position: str) -> None:
        """As `save_heads`, with the position of one of the stores."""
        ...


class Gaps(Protocol):
    """What a restore from a backup left to do (`auth.evidence_store`)."""

    async def load_restored(self) -> Restored | None: ...

    async def tell_gap(self, lost: Lost) -> None:
        """Puts on record that these events are lost; when it returns, that cannot be lost."""
        ...


class EventStore(Sink, Protocol):
    """The sink that is searched and verified."""

    @property
    def position(self) -> str:
        """How far it reaches."""
        ...

    @property
    def lock(self) -> Exclusive:
        """Held while the store and the heads are changed."""
        ...

    def lines_after(self, position: str) -> list[bytes]:
        """What it holds after a position."""
        ...

    def beyond(self, positions: Mapping[str, str]) -> Sequence[Beyond]:
        """What it and those beside it hold after these positions."""
        ...

    @property
    def store(self) -> Path:
        """Its folder, whose name tells it from those beside it."""
        ...


class Exclusive(Protocol):
    """Lets one process at a time change the store (`store_lock.StoreLock`)."""

    def after_others(self, again: Callable[[], Awaitable[None]]) -> None: ...

    async def __aenter__(self) -> None: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Intake:
    """Takes events in. One for each auth server; call `start` first."""

    def __init__(
        self,
        store: EventStore,
        records: IntakeStore,
        clock: Clock,
        *,
        cluster: str,
        sink: Sink | None = None,
        gaps: Gaps | None = None,
        shared: SharedRecords | None = None,
    ) -> None:
        """`sink` is what lines go to when it is more than the store (a `MultiSink` around it); `gaps` knows of a
        restore; with `shared` the store lies beside those of other auth servers, which take in the same chains."""
        self._shared = shared
        self._sure: set[ChainKey] | None = None  # whose head nobody else has moved since it was read; None: all
        self._clock = clock
        self._gaps = gaps
        self._restored: Restored | None = None
        self.checkpoint = ""  # the last one, told to emitters with each acknowledgement
        self._store = store
        self._sink: Sink = sink if sink is not None else store
        self._records = records
        self._cluster = cluster
        self._heads: dict[ChainKey, Head] = {}
        self._tasks: set[asyncio.Task[IntakeAck]] = set()
        # Where the store ended before a batch whose head is not saved yet: a saved position never goes past that.
        self._unsaved: dict[ChainKey, str] = {}
        self._locks: defaultdict[ChainKey, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._coming: dict[object, tuple[ChainKey, int]] = {}  # lines of batches that wait for the store's lock

    async def start(self) -> None:
        """Loads the heads and reads what reached the store but not the heads before a crash."""
        again = self._load if self._shared is None else self._others_wrote
        async with self._store.lock:
            await again()
        self._store.lock.after_others(again)

    async def refresh(self) -> None:
        """What another process took in counts here, too, from now on."""
        async with self._store.lock:
            await self.know_all()

    async def know_all(self) -> None:
        """Makes `heads` those of all chains; for who holds the store's lock."""
        if self._sure is None:
            return
        heads, _ = await self._records.load_heads()
        if self._sure is not None:  # those that batches moved meanwhile are newer than what was read
            self._heads = {**heads, **{key: self._heads[key] for key in self._sure}}
            self._sure = None

    async def _others_wrote(self) -> None:
        """Another auth server moved some heads, and may have been killed before it had saved all: what its store holds
        beyond them is found."""
        assert self._shared is not None, "nobody else writes"
        self._sure = set()
        self._restored = await self._gaps.load_restored() if self._gaps is not None else None
        self._unsaved.clear()
        known = await self._shared.load_positions()
        for beyond in await asyncio.to_thread(self._store.beyond, known):
            changed: dict[ChainKey, Head] = {}
            for line in beyond.lines:
                with suppress(BadRequest):  # damage is `verify`'s to report
                    linked = Linked.parse(line)
                    await self._know(linked.key)
                    if linked.intact and linked.seq > self.head(linked.key).seq:
                        changed[linked.key] = self._heads[linked.key] = Head(linked.seq, linked.computed)
            await self._shared.save_in(beyond.store, changed, beyond.position)

    async def _know(self, key: ChainKey) -> None:
        """For who holds the chain's lock, too: nobody else here moves its head."""
        if self._shared is None or self._sure is None or key in self._sure:
            return
        head = await self._shared.load_head(key) or NOTHING
        if self._sure is not None:
            self._heads[key] = head
            self._sure.add(key)

    async def _load(self) -> None:
        heads, position = await self._records.load_heads()
        self._restored = await self._gaps.load_restored() if self._gaps is not None else None
        self._heads = dict(heads)
        self._unsaved.clear()  # what a failed batch left in the store is found below
        changed: dict[ChainKey, Head] = {}
        for line in await asyncio.to_thread(self._store.lines_after, position):
            try:
                linked = Linked.parse(line)
            except BadRequest:
                continue  # damage is `verify`'s to report; it must not keep auth from starting
            if linked.intact and linked.seq > self.head(linked.key).seq:
                changed[linked.key] = self._heads[linked.key] = Head(linked.seq, linked.computed)
        if changed:
            await self._records.save_heads(changed, self._store.position or position)

    def head(self, key: ChainKey) -> Head:
        """How far this chain is held durably."""
        return self._heads.get(key, NOTHING)

    def heads(self) -> Mapping[ChainKey, Head]:
        """How far every chain is held durably, now."""
        return dict(self._heads)

    async def intake(
        self,
        emitter: str,
        epoch: int,
        lines: list[bytes],
        *,
        allowed_emitter: str,
        own: bool = False,
        speaks_for: Collection[str] = (),
    ) -> IntakeAck:
        """Takes lines of one chain in and answers how far it is held; no lines only asks.

        `allowed_emitter` is the authenticated host's UUID; `own` is for auth's own emitter, which may write of
        everything; `speaks_for` are servers that have no daemon, of which this host may write. Raises `AccessDenied`
        for claims that the host may not make, `BadRequest` for lines that are not events or were altered,
        `CompareFailed` for a gap or another history; nothing of the batch is kept then.
        """
        if emitter != allowed_emitter or not EMITTER_ID.fullmatch(emitter) or not 0 < epoch < 2**63:
            raise AccessDenied(f"host {allowed_emitter} may not deliver events of emitter {emitter[:128]!r}")
        # Once a batch is on its way to the sinks its head must follow, also when the caller hangs up meanwhile.
        task = asyncio.create_task(
            self._take(ChainKey(emitter, epoch), lines, own, speaks_for), name=f"intake {emitter}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    @property
    def coming(self) -> int:
        """How many lines, at least, wait until the store is free. A host that got no answer brings the same again."""
        most: dict[ChainKey, int] = {}
        for key, lines in self._coming.values():
            most[key] = max(most.get(key, 0), lines)
        return sum(most.values())

    async def close(self) -> None:
        """Waits for batches that are on their way to the sinks."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    @asynccontextmanager
    async def _turn(self, key: ChainKey, lines: int) -> AsyncIterator[None]:
        """The locks of the chain and of the store; who waits for them is counted."""
        batch = object()
        self._coming[batch] = key, lines
        try:
            async with self._locks[key], self._store.lock:
                del self._coming[batch]
                yield
        finally:
            self._coming.pop(batch, None)

    async def _take(self, key: ChainKey, lines: list[bytes], own: bool, speaks_for: Collection[str]) -> IntakeAck:
        async with self._turn(key, len(lines)):
            if self._restored is not None:
                await self.know_all()
            await self._know(key)
            head, fresh, lost = self._check(key, lines, own, speaks_for)
            if fresh:
                for gap in lost:
                    assert self._gaps is not None, "who knows of a restore tells of what it lost"
                    await self._gaps.tell_gap(gap)
                kept = [await self._remarked(linked, line, event) for linked, line, event in fresh]
                self._unsaved.setdefault(key, self._store.position)
                await self._sink.append(kept)
                self._heads[key] = head
                others = [position for other, position in self._unsaved.items() if other != key]
                position = min([*others, self._store.position], key=in_order)
                if self._shared is not None:
                    await self._shared.save_in(self._store.store.name, {key: head}, position)
                else:
                    await self._records.save_heads({key: head}, position)
                del self._unsaved[key]
        return IntakeAck(head.seq + 1, head.hash, self.checkpoint, may_skip=self._restored is not None)

    def _check(
        self, key: ChainKey, lines: list[bytes], own: bool, speaks_for: Collection[str]
    ) -> tuple[Head, list[tuple[Linked, bytes, Event]], list[Lost]]:
        """The head after the batch, its events that are new, and what a restore lost between them."""
        head, restored, lost = self.head(key), self._restored, list[Lost]()
        fresh: list[tuple[Linked, bytes, Event]] = []
        for line in lines:
            linked = self._read(key, line)
            where = f"event {linked.seq} of emitter {key.emitter} epoch {key.epoch}"
            if linked.seq < head.seq:
                continue  # delivered again; the link to the head proves the rest when it comes
            if linked.seq == head.seq:
                if linked.computed != head.hash:
                    raise CompareFailed(f"{where}: auth holds another event there; the chain has two histories")
                continue
            event = self._decode(linked, where, own, speaks_for)
            gap = restored.gap_before(linked, head, self._heads) if restored is not None and not own else None
            if gap is not None and restored is not None and (not gap.first or restored.may_skip(key, head, event.time)):
                lost.append(gap)
            elif linked.seq != head.seq + 1:
                raise CompareFailed(f"{where}: auth expects event {head.seq + 1} of this chain next")
            elif head.seq and linked.prev != head.hash:
                raise CompareFailed(f"{where}: it does not follow the event that auth holds before it")
            fresh.append((linked, line, event))
            head = Head(linked.seq, linked.computed)
        return head, fresh, lost

    def _read(self, key: ChainKey, line: bytes) -> Linked:
        if len(line) > MAX_LINE + _LINE_OVERHEAD:
            raise BadRequest(f"an event of {len(line)} bytes; at most {MAX_LINE} are taken")
        linked = Linked.parse(line)
        where = f"event {linked.seq} of emitter {key.emitter} epoch {key.epoch}"
        if linked.key != key:
            raise AccessDenied(f"{where}: the line names another emitter or epoch")
        if linked.seq < 1 or linked.supplement or linked.received:
            raise BadRequest(f"{where}: the line holds what only auth writes, or no place in a chain")
        if not linked.intact:
            raise BadRequest(f"{where}: altered on its way or on disk, its hash does not fit")
        return linked

    def _decode(self, linked: Linked, where: str, own: bool, speaks_for: Collection[str]) -> Event:
        if not is_canonical(linked.body):
            raise BadRequest(f"{where}: not written as events are written")
        event = REGISTRY.decode(linked.body)
        if not _is_moment(event.time):
            raise BadRequest(f"{where}: its time is none that can be compared with others: {event.time.isoformat()}")
        if any(_written(event, remark) for remark in _REMARKS):
            raise BadRequest(f"{where}: it holds what only auth writes")
        if event.cluster_name not in ("", self._cluster):
            raise AccessDenied(f"{where}: it names another cluster")
        if own:
            return event
        row = CODES.get(linked.event)
        if row is not None and row.origin is not Origin.HOST:
            raise AccessDenied(f"{where}: {linked.event} is an event of auth, not of a host")
        server = event.server_id if isinstance(event, ServerEvent) else ""
        if isinstance(event, UnknownEvent):
            server = event.fields.get("server_id", "")
        if server not in ("", linked.key.emitter) and server not in speaks_for:
            raise AccessDenied(f"{where}: it names another server")
        sid = event.fields.get("sid", "") if isinstance(event, UnknownEvent) else getattr(event, "sid", "")
        for name, value in (("sid", sid), ("server_id", server)):
            if value and not (isinstance(value, str) and _PLAIN_ID.fullmatch(value)):
                raise BadRequest(f"{where}: its {name} is no id")
        return event

    async def _remarked(self, linked: Linked, line: bytes, event: Event) -> bytes:
        """With the time of receipt. A session has one end on its host; a later one is kept with a remark of its own. An
        end is claimed by uid: redelivery changes nothing."""
        line = mark_received(line, self._clock.now())
        if not isinstance(event, SessionEnd) or not event.sid:
            return line
        counts = await self._records.claim_end(event.sid, linked.uid, event.server_id or linked.key.emitter)
        return line if counts == linked.uid else mark_supplement(line)


def _is_moment(when: datetime) -> bool:
    """Whether it names its zone, and is within the calendar also in UTC: searches put events in order by it."""
    try:
        return when.tzinfo is not None and when.astimezone(UTC).year > 1
    except OverflowError:
        return False


def _written(event: Event, name: str) -> bool:
    """Whether the event itself says what only auth's remark may say."""
    if isinstance(event, UnknownEvent):
        return name in event.fields
    return getattr(event, name, UNSET) is not UNSET


class LocalDelivery:
    """The way from auth's own emitter to the intake in the same process."""

    def __init__(self, intake: Intake, emitter: str) -> None:
        self._intake = intake
        self._emitter = emitter

    async def intake(self, emitter: str, epoch: int, lines: list[bytes]) -> IntakeAck:
        return await self._intake.intake(emitter, epoch, lines, allowed_emitter=self._emitter, own=True)

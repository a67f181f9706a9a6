"""Events of auth's own changes: written in the same transaction as the change, then moved into the chain.

`outbox_write` gives the record for the transaction. `OutboxPump` emits the records in order and deletes each after
its event is durable. A crash between the two leaves a record whose event is written already; the pump finds it by
its uid, in the host's spools or in the store, and only deletes it. So a change and its event are both there or both
not (design decision 10).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from teleport.audit import spool
from teleport.audit.chain import Linked
from teleport.audit.events import REGISTRY, Event, encode_event
from teleport.errors import BadRequest, TeleportError

log = logging.getLogger(__name__)

PREFIX = "audit/outbox/"
IDLE = 5.0  # seconds until the pump looks without being kicked: another process may have written
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 8.0


def outbox_write(event: Event) -> tuple[str, bytes]:
    """Key and value of the record of `event`. Keys sort by the event's time. `BadRequest` when it cannot be written."""
    micros = int(event.time.timestamp() * 1_000_000)
    return f"{PREFIX}{micros:016x}-{event.uid}", encode_event(event)


def told_at(key: str) -> datetime:
    """The time of the event whose record has this key."""
    return datetime.fromtimestamp(int(key.removeprefix(PREFIX).partition("-")[0], 16) / 1_000_000, UTC)


class OutboxBackend(Protocol):
    """What the pump asks of the database."""

    async def range(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        """Keys and values below a prefix, in order of keys."""
        ...

    async def delete(self, key: str) -> None:
        """Deletes a key; one that is gone is no error."""
        ...


class Emits(Protocol):
    """Auth's emitter."""

    @property
    def directory(self) -> Path: ...

    async def emit(self, event: Event) -> None: ...


class Step(Protocol):
    """Tells of a step that others left half done, also when they run on another host (`store_lock.StoreLock`)."""

    @property
    def half_done(self) -> bool: ...

    def begin_step(self) -> None: ...

    def finish_step(self) -> None: ...


InStore = Callable[[set[str]], Awaitable[set[str]]]  # which of these uids the store holds


class OutboxPump:
    """Empties the outbox into the emitter; one at a time for a cluster."""

    def __init__(
        self,
        backend: OutboxBackend,
        emitter: Emits,
        in_store: InStore,
        exclusive: AbstractAsyncContextManager[object] | None = None,
        *,
        step: Step | None = None,
    ) -> None:
        """`exclusive` is held while records are moved, so that no other process moves the same ones. With `step` the
        log is looked through for what others left half done; without, `look_again` says when."""
        self._step = step
        self._exclusive = exclusive or contextlib.nullcontext()
        self.problem = ""
        self._backend = backend
        self._emitter = emitter
        self._in_store = in_store
        self._wake = asyncio.Event()
        self._fresh = True  # nothing emitted by this pump yet: what is in the outbox may be in the log already

    async def look_again(self) -> None:
        """Another process has pumped, and may have died over it: what is in the outbox may be in the log already."""
        self._fresh = True

    def kick(self) -> None:
        """A record was written: look at once."""
        self._wake.set()

    async def run(self) -> None:
        """Pumps until cancelled."""
        pause = FIRST_PAUSE
        while True:
            self._wake.clear()
            try:
                await self.pump()
            except TeleportError as error:
                if str(error) != self.problem:
                    log.error("audit events wait in the outbox: %s", error)
                self.problem = str(error)
                self._fresh = True  # it is not known whether the last one was written
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self.problem = ""
                pause = FIRST_PAUSE
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE):  # `wait_for` of 3.11 can swallow a cancellation
                        await self._wake.wait()

    async def pump(self) -> int:
        """Moves everything that is in the outbox now; how many events were emitted."""
        async with self._exclusive:
            return await self._pump()

    async def _pump(self) -> int:
        records = list(await self._backend.range(PREFIX))
        if not records:
            self._fresh = False
            return 0
        known = (
            await self._known(records) if self._fresh or (self._step is not None and self._step.half_done) else set()
        )
        self._fresh = True  # until all went well
        if self._step is not None:
            self._step.begin_step()
        emitted = 0
        for key, value in records:
            try:
                event = REGISTRY.decode(value)
            except BadRequest as error:
                raise TeleportError(
                    f"outbox record {key} is not an event: {error}", hint="remove it once you know what wrote it"
                ) from error
            if event.uid not in known:
                await self._emitter.emit(event)
                emitted += 1
            await self._backend.delete(key)
        if self._step is not None:
            self._step.finish_step()
        self._fresh = False
        return emitted

    async def _known(self, records: Sequence[tuple[str, bytes]]) -> set[str]:
        """The uids among these records that the spools or the store hold."""
        uids = {key.removeprefix(PREFIX).partition("-")[2] for key, _ in records}
        spooled = await asyncio.to_thread(_spooled_uids, self._emitter.directory, uids)
        rest = uids - spooled
        return spooled | (await self._in_store(rest) if rest else set())


def _spooled_uids(directory: Path, uids: set[str]) -> set[str]:
    found: set[str] = set()
    for line in spool.undelivered(directory):
        with contextlib.suppress(BadRequest):
            linked = Linked.parse(line)
            if linked.uid in uids:
                found.add(linked.uid)
    return found

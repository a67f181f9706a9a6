"""Delivery: takes a host's spools to auth, oldest epoch first, each chain in order, each event until acknowledged.

Delivering never holds up emitting. When auth is away the spool grows and delivery tries again; what a killed process
left behind goes first, its torn last line cut, also that of a child which did not live as long as its parent. A segment
is removed only when auth has acknowledged all of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol

from teleport.audit import spool
from teleport.audit.chain import Linked
from teleport.audit.emitter import Emitter
from teleport.errors import AccessDenied, BadRequest, CompareFailed, LimitExceeded, TeleportError

P = ParamSpec("P")
log = logging.getLogger(__name__)

BATCH_LINES = 512
BATCH_BYTES = 1024 * 1024
GATHER = 0.02  # seconds that an event waits for others, and lets whoever waits for what it tells of go first
LOOK_EVERY = 30.0  # seconds until the spools are looked at without being told: another process may have died
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 8.0  # seconds between attempts while auth is away


@dataclass(frozen=True, slots=True)
class IntakeAck:
    """How far auth durably holds a chain: the next seq that it wants, its last hash, and auth's last checkpoint."""

    next_seq: int
    head: str = ""
    checkpoint: str = ""  # number:hash
    may_skip: bool = False  # auth was restored from a backup: what was delivered after that need not be there any more


class Delivery(Protocol):
    """The way to auth's intake, already authenticated as this host."""

    async def intake(self, emitter: str, epoch: int, lines: list[bytes]) -> IntakeAck:
        """Delivers lines of a chain, in order. No lines: only asks how far auth is. `CompareFailed` for a gap."""
        ...


class Shipper:
    """Delivers what an emitter and the killed processes before it have written."""

    def __init__(self, emitter: Emitter, delivery: Delivery) -> None:
        self.problem = ""  # why delivery is held up now, for status pages; empty when it is not
        self._emitter = emitter
        self._delivery = delivery
        self._wake = asyncio.Event()
        self._stuck = ""
        self._next: dict[int, int] = {}  # epoch: the next seq that auth wants, as far as known
        self._heads: dict[int, str] = {}
        self._may_skip = False
        self._taken_at: float | None = None  # when auth took events, or had all of them, by the loop's clock
        emitter.tell(self._wake)

    @property
    def waiting(self) -> int:
        """Events of this process that auth is not known to hold."""
        return max(0, self._emitter.durable_seq - self._next.get(self._emitter.key.epoch, 1) + 1)

    def behind(self) -> float:
        """Seconds since auth last took events, or had all of them; 0 when nothing waits."""
        if not self.waiting and not self.problem:
            return 0.0
        return asyncio.get_running_loop().time() - self._taken_at if self._taken_at is not None else 0.0

    async def run(self) -> None:
        """Delivers until cancelled."""
        self._taken_at = asyncio.get_running_loop().time()
        pause = FIRST_PAUSE
        while True:
            self._wake.clear()
            try:
                await self.deliver_all()
            except (TeleportError, OSError) as error:
                if str(error) != self.problem:
                    log.warning("audit events wait in the spool: %s", error)
                self.problem = str(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                if self._stuck and self._stuck != self.problem:
                    log.error("events of an earlier run of this daemon cannot be delivered: %s", self._stuck)
                self.problem = self._stuck
                pause = FIRST_PAUSE
                self._taken_at = asyncio.get_running_loop().time()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._wake.wait()
                        await asyncio.sleep(GATHER)

    async def deliver_all(self) -> None:
        """Everything that is durable now, older epochs first.

        Raises `TeleportError` when auth is away or refuses this epoch's events.
        """
        own = self._emitter.key.epoch
        directory = self._emitter.directory
        stuck = ""
        for epoch in await asyncio.to_thread(spool.epochs, directory):
            if epoch == own:
                continue
            try:
                await self._deliver_former(epoch)
            except (AccessDenied, BadRequest, CompareFailed, LimitExceeded) as error:
                # Auth wants what is not here (its store was put back from an old copy), or what is here is damaged.
                # It stays on disk and is named in `problem`; later epochs must not be lost over it.
                stuck = str(error)
        self._stuck = stuck
        await self._deliver_epoch(own, live=True)

    async def _deliver_former(self, epoch: int) -> None:
        directory = self._emitter.directory
        epoch_dir = spool.epoch_directory(directory, epoch)
        if epoch > self._emitter.key.epoch and not await asyncio.to_thread(spool.segments, epoch_dir):
            return  # a child that is about to lock its spool
        descriptor = spool.lock_epoch(epoch_dir)
        if descriptor is None:
            return  # its process lives beside us and delivers itself
        kept = True
        try:
            await _whole(spool.recover_epoch, epoch_dir)
            await self._deliver_epoch(epoch, live=False)
            seq, head = self._next.get(epoch, 1) - 1, self._heads.get(epoch, "")
            if seq:
                await _whole(spool.remember_last, directory, epoch, seq, head)
            spool.drop_epoch(directory, epoch, descriptor)
            kept = False
        finally:
            if kept:
                os.close(descriptor)

    async def _deliver_epoch(self, epoch: int, *, live: bool) -> None:
        emitter = self._emitter.key.emitter
        epoch_dir = spool.epoch_directory(self._emitter.directory, epoch)
        if epoch not in self._next:
            if live and not self._emitter.durable_seq:
                return
            if not live and not await asyncio.to_thread(spool.segments, epoch_dir):
                return
            self._note(epoch, await self._delivery.intake(emitter, epoch, []))
        while True:
            durable = self._emitter.durable_seq if live else None
            wanted = self._next[epoch]
            if durable is not None and wanted > durable:
                return
            lines = await asyncio.to_thread(spool.read_lines, epoch_dir, wanted, BATCH_LINES, BATCH_BYTES, durable)
            if not lines and self._may_skip and (later := await asyncio.to_thread(_first_left, epoch_dir, wanted)):
                self._next[epoch] = later
                continue
            if not lines:
                if live and self._may_skip:
                    return  # all was delivered, to the store that is lost; the next event goes on from there
                if durable is not None or await asyncio.to_thread(_starts_after, epoch_dir, wanted):
                    raise CompareFailed(
                        f"auth wants event {wanted} of epoch {epoch}, which this host no longer has",
                        hint="was auth's store put back from an older copy? Restart this daemon to begin a new epoch",
                    )
                return
            if Linked.parse(lines[0]).seq != wanted:
                raise BadRequest(f"the spool {epoch_dir} is damaged: event {wanted} is not where it belongs")
            try:
                ack = await self._delivery.intake(emitter, epoch, lines)
            except CompareFailed:
                self._note(epoch, await self._delivery.intake(emitter, epoch, []))
                if self._next[epoch] == wanted:
                    raise
                continue
            if ack.next_seq <= wanted:
                raise CompareFailed(f"auth did not take event {wanted} of epoch {epoch} and says no reason")
            self._note(epoch, ack)
            await _whole(spool.drop_delivered, epoch_dir, ack.next_seq)

    def _note(self, epoch: int, ack: IntakeAck) -> None:
        if ack.next_seq > self._next.get(epoch, 0):
            self._taken_at = asyncio.get_running_loop().time()
        self._next[epoch] = ack.next_seq
        self._heads[epoch] = ack.head
        self._may_skip = ack.may_skip
        if ack.checkpoint:
            self._emitter.checkpoint = ack.checkpoint


async def _whole(work: Callable[P, None], *given: P.args, **named: P.kwargs) -> None:
    """Work on the spool in a thread, to its end also when this is cancelled: the spool's lock is held until then, and
    whoever goes on (a last delivery, another process) finds nothing half done."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *given, **named))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _first_left(epoch_dir: Path, wanted: int) -> int:
    """The first event that a spool has, when all that it has is later than the wanted one; else 0."""
    files = spool.segments(epoch_dir)
    first = spool.first_seq(files[0]) if files else 0
    return first if first > wanted else 0


def _starts_after(epoch_dir: Path, wanted: int) -> bool:
    """Whether a spool holds events, all of them later than the wanted one."""
    files = spool.segments(epoch_dir)
    return bool(files) and spool.first_seq(files[0]) > wanted

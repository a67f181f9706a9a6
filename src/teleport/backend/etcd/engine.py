"""The engine over etcd. It loads grpc: import it when such a storage is opened, and only then (`load`).

Reads are linearizable, a snapshot is of one revision, a write is one transaction of etcd (`transaction`) that happens
once however often it had to be sent (`slots`). One stream follows all changes for all watchers of this process, and
tells which items will expire; a watcher that is behind it reads what it missed on a stream of its own, from etcd's
history, for as far as that was not compacted. Compacting is left to etcd (`--auto-compaction-retention`), since others
may use the cluster, too, unless `log_keep` says how many revisions to keep.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from teleport.backend.decide import Decision
from teleport.backend.engine import SWEEP_EVERY, Engine
from teleport.backend.etcd import messages as m
from teleport.backend.etcd import transaction
from teleport.backend.etcd.layout import Layout, Reading
from teleport.backend.etcd.leases import Leases
from teleport.backend.etcd.peers import COMPACT, RANGE, TXN, WITHIN, Peers, Refused
from teleport.backend.etcd.reader import FIRST, pages
from teleport.backend.etcd.refusals import Kind
from teleport.backend.etcd.schema import changed, open_schema
from teleport.backend.etcd.settings import EtcdSettings
from teleport.backend.etcd.slots import LASTS, Slot, Slots
from teleport.backend.etcd.stream import changes
from teleport.backend.expiring import Expiring
from teleport.backend.feed import Entry
from teleport.backend.following import Following, Source
from teleport.backend.interface import (
    Deleted,
    DeleteOp,
    Event,
    Item,
    Put,
    PutOp,
    Snapshot,
    Write,
    disjoint,
)
from teleport.backend.kept_snapshots import KeptSnapshots
from teleport.clock import Clock
from teleport.errors import LimitExceeded, TeleportError

SWEEP_CHUNK: Final = 64  # items in one transaction
CONTENDED_FOR: Final = 30.0  # seconds that a write is decided anew because others were faster
READS: Final = 5  # times that a read is begun anew because its revision was compacted meanwhile

log = logging.getLogger(__name__)


class EtcdBackend(Engine):
    """Storage under a prefix in an etcd cluster. `async with` opens and closes it."""

    def __init__(
        self,
        settings: EtcdSettings,
        clock: Clock,
        *,
        log_keep: int | None = None,
        sweep_every: float | None = SWEEP_EVERY,
        may_migrate: bool = True,
        within: float = WITHIN,
    ) -> None:
        """`may_migrate`: no other process uses the storage in an older version. `within`: seconds for one call."""
        super().__init__(sweep_every=sweep_every)
        self._settings = settings
        self._clock = clock
        self._log_keep = log_keep
        self._may_migrate = may_migrate
        self._within = within
        self._layout = Layout(settings.prefix)
        self._kept = KeptSnapshots(self.snapshot)
        self._writes = 0
        self._no_writes = asyncio.Event()
        self._no_writes.set()

    async def open(self) -> None:
        """Reach the cluster, and make or migrate the schema. Raises `TeleportError` when that is not possible."""
        self._peers = Peers(self._settings, within=self._within)
        try:
            self._schema = await open_schema(self._peers, self._layout, may_change=self._may_migrate)
        except BaseException:
            await self._peers.close()
            raise
        self._reading = Reading(self._layout, self._schema.made)
        self._leases = Leases(self._peers, self._clock)
        self._slots = Slots(self._layout)
        self._expiring = Expiring()
        self._following = Following(
            Source(
                where=f"etcd {self._settings.prefix}",
                revision=self.revision,
                begin=self._read_expiring,
                stream=self._changes,
                history=self._changes,
                heard=lambda entry: self._expiring.note(entry.events),
            )
        )
        await super().open()
        self._start(self._following.run(), "backend follow")

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False  # no new writes; those that were accepted end by themselves, since each has its limit
        await self._no_writes.wait()
        await super().close()
        self._following.close()
        try:
            start, end = self._slots.range
            gone = m.RequestOp(request_delete_range=m.DeleteRangeRequest(key=start, range_end=end))
            async with asyncio.timeout(1):
                await self._peers.call(TXN, m.TxnRequest(success=[gone]), "close")
        except (TeleportError, TimeoutError) as error:  # they have a lease
            log.debug("slots were left error=%s", error)
        finally:
            await self._peers.close()

    # Reads

    async def get(self, key: str) -> Item | None:
        self._check_open()
        answer = await self._peers.call(RANGE, m.RangeRequest(key=self._layout.item(key)), "read")
        item = self._reading.item(answer.message.kvs[0]) if answer.message.kvs else None
        return item if item is not None and item.live(self._clock.now()) else None

    async def range(self, prefix: str = "", *, start: str = "", limit: int = 0) -> list[Item]:
        self._check_open()
        for _ in range(READS):
            try:
                return (await self._read_range(prefix, start, limit, 0))[0]
            except Refused:
                continue
        raise self._overtaken()

    async def snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        self._check_open()
        wanted = disjoint(prefixes)
        if not wanted:
            return Snapshot([], await self.revision())
        for _ in range(READS):
            items: list[Item] = []
            revision = 0  # of etcd's
            try:
                for prefix in wanted:
                    found, revision = await self._read_range(prefix, "", 0, revision)
                    items += found
            except Refused:
                continue
            return Snapshot(items, revision - self._reading.base)
        raise self._overtaken()

    async def watched_snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        self._check_open()
        return await self._kept.get(prefixes, self._following.feed)

    async def revision(self) -> int:
        self._check_open()
        request = m.RangeRequest(key=self._layout.schema, keys_only=True)
        return int((await self._peers.call(RANGE, request, "read")).message.header.revision) - self._reading.base

    async def _read_range(self, prefix: str, start: str, limit: int, revision: int) -> tuple[list[Item], int]:
        """The live items, and of which revision of etcd's they are. Raises `Refused` when that was compacted."""
        first, end = self._layout.under(prefix, start)
        found: list[Item] = []
        if first >= end:
            first, end, limit = end, end + b"\0", -1  # nothing can be there; only the revision is asked for
        async with aclosing(
            pages(self._peers, first, end, revision=revision, first=min(limit, FIRST) if limit > 0 else FIRST)
        ) as answers:
            async for answer in answers:
                revision = revision or int(answer.header.revision)
                if limit < 0:
                    break
                now = self._clock.now()
                found += [item for one in answer.kvs if (item := self._reading.item(one)).live(now)]
                if 0 < limit <= len(found):
                    return found[:limit], revision
        return found, revision

    def _overtaken(self) -> TeleportError:
        return LimitExceeded(
            f"cannot read the storage in etcd ({self._peers.where}): it is compacted faster than it can be read",
            hint="compact less often: --auto-compaction-retention=1h",
        )

    # Writes

    async def _write(self, decision: Decision) -> int:
        self._check_open()
        self._writes += 1
        self._no_writes.clear()
        try:
            async with self._slots.one() as slot:
                return await self._transact(decision, slot) - self._reading.base
        finally:
            self._writes -= 1
            if not self._writes:
                self._no_writes.set()

    async def _transact(self, decision: Decision, slot: Slot) -> int:
        """Etcd's revision after the write; see `slots` for why it can be sent again and again."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CONTENDED_FOR
        seen: Mapping[str, Item] = {}
        revision = 0  # of what was seen; 0: only guessed that nothing is there
        if not decision.absent.union(decision.loose).issuperset(decision.keys):
            seen, revision = await self._look(decision.keys)
        attempts = 0
        while True:
            try:
                wanted = decision(seen.get, self._clock.now())
            except TeleportError:
                if revision:
                    if (done := await self._settle(slot)) is not None:
                        return done
                    raise
                wanted = ()
            if not wanted:
                if revision:
                    done = await self._settle(slot)
                    return revision if done is None else done
                seen, revision = await self._look(decision.keys)
                continue
            done, seen_now = await self._attempt(decision, slot, wanted, seen)
            if done is not None:
                self._note(wanted, done)
                return done
            if seen_now is not None:
                # what is only deleted if it is there was not read again: whether anything is left to do is not known
                seen, revision = seen_now if not decision.loose else await self._look(decision.keys)
            attempts += 1
            if loop.time() > deadline:
                raise LimitExceeded("others change the same things again and again; nothing was written")
            if attempts > 2:
                await asyncio.sleep(random.uniform(0, min(0.1, 0.002 * 2 ** min(attempts, 8))))  # noqa: S311

    async def _attempt(
        self, decision: Decision, slot: Slot, wanted: Sequence[Write], seen: Mapping[str, Item]
    ) -> tuple[int | None, tuple[Mapping[str, Item], int] | None]:
        """Send it once: etcd's revision when it is done; else what the keys are now, when that is why it is not."""
        base = self._reading.base
        checked = {
            key: seen[key].revision + base if key in seen else 0 for key in decision.keys if key not in decision.loose
        }
        try:
            leased = [
                (change, await self._leases.covering(change.expires) if isinstance(change, PutOp) else 0)
                for change in wanted
            ]
            written = {change.key for change in wanted}
            leased += [(DeleteOp(key), 0) for key in decision.loose if key not in written]
            lease = await self._leases.lasting(LASTS)
            request = transaction.build(self._layout, self._schema.changed, slot, lease, checked, leased)
        except BaseException:
            if not slot.settled and (done := await self._settle(slot)) is not None:
                return done, None
            raise
        was_settled, slot.settled = slot.settled, False
        try:
            answer = await self._peers.call(TXN, request, "write to", told=(Kind.NO_LEASE,))
        except Refused:
            slot.settled = was_settled
            self._leases.forget()
            return None, None
        told = answer.message
        if told.succeeded:
            slot.settled, slot.revision = True, int(told.header.revision)
            return slot.revision, None
        schema, own, *rest = (one.response_range.kvs for one in told.responses)
        now = int(own[0].mod_revision) if own else 0
        if now and now != slot.revision:  # an attempt before did it, and only its answer was lost
            slot.settled, slot.revision = True, now
            return now, None
        slot.settled = was_settled and not answer.unsure
        if now != slot.revision:  # it was not used for long, and has vanished: nothing sent for it can happen any more
            slot.settled, slot.revision = True, 0
        if not schema or int(schema[0].mod_revision) != self._schema.changed:
            raise changed(self._peers)
        items = [self._reading.item(kvs[0]) for kvs in rest if kvs]
        return None, ({item.key: item for item in items}, int(told.header.revision))

    async def _settle(self, slot: Slot) -> int | None:
        """Make sure that nothing sent for the slot can happen from now on; etcd's revision of what has happened."""
        if slot.settled:
            return None
        lease = await self._leases.lasting(LASTS)
        put = m.PutRequest(key=slot.key, value=transaction.BARRED, lease=lease)
        request = m.TxnRequest(
            compare=[transaction.same(slot.key, slot.revision)],
            success=[m.RequestOp(request_put=put)],
            failure=[transaction.read(slot.key)],
        )
        told = (await self._peers.call(TXN, request, "write to")).message
        slot.settled = True
        if told.succeeded:
            slot.revision = int(told.header.revision)
            return None
        kvs = told.responses[0].response_range.kvs
        slot.revision = int(kvs[0].mod_revision) if kvs else 0
        # barred by this very request, the answer of whose first attempt was lost; or gone
        return slot.revision if kvs and kvs[0].value != transaction.BARRED else None

    async def _look(self, keys: Sequence[str]) -> tuple[Mapping[str, Item], int]:
        """What is stored under `keys`, all as of one revision of etcd's, which is the newest."""
        for _ in range(READS):
            found: dict[str, Item] = {}
            revision = 0
            try:
                for at in range(0, max(1, len(keys)), transaction.MOST):
                    reads = [
                        transaction.read(self._layout.item(key), revision) for key in keys[at : at + transaction.MOST]
                    ] or [transaction.read(self._layout.schema)]
                    request = m.TxnRequest(success=reads)
                    told = (await self._peers.call(TXN, request, "read", told=(Kind.COMPACTED,))).message
                    revision = revision or int(told.header.revision)
                    if keys:
                        items = [self._reading.item(kv) for one in told.responses for kv in one.response_range.kvs]
                        found |= {item.key: item for item in items}
            except Refused:
                continue
            return found, revision
        raise self._overtaken()

    def _note(self, writes: Sequence[Write], revision: int) -> None:
        number = revision - self._reading.base
        self._expiring.note(
            Put(Item(one.key, b"", number, one.expires)) if isinstance(one, PutOp) else Deleted(one.key, number)
            for one in writes
        )

    async def sweep(self) -> int:
        self._check_open()
        swept = 0
        while due := self._expiring.due(now := self._clock.now(), SWEEP_CHUNK):
            base = self._reading.base
            request = transaction.removal(
                self._layout, self._schema.changed, [(key, revision + base) for key, revision in due]
            )
            try:
                told = (await self._peers.call(TXN, request, "sweep")).message
            except BaseException:
                self._expiring.put_back(due, now)
                raise
            if not told.succeeded:
                raise changed(self._peers)
            swept += sum(one.response_txn.succeeded for one in told.responses)
        if self._log_keep is not None:
            upto = await self.revision() - self._log_keep
            if upto > 0:
                request = m.CompactionRequest(revision=upto + self._reading.base)
                try:
                    await self._peers.call(COMPACT, request, "compact", told=(Kind.COMPACTED,))
                except Refused:
                    log.debug("compacted already revision=%d", upto)
                self._following.feed.forget(upto)
        return swept

    # Watches

    async def watch(self, prefixes: Sequence[str], *, start: int) -> AsyncGenerator[list[Event], None]:
        self._check_open()
        async with aclosing(self._following.watch(prefixes, start)) as batches:
            async for batch in batches:
                yield batch

    def _changes(self, after: int) -> AsyncGenerator[tuple[list[Entry], int], None]:
        return changes(self._peers, self._reading, after)

    async def _read_expiring(self) -> int:
        """Learn what expires when, from all there is; the revision that this is of."""
        for _ in range(READS):
            revision = 0
            kept: list[Item] = []
            start, end = self._layout.all_items
            try:
                async with aclosing(pages(self._peers, start, end)) as answers:
                    async for answer in answers:
                        revision = revision or int(answer.header.revision)
                        items = (self._reading.item(one) for one in answer.kvs)
                        kept += [Item(one.key, b"", one.revision, one.expires) for one in items if one.expires]
            except Refused:
                continue
            self._expiring.note(Put(item) for item in kept)
            return revision - self._reading.base
        raise self._overtaken()

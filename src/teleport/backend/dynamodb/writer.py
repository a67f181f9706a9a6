"""The one task that writes: it appends to the log, at the place after all that it knows, or finds that taken.

A record is one transaction: the row `head` goes from the known revision to the next, and the record's rows are put.
That succeeds only where nothing was written since, so whatever was decided, refusals too, was decided on the newest.
When it fails for that, what others wrote is read and all is decided anew. An attempt without any change proves nothing:
then it is looked whether what is known is the newest.

When the answer is lost, the log tells: either the record is there, by this process and with its number, or another one
has its place and it can never happen, or the place is free and the very same is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from teleport.aws.answers import Kind
from teleport.backend.committing import Committing, Failed, Job, Sent, answer_all
from teleport.backend.dynamodb.replica import Replica
from teleport.backend.dynamodb.rows import HEAD, Record, log_rows, micros, number, text
from teleport.backend.dynamodb.schema import Schema, changed
from teleport.backend.dynamodb.table import Refused, Table
from teleport.backend.feed import Entry
from teleport.backend.interface import Deleted, Event, Item, Put, PutOp, Write
from teleport.clock import Clock
from teleport.errors import LimitExceeded, TeleportError

GROUP_BYTES: Final = 1024 * 1024  # of values in one transaction, unless one write has more
MOST_BYTES: Final = 3_500_000  # of a record: a transaction takes 4 MB

log = logging.getLogger(__name__)


class Writer(Committing):
    """Of one open storage. `run` it in a task."""

    def __init__(self, table: Table, schema: Schema, replica: Replica, clock: Clock) -> None:
        super().__init__(table.where, within=table.within, group_bytes=GROUP_BYTES)
        self._table = table
        self._schema = schema
        self._replica = replica
        self._clock = clock
        self._process = uuid4().hex
        self._number = 0
        self.leap = 0  # revisions that are passed over
        self._request: tuple[Record, list[dict[str, Any]], str] | None = None  # what `_sent` was
        self._unsure = False  # whether an attempt of it was not answered

    async def _transact(self, jobs: list[Job]) -> None:
        while jobs:
            if self._sent is not None:
                await self._settle(jobs)
                continue
            before = self._replica.position
            outcomes, entries = self._decide(jobs, before)
            sent = Sent(self._number + 1, list(jobs), outcomes)
            if not entries:
                await self._replica.catch_up()
                if self._replica.position != before:
                    continue
                answer_all(sent)
                return
            record = Record(before, f"{self._process}/{sent.number}", micros(self._clock.now()), tuple(entries))
            rows = log_rows(record)
            size = sum(len(row["data"]["B"]) for row in rows)
            if size > MOST_BYTES:
                if len(jobs) > 1:
                    raise Refused(Kind.REFUSED, "larger than one transaction")  # each by itself, then
                raise LimitExceeded(
                    f"a transaction of {size} bytes is larger than DynamoDB takes", hint="do it in smaller steps"
                )
            record = Record(before, record.by, record.at, record.entries, size, len(rows))
            self._number = sent.number
            self._request = (record, self._parts(before, record.revision, rows), uuid4().hex)
            self._sent, self._unsure = sent, False
            if await self._send():
                self._done(jobs)

    async def _settle(self, jobs: list[Job]) -> None:
        """Find out about a transaction whose answer was lost, or make it happen."""
        assert self._sent is not None
        assert self._request is not None
        record = self._request[0]
        await self._replica.catch_up()
        if self._replica.position == record.before:
            if await self._send():
                self._done(jobs)
            return
        if await self._replica.was_written(record):
            self._done(jobs)
        else:
            self._sent = None  # another is in its place

    async def _send(self) -> bool:
        """Whether it is done; when not, its place is taken, perhaps by itself. Raises `Refused`: it is not known."""
        assert self._request is not None
        record, parts, token = self._request
        try:
            await self._table.transact(parts, token)
        except Refused as error:
            self._unsure = self._unsure or error.unsure
            if error.kind is not Kind.CONDITION:
                if not self._unsure:
                    self._sent = None
                raise
            if error.item is not None and Schema.of(error.item) != self._schema:
                self._sent = None
                raise changed(self._table) from error
            await self._replica.catch_up()
            if self._replica.position == record.before:
                raise Refused(Kind.AGAIN, "the log is not what the table says") from error
            if not self._unsure:
                self._sent = None
            return False
        self._replica.take(record)
        return True

    def _done(self, jobs: list[Job]) -> None:
        sent, self._sent = self._sent, None
        assert sent is not None
        answer_all(sent)
        jobs[:] = [job for job in jobs if job not in sent.jobs]

    def _failed(self, error: Exception) -> Failed:
        if isinstance(error, Refused):
            again = error.kind in (Kind.AGAIN, Kind.SLOWER)
            return Failed(self._table.explain("write to", error), again, error.kind is Kind.REFUSED)
        if isinstance(error, TeleportError):
            return Failed(error, False, False)
        log.error("a transaction failed storage=%s", self._table.where, exc_info=error)
        return Failed(error, False, True)

    def _decide(self, jobs: Sequence[Job], revision: int) -> tuple[list[int | Exception], list[Entry]]:
        """What each comes to, one after the other."""
        changed_now: dict[str, Item | None] = {}

        def look(key: str) -> Item | None:
            return changed_now[key] if key in changed_now else self._replica.items.get(key)

        outcomes: list[int | Exception] = []
        entries: list[Entry] = []
        now = self._clock.now()
        for job in jobs:
            try:
                writes = job.decision(look, now)
            except TeleportError as error:
                outcomes.append(error)
                continue
            if writes:
                revision += 1 + self.leap
                events = tuple(_event(write, revision) for write in writes)
                entries.append(Entry(revision, events))
                changed_now.update({one.key: one.item if isinstance(one, Put) else None for one in events})
            outcomes.append(revision)
        return outcomes, entries

    def _parts(self, before: int, after: int, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        name = self._table.settings.table
        head = {
            "TableName": name,
            "Key": HEAD,
            "UpdateExpression": "SET revision = :after",
            "ConditionExpression": "revision = :before AND version = :version AND made = :made",
            "ExpressionAttributeValues": {
                ":before": number(before),
                ":after": number(after),
                ":version": number(self._schema.version),
                ":made": text(self._schema.made),
            },
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        return [{"Update": head}] + [
            {"Put": {"TableName": name, "Item": row, "ConditionExpression": "attribute_not_exists(kind)"}}
            for row in rows
        ]


def _event(write: Write, revision: int) -> Event:
    if isinstance(write, PutOp):
        return Put(Item(write.key, bytes(write.value), revision, write.expires))
    return Deleted(write.key, revision)

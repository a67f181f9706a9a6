"""Items are written out from the log now and then, so that it need not be kept for ever.

Any process may do it, one at a time: it puts its name into the row `checkpoint`, and that its name is still there is a
condition of each transaction in which it writes rows of items. Whoever takes over from one that is not heard of bars
it by that. Only when all is written the row tells the new revision; until then the log is read from the old one, which
says of each changed item anew what it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from teleport.aws.answers import Kind
from teleport.backend.dynamodb.replica import FAR, Replica
from teleport.backend.dynamodb.rows import CHECKPOINT, Row, int_of, item_rows, micros, number, padded, text
from teleport.backend.dynamodb.schema import changed
from teleport.backend.dynamodb.table import Refused, Table
from teleport.clock import Clock

EVERY: Final = 512  # revisions
EVERY_BYTES: Final = 4 * 1024 * 1024  # of the log
GIVEN_UP: Final = timedelta(minutes=1)  # without a step; then another process may do it
AT_ONCE: Final = 90  # rows in one transaction, which takes 100
AT_ONCE_BYTES: Final = 3_000_000  # and 4 MB
TRIM_CHUNK: Final = 500  # rows of the log

log = logging.getLogger(__name__)


class Checkpoints:
    """Of one open storage."""

    def __init__(self, table: Table, replica: Replica, clock: Clock, *, log_keep: int, log_keep_for: timedelta) -> None:
        self._table = table
        self._replica = replica
        self._clock = clock
        self._log_keep = log_keep
        self._log_keep_for = log_keep_for
        self.kept = 0  # up to which revision the log is not kept, as far as is known

    async def run_if_due(self) -> None:
        """Raises `Refused`."""
        replica = self._replica
        since = replica.position - replica.applied
        excess = replica.position - self._log_keep - self.kept
        due = since >= EVERY or replica.dirty_bytes >= EVERY_BYTES
        if not due and excess <= self._log_keep // 10:
            return
        about = await self._read()
        excess = replica.position - self._log_keep - self.kept
        due = replica.position - replica.applied >= EVERY or replica.dirty_bytes >= EVERY_BYTES
        wanted = bool(replica.dirty) and (due or replica.position - self._log_keep > replica.applied)
        if wanted and not await self._write(about):
            return
        if due or excess > 0:
            await self._trim(self._log_keep)

    async def forget_all(self) -> bool:
        """Write all out and keep no change; whether that is done, not left to another process."""
        if not await self._write(await self._read()):
            return False
        await self._trim(0)
        return True

    async def _read(self) -> dict[str, Any]:
        about = dict(await self._table.get(CHECKPOINT))
        if not about:
            raise changed(self._table)
        self.kept = max(self.kept, int_of(about, "kept"))
        if int_of(about, "applied") > self._replica.position:
            await self._replica.catch_up()
        self._replica.written_out(int_of(about, "applied"))
        return about

    async def _write(self, about: dict[str, Any]) -> bool:
        """Whether all that is known is written out now."""
        replica, now = self._replica, micros(self._clock.now())
        other = about.get("by")
        if other is not None and abs(now - int_of(about, "since")) < GIVEN_UP.total_seconds() * 1_000_000:
            return False
        name = uuid4().hex
        try:
            await self._update(
                "SET #by = :by, since = :now",
                "applied = :applied AND " + ("#by = :other" if other is not None else "attribute_not_exists(#by)"),
                {
                    ":by": text(name),
                    ":now": number(now),
                    ":applied": about["applied"],
                    **({":other": other} if other is not None else {}),
                },
            )
            upto = replica.position
            wanted = [(key, replica.items.get(key)) for key in replica.dirty]
            parts: list[dict[str, Any]] = []
            size = 0
            for key, item in wanted:
                rows = item_rows(item) if item is not None else []
                more = await self._parts(key, rows)
                grows = sum(len(row["data"]["B"]) + 1500 for row in rows)
                if parts and (len(parts) + len(more) > AT_ONCE or size + grows > AT_ONCE_BYTES):
                    await self._table.transact([self._held(name), *parts], uuid4().hex)
                    parts, size = [], 0
                parts += more
                size += grows
            if parts:
                await self._table.transact([self._held(name), *parts], uuid4().hex)
            await self._update(
                "SET applied = :upto REMOVE #by, since", "#by = :by", {":by": text(name), ":upto": number(upto)}
            )
        except Refused as error:
            if error.kind is not Kind.CONDITION:
                raise
            log.info("another process writes items out storage=%s", self._table.where)
            return False
        replica.written_out(upto)
        return True

    def _held(self, name: str) -> dict[str, Any]:
        """What each transaction begins with: it is ours still, and goes on."""
        return {
            "Update": {
                "TableName": self._table.settings.table,
                "Key": CHECKPOINT,
                "UpdateExpression": "SET since = :now",
                "ConditionExpression": "#by = :by",
                "ExpressionAttributeNames": {"#by": "by"},
                "ExpressionAttributeValues": {":by": text(name), ":now": number(micros(self._clock.now()))},
            }
        }

    async def _parts(self, key: str, rows: list[Row]) -> list[dict[str, Any]]:
        """What makes the rows of an item so; what is left of an older value goes."""
        name = self._table.settings.table
        parts: list[dict[str, Any]] = [{"Put": {"TableName": name, "Item": row}} for row in rows]
        if not rows:
            parts.append({"Delete": {"TableName": name, "Key": {"kind": text("item"), "key": text(key)}}})
        if key in self._replica.large:
            current = {row["key"]["S"] for row in rows[1:]}
            async with aclosing(self._table.pages(f"part/{key}", names=("kind", "key"))) as pages:
                async for page in pages:
                    parts += [
                        {"Delete": {"TableName": name, "Key": {"kind": row["kind"], "key": row["key"]}}}
                        for row in page
                        if row["key"]["S"] not in current
                    ]
        return parts

    async def _update(self, change: str, condition: str, values: dict[str, Any]) -> None:
        await self._table.call(
            "update_item",
            TableName=self._table.settings.table,
            Key=CHECKPOINT,
            UpdateExpression=change,
            ConditionExpression=condition,
            ExpressionAttributeNames={"#by": "by"},
            ExpressionAttributeValues=values,
        )

    async def _trim(self, keep: int) -> None:
        """Forget what of the log is written out and too much, or too old."""
        applied = self._replica.applied
        most = min(applied, self._replica.position - keep)
        old = micros(self._clock.now() - self._log_keep_for)
        while True:
            async with aclosing(
                self._table.pages("log", upto=padded(applied) + FAR, names=("kind", "key", "at"), limit=TRIM_CHUNK)
            ) as pages:
                rows: Sequence[Mapping[str, Any]] = await anext(pages, [])
            gone: list[dict[str, Any]] = []
            upto = 0
            goes = True  # parts that come first are of a record that is forgotten already
            for row in rows:
                revision = int(row["key"]["S"].partition(".")[0])
                if "at" in row:
                    goes = revision <= most or int_of(row, "at") <= old
                if not goes:
                    break
                upto = revision
                gone.append({"kind": row["kind"], "key": row["key"]})
            if not gone:
                return
            try:
                await self._table.call(
                    "update_item",
                    TableName=self._table.settings.table,
                    Key=CHECKPOINT,
                    UpdateExpression="SET kept = :upto",
                    ConditionExpression="kept < :upto AND applied >= :upto",
                    ExpressionAttributeValues={":upto": number(upto)},
                )
            except Refused as error:
                if error.kind is not Kind.CONDITION:
                    raise
                if int_of(await self._table.get(CHECKPOINT), "kept") < upto:
                    return
            self.kept = max(self.kept, upto)
            self._replica.feed.forget(upto)
            await self._table.remove(gone)

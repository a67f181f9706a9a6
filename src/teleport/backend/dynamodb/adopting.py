"""A table that is another one than its rows say was restored from a backup: its history goes on as another.

Revisions leap ahead of all that could have been given out, and no change before is kept, so that nobody takes another's
revision for one he has seen. Only then the table is named in its rows; until then, whoever opens it does the same.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from teleport.backend.decide import Decision
from teleport.backend.dynamodb.checkpoint import Checkpoints
from teleport.backend.dynamodb.rows import HEAD, int_of, padded, text
from teleport.backend.dynamodb.schema import Schema
from teleport.backend.dynamodb.table import Table
from teleport.backend.dynamodb.writer import Writer
from teleport.backend.interface import DeleteOp
from teleport.errors import ConnectionProblem

LEAP: Final = 2**32  # revisions
TRIES: Final = 60  # seconds that another process may take to write items out
MARK: Final = "storage/restored"  # a key that is never there

log = logging.getLogger(__name__)


async def is_copy(table: Table, identity: str) -> bool:
    """Whether the rows are of another table. What a backup caught beyond the last revision is removed then."""
    head = await table.get(HEAD)
    if head.get("table", {}).get("S") == identity:
        return False
    beyond = padded(int_of(head, "revision")) + ".99"
    ahead = [
        {"kind": row["kind"], "key": row["key"]}
        async for page in table.pages("log", after=beyond, names=("kind", "key"))
        for row in page
    ]
    await table.remove(ahead)
    return True


async def adopt(table: Table, identity: str, schema: Schema, writer: Writer, checkpoints: Checkpoints) -> None:
    """Raises `Refused` and `TeleportError`; then it is not done."""
    log.warning("the storage is a restored copy: its history goes on as another storage=%s", table.where)
    writer.leap = LEAP
    try:
        await writer.submit(Decision(lambda look, now: [DeleteOp(MARK)]))
    finally:
        writer.leap = 0
    for _ in range(TRIES):
        if await checkpoints.forget_all():
            break
        await asyncio.sleep(1)
    else:
        raise ConnectionProblem(
            f"cannot open the storage in DynamoDB ({table.where}): another auth server writes it out",
            hint="wait until that one is ready, then start this one",
        )
    condition: dict[str, Any] = {":identity": text(identity), ":made": text(schema.made)}
    await table.call(
        "update_item",
        TableName=table.settings.table,
        Key=HEAD,
        UpdateExpression="SET #table = :identity",
        ConditionExpression="made = :made",
        ExpressionAttributeNames={"#table": "table"},
        ExpressionAttributeValues=condition,
    )

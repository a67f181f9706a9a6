"""The version of the layout, and which making of the table this is: both are conditions of every write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from teleport.aws.answers import Kind
from teleport.backend.dynamodb.making import open_table, others
from teleport.backend.dynamodb.rows import CHECKPOINT, HEAD, int_of, number, text
from teleport.backend.dynamodb.table import Refused, Table
from teleport.errors import TeleportError

PROGRAM: Final = "teleport-access"
KNOWN: Final = 1  # the version that this program writes


@dataclass(frozen=True, slots=True)
class Schema:
    """As this process found it."""

    version: int
    made: str  # another one for each making

    @staticmethod
    def of(head: Mapping[str, Any]) -> Schema:
        return Schema(int_of(head, "version"), head["made"]["S"])


async def open_schema(table: Table) -> tuple[Schema, str]:
    """Make what is missing; also what tells the table from any other.

    What is newer, or of another program, is refused, unchanged.
    """
    identity = await open_table(table)
    head = await table.get(HEAD)
    if not head:
        taken = (await table.call("scan", TableName=table.settings.table, Limit=1, ConsistentRead=True))["Items"]
        if taken and not (head := await table.get(HEAD)):
            raise others(table)
    if not head:
        await _make(table, identity)
        head = await table.get(HEAD)
    if not head or head.get("program", {}).get("S") != PROGRAM or "made" not in head:
        raise others(table)
    found = Schema.of(head)
    if found.version > KNOWN:
        raise TeleportError(
            f"cannot open the storage in DynamoDB ({table.where}): its schema is version {found.version}, this program "
            f"knows up to {KNOWN}, so a newer version of Teleport wrote it",
            hint="start that newer version, or restore the backup made before the upgrade into another table: aws "
            "dynamodb restore-table-from-backup",
        )
    return found, identity


async def _make(table: Table, identity: str) -> None:
    """The two rows that are always there; another auth server that starts at this moment may be first."""
    head = {
        **HEAD,
        "program": text(PROGRAM),
        "version": number(KNOWN),
        "made": text(uuid4().hex),
        "table": text(identity),
        "revision": number(0),
    }
    checkpoint = {**CHECKPOINT, "applied": number(0), "kept": number(0)}
    puts = [
        {"Put": {"TableName": table.settings.table, "Item": row, "ConditionExpression": "attribute_not_exists(kind)"}}
        for row in (head, checkpoint)
    ]
    try:
        await table.transact(puts, uuid4().hex)
    except Refused as error:
        if error.kind is not Kind.CONDITION:
            raise


def changed(table: Table) -> TeleportError:
    """What a process says whose storage is not the one it opened any more."""
    return TeleportError(
        f"the storage in DynamoDB ({table.where}) was changed by another version of Teleport, removed or restored "
        "under this process",
        hint="start all auth servers of the cluster anew, in the same version",
    )

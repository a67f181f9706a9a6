"""The table that events go to: made if it is absent, and told from the tables of others.

It loads aiobotocore, as the storage in DynamoDB does, and speaks to the service by what that has.
"""

from __future__ import annotations

from teleport.audit.cursor import Cursor
from teleport.aws.answers import Kind
from teleport.backend.dynamodb.making import open_table
from teleport.backend.dynamodb.rows import int_of, number, text
from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.backend.dynamodb.table import Refused, Table
from teleport.copies.dynamodb_rows import BROUGHT, HEAD, PROGRAM, VERSION
from teleport.copies.marks import read
from teleport.copies.searching import NotReady
from teleport.errors import TeleportError


async def open_events(settings: DynamoSettings, doing: str, *, within: float, make: bool) -> Table:
    """The table, open. Raises `TeleportError` when it cannot be reached, is not there and not to be made, or is not one
    of events; `NotReady` when it is only not there yet."""
    table = Table(settings, within=within)
    try:
        await table.open()
        if make:
            await open_table(table)
        await check(table, make=make)
    except Refused as error:
        await table.close()
        failure = table.explain(doing, error)
        raise (NotReady(failure.message, hint=failure.hint) if error.kind is Kind.ABSENT else failure) from None
    except BaseException:
        await table.close()
        raise
    return table


async def mark_in(table: Table) -> Cursor:
    """How far the table says that it has events; the beginning of the log when it says nothing. Raises `Refused`."""
    return read([row["place"]["S"] async for page in table.pages(BROUGHT) for row in page])


async def check(table: Table, *, make: bool) -> None:
    """Raises `TeleportError` when it is not one of events; with `make` an empty one becomes that."""
    head = await table.get(HEAD)
    if not head and make:
        taken = (await table.call("scan", TableName=table.settings.table, Limit=1, ConsistentRead=True))["Items"]
        if not taken:
            row = {**HEAD, "program": text(PROGRAM), "version": number(VERSION)}
            try:
                await table.call(
                    "put_item",
                    TableName=table.settings.table,
                    Item=row,
                    ConditionExpression="attribute_not_exists(kind)",
                )
            except Refused as error:
                if error.kind is not Kind.CONDITION:  # then another auth server was first
                    raise
        head = await table.get(HEAD)
    if head.get("program", {}).get("S") != PROGRAM:
        raise TeleportError(
            f"audit events cannot go to DynamoDB ({table.where}): the table is of another program, or holds the "
            "cluster's state",
            hint="name a table of its own in audit_events_uri: dynamodb://teleport-events",
        )
    if int_of(head, "version") > VERSION:
        raise TeleportError(
            f"audit events cannot go to DynamoDB ({table.where}): a newer version of Teleport has written its rows",
            hint="start that newer version, or name another table in audit_events_uri",
        )

"""The table itself: made if it is absent, with its time to live, and its backups and capacity where asked for."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from teleport.aws.answers import Kind
from teleport.backend.dynamodb.settings import Scaling
from teleport.backend.dynamodb.table import Refused, Table
from teleport.errors import TeleportError

MADE_WITHIN: Final = 120.0  # seconds; AWS takes some tens
_READY: Final = ("ACTIVE", "UPDATING")
LOOK: Final = 0.5  # seconds between looks
KEYS: Final = [{"AttributeName": "kind", "KeyType": "HASH"}, {"AttributeName": "key", "KeyType": "RANGE"}]
TYPES: Final = [{"AttributeName": "kind", "AttributeType": "S"}, {"AttributeName": "key", "AttributeType": "S"}]

log = logging.getLogger(__name__)


async def open_table(table: Table) -> str:
    """What tells it from any other, of the same name too. Raises `Refused`; `TeleportError` where it is others'."""
    name = table.settings.table
    if not await _described(table):
        asked: dict[str, Any] = {"BillingMode": "PAY_PER_REQUEST"}
        if table.settings.reads is not None and table.settings.writes is not None:
            units = {
                "ReadCapacityUnits": table.settings.reads.least,
                "WriteCapacityUnits": table.settings.writes.least,
            }
            asked = {"BillingMode": "PROVISIONED", "ProvisionedThroughput": units}
        try:
            await table.call("create_table", TableName=name, KeySchema=KEYS, AttributeDefinitions=TYPES, **asked)
            log.info("the table is made storage=%s", table.where)
        except Refused as error:
            if error.kind is not Kind.EXISTS:  # then another auth server that starts at this moment makes it
                raise
    async with asyncio.timeout(MADE_WITHIN):
        while (found := await _described(table)).get("TableStatus") not in _READY:  # noqa: ASYNC110 # the service tells nobody
            await asyncio.sleep(LOOK)
    types = {one["AttributeName"]: one["AttributeType"] for one in found["AttributeDefinitions"]}
    keys = [(one["AttributeName"], one["KeyType"], types.get(one["AttributeName"])) for one in found["KeySchema"]]
    if sorted(keys) != [("key", "RANGE", "S"), ("kind", "HASH", "S")]:
        raise others(table)
    await _time_to_live(table)
    if table.settings.continuous_backups:
        await _backups(table)
    if table.settings.reads is not None and table.settings.writes is not None:
        client = await table.client("application-autoscaling")
        await _scale(table, client, "Read", table.settings.reads)
        await _scale(table, client, "Write", table.settings.writes)
    return f"{found['TableArn']} {found['CreationDateTime'].timestamp():.3f}"


def others(table: Table) -> TeleportError:
    return TeleportError(
        f"cannot open the storage in DynamoDB ({table.where}): the table is of another program",
        hint="name a table of its own for this cluster in teleport.storage: table_name: teleport-access",
    )


async def _described(table: Table) -> Any:
    try:
        return (await table.call("describe_table", TableName=table.settings.table))["Table"]
    except Refused as error:
        if error.kind is Kind.ABSENT:
            return {}
        raise


async def _time_to_live(table: Table) -> None:
    """What expired is removed by us in any case: without this right the rows of a stopped cluster stay longer."""
    name = table.settings.table
    try:
        about = (await table.call("describe_time_to_live", TableName=name))["TimeToLiveDescription"]
        if about.get("TimeToLiveStatus") in ("ENABLED", "ENABLING"):
            return
        wanted = {"Enabled": True, "AttributeName": "ttl"}
        await table.call("update_time_to_live", TableName=name, TimeToLiveSpecification=wanted)
    except Refused as error:
        if error.kind not in (Kind.NOT_ALLOWED, Kind.REFUSED, Kind.EXISTS):
            raise
        log.warning("the time to live of the table is not set storage=%s error=%s", table.where, error.details)


async def _backups(table: Table) -> None:
    name = table.settings.table
    told = (await table.call("describe_continuous_backups", TableName=name))["ContinuousBackupsDescription"]
    if told.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus") == "ENABLED":
        return
    wanted = {"PointInTimeRecoveryEnabled": True}
    await table.call("update_continuous_backups", TableName=name, PointInTimeRecoverySpecification=wanted)


async def _scale(table: Table, client: Any, which: str, scaling: Scaling) -> None:
    """Register the bounds and the aim of one kind of capacity; the same again changes nothing."""
    of = {
        "ServiceNamespace": "dynamodb",
        "ResourceId": f"table/{table.settings.table}",
        "ScalableDimension": f"dynamodb:table:{which}CapacityUnits",
    }
    await table.call(
        "register_scalable_target", client=client, MinCapacity=scaling.least, MaxCapacity=scaling.most, **of
    )
    await table.call(
        "put_scaling_policy",
        client=client,
        PolicyName=f"{table.settings.table}-{which.lower()}-target",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": float(scaling.target),
            "PredefinedMetricSpecification": {"PredefinedMetricType": f"DynamoDB{which}CapacityUtilization"},
        },
        **of,
    )

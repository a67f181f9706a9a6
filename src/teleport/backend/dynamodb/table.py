"""The table, and how it is spoken to: every call is tried again while the service is away or wants us slower.

The library's own retries are off, so that what an answer that never came may have done is known here. Credentials are
given in the configuration or found as AWS's own tools do. What the library logs may hold values: only its warnings are
let through.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import botocore.exceptions as away
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from teleport.aws.answers import Kind
from teleport.aws.library import first_line, hush, no_answer
from teleport.backend.dynamodb.refusals import explain, kind_of
from teleport.backend.dynamodb.settings import DynamoSettings, mistake
from teleport.backend.interface import BackendClosed
from teleport.errors import BadRequest, TeleportError

WITHIN: Final = 15.0  # seconds that something is tried for
ATTEMPT: Final = 5.0  # seconds that one answer is waited for
PAUSE: Final = 0.05  # seconds between attempts at first, doubling
PAUSE_MOST: Final = 2.0
CONNECTIONS: Final = 16

log = logging.getLogger(__name__)


class Refused(Exception):
    """What the service, or the way to it, answered. Never leaves this package and `copies.dynamodb`."""

    def __init__(
        self, kind: Kind, details: str, *, item: Mapping[str, Any] | None = None, unsure: bool = False
    ) -> None:
        super().__init__(kind)
        self.kind = kind
        self.details = details
        self.item = item  # where a condition failed and it was asked for: what is there
        self.unsure = unsure  # an attempt was not answered: it may have happened, or may happen still


class Table:
    """Open with `open`; belongs to the running loop."""

    def __init__(self, settings: DynamoSettings, *, within: float = WITHIN) -> None:
        """Raises `BadRequest` when the settings do not go together."""
        if wrong := mistake(settings):
            raise BadRequest(
                f"teleport.storage: {wrong}", hint="docs/operations.md shows what the keys of type dynamodb mean"
            )
        self.settings = settings
        self.within = within
        self._stack = AsyncExitStack()
        self._session = AioSession()
        self._client: Any = None
        self._closed = False

    @property
    def where(self) -> str:
        return self.settings.where

    async def open(self) -> None:
        hush()
        loader = self._session.get_component("data_loader")
        await asyncio.to_thread(loader.load_service_model, "dynamodb", "service-2")  # large; then it is there
        self._client = await self.client("dynamodb")

    async def client(self, service: str) -> Any:
        """Of another service of AWS, too; closed with the table. Raises `TeleportError`."""
        settings = self.settings
        config = AioConfig(
            connect_timeout=ATTEMPT,
            read_timeout=ATTEMPT,
            retries={"total_max_attempts": 1},
            max_pool_connections=CONNECTIONS,
            ignore_configured_endpoint_urls=True,  # only our configuration says where to connect
        )
        try:
            return await self._stack.enter_async_context(
                self._session.create_client(
                    service,
                    region_name=settings.region or None,
                    endpoint_url=settings.endpoint or None,
                    aws_access_key_id=settings.access_key or None,
                    aws_secret_access_key=settings.secret_key or None,
                    config=config,
                )
            )
        except Exception as error:
            raise self.explain("open", refused(error)) from None

    async def close(self) -> None:
        self._closed = True
        await self._stack.aclose()

    async def call(self, operation: str, *, client: Any = None, **parameters: Any) -> Any:
        """The answer. Raises `Refused` for what trying again does not mend, and when it was tried long enough."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.within
        pause = PAUSE
        unsure = False
        while True:
            if self._closed:
                raise BackendClosed("the storage is not open")
            try:
                async with asyncio.timeout(ATTEMPT):
                    return await getattr(client or self._client, operation)(**parameters)
            except Exception as error:
                failure = refused(error)
            if self._closed:
                raise BackendClosed("the storage is not open") from None
            unsure = failure.unsure = unsure or failure.kind is Kind.AGAIN
            if failure.kind not in (Kind.AGAIN, Kind.SLOWER) or loop.time() >= deadline:
                raise failure
            if failure.kind is Kind.SLOWER and pause > 1:
                log.warning("the storage is throttled storage=%s error=%s", self.where, failure.details)
            apart = pause * random.uniform(0.5, 1.5)  # noqa: S311 - guards nothing
            await asyncio.sleep(min(apart, max(0.0, deadline - loop.time())))
            pause = min(2 * pause, PAUSE_MOST)

    async def get(self, key: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row as of now; empty when there is none."""
        answer = await self.call("get_item", TableName=self.settings.table, Key=key, ConsistentRead=True)
        found: Mapping[str, Any] = answer.get("Item", {})
        return found

    async def pages(
        self,
        kind: str,
        *,
        after: str = "",
        upto: str = "",
        names: Sequence[str] = (),
        limit: int = 0,
        backward: bool = False,
    ) -> AsyncGenerator[list[Mapping[str, Any]], None]:
        """The rows of a kind in order, those after `after` and not after `upto`, some at a time."""
        asked: dict[str, Any] = {
            "TableName": self.settings.table,
            "ConsistentRead": True,
            "KeyConditionExpression": "kind = :kind",
            "ExpressionAttributeValues": {":kind": {"S": kind}},
        }
        if after or upto:
            asked["ExpressionAttributeNames"] = {"#key": "key"}
        if after and upto:
            asked["KeyConditionExpression"] += " AND #key BETWEEN :after AND :upto"
            asked["ExpressionAttributeValues"] |= {":after": {"S": after}, ":upto": {"S": upto}}
        elif after:
            asked["KeyConditionExpression"] += " AND #key > :after"
            asked["ExpressionAttributeValues"][":after"] = {"S": after}
        elif upto:
            asked["KeyConditionExpression"] += " AND #key <= :upto"
            asked["ExpressionAttributeValues"][":upto"] = {"S": upto}
        if names:
            asked["ProjectionExpression"] = ", ".join(
                f"#{name}" for name in names
            )  # any may be a word of the service's
            asked["ExpressionAttributeNames"] = {f"#{name}": name for name in {"key", *names}}
        if limit:
            asked["Limit"] = limit
        if backward:
            asked["ScanIndexForward"] = False
        while True:
            answer = await self.call("query", **asked)
            yield [row for row in answer["Items"] if row["key"]["S"] != after]
            if "LastEvaluatedKey" not in answer:
                return
            asked["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def transact(self, parts: list[dict[str, Any]], token: str) -> None:
        """All or nothing; sent with the same token twice it happens once. Raises `Refused`."""
        await self.call("transact_write_items", TransactItems=parts, ClientRequestToken=token)

    async def remove(self, keys: list[dict[str, Any]]) -> None:
        """Rows that nobody needs any more."""
        for at in range(0, len(keys), 25):
            wanted: Any = {self.settings.table: [{"DeleteRequest": {"Key": key}} for key in keys[at : at + 25]]}
            pause = PAUSE
            while wanted:
                wanted = (await self.call("batch_write_item", RequestItems=wanted)).get("UnprocessedItems")
                if wanted:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, PAUSE_MOST)

    def explain(self, doing: str, error: Refused) -> TeleportError:
        return explain(doing, self.where, error.kind, error.details)


def refused(error: BaseException) -> Refused:
    """What an exception of the library's, or of the way to the service, means."""
    if isinstance(error, away.ClientError):
        told: Mapping[str, Any] = error.response
        about = told.get("Error", {})
        code = str(about.get("Code", ""))
        reasons = told.get("CancellationReasons", [])
        status = int(told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        item = next((one["Item"] for one in reasons if one.get("Item")), None)
        kind = kind_of(code, status, str(about.get("Message", "")), [str(one.get("Code", "")) for one in reasons])
        said = ", ".join(sorted({str(one["Code"]) for one in reasons if one.get("Code") not in (None, "", "None")}))
        # what a refused value was is not repeated: of messages only those that have none
        words = "" if kind in (Kind.REFUSED, Kind.TOO_LARGE) else first_line(str(about.get("Message", "")))
        return Refused(kind, f"{said or words} ({code})".strip(), item=item)
    return Refused(*(no_answer(error) or (Kind.REFUSED, type(error).__name__)))

"""The bucket, and how it is spoken to. One attempt each: who calls knows whether and when to try again.

Nothing is ever replaced, and nothing is removed but by `remove`: every object is made on the condition that there is
none of its key. Each request carries the SHA-256 of what is sent, and the service compares; what it keeps is proved by
reading it (`uploader`).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import botocore.exceptions as away
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from teleport import counted
from teleport.aws.answers import Kind
from teleport.aws.library import first_line, hush, no_answer
from teleport.errors import TeleportError
from teleport.recording.s3.refusals import explain, kind_of
from teleport.recording.s3.settings import S3Settings

ATTEMPT: Final = 30.0  # seconds in which nothing moves
WHOLE: Final = 600.0  # seconds that one part may take
CONNECTIONS: Final = 16
PIECE: Final = 256 * 1024
REMOVAL: Final = 10.0  # seconds that removing one object may take: the audit log waits meanwhile


class Refused(Exception):
    """What the service, or the way to it, answered. Never leaves this package."""

    def __init__(self, kind: Kind, details: str) -> None:
        super().__init__(kind, details)
        self.kind = kind
        self.details = details


@dataclass(frozen=True, slots=True)
class Part:
    """One that the service has."""

    number: int  # from 1
    etag: str
    sha256: str = ""  # base64; empty: not told
    size: int = 0


class Bucket:
    """Belongs to the running loop; connects when it is first used."""

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def close(self) -> None:
        async with self._opening:
            self._closed = True
            await self._stack.aclose()

    async def open(self) -> None:
        """Loads what is needed; nothing is sent. Raises `Refused`."""
        async with self._opening:
            if self._closed:
                raise Refused(Kind.AGAIN, "this auth server ends")
            if self._client is not None:
                return
            hush()
            session = AioSession()
            await asyncio.to_thread(session.get_component("data_loader").load_service_model, "s3", "service-2")
            settings = self.settings
            config = AioConfig(
                connect_timeout=ATTEMPT / 3,
                read_timeout=ATTEMPT,
                retries={"total_max_attempts": 1},
                max_pool_connections=CONNECTIONS,
                ignore_configured_endpoint_urls=True,  # only our configuration says where to connect
                request_checksum_calculation="when_required",  # we give our own
                response_checksum_validation="when_required",
                use_fips_endpoint=settings.fips,
                s3={"addressing_style": "path" if settings.endpoint else "auto"},
            )
            try:
                self._client = await self._stack.enter_async_context(
                    session.create_client(
                        "s3",
                        region_name=settings.region or None,
                        endpoint_url=settings.endpoint or None,
                        config=config,
                    )
                )
            except Exception as error:
                raise refused(error) from None

    async def _call(self, operation: str, **parameters: Any) -> Any:
        await self.open()
        counted.S3_REQUESTS.add(operation)
        try:
            with counted.S3_SECONDS.timed():
                async with asyncio.timeout(WHOLE):
                    return await getattr(self._client, operation)(Bucket=self.settings.bucket, **parameters)
        except Exception as error:
            why = refused(error)
            if why.kind not in (Kind.EXISTS, Kind.ABSENT):  # which are answers
                counted.S3_FAILED.add(why.kind.value)
            raise why from None

    @property
    def _made_as(self) -> dict[str, str]:
        """With which encryption and for whom objects are made."""
        made: dict[str, str] = {}
        if self.settings.encrypt:
            made["ServerSideEncryption"] = "aws:kms"
        if self.settings.kms_key:
            made["SSEKMSKeyId"] = self.settings.kms_key
        if self.settings.acl:
            made["ACL"] = self.settings.acl
        return made

    async def put(self, key: str, data: bytes) -> None:
        """Makes a small object. Raises `Refused`: with `EXISTS` when there is one."""
        await self._call(
            "put_object", Key=key, Body=data, IfNoneMatch="*", ChecksumSHA256=sum_of(data), **self._made_as
        )

    async def begin(self, key: str) -> str:
        """Begins an upload in parts; its id."""
        answer = await self._call("create_multipart_upload", Key=key, ChecksumAlgorithm="SHA256", **self._made_as)
        return str(answer["UploadId"])

    async def part(self, key: str, upload: str, number: int, data: bytes) -> Part:
        found = sum_of(data)
        answer = await self._call(
            "upload_part", Key=key, UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=found
        )
        return Part(number, str(answer["ETag"]), found, len(data))

    async def parts(self, key: str, upload: str) -> list[Part]:
        """What the service has of an upload. Raises `Refused`: with `ABSENT` when it knows of none."""
        found: list[Part] = []
        after = 0
        while True:
            answer = await self._call("list_parts", Key=key, UploadId=upload, PartNumberMarker=after)
            found += [
                Part(int(one["PartNumber"]), str(one["ETag"]), size=int(one["Size"])) for one in answer.get("Parts", [])
            ]
            if not answer.get("IsTruncated") or not found or found[-1].number <= after:
                return found
            after = found[-1].number

    async def finish(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Makes the object out of its parts. Raises `Refused`: with `EXISTS` when there is one."""
        told = [{"PartNumber": one.number, "ETag": one.etag, "ChecksumSHA256": one.sha256} for one in parts]
        await self._call(
            "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": told}, IfNoneMatch="*"
        )

    async def abandon(self, key: str, upload: str) -> None:
        """Drops an upload that is not needed any more."""
        await self._call("abort_multipart_upload", Key=key, UploadId=upload)

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """The object's bytes, in pieces. Raises `Refused`: with `ABSENT` when there is none."""
        answer = await self._call("get_object", Key=key)
        try:
            async with answer["Body"] as body:
                while True:
                    async with asyncio.timeout(ATTEMPT):
                        piece = await body.read(PIECE)
                    if not piece:
                        return
                    yield piece
        except Exception as error:
            raise refused(error) from None

    async def remove(self, key: str) -> None:
        """Removes an object for good, with all its versions, where the bucket keeps some. It is not there afterwards,
        or `Refused` is raised: `KEPT` when the bucket, or its lock, does not let it go."""
        try:
            async with asyncio.timeout(REMOVAL):
                left = await self._versions(key)
                if left == ["null"]:  # as in a bucket without versions, where no right is needed to remove one
                    await self._removing(key)
                    left = await self._versions(key)
                for version in left:
                    await self._removing(key, VersionId=version)
                if left and (left := await self._versions(key)):
                    raise Refused(Kind.KEPT, f"{len(left)} of its versions are there still")
        except TimeoutError:
            raise Refused(Kind.AGAIN, "no answer in time") from None

    async def _versions(self, key: str) -> list[str]:
        """The ids of an object's versions: of what has bytes first, the oldest first, then of marks that it was
        removed, which hide what is left."""
        found: list[str] = []
        marks: list[str] = []
        after: dict[str, str] = {}
        while True:
            answer = await self._call("list_object_versions", Prefix=key, **after)
            found += [str(one["VersionId"]) for one in answer.get("Versions", []) if one["Key"] == key]
            marks += [str(one["VersionId"]) for one in answer.get("DeleteMarkers", []) if one["Key"] == key]
            if not answer.get("IsTruncated") or answer.get("NextKeyMarker") != key:
                return [*reversed(found), *marks]
            after = {"KeyMarker": key, "VersionIdMarker": str(answer.get("NextVersionIdMarker", ""))}

    async def _removing(self, key: str, **version: str) -> None:
        try:
            await self._call("delete_object", Key=key, **version)
        except Refused as error:
            if error.kind is Kind.NOT_ALLOWED:
                raise Refused(Kind.KEPT, error.details) from None
            if error.kind is not Kind.ABSENT:
                raise

    def explain(self, doing: str, error: Refused) -> TeleportError:
        return explain(doing, self.settings.where, error.kind, error.details)


def sum_of(data: bytes) -> str:
    """As S3 writes a SHA-256."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def refused(error: BaseException) -> Refused:
    """What an exception of the library's, or of the way to the service, means."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, away.ClientError):
        about = error.response.get("Error", {})
        code, words = str(about.get("Code", "")), first_line(str(about.get("Message", "")))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return Refused(kind_of(code, status, words), f"{words[:300]} ({code[:60]})".strip())
    broke = (
        f"it is not reached, or the connection broke ({type(error).__name__})"  # aiohttp's own, while a body is read
    )
    return Refused(*(no_answer(error) or (Kind.AGAIN, broke)))

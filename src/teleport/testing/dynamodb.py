"""A server that speaks as DynamoDB does (moto), on loopback, for tests. What it knows is in its memory.

It removes nothing whose time to live is over, and has no limit on how much it is asked.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.testing.etcd import free_ports

PATIENCE: Final = 60.0  # seconds
MISSING: Final = "there is no moto server here: pip install 'moto[dynamodb]' flask flask-cors"
REGION: Final = "us-east-1"


@cache
def program() -> str | None:
    """Where moto is; None when it is not installed."""
    if not all(map(find_spec, ("moto", "flask", "flask_cors", "aiobotocore"))):
        return None
    return str(Path(__file__).with_name("dynamodb_server.py"))


class DynamoServer:
    """`with DynamoServer() as server:`; it is up then. Blocking: call it from a thread where a loop runs."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.NamedTemporaryFile(prefix="moto-")  # noqa: SIM115 # as long as the server

    def __enter__(self) -> DynamoServer:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        self.kill()
        self._log.close()

    def start(self) -> None:
        found = program()
        if found is None:
            raise RuntimeError(MISSING)
        self._process = subprocess.Popen(
            [sys.executable, found, str(self.port)], stdout=self._log, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"moto did not start: {Path(self._log.name).read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """At once; all that it knew is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def endpoint(self, port: int = 0) -> str:
        return f"http://127.0.0.1:{port or self.port}"

    def settings(self, table: str = "", *, port: int = 0) -> DynamoSettings:
        """A table of its own unless named."""
        return DynamoSettings(table or f"t-{token_hex(8)}", REGION, self.endpoint(port), "x", "y")

    def storage(self, table: str) -> dict[str, Any]:
        """`teleport.storage` of a configuration."""
        return {
            "type": "dynamodb",
            "table_name": table,
            "region": REGION,
            "endpoint": self.endpoint(),
            "access_key": "x",
            "secret_key": "y",
        }

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint()}/moto-api/", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

"""A server that speaks as DynamoDB does (moto), on loopback, for tests. What it knows is in its memory.

It removes nothing whose time to live is over, and has no limit on how much it is asked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar, Final

from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.testing.aws_models import read_once
from teleport.testing.etcd import free_ports
from teleport.testing.local_server import LocalServer

MISSING: Final = "there is no moto server here: pip install 'moto[dynamodb]' flask flask-cors"
REGION: Final = "us-east-1"


@cache
def program() -> str | None:
    """Where moto is; None when it is not installed."""
    if not all(map(find_spec, ("moto", "flask", "flask_cors", "aiobotocore"))):
        return None
    return str(Path(__file__).with_name("dynamodb_server.py"))


class DynamoServer(LocalServer):
    """All that it knew is gone after `kill`."""

    what: ClassVar[str] = "moto"

    def __init__(self) -> None:
        super().__init__()
        read_once()
        (self.port,) = free_ports(1)

    def command(self) -> Sequence[str]:
        found = program()
        if found is None:
            raise RuntimeError(MISSING)
        return [sys.executable, found, str(self.port)]

    @property
    def ready(self) -> str:
        return f"{self.endpoint()}/moto-api/"

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

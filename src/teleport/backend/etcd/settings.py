"""How an etcd cluster is reached: what the configuration says, as values. Loads neither grpc nor any file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_PREFIX: Final = "/teleport/"
DEFAULT_MESSAGE: Final = 2 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """`peers` are URLs: `https://name:port`, or `http://` where `insecure` says that it may be."""

    peers: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    insecure: bool = False
    max_message: int = DEFAULT_MESSAGE  # what one request may have, in bytes

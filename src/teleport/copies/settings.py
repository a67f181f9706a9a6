"""Where copies of audit events go, as values. Loads neither aiohttp nor asyncpg nor aiobotocore."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.backend.postgresql.settings import PostgresqlSettings
from teleport.resources.values import HostPort


@dataclass(frozen=True, slots=True)
class StdoutCopy:
    """What this auth server took in, on its standard output."""

    name: str = "stdout"
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PostgresqlCopy:
    """A table, in which each event is once."""

    settings: PostgresqlSettings
    types: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the servers, the database and the schema: another place begins at the oldest event."""
        return f"postgresql-{hashlib.sha256(f'{self.settings.where} {self.settings.schema}'.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class DynamoCopy:
    """A table of DynamoDB, in which each event is once; it removes those that auth took in longer than `keep` ago."""

    settings: DynamoSettings
    keep: timedelta | None = None  # None: for ever
    types: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the table and where it is: another one begins at the oldest event."""
        return f"dynamodb-{hashlib.sha256(self.settings.where.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Whom to believe (empty: the system's authorities), and what to prove ourselves with."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class SyslogCopy:
    """A syslog receiver, over TLS."""

    name: str
    address: HostPort
    tls: TlsFiles = field(default_factory=TlsFiles)
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpsCopy:
    """A receiver of lines by HTTPS."""

    name: str
    url: str
    tls: TlsFiles = field(default_factory=TlsFiles)
    token_file: Path | None = None
    types: tuple[str, ...] = ()


CopySettings = StdoutCopy | PostgresqlCopy | DynamoCopy | SyslogCopy | HttpsCopy

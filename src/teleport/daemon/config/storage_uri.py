"""Where audit events and recordings go, as URIs (`config.md` 3). What could be a password in one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from teleport.audit.retention import LEAST
from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.backend.dynamodb.settings import mistake as dynamodb_mistake
from teleport.backend.postgresql.settings import PostgresqlSettings, mistake
from teleport.backend.postgresql.settings import parse as parse_conn_string
from teleport.daemon.config import forms
from teleport.resources.values import Duration
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import matching

AUDIT_SCHEMA: Final = "teleport_audit"
_OPTIONS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "file": frozenset(),
        "stdout": frozenset(),
        "postgresql": frozenset(),  # a connection string, read as one
        "dynamodb": frozenset({"region", "endpoint", "audit_retention_period"}),
        "firestore": frozenset({"projectID", "credentialsPath"}),
        "s3": frozenset({"region", "endpoint", "insecure", "disablesse", "sse_kms_key", "acl", "use_fips_endpoint"}),
        "gs": frozenset({"projectID", "credentialsPath", "endpoint"}),
    }
)
_EVENT_SCHEMES: Final = ("file", "dynamodb", "firestore", "stdout", "postgresql")
SEARCHED: Final = ("postgresql", "dynamodb")  # when it is first, searches go there and not to the log
_SESSION_SCHEMES: Final = ("file", "s3", "gs")


@dataclass(frozen=True, slots=True)
class StorageUri:
    """Where audit events or recordings go: `location` is a directory, a table, or bucket and path."""

    scheme: str
    location: str
    options: Mapping[str, str] = field(default_factory=lambda: forms.NOTHING)
    database: PostgresqlSettings | None = None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.location}"


def _uri(value: str, schemes: tuple[str, ...]) -> StorageUri:
    if value.startswith("/"):
        return StorageUri("file", value)
    if value.startswith("postgresql://") and "postgresql" in schemes:
        return _database(value)
    parts = urlsplit(value)
    if "://" not in value or parts.scheme not in schemes or parts.fragment or parts.username is not None:
        raise ValueError
    location = parts.netloc + parts.path
    options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    if not options.keys() <= _OPTIONS[parts.scheme]:
        raise ValueError
    if parts.scheme == "file" and not location.startswith("/"):
        raise ValueError
    if (parts.scheme == "stdout") == bool(location):
        raise ValueError
    if parts.scheme == "dynamodb":
        events_table(location, options)
    return StorageUri(parts.scheme, location, MappingProxyType(options))


def events_table(table: str, options: Mapping[str, str]) -> tuple[DynamoSettings, timedelta | None]:
    """A table for audit events, and for how long it keeps them. Raises `ValueError` when it cannot be meant."""
    settings = DynamoSettings(table, options.get("region", ""), options.get("endpoint", ""))
    if dynamodb_mistake(settings):
        raise ValueError
    told = options.get("audit_retention_period", "never")
    if told == "never":
        return settings, None
    keep = timedelta(seconds=Duration.parse(told).seconds)
    if keep < LEAST:
        raise ValueError
    return settings, keep


def _database(value: str) -> StorageUri:
    """A connection string with two options of ours. A password in it would be shown to who reads settings."""
    parts = urlsplit(value)
    ours = {"password_file": "", "schema": AUDIT_SCHEMA}
    others = []
    for name, option in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []:
        if name in ours:
            ours[name] = option
        else:
            others.append((name, option))
    settings = parse_conn_string(urlunsplit(parts._replace(query=urlencode(others, safe="/:,"))))
    if settings.password or (ours["password_file"] and not ours["password_file"].startswith("/")):
        raise ValueError
    file = Path(ours["password_file"]) if ours["password_file"] else None
    settings = replace(settings, password_file=file, schema=ours["schema"])
    if mistake(settings):
        raise ValueError
    return StorageUri("postgresql", f"{parts.netloc}{parts.path}", database=settings)


_EVENTS_FORM: Final = (
    "file:///dir, dynamodb://TABLE?region=REGION&audit_retention_period=8760h with 48h at least, "
    "firestore://collection, stdout:// or "
    "postgresql://USER@HOST/DATABASE?sslrootcert=/FILE&password_file=/FILE, with no password in it"
)


class _EventsUri:
    """What could hold a password in spite of that is not quoted in a problem."""

    allowed = _EVENTS_FORM

    def __call__(self, node: Node, problems: Problems, /) -> StorageUri | None:
        secret = node.is_scalar and any(sign in node.value.lower() for sign in ("@", "key", "secret", "passw", "token"))
        return matching(_EVENTS_FORM, lambda value: _uri(value, _EVENT_SCHEMES), secret=secret)(node, problems)


events_uri: Final = _EventsUri()
sessions_uri: Final = matching(
    "file:///dir, s3://bucket/path or gs://bucket/path", lambda value: _uri(value, _SESSION_SCHEMES)
)

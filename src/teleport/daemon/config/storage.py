"""`teleport.storage`: where cluster state, audit events and recordings live (`config.md` 3)."""

# ruff: noqa: RUF009  # `key` makes a dataclass field

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from teleport.backend.dynamodb.settings import DynamoSettings, Scaling
from teleport.backend.dynamodb.settings import mistake as dynamodb_mistake
from teleport.backend.postgresql.settings import DEFAULT_SCHEMA, FORM, PostgresqlSettings, mistake
from teleport.backend.postgresql.settings import parse as parse_conn_string
from teleport.copies.settings import DynamoCopy
from teleport.daemon.config import forms
from teleport.daemon.config.hints import where_it_belongs
from teleport.daemon.config.storage_uri import StorageUri, events_table, events_uri, sessions_uri
from teleport.recording.s3.settings import S3Settings
from teleport.recording.s3.settings import parse as parse_s3
from teleport.resources.values import HostPort
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import (
    ListOf,
    Section,
    address,
    boolean,
    integer,
    key,
    keys_of,
    matching,
    one_of,
    one_or_many,
    secret_text,
    some_text,
    url,
)

_DEFAULT_PREFIX: Final = "/teleport/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The keys that every type of storage has."""

    type: str = key(
        one_of(("dir", "sqlite", "lite", "etcd", "dynamodb", "firestore", "postgresql", "postgres", "cockroachdb")),
        "dir",
        "the engine that keeps cluster state",
    )
    region: str = key(some_text, "", "AWS region for DynamoDB and S3")
    audit_events_uri: tuple[StorageUri, ...] = key(
        one_or_many(events_uri),
        (),
        "where audit events go. The first file:///dir is the log, which is proved: one folder for all auth servers of "
        "a cluster. Others get copies, and of PostgreSQL and DynamoDB the one that is first of all is searched",
        default_text="<data_dir>/log",
    )
    audit_sessions_uri: StorageUri | None = key(
        sessions_uri,
        None,
        "where recordings go: one folder for all auth servers of a cluster, or S3",
        default_text="<data_dir>/log/records",
    )

    @property
    def recordings_s3(self) -> S3Settings | None:
        """Where recordings go, when that is S3."""
        uri = self.audit_sessions_uri
        return parse_s3(uri.location, uri.options, self.region) if uri is not None and uri.scheme == "s3" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirStorage(Storage):
    """SQLite in a local directory; one auth server only."""

    path: Path | None = key(forms.path, None, "directory of the database", default_text="<data_dir>/backend")
    sync: str = key(one_of(("OFF", "NORMAL", "FULL")), "FULL", "how carefully SQLite writes to disk")
    journal: str = key(one_of(("WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF")), "WAL", "journal mode")
    poll_stream_period: Any = key(
        forms.positive_duration,
        None,
        "how often changes were polled for",
        warning="is ignored: changes are not polled for",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdStorage(Storage):
    """etcd 3.3 or newer."""

    peers: tuple[str, ...] = key(ListOf(url, least=1), (), "URLs of the etcd servers", required=True)
    tls_cert_file: Path | None = key(forms.path, None, "client certificate")
    tls_key_file: Path | None = key(forms.path, None, "key of the client certificate")
    tls_ca_file: Path | None = key(forms.path, None, "CA of the etcd servers")
    username: str = key(some_text, "", "etcd user")
    password_file: Path | None = key(forms.path, None, "file that holds the user's password")
    prefix: str = key(some_text, _DEFAULT_PREFIX, "prefix of all keys")
    insecure: bool = key(
        boolean, False, "peers may be http://; the certificate of an https:// server is always checked"
    )
    etcd_max_client_msg_size_bytes: int = key(integer(1024), 2 * 1024 * 1024, "largest message, in bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoStorage(Storage):
    """A DynamoDB table, created if absent."""

    table_name: str = key(some_text, "", "table of the cluster state", required=True)
    endpoint: str = key(url, "", "URL of the service", default_text="Amazon's, of the region")
    access_key: str = key(secret_text, "", "AWS access key id", secret=True, default_text="as AWS's own tools find it")
    secret_key: str = key(secret_text, "", "AWS secret access key", secret=True)
    continuous_backups: bool = key(boolean, False, "point-in-time recovery")
    auto_scaling: bool = key(boolean, False, "scale the table's capacity")
    read_min_capacity: int = key(integer(1), 1, "with auto_scaling: least read capacity")
    read_max_capacity: int = key(integer(1), 100, "with auto_scaling: most read capacity")
    read_target_value: float = key(integer(1, 100), 50, "with auto_scaling: aimed-at use of read capacity, percent")
    write_min_capacity: int = key(integer(1), 1, "with auto_scaling: least write capacity")
    write_max_capacity: int = key(integer(1), 100, "with auto_scaling: most write capacity")
    write_target_value: float = key(integer(1, 100), 50, "with auto_scaling: aimed-at use of write capacity, percent")

    def settings(self) -> DynamoSettings:
        """All of it together."""
        reads = Scaling(self.read_min_capacity, self.read_max_capacity, self.read_target_value)
        writes = Scaling(self.write_min_capacity, self.write_max_capacity, self.write_target_value)
        return DynamoSettings(
            self.table_name,
            self.region,
            self.endpoint,
            self.access_key,
            self.secret_key,
            self.continuous_backups,
            reads if self.auto_scaling else None,
            writes if self.auto_scaling else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirestoreStorage(Storage):
    """A Firestore collection."""

    project_id: str = key(some_text, "", "Google Cloud project", required=True)
    collection_name: str = key(some_text, "", "collection of the cluster state", required=True)
    credentials_path: Path | None = key(forms.path, None, "file that holds the service account's credentials")


@dataclass(frozen=True, slots=True)
class PostgresTls:
    """Client certificate towards PostgreSQL."""

    client_cert_file: Path | None = key(forms.path, None, "client certificate")
    client_key_file: Path | None = key(forms.path, None, "key of the client certificate")
    ca_file: Path | None = key(forms.path, None, "CA of the server")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresStorage(Storage):
    """PostgreSQL or a database that speaks its protocol."""

    addr: HostPort | None = key(address(5432), None, "address of the server", required=True)
    database: str = key(some_text, "teleport", "name of the database")
    tls: PostgresTls = key(forms.section(PostgresTls), PostgresTls, "how to prove ourselves")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlStorage(Storage):
    """PostgreSQL 13 or newer."""

    conn_string: PostgresqlSettings | None = key(
        matching(FORM, parse_conn_string, secret=True), None, "servers, database and user", required=True, secret=True
    )
    password_file: Path | None = key(forms.path, None, "file that holds the user's password")
    schema: str = key(some_text, DEFAULT_SCHEMA, "schema of the database that is this cluster's alone")
    insecure: bool = key(
        boolean, False, "with sslmode=disable a server may be on another machine; certificates are always checked"
    )

    def settings(self) -> PostgresqlSettings:
        """All of it together."""
        assert self.conn_string is not None
        return replace(self.conn_string, password_file=self.password_file, schema=self.schema, insecure=self.insecure)


STORAGE_KINDS: Final[Mapping[str, type[Storage]]] = MappingProxyType(
    {
        "dir": DirStorage,
        "sqlite": DirStorage,
        "lite": DirStorage,
        "etcd": EtcdStorage,
        "dynamodb": DynamoStorage,
        "firestore": FirestoreStorage,
        "postgresql": PostgresqlStorage,
        "postgres": PostgresStorage,
        "cockroachdb": PostgresStorage,
    }
)


class StorageReader:
    """Reads the keys that the given `type` has, and says of another type's key which type it is for."""

    allowed = "a map"

    def __call__(self, node: Node, problems: Problems, /) -> Storage | None:
        named = node.get("type")
        kind = STORAGE_KINDS.get(named.value if named is not None else "dir")

        def other_type(child: Node, name: str, /) -> str:
            types = [one for one, kind in STORAGE_KINDS.items() if name in keys_of(kind)]
            return f"with type {' or '.join(types)} only" if types else where_it_belongs(child, name)

        if kind is None:  # the wrong type is the problem, not the keys that come with it
            every = {name: entry.reader for one in STORAGE_KINDS.values() for name, (_, entry) in keys_of(one).items()}
            node.mapping(problems, every, unknown=other_type)
            return None
        return Section(kind, _check, other_type)(node, problems)


def event_tables(storage: Storage) -> Iterator[DynamoCopy]:
    """Where in DynamoDB audit events go, in order; with the credentials of the state when that is there, too."""
    for uri in storage.audit_events_uri:
        if uri.scheme == "dynamodb":
            settings, keep = events_table(uri.location, uri.options)
            settings = replace(settings, region=settings.region or storage.region)
            if isinstance(storage, DynamoStorage):
                settings = replace(settings, access_key=storage.access_key, secret_key=storage.secret_key)
            yield DynamoCopy(settings, keep)


def _check(storage: Storage, node: Node, problems: Problems) -> None:
    events = node.get("audit_events_uri")
    if isinstance(storage, DynamoStorage) and events is not None:
        tables = [uri.location for uri in storage.audit_events_uri if uri.scheme == "dynamodb"]
        if storage.table_name in tables:
            events.problem(
                problems, "a table other than teleport.storage.table_name", found="the table of the cluster state"
            )
    places = [
        (uri.scheme, uri.location, uri.database, tuple(sorted(uri.options.items()))) for uri in storage.audit_events_uri
    ]
    if events is not None and len(set(places)) < len(places):
        events.problem(problems, "each place once", found="one a second time")
    for uri in storage.audit_events_uri:
        if events is None or uri.database is None or not isinstance(storage, PostgresqlStorage):
            continue
        if uri.database.schema == storage.schema:
            events.problem(problems, "a schema other than that of the state", found=f"the schema {storage.schema}")
    shared = [uri for uri in storage.audit_events_uri if uri.scheme in ("dynamodb", "firestore")]
    if events is not None and shared and storage.audit_sessions_uri is None:
        events.notice(problems, "is shared storage: recordings should be too, set audit_sessions_uri")
    sessions = node.get("audit_sessions_uri")
    if sessions is not None:
        try:
            _ = storage.recordings_s3
        except ValueError as error:
            sessions.problem(problems, "s3://bucket/path as docs/operations.md shows", found=str(error))
    if isinstance(storage, EtcdStorage):
        _check_pair(node, problems, "tls_cert_file", "tls_key_file")
        _check_pair(node, problems, "username", "password_file")
        _check_peers(storage, node, problems)
        prefix = node.get("prefix")
        if prefix is not None and not storage.prefix.endswith("/"):
            prefix.notice(problems, "has no slash at its end")
    if isinstance(storage, DynamoStorage) and storage.table_name and (wrong := dynamodb_mistake(storage.settings())):
        node.problem(problems, "a table as docs/operations.md shows", found=wrong)
    if isinstance(storage, PostgresqlStorage):
        _check_conn_string(storage, node, problems)


def _check_peers(storage: EtcdStorage, node: Node, problems: Problems) -> None:
    """What is sent are the keys of the cluster's authorities: never without TLS unless that was asked for."""
    schemes = {peer.partition("://")[0] for peer in storage.peers}
    peers, insecure = node.get("peers"), node.get("insecure")
    if peers is not None and "http" in schemes and not storage.insecure:
        peers.problem(problems, "https:// URLs, or insecure: true beside them", found="http://, which all can read")
    if insecure is not None and storage.insecure and "https" in schemes:
        insecure.problem(problems, "false with https:// peers, whose CA tls_ca_file names", found="true")


def _check_conn_string(storage: PostgresqlStorage, node: Node, problems: Problems) -> None:
    """What it comes to with the other keys. Of the string itself, which may hold a password, nothing is told."""
    named = node.get("conn_string")
    if named is None or storage.conn_string is None:
        return
    if wrong := mistake(storage.settings()):
        named.problem(problems, "servers that are checked, or insecure: true beside sslmode=disable", found=wrong)


def _check_pair(node: Node, problems: Problems, one: str, other: str) -> None:
    for here, missing in ((one, other), (other, one)):
        child = node.get(here)
        if child is not None and node.get(missing) is None:
            child.problem(problems, f"{one} and {other} together", found=f"no {missing} beside it")

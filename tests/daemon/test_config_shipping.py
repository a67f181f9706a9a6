"""Where copies of audit events go, as the file says it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.copies.settings import DynamoCopy, HttpsCopy, PostgresqlCopy, StdoutCopy, SyslogCopy, TlsFiles
from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import InvalidConfig, load_config
from teleport.daemon.config.keeping import SORTS
from teleport.daemon.config.values import Config, ShippedLog
from teleport.daemon.needed_ports import Direction, Surroundings, needed
from teleport.recording.storage import SessionKind
from teleport.resources.values import HostPort

SECRET = "sesame"
FILE = """
teleport:
  storage:
    audit_events_uri:
    - file:///srv/log
    - stdout://
    - postgresql://audit@db.example.com/events?sslrootcert=/ca.pem&password_file=/secret
    - dynamodb://events?region=eu-central-1&audit_retention_period=8760h
    - dynamodb://private?endpoint=https://db.example.net:8443
    region: eu-west-1
    audit_sessions_uri: /srv/records
auth_service:
  ship_events:
  - {name: siem, url: "syslog+tls://logs.example.com", ca_file: /ca.pem, cert_file: /c.pem, key_file: /k.pem}
  - {name: cloud, url: "https://in.example.com:8443/v1?x=y", token_file: /token, event_types: [session.*, user.login]}
proxy_service: {enabled: no}
ssh_service: {enabled: no}
"""


def config(text: str) -> Config:
    return effective_config(load_config(text, "teleport.yaml"), StartFlags(), "host")


def test_all_places_are_read_and_their_ports_are_needed() -> None:
    found = config(FILE)
    assert found.storage.events_path == Path("/srv/log")
    stdout, database, table, private = found.storage.copies
    assert stdout == StdoutCopy()
    assert isinstance(database, PostgresqlCopy)
    assert database.settings.password_file == Path("/secret")
    assert database.settings.schema == "teleport_audit"
    assert database.name.startswith("postgresql-")
    assert table == DynamoCopy(DynamoSettings("events", "eu-central-1"), timedelta(hours=8760))
    assert private == DynamoCopy(DynamoSettings("private", "eu-west-1", "https://db.example.net:8443"))
    assert table.name.startswith("dynamodb-")
    assert table.name != private.name
    assert found.auth is not None
    syslog, https = found.auth.ship_events
    tls = TlsFiles(Path("/ca.pem"), Path("/c.pem"), Path("/k.pem"))
    assert syslog == SyslogCopy("siem", HostPort("logs.example.com", 6514), tls)
    assert https == HttpsCopy(
        "cloud", "https://in.example.com:8443/v1?x=y", TlsFiles(), Path("/token"), ("session.*", "user.login")
    )
    out = {(one.host, one.port) for one in needed(found, Surroundings()) if one.direction is Direction.OUT}
    assert {("db.example.com", 5432), ("logs.example.com", 6514), ("in.example.com", 8443)} <= out
    assert {("dynamodb.eu-central-1.amazonaws.com", 443), ("db.example.net", 8443)} <= out
    assert found.storage.audit_events_uri[2] == "postgresql://audit@db.example.com/events"


def test_receivers_of_the_log_are_read_and_every_host_needs_their_ports() -> None:
    text = """
teleport:
  log:
    ship:
    - {name: siem, url: "syslog+tls://logs.example.com", ca_file: /ca.pem, cert_file: /c.pem, key_file: /k.pem}
    - {name: cloud, url: "https://in.example.com:8443/v1", token_file: /token, spool_mib: 2}
auth_service: {enabled: no}
proxy_service: {enabled: no}
"""
    found = config(text)
    tls = TlsFiles(Path("/ca.pem"), Path("/c.pem"), Path("/k.pem"))
    assert found.log.ship == (
        ShippedLog(SyslogCopy("siem", HostPort("logs.example.com", 6514), tls), 64 << 20),
        ShippedLog(HttpsCopy("cloud", "https://in.example.com:8443/v1", TlsFiles(), Path("/token")), 2 << 20),
    )
    assert config("{}").log.ship == ()
    out = {(one.host, one.port, one.why) for one in needed(found, Surroundings()) if one.direction is Direction.OUT}
    why = "the daemon's log"
    assert {("logs.example.com", 6514, why), ("in.example.com", 8443, why)} <= out


@pytest.mark.parametrize(
    ("log", "allowed"),
    [
        ("output: 'syslog+tls://logs.example.com'", "teleport.log.ship"),
        ("output: 'https://logs.example.com/x'", "teleport.log.ship"),
        ("ship: [{name: a, url: 'http://a/'}]", "syslog[+]tls://host:6514 or https"),
        ("ship: [{name: a, url: 'https://u:p@a/'}]", "syslog[+]tls://host:6514 or https"),
        ("ship: [{name: ../a, url: 'https://a/'}]", "a name of lower-case"),
        ("ship: [{name: a, url: 'https://a/', event_types: [exec]}]", "event_types"),
        ("ship: [{name: a, url: 'https://a/', spool_mib: 0}]", "spool_mib"),
        ("ship: [{name: a, url: 'https://a/', cert_file: /c}]", "cert_file and key_file together"),
        ("ship: [{name: a, url: 'https://a/'}, {name: a, url: 'https://b/'}]", "each name once"),
    ],
)
def test_a_receiver_of_the_log_that_cannot_be_meant_is_refused(log: str, allowed: str) -> None:
    with pytest.raises(InvalidConfig, match=allowed):
        config(f"teleport: {{log: {{{log}}}}}")


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        (f"[file:///l, 'postgresql://u:{SECRET}@db/t']", "no password in it"),
        (f"[file:///l, 'postgresql://u@db/t?password={SECRET}']", "no password in it"),
        ("[file:///l, 'postgresql://u@db/t?sslmode=disable']", "no password in it"),
        ("[file:///l, 'postgresql://u@db/t?schema=pg_x']", "no password in it"),
        ("[file:///l, 'postgresql://u@db/t?password_file=secret']", "no password in it"),
        ("[file:///l, 'firestore://t']", "cannot do that yet"),
        ("[file:///l, 'dynamodb://t']", "dynamodb://TABLE"),
        ("[file:///l, 'dynamodb://a/b']", "dynamodb://TABLE"),
        ("[file:///l, 'dynamodb://events?endpoint=http://db.example.com']", "dynamodb://TABLE"),
        (f"[file:///l, 'dynamodb://events?secret_key={SECRET}']", "dynamodb://TABLE"),
        (f"[file:///l, 'dynamodb://x:{SECRET}@events']", "dynamodb://TABLE"),
        ("[file:///l, 'dynamodb://events?audit_retention_period=47h']", "48h at least"),
        ("[file:///l, 'dynamodb://events?audit_retention_period=soon']", "48h at least"),
        ("[file:///l, 'dynamodb://events', 'dynamodb://events']", "each place once"),
    ],
)
def test_a_place_that_cannot_be_meant_is_refused_and_no_password_is_shown(uri: str, allowed: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        config(f"teleport: {{storage: {{audit_events_uri: {uri}}}}}")
    assert allowed in str(caught.value)
    assert SECRET not in str(caught.value)


def test_events_go_to_the_region_and_by_the_credentials_of_the_state_when_that_is_in_dynamodb_too() -> None:
    state = "type: dynamodb, table_name: state, region: eu-west-1, access_key: AKIA, secret_key: sesame"
    found = config(f"teleport: {{storage: {{{state}, audit_events_uri: [/l, 'dynamodb://events']}}}}")
    (copy,) = found.storage.copies
    assert copy == DynamoCopy(DynamoSettings("events", "eu-west-1", "", "AKIA", SECRET))
    assert SECRET not in repr(copy)
    out = [one for one in needed(found, Surroundings()) if one.peer == "DynamoDB"]
    assert {one.why for one in out} == {"copies of audit events", "the cluster's state"}
    with pytest.raises(InvalidConfig, match="a table other than"):
        config(f"teleport: {{storage: {{{state}, audit_events_uri: [/l, 'dynamodb://state']}}}}")


@pytest.mark.parametrize(
    ("uris", "searched"),
    [
        ("['postgresql://u@db/t', file:///l]", PostgresqlCopy),
        ("['dynamodb://events?region=r', 'postgresql://u@db/t']", DynamoCopy),
        ("postgresql://u@db/t", PostgresqlCopy),
        ("[file:///l, 'postgresql://u@db/t']", None),
        ("['stdout://', 'postgresql://u@db/t']", None),
        ("file:///l", None),
    ],
)
def test_the_first_place_is_searched_when_it_can_be_and_the_log_stays_in_a_folder(
    uris: str, searched: type | None
) -> None:
    found = config(f"teleport: {{data_dir: /d, storage: {{audit_sessions_uri: /r, audit_events_uri: {uris}}}}}").storage
    assert (type(found.searched) if found.searched else None) is searched
    assert found.events_path == Path("/l" if "file:" in uris else "/d/log")
    assert found.searched is None or found.searched == found.copies[0]


def test_events_do_not_go_into_the_schema_of_the_state() -> None:
    state = "type: postgresql, conn_string: 'postgresql://u@db/t', schema: ours"
    with pytest.raises(InvalidConfig, match="a schema other than that of the state"):
        config(f"teleport: {{storage: {{{state}, audit_events_uri: [/l, 'postgresql://u@db/t?schema=ours']}}}}")


@pytest.mark.parametrize(
    ("receiver", "allowed"),
    [
        ("name: a", "required"),
        ("name: A, url: 'https://a/'", "a name of lower-case"),
        ("name: stdout, url: 'https://a/'", "a name of lower-case"),
        ("name: a, url: 'http://a/'", "syslog[+]tls://host:6514 or https"),
        ("name: a, url: 'syslog://a'", "syslog[+]tls://host:6514 or https"),
        ("name: a, url: 'https://u:p@a/'", "syslog[+]tls://host:6514 or https"),
        ("name: a, url: 'syslog+tls://a:x'", "syslog[+]tls://host:6514 or https"),
        ("name: a, url: 'syslog+tls://a/b'", "syslog[+]tls://host:6514 or https"),
        ("name: a, url: 'https:///x'", "syslog[+]tls://host:6514 or https"),
        ("name: a, url: 'https://a/', cert_file: /c", "cert_file and key_file together"),
        ("name: a, url: 'syslog+tls://a', token_file: /t", "with https:// only"),
        ("name: a, url: 'https://a/', event_types: ['*.x']", "the name of an event"),
        ("name: a, url: 'https://a/', insecure: yes", "insecure"),
        ("name: a, url: 'https://a/'}, {name: a, url: 'https://b/'", "each name once"),
    ],
)
def test_a_receiver_that_cannot_be_meant_is_refused(receiver: str, allowed: str) -> None:
    """There is no word to check less."""
    with pytest.raises(InvalidConfig, match=allowed):
        config(f"auth_service: {{ship_events: [{{{receiver}}}]}}")


def test_events_are_kept_by_type() -> None:
    text = "auth_service: {retention: {events: {default: 8760h, session.*: 720h, session.end: never}}}"
    found = config(text).auth
    assert found is not None
    wanted = (("default", timedelta(days=365)), ("session.*", timedelta(days=30)), ("session.end", None))
    assert found.retention == wanted
    assert config("auth_service: {}").auth is not None


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ("default: 47h", "a duration of 48h or more, or never"),
        ("default: 0s", "a duration of 48h or more, or never"),
        ("default: soon", "a duration of 48h or more, or never"),
        ("audit.checkpoint: 72h", "not what the log is proved by"),
        ("hold.deleted: 72h", "not what the log is proved by"),
        ("Session: 72h", "the name of an event, or a group"),
    ],
)
def test_a_retention_that_cannot_be_meant_is_refused(rule: str, allowed: str) -> None:
    with pytest.raises(InvalidConfig, match=allowed):
        config(f"auth_service: {{retention: {{events: {{{rule}}}}}}}")


def test_recordings_are_kept_by_sort_of_session() -> None:
    text = "auth_service: {retention: {recordings: {default: never, transfer: 72h}}}"
    found = config(text).auth
    assert found is not None
    assert found.recordings_retention == (("default", None), ("transfer", timedelta(days=3)))
    assert set(SORTS) == set(SessionKind)
    with pytest.raises(InvalidConfig, match="default, shell, exec, transfer"):
        config("auth_service: {retention: {recordings: {movies: 72h}}}")


def test_recordings_that_lie_in_s3_may_have_a_time_too() -> None:
    storage = "teleport: {storage: {audit_sessions_uri: 's3://bucket/x?region=eu-west-1'}}\n"
    found = config(f"{storage}auth_service: {{retention: {{recordings: {{default: 72h}}}}}}").auth
    assert found is not None
    assert found.recordings_retention == (("default", timedelta(days=3)),)

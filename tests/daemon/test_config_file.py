"""teleport.yaml: a table of mistakes with the line, path, finding and remedy of each; and what good files say."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.daemon.config.auth_section import TokenRole
from teleport.daemon.config.describe import describe_keys
from teleport.daemon.config.file import InvalidConfig, load_config, read_config
from teleport.daemon.config.not_built import NOT_BUILT
from teleport.daemon.config.proxy_section import acme_names
from teleport.daemon.config.sample import sample_config
from teleport.daemon.config.storage import (
    DynamoStorage,
    EtcdStorage,
    FirestoreStorage,
    PostgresqlStorage,
    PostgresStorage,
)
from teleport.errors import BadRequest, NotFound, TeleportError
from teleport.resources.cluster import RecordingMode, SecondFactor
from teleport.resources.values import CommandLabel, Duration, HostPort
from teleport.resources.yaml_document import Problem

SECRET = "hunter2hunter2"


def mistakes(text: str | bytes) -> tuple[Problem, ...]:
    with pytest.raises(InvalidConfig) as caught:
        load_config(text, "teleport.yaml")
    assert caught.value.exit_code == 1
    assert "teleport configure --test=" in caught.value.hint
    return caught.value.problems


def teleport(line: str) -> str:
    return f"teleport:\n  nodename: a\n  {line}\n"


def auth(line: str) -> str:
    return f"auth_service:\n  enabled: yes\n  {line}\n"


def authentication(line: str) -> str:
    return f"auth_service:\n  authentication:\n    {line}\n"


def ssh(line: str) -> str:
    return f"ssh_service:\n  enabled: yes\n  {line}\n"


def proxy(line: str) -> str:
    return f"proxy_service:\n  enabled: yes\n  {line}\n"


def app(line: str) -> str:
    return f"app_service:\n  apps:\n  - {{name: a, uri: 'http://a', {line}}}\n"


def database(line: str) -> str:
    return f"db_service:\n  databases:\n  - {{name: a, protocol: postgres, uri: 'a:1', {line}}}\n"


BAD = [
    # text, line, path, words of what was found, words of what is allowed
    ("- a\n", 1, "", "a list", "a map with the keys app_service, auth_service"),
    ("just text\n", 1, "", '"just text"', "a map with the keys"),
    ("a: 1\n---\nb: 1\n", 1, "a", "an unknown key", "auth_service"),
    ("version: v1\n---\nversion: v1\n", 3, "", "a second document", "one document"),
    ("version: v9\n", 1, "version", '"v9"', "v1 or v2"),
    ("auth_servce:\n  enabled: yes\n", 1, "auth_servce", "an unknown key", "auth_service"),
    ("nodename: a\n", 1, "nodename", "does not belong here", "under teleport"),
    ("windows_desktop_service: {}\n", 1, "windows_desktop_service", "does not belong", "not supported"),
    ("teleport:\n  ssh_service: {}\n", 2, "teleport.ssh_service", "does not belong here", "the top level"),
    (auth("audit_events_uri: x"), 3, "auth_service.audit_events_uri", "does not belong here", "under teleport.storage"),
    (ssh("web_listen_addr: a"), 3, "ssh_service.web_listen_addr", "does not belong here", "under proxy_service"),
    (ssh("lables: {}"), 3, "ssh_service.lables", "an unknown key", "labels"),
    (auth("trusted_clusters: [a]"), 3, "auth_service.trusted_clusters", "does not belong", "tctl create"),
    (ssh("enabled: no"), 3, "ssh_service.enabled", "a second time (first in line 2)", "each key once"),
    ("auth_service: yes\n", 1, "auth_service", '"yes"', "a map with the keys"),
    (ssh("enabled: nonsense").replace("  enabled: yes\n", ""), 2, "ssh_service.enabled", '"nonsense"', "yes, no"),
    (ssh("permit_user_env: 2"), 3, "ssh_service.permit_user_env", '"2"', "true, false"),
    (teleport("data_dir: ''"), 3, "teleport.data_dir", '""', "a path"),
    (teleport("data_dir: [a]"), 3, "teleport.data_dir", "a list", "a path"),
    (teleport("auth_servers: []"), 3, "teleport.auth_servers", "an empty list", "at least one address"),
    (teleport("auth_servers: [a:b]"), 3, "teleport.auth_servers[0]", '"a:b"', "host:port"),
    (teleport("auth_servers: ['::1']"), 3, "teleport.auth_servers[0]", '"::1"', "IPv6 host in brackets"),
    (teleport("auth_servers: {a: b}"), 3, "teleport.auth_servers", "a map", "one value or a list"),
    (teleport("diag_addr: 1.2.3.4:99999"), 3, "teleport.diag_addr", "99999", "port 0 to 65535"),
    (teleport("advertise_ip: 0.0.0.0"), 3, "teleport.advertise_ip", '"0.0.0.0"', "others can reach"),
    (teleport("ca_pin: abc"), 3, "teleport.ca_pin", '"abc"', "sha256: and 64 hexadecimal"),
    (teleport("ca_pin: ['', 'sha256:00']"), 3, "teleport.ca_pin[0]", '""', "sha256: and 64"),
    (teleport(f"auth_token: '{SECRET} x'"), 3, "teleport.auth_token", "not shown", "a token, or the absolute path"),
    (
        teleport("auth_token: a\n  join_params: {token_name: b}"),
        4,
        "teleport.join_params",
        "both auth_token and join_params",
        "not both",
    ),
    (teleport("join_params: {method: token}"), 3, "teleport.join_params.token_name", "nothing", "required"),
    (teleport("join_params: {token_name: a, method: x}"), 3, "teleport.join_params.method", '"x"', "token, ec2 or iam"),
    (teleport("log: {severity: loud}"), 3, "teleport.log.severity", '"loud"', "debug, info"),
    (teleport("log: {format: [time]}"), 3, "teleport.log.format[0]", '"time"', "timestamp, component"),
    (teleport("log: {format: {output: xml}}"), 3, "teleport.log.format.output", '"xml"', "text or json"),
    (teleport("ciphers: [aes128-cbc]"), 3, "teleport.ciphers[0]", '"aes128-cbc"', "aes128-gcm@openssh.com, "),
    (teleport("kex_algos: [x]"), 3, "teleport.kex_algos[0]", '"x"', "curve25519-sha256"),
    (teleport("mac_algos: []"), 3, "teleport.mac_algos", "an empty list", "hmac-sha2-256"),
    (teleport("ciphersuites: [x]"), 3, "teleport.ciphersuites[0]", '"x"', "tls-ecdhe-rsa-with-aes-128-gcm-sha256"),
    (
        teleport("connection_limits: {max_connections: ten}"),
        3,
        "teleport.connection_limits.max_connections",
        '"ten"',
        "a whole number, 1 or more",
    ),
    (
        teleport("connection_limits: {rates: [{period: 1s, average: 1}]}"),
        3,
        "teleport.connection_limits.rates[0].burst",
        "nothing",
        "required",
    ),
    (teleport("cache: {type: disk}"), 3, "teleport.cache.type", '"disk"', "sqlite or in-memory"),
    (teleport("storage: {type: oracle}"), 3, "teleport.storage.type", '"oracle"', "dir, sqlite, lite, etcd"),
    (teleport("storage: {peers: [a]}"), 3, "teleport.storage.peers", "does not belong", "with type etcd only"),
    (teleport("storage: {type: etcd}"), 3, "teleport.storage.peers", "nothing", "required"),
    (teleport("storage: {type: postgresql}"), 3, "teleport.storage.conn_string", "nothing", "required"),
    (
        teleport(f"storage: {{type: postgresql, conn_string: 'postgresql://u:{SECRET}@a/d?sslmode=prefer'}}"),
        3,
        "teleport.storage.conn_string",
        "a value that is not shown",
        "sslmode=verify-full",
    ),
    (
        teleport(f"storage: {{type: postgresql, conn_string: 'postgresql://u:{SECRET}@a/d?sslmode=disable'}}"),
        3,
        "teleport.storage.conn_string",
        "a:5432 would be spoken to without TLS",
        "insecure: true",
    ),
    (
        teleport(f"storage: {{type: postgresql, conn_string: 'postgresql://u:{SECRET}@a/d', password_file: /p}}"),
        3,
        "teleport.storage.conn_string",
        "both in conn_string and in password_file",
        "checked",
    ),
    (
        teleport("storage: {type: etcd, peers: ['http://a']}"),
        3,
        "teleport.storage.peers",
        "http://",
        "insecure: true",
    ),
    (
        teleport("storage: {type: etcd, peers: ['https://a'], insecure: true}"),
        3,
        "teleport.storage.insecure",
        "true",
        "tls_ca_file",
    ),
    (
        teleport("storage: {type: etcd, peers: ['https://a'], tls_cert_file: /c}"),
        3,
        "teleport.storage.tls_cert_file",
        "no tls_key_file",
        "together",
    ),
    (
        teleport("storage: {type: dynamodb, table_name: tab, audit_events_uri: 'dynamodb://tab'}"),
        3,
        "teleport.storage.audit_events_uri",
        "the table of the cluster state",
        "a table other than",
    ),
    (teleport("storage: {type: firestore, project_id: p}"), 3, "teleport.storage.collection_name", "nothing", "requir"),
    (teleport("storage: {audit_events_uri: 'ftp://x'}"), 3, "teleport.storage.audit_events_uri", '"ftp://x"', "file:"),
    (teleport("storage: {audit_sessions_uri: 's3://b?x=1'}"), 3, "teleport.storage.audit_sessions_uri", "s3", "s3://b"),
    (teleport("storage: {sync: sometimes}"), 3, "teleport.storage.sync", '"sometimes"', "OFF, NORMAL or FULL"),
    (auth("cluster_name: 'a b'"), 3, "auth_service.cluster_name", '"a b"', "a name of letters"),
    (auth(f"tokens: ['node,{SECRET}']"), 3, "auth_service.tokens[0]", "not shown", "role[,role]:value"),
    (auth(f"tokens: ['pilot:{SECRET}']"), 3, "auth_service.tokens[0]", "not shown", "auth, proxy, node"),
    (auth(f"tokens: ['node:{SECRET}:x']"), 3, "auth_service.tokens[0]", "not shown", "role[,role]:value"),
    (auth(f"tokens: ['node:{SECRET}', 'proxy:{SECRET}']"), 3, "auth_service.tokens[1]", "second time", "once"),
    (auth("keep_alive_interval: 5"), 3, "auth_service.keep_alive_interval", '"5"', "30s, 5m or 1h30m"),
    (auth("keep_alive_interval: 0s"), 3, "auth_service.keep_alive_interval", '"0s"', "longer than zero"),
    (auth("client_idle_timeout: soon"), 3, "auth_service.client_idle_timeout", '"soon"', "or never"),
    (auth("session_control_timeout: never"), 3, "auth_service.session_control_timeout", '"never"', "a duration"),
    (auth("keep_alive_count_max: 0"), 3, "auth_service.keep_alive_count_max", '"0"', "1 or more"),
    (auth("session_recording: always"), 3, "auth_service.session_recording", '"always"', "node, proxy, off"),
    (auth("routing_strategy: any"), 3, "auth_service.routing_strategy", '"any"', "unambiguous_match or"),
    (auth("tunnel_strategy: {type: ring}"), 3, "auth_service.tunnel_strategy.type", '"ring"', "agent_mesh or"),
    (
        auth("tunnel_strategy: {type: proxy_peering, agent_connection_count: 0}"),
        3,
        "auth_service.tunnel_strategy.agent_connection_count",
        '"0"',
        "from 1 to 64",
    ),
    (proxy("peer_listen_addr: 0.0.0.0:99999"), 3, "proxy_service.peer_listen_addr", "99999", "port 3021"),
    (proxy("peer_public_addr: [a, b]"), 3, "proxy_service.peer_public_addr", "a list", "port 3021"),
    (auth("second_factor: otp"), 3, "auth_service.second_factor", "does not belong", "auth_service.authentication"),
    (authentication("second_factor: sms"), 3, "auth_service.authentication.second_factor", '"sms"', "off, otp"),
    (authentication("second_factor: 'on'"), 3, "auth_service.authentication.second_factor", "no u2f", "u2f.app_id"),
    (authentication("u2f: {facets: [a]}"), 3, "auth_service.authentication.u2f.app_id", "nothing", "https://"),
    (authentication("u2f: {app_id: 'http://a'}"), 3, "auth_service.authentication.u2f.app_id", "http:", "https://"),
    (
        auth("ca_key_params: {pkcs11: {module_path: /m, token_label: a, pin: '1', pin_path: /p}}"),
        3,
        "auth_service.ca_key_params.pkcs11.pin_path",
        "both pin and pin_path",
        "not both",
    ),
    (
        auth("ca_key_params: {pkcs11: {module_path: /m}}"),
        3,
        "auth_service.ca_key_params.pkcs11",
        "neither token_label",
        "token_label or slot_number",
    ),
    (ssh("labels: [a]"), 3, "ssh_service.labels", "a list", "a map to text"),
    (ssh("labels:\n    env: [a]"), 4, "ssh_service.labels.env", "a list", "text"),
    (ssh("labels: {'a b': c}"), 3, 'ssh_service.labels."a b"', "this key", "a label key of letters"),
    (ssh("labels: {'*': c}"), 3, "ssh_service.labels.*", "this key", "a label key of letters"),
    (ssh("commands: [{name: a, command: ls}]"), 3, "ssh_service.commands[0].command", '"ls"', "a list of at least 1"),
    (ssh("commands: [{command: [ls]}]"), 3, "ssh_service.commands[0].name", "nothing", "required"),
    (ssh("commands: [{name: a, command: [b], period: 1s}]"), 3, "ssh_service.commands[0].period", '"1s"', "1m or"),
    (
        ssh("commands:\n  - {name: a, command: [b]}\n  - {name: a, command: [b]}"),
        5,
        "ssh_service.commands[1].name",
        '"a"',
        "each label once",
    ),
    (
        ssh("enhanced_recording: {disk_buffer_size: 3}"),
        3,
        "ssh_service.enhanced_recording.disk_buffer_size",
        '"3"',
        "power of 2",
    ),
    (ssh("namespace: other"), 3, "ssh_service.namespace", '"other"', "default"),
    (proxy("https_keypairs: [{key_file: /none}]"), 3, "proxy_service.https_keypairs[0].key_file", "/none", "existing"),
    (proxy("https_keypairs: [{key_file: /none}]"), 3, "proxy_service.https_keypairs[0].cert_file", "nothing", "requir"),
    (proxy("https_key_file: /etc/passwd"), 3, "proxy_service.https_key_file", "no https_cert_file", "together"),
    (proxy("public_addr: ['https://a']"), 3, "proxy_service.public_addr[0]", '"https://a"', "host or host:port"),
    (proxy("acme: {email: nobody}"), 3, "proxy_service.acme.email", '"nobody"', "an e-mail address"),
    (
        proxy("listen_addr: 0.0.0.0:1\n  web_listen_addr: 0.0.0.0:1"),
        4,
        "proxy_service.web_listen_addr",
        "the address of listen_addr",
        "an address of its own",
    ),
    (
        proxy("kube_listen_addr: a\n  kubernetes: {listen_addr: b}"),
        3,
        "proxy_service.kube_listen_addr",
        "beside kubernetes.listen_addr",
        "one of them",
    ),
    (
        "app_service:\n  apps:\n  - {name: A_b, uri: 'http://a'}\n",
        3,
        "app_service.apps[0].name",
        '"A_b"',
        "a DNS label",
    ),
    ("app_service:\n  apps:\n  - {name: a}\n", 3, "app_service.apps[0].uri", "nothing", "a URL (required)"),
    (app("public_addr: 10.0.0.1"), 3, "app_service.apps[0].public_addr", "10.0.0.1", "without a port"),
    (app("public_addr: 'a:1'"), 3, "app_service.apps[0].public_addr", '"a:1"', "without a port"),
    (app("rewrite: {headers: [x]}"), 3, "app_service.apps[0].rewrite.headers[0]", '"x"', "Name: value"),
    (app("rewrite: {headers: ['X-Forwarded-For: a']}"), 3, "app_service.apps[0].rewrite.headers[0]", "X-F", "reserved"),
    (database("gcp: {project_id: a}"), 3, "db_service.databases[0].gcp", "one of them", "or neither"),
    (database("tls: {mode: none}"), 3, "db_service.databases[0].tls.mode", '"none"', "verify-full"),
    (
        "db_service:\n  databases:\n  - {name: a, protocol: mysql, uri: nope}\n",
        3,
        "db_service.databases[0].uri",
        '"nope"',
        "host:port",
    ),
    (
        "db_service:\n  databases:\n  - {name: a, protocol: mysql, uri: 'a:1'}\n"
        "  - {name: a, protocol: mysql, uri: 'a:1'}\n",
        4,
        "db_service.databases[1].name",
        "a second time",
        "each name once",
    ),
    ("kubernetes_service:\n  enabled: yes\n", 1, "kubernetes_service", "neither", "kubeconfig_file or"),
    ("app_service:\n  enabled: on\n", 2, "app_service.enabled", '"on"', "not have the application service yet"),
    ("db_service:\n  enabled: 1\n", 2, "db_service.enabled", '"1"', "not have the database service yet"),
    (
        proxy("acme: {enabled: yes}"),
        3,
        "proxy_service.acme.enabled",
        "none",
        "a host name in proxy_service.public_addr",
    ),
    (proxy("acme: {enabled: yes, uri: 'http://a.test/'}"), 3, "proxy_service.acme.uri", "http://a.test/", "https"),
    (ssh("pam: {service_name: ../x}"), 3, "ssh_service.pam.service_name", '"../x"', "without a path"),
    (ssh("pam: {environment: {A-B: x}}"), 3, "ssh_service.pam.environment.A-B", "A-B", "letters, digits"),
    (ssh("pam: {environment: {A: '{{external}}'}}"), 3, "ssh_service.pam.environment.A", "external", "a template"),
    (ssh("restricted_session: {enabled: yes}"), 3, "ssh_service.restricted_session.enabled", '"yes"', "do that yet"),
    (auth("session_recording: nowhere"), 3, "auth_service.session_recording", '"nowhere"', "node-sync or proxy-sync"),
    (
        teleport("storage: {audit_sessions_uri: 'gs://b/p'}"),
        3,
        "teleport.storage.audit_sessions_uri",
        "gs",
        "s3://bucket",
    ),
    ("teleport:\n\tnodename: a\n", 2, "", "a tab", "spaces"),
    ("teleport: {\n", 2, "", "", "well-formed YAML"),
    ("teleport: !secret x\n", 1, "teleport", 'the tag "!secret"', "values without tags"),
    ("a: &a {b: 1}\nteleport: {<<: *a}\n", 2, "teleport", "a merge key", "written out"),
    (b"teleport:\n  nodename: \xff\n", 2, "", "the byte 0xff", "UTF-8"),
    ("teleport:\n  nodename: \x00\n", 2, "", "the character U+0000", "printable"),
]


@pytest.mark.parametrize(
    ("text", "line", "path", "found", "allowed"), BAD, ids=[f"{number}-{row[2]}" for number, row in enumerate(BAD)]
)
def test_a_mistake_is_named_with_line_path_finding_and_remedy(
    text: str | bytes, line: int, path: str, found: str, allowed: str
) -> None:
    problems = mistakes(text)
    named = [problem for problem in problems if (problem.line, problem.path) == (line, path)]
    assert any(found in problem.found and allowed in problem.allowed for problem in named), problems
    assert all(SECRET not in str(problem) for problem in problems)


def test_eight_mistakes_in_one_file_are_all_reported_at_once() -> None:
    text = """\
teleport:
  nodename: good
  data_dri: /var/lib/teleport
  auth_servers: ["::1"]
  ca_pin: sha256:12
auth_service:
  enabled: nonsense
  audit_events_uri: file:///x
  client_idle_timeout: 5
ssh_service:
  labels:
    env: [a]
  enabled: yes
  enabled: no
"""
    problems = mistakes(text)
    assert [problem.line for problem in problems] == [3, 4, 5, 7, 8, 9, 12, 14]
    with pytest.raises(InvalidConfig) as caught:
        load_config(text, "teleport.yaml")
    assert str(caught.value).splitlines()[6] == "teleport.yaml:12: ssh_service.labels.env: found a list, allowed: text"
    assert isinstance(caught.value, BadRequest)


GOOD = """\
teleport:
  nodename: graviton
  data_dir: /srv/teleport
  auth_token: /etc/teleport/token
  ca_pin: [SHA256:ABCDEF7890123456789012345678901234567890123456789012345678901234]
  auth_servers: [auth.example.com, "tcp://10.0.0.1:443", "[::1]:3025"]
  diag_addr: :3000
  cache: {enabled: off, type: in-memory}
  connection_limits:
    max_connections: 1000
    rates: [{period: 1m, average: 100, burst: 200}]
  log: {output: "2", severity: WARN, format: [level, component]}
  storage: {type: sqlite, sync: NORMAL, audit_events_uri: [file:///var/log/t, "stdout://"]}
  ciphers: [aes256-gcm@openssh.com]
auth_service:
  enabled: Yes
  listen_addr: 127.0.0.1:0
  cluster_name: example.com
  tokens: ["proxy,node:xyz", "auth:/path/to/token"]
  authentication: {second_factor: off}
  session_recording: off
  client_idle_timeout: never
  keep_alive_interval: 1m30s
ssh_service:
  enabled: "1"
  public_addr: a.example.com
  labels: {env: 1.10, on: yes, empty: }
  commands:
  - {name: arch, command: [/bin/sh, -c, "uname -m | tr a b"], period: 1h}
proxy_service:
  enabled: no
kubernetes_service:
app_service: {enabled: no, apps: [{name: app1, uri: "http://localhost:80", rewrite: {headers: ["X-A: b"]}}]}
db_service: {databases: [{name: d, protocol: mongodb, uri: "mongodb://a,b/c"}]}
"""


def test_a_full_file_is_read_into_values() -> None:
    file = load_config(GOOD, "teleport.yaml")
    kept = [row.text for row in NOT_BUILT if not row.is_error]
    assert [line for line in file.warnings if not line.endswith(tuple(kept))] == []
    section = file.document.teleport
    assert section.auth_servers == (
        HostPort("auth.example.com", 3025),
        HostPort("10.0.0.1", 443),
        HostPort("::1", 3025),
    )
    assert section.ca_pin == ("sha256:abcdef7890123456789012345678901234567890123456789012345678901234",)
    assert section.diag_addr == HostPort("0.0.0.0", 3000)
    assert section.auth_token is not None
    assert section.auth_token.path == Path("/etc/teleport/token")
    assert section.log.output == "stderr"
    assert section.log.format.extra_fields == ("level", "component")
    assert section.connection_limits.rates[0].period == Duration.parse("1m")
    auth_section = file.document.auth_service
    assert auth_section.listen_addr == HostPort("127.0.0.1", 0)
    assert auth_section.session_recording is RecordingMode.OFF
    assert auth_section.authentication.second_factor is SecondFactor.OFF
    assert auth_section.tokens[0].roles == (TokenRole.PROXY, TokenRole.NODE)
    assert auth_section.tokens[0].token.read() == "xyz"
    assert "xyz" not in repr(file)
    assert file.document.ssh_service.labels == {"env": "1.10", "on": "yes", "empty": ""}
    assert file.document.ssh_service.commands == (
        CommandLabel("arch", ("/bin/sh", "-c", "uname -m | tr a b"), Duration.parse("1h")),
    )
    assert file.document.ssh_service.enabled
    assert not file.document.proxy_service.enabled
    assert {"auth_service.session_recording", "teleport.log.severity"} <= file.present
    assert "auth_service.routing_strategy" not in file.present


@pytest.mark.parametrize("text", ["", "# nothing\n", "teleport:\nauth_service:\n", "{}", b"\xef\xbb\xbf"])
def test_a_file_without_values_means_the_defaults(text: str | bytes) -> None:
    file = load_config(text, "teleport.yaml")
    assert file.document == load_config("version: v1", "x").document
    assert file.document.teleport.data_dir == Path("/var/lib/teleport")


@pytest.mark.parametrize(
    ("line", "kind", "value"),
    [
        ("type: etcd, peers: ['https://a:2379'], prefix: /t/", EtcdStorage, "/t/"),
        ("type: dynamodb, table_name: tab, region: r, access_key: k, secret_key: s", DynamoStorage, "tab"),
        ("type: firestore, project_id: p, collection_name: c", FirestoreStorage, "c"),
        ("type: postgres, addr: db.example.com", PostgresStorage, HostPort("db.example.com", 5432)),
        ("type: postgresql, conn_string: 'postgresql://u@a/d', schema: ours", PostgresqlStorage, "ours"),
    ],
)
def test_every_type_of_storage_has_its_keys(line: str, kind: type, value: object) -> None:
    """Read whole, though this version refuses to start with some."""
    text = teleport(f"storage: {{{line}}}")
    storage = load_config(text, "teleport.yaml", not_built=()).document.teleport.storage
    assert type(storage) is kind
    assert value in [
        getattr(storage, name, None) for name in ("prefix", "table_name", "collection_name", "addr", "schema")
    ]
    assert "secret_key" not in repr(storage)
    assert "conn_string" not in repr(storage)
    if kind in (EtcdStorage, PostgresqlStorage, DynamoStorage):
        load_config(text, "teleport.yaml")
        return
    (problem,) = mistakes(text)
    assert problem.path == "teleport.storage.type"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (proxy("mysql_listen_addr: 0.0.0.0:3036"), "proxy_service.mysql_listen_addr: is accepted, but MySQL clients"),
        (teleport("cache: {ttl: never}"), "teleport.cache.ttl: is ignored"),
        (auth("license_file: /x"), "auth_service.license_file: is ignored"),
        (teleport("kex_algos: [diffie-hellman-group14-sha1]"), "rests on SHA-1"),
        (ssh("labels: {a: b}\n  commands: [{name: a, command: [b]}]"), "ssh_service.labels.a: is also a dynamic label"),
    ],
)
def test_what_has_no_effect_is_accepted_with_a_warning_that_names_it(text: str, warning: str) -> None:
    (said,) = [line for line in load_config(text, "teleport.yaml").warnings if warning in line]
    assert said.startswith("teleport.yaml:")


def test_one_empty_pin_means_no_pin() -> None:
    for text in ("ca_pin: ''", "ca_pin: ['']", "ca_pin:", "nodename: a"):
        assert load_config(f"teleport:\n  {text}\n", "teleport.yaml").document.teleport.ca_pin == ()


def test_key_pairs_need_both_files_and_the_older_pair_comes_first(tmp_path: Path) -> None:
    for name in ("a.key", "a.crt", "b.key", "b.crt"):
        (tmp_path / name).write_text("pem")
    text = proxy(
        f"https_keypairs: [{{key_file: {tmp_path}/a.key, cert_file: {tmp_path}/a.crt}}]\n"
        f"  https_key_file: {tmp_path}/b.key\n  https_cert_file: {tmp_path}/b.crt"
    )
    pairs = load_config(text, "teleport.yaml").document.proxy_service.keypairs
    assert [pair.key_file.name for pair in pairs] == ["b.key", "a.key"]


def test_the_sample_has_no_problems_and_no_warnings() -> None:
    for text in (sample_config(), sample_config(cluster_name='odd "name'.replace(" ", "-").replace('"', ""))):
        file = load_config(text, "sample")
        assert file.warnings == ()
    document = load_config(sample_config("example.com"), "sample").document
    assert document.auth_service.cluster_name == "example.com"
    assert (document.auth_service.enabled, document.proxy_service.enabled, document.ssh_service.enabled) == (True,) * 3
    assert document.ssh_service.labels == {"env": "example"}
    assert [(label.name, str(label.period)) for label in document.ssh_service.commands] == [("hostname", "1m0s")]


def test_a_port_that_no_directory_looks_at_is_told() -> None:
    """Not refused: what is before the proxy may lead 443 there."""
    text = "proxy_service:\n  public_addr: [a.example.com, '192.0.2.1:443']\n  acme: {enabled: yes}\n"
    (said,) = load_config(text, "teleport.yaml").warnings
    assert "teleport.yaml:3: proxy_service.acme" in said
    assert "port 443 of a.example.com, and public_addr says 3080" in said
    assert load_config(text.replace("a.example.com", "a.example.com:443"), "teleport.yaml").warnings == ()


def test_a_sample_with_acme_can_be_started() -> None:
    section = load_config(
        sample_config("example.com", acme=True, acme_email="a@example.com"), "f"
    ).document.proxy_service
    assert (section.acme.enabled, section.acme.email) == (True, "a@example.com")
    assert acme_names(section) == ("example.com",)
    for name in ("", "localhost", "192.0.2.7"):
        with pytest.raises(BadRequest):
            sample_config(name, acme=True)


def test_the_file_is_looked_for_in_the_order_of_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "teleport.yaml"
    path.write_text("teleport: {nodename: from-file}")
    in_base64 = base64.b64encode(b"teleport: {nodename: from-environment}").decode()
    by_flag = base64.b64encode(b"teleport: {nodename: from-flag}").decode()

    def name(config_string: str, environment: dict[str, str]) -> str | None:
        file = read_config(path, config_string, environment)
        assert file is not None
        return file.document.teleport.nodename

    assert name("", {}) == "from-file"
    assert name("", {"TELEPORT_CONFIG": ""}) == "from-file"
    assert name("", {"TELEPORT_CONFIG": in_base64}) == "from-environment"
    assert name(by_flag, {"TELEPORT_CONFIG": in_base64}) == "from-flag"
    with pytest.raises(InvalidConfig, match=r"TELEPORT_CONFIG:1: found text that is not base64"):
        name("", {"TELEPORT_CONFIG": "teleport: {}"})


def test_an_explicit_file_has_to_exist_and_the_default_one_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match="no configuration file"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(TeleportError, match="cannot be read: Is a directory"):
        read_config(tmp_path)
    monkeypatch.setattr("teleport.daemon.config.file.DEFAULT_PATH", tmp_path / "none.yaml")
    assert read_config(None) is None


def test_every_key_is_described_once_and_hints_know_them() -> None:
    keys = describe_keys()
    paths = [key.path for key in keys]
    assert len(paths) == len(set(paths)) > 200
    by_path = {key.path: key for key in keys}
    assert by_path["auth_service.keep_alive_interval"].default == "5m0s"
    assert by_path["teleport.connection_limits.max_connections"].default == "15000"
    assert by_path["ssh_service.commands[].period"].type == "a duration of 1m or longer"
    assert by_path["app_service.apps[].name"].default == "required"
    assert by_path["teleport.storage.peers"].type == "a list of at least 1, each a URL"
    assert all(key.meaning and key.type for key in keys)
    assert {row.path for row in NOT_BUILT} <= set(paths)


WORDS = st.sampled_from(
    [key.path.rpartition(".")[2].removesuffix("[]") for key in describe_keys()]
    + ["x", "", "a:1", "yes", "5m", "*", "\\"]
)
values = st.recursive(
    WORDS | st.integers() | st.none() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize("name", ["a\ud7fcb", "\u202eyek", "\x85", "\u2028", "\x1b[2J"])
def test_the_name_of_a_file_that_is_not_there_is_told_in_signs_that_do_nothing(name: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_config(json.dumps({"proxy_service": {"https_key_file": f"/nowhere/{name}"}}), "c.yaml")
    (told,) = [one for one in map(str, caught.value.problems) if "where nothing is" in one]
    assert told.isprintable()
    assert ascii(name)[1:-1] in told


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([key.path for key in describe_keys() if "." not in key.path]), values))
def test_any_structure_is_either_read_or_refused_with_places(value: dict[str, object]) -> None:
    import json

    try:
        file = load_config(json.dumps(value), "fuzz")
    except InvalidConfig as error:
        refused = error.problems
    else:
        assert file.document is not None
        return
    assert refused
    assert all(problem.line == 1 and str(problem).isprintable() for problem in refused)

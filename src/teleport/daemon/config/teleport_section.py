"""`teleport`: what concerns the whole daemon (`config.md` 2)."""

# ruff: noqa: RUF009  # `key` makes a dataclass field

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teleport.daemon.config import forms, ports
from teleport.daemon.config.shipping import LogReceiver, check_receivers, log_receivers
from teleport.daemon.config.storage import DirStorage, Storage, StorageReader
from teleport.daemon.config.token_source import TokenSource
from teleport.daemon.config.values import JoinMethod, Severity
from teleport.resources.values import Duration, HostPort
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import (
    ListOf,
    address,
    boolean,
    duration_or_never,
    integer,
    key,
    matching,
    one_of,
    one_or_many,
    some_text,
)

DEFAULT_DATA_DIR: Final = Path("/var/lib/teleport")

CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
    "chacha20-poly1305@openssh.com",
)
KEX_ALGORITHMS: Final = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
WEAK_KEX_ALGORITHMS: Final = ("diffie-hellman-group14-sha1", "diffie-hellman-group1-sha1")
MAC_ALGORITHMS: Final = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
WEAK_MAC_ALGORITHMS: Final = ("hmac-sha1", "hmac-sha1-96")
TLS_SUITES: Final = tuple(
    f"tls-ecdhe-{kind}-with-{suite}"
    for suite in ("aes-128-gcm-sha256", "aes-256-gcm-sha384", "chacha20-poly1305")
    for kind in ("ecdsa", "rsa")
)
LOG_FIELDS: Final = ("timestamp", "component", "caller", "level")


_SEVERITIES: Final = {
    "debug": Severity.DEBUG,
    "info": Severity.INFO,
    "warn": Severity.WARNING,
    "warning": Severity.WARNING,
    "err": Severity.ERROR,
    "error": Severity.ERROR,
}
_OUTPUTS: Final = {"error": "stderr", "2": "stderr", "out": "stdout", "1": "stdout"}


@dataclass(frozen=True, slots=True)
class LogFormat:
    """How log lines look."""

    output: str = key(one_of(("text", "json")), "text", "text or json")
    extra_fields: tuple[str, ...] = key(ListOf(one_of(LOG_FIELDS)), LOG_FIELDS, "what each line carries")


class _LogFormatReader:
    """A map; or the older form, a list of fields for text output."""

    allowed = "a map with output and extra_fields, or a list of " + ", ".join(LOG_FIELDS)

    def __call__(self, node: Node, problems: Problems, /) -> LogFormat | None:
        if node.is_list:
            fields: tuple[str, ...] | None = ListOf(one_of(LOG_FIELDS))(node, problems)
            return None if fields is None else LogFormat("text", fields)
        if not node.is_map:
            node.problem(problems, self.allowed)
            return None
        return forms.section(LogFormat)(node, problems)


def _log_output(value: str) -> str:
    if not value.strip() or "://" in value:
        raise ValueError
    return _OUTPUTS.get(value, value)


@dataclass(frozen=True, slots=True)
class Log:
    """Where log lines go: `output` is stderr, stdout, syslog or a path."""

    output: str = key(
        matching("stderr, stdout, syslog or a path; receivers elsewhere stand in teleport.log.ship", _log_output),
        "stderr",
        "stderr, stdout, syslog or a path",
    )
    severity: Severity = key(one_of(_SEVERITIES, any_case=True), Severity.INFO, "the least severity that is logged")
    format: LogFormat = key(_LogFormatReader(), LogFormat, "how log lines look")
    ship: tuple[LogReceiver, ...] = key(log_receivers, (), "receivers that get the log besides, from a spool on disk")


def _check_log(section: Log, node: Node, problems: Problems) -> None:
    receivers = node.get("ship")
    if receivers is not None:
        check_receivers(receivers, problems)


@dataclass(frozen=True, slots=True)
class Cache:
    """The local copy of auth's data that proxy and node keep."""

    enabled: bool = key(boolean, True, "keep a copy, to work on while auth is away")
    type: str = key(one_of(("sqlite", "in-memory")), "sqlite", "sqlite or in-memory")
    ttl: Duration = key(
        duration_or_never,
        Duration.of(hours=20),
        "how long the copy was trusted",
        warning="is ignored: the copy follows auth and has no time limit",
    )


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `average` requests per `period`, `burst` at once."""

    period: Duration = key(forms.positive_duration, Duration.of(seconds=1), "length of the window", required=True)
    average: int = key(integer(1), 1, "requests in a window", required=True)
    burst: int = key(integer(1), 1, "requests at once", required=True)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of each service."""

    max_connections: int = key(integer(1), 15_000, "connections at the same time")
    max_users: int = key(integer(1), 250, "users at the same time")
    rates: tuple[Rate, ...] = key(ListOf(forms.section(Rate)), (), "requests in a time")


@dataclass(frozen=True, slots=True)
class JoinParams:
    """How the host proves that it may join."""

    token_name: TokenSource | None = key(forms.token, None, "name of the token", required=True)
    method: JoinMethod = key(one_of({kind.value: kind for kind in JoinMethod}), JoinMethod.TOKEN, "kind of proof")


@dataclass(frozen=True, slots=True)
class TeleportSection:
    """`teleport` as it stands in the file."""

    nodename: str | None = key(forms.host_name, None, "name of this host in the cluster", default_text="the host name")
    data_dir: Path = key(forms.path, DEFAULT_DATA_DIR, "directory of everything that is kept")
    pid_file: Path | None = key(forms.path, None, "file that the process id is written to")
    auth_token: TokenSource | None = key(forms.token, None, "join token or its file, used on the first start only")
    join_params: JoinParams | None = key(forms.section(JoinParams), None, "how to join, instead of auth_token")
    ca_pin: tuple[str, ...] = key(forms.ca_pins, (), "pins of the cluster's host authority, any of which must match")
    advertise_ip: HostPort | None = key(forms.advertised, None, "address told to the cluster", default_text="guessed")
    auth_servers: tuple[HostPort, ...] = key(
        one_or_many(address(ports.AUTH)),
        (),
        "auth servers, or a proxy's web address",
        default_text=f"127.0.0.1:{ports.AUTH}",
    )
    diag_addr: HostPort | None = key(
        forms.listen_address(ports.DIAG), None, "listener for /healthz and /readyz", default_text="off"
    )
    cache: Cache = key(forms.section(Cache), Cache, "the local copy of auth's data")
    connection_limits: ConnectionLimits = key(forms.section(ConnectionLimits), ConnectionLimits, "limits of a service")
    log: Log = key(forms.section(Log, _check_log), Log, "logging")
    storage: Storage = key(StorageReader(), DirStorage, "where state, events and recordings live")
    ciphers: tuple[str, ...] = key(ListOf(one_of(CIPHERS), least=1), CIPHERS, "SSH ciphers, in order of preference")
    kex_algos: tuple[str, ...] = key(
        ListOf(one_of(KEX_ALGORITHMS + WEAK_KEX_ALGORITHMS), least=1), KEX_ALGORITHMS, "SSH key exchanges"
    )
    mac_algos: tuple[str, ...] = key(
        ListOf(one_of(MAC_ALGORITHMS + WEAK_MAC_ALGORITHMS), least=1), MAC_ALGORITHMS, "SSH message authentication"
    )
    ciphersuites: tuple[str, ...] = key(
        ListOf(one_of(TLS_SUITES, any_case=True), least=1), TLS_SUITES, "TLS 1.2 cipher suites"
    )
    ca_signature_algo: str | None = key(
        one_of(("ssh-rsa", "rsa-sha2-256", "rsa-sha2-512")),
        None,
        "signature algorithm of RSA authorities",
        warning="is ignored: authorities sign with Ed25519 and ECDSA keys",
    )
    seed_config: Any = key(boolean, None, "legacy", warning="is ignored")
    host_uuid: str | None = key(some_text, None, "legacy", warning="is ignored: the host keeps its id in data_dir")


def check_teleport(section: TeleportSection, node: Node, problems: Problems) -> None:
    token, params = node.get("auth_token"), node.get("join_params")
    if token is not None and params is not None:
        params.problem(problems, "auth_token or join_params, not both", found="both auth_token and join_params")
    servers = node.get("auth_servers")
    if servers is not None and servers.is_list and not servers.items():
        servers.problem(problems, "at least one address", found="an empty list")
    for name, weak in (("kex_algos", WEAK_KEX_ALGORITHMS), ("mac_algos", WEAK_MAC_ALGORITHMS)):
        for child in (node.get(name) or node).items():
            if child.value in weak:
                child.notice(problems, f"{child.value} rests on SHA-1: use it only for hosts that know nothing better")

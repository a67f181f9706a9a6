"""What the daemon runs with, as values alone: nothing that reads a file, a flag or a resource is imported here.

The configuration is read by a process of its own and travels to the daemon pickled (`cli/teleport/daemon.py`), so that
a daemon holds no parser; whatever a field of `Config` is made of has to be importable without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.backend.etcd.settings import EtcdSettings
from teleport.backend.postgresql.settings import PostgresqlSettings
from teleport.copies.settings import CopySettings, HttpsCopy, SyslogCopy
from teleport.daemon.config.token_source import TokenSource
from teleport.recording.s3.settings import S3Settings
from teleport.resources.cluster import (
    LockingMode,
    ProxyListenerMode,
    RecordingMode,
    RoutingStrategy,
    SecondFactor,
    TunnelStrategy,
)
from teleport.resources.values import Duration, HostPort, Labels
from teleport.transport.entrance import ConnectionLimits

if TYPE_CHECKING:
    from teleport.daemon.config.auth_section import Authentication, StaticToken
    from teleport.daemon.config.proxy_section import KeyPair
    from teleport.kube.credentials import KubeCluster


class ServiceRole(StrEnum):
    """The services of this version, as `--roles` names them."""

    AUTH = "auth"
    PROXY = "proxy"
    NODE = "node"
    KUBE = "kube"


class ManagedResource(StrEnum):
    """A cluster resource that the file decides, so that `tctl` may not (origin `config-file`)."""

    AUTHENTICATION = "cluster_auth_preference"
    NETWORKING = "cluster_networking_config"
    RECORDING = "session_recording_config"


class Severity(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class JoinMethod(StrEnum):
    TOKEN = "token"  # noqa: S105  # the name of a method
    EC2 = "ec2"
    IAM = "iam"


@dataclass(frozen=True, slots=True)
class ShippedLog:
    """A receiver of the log, and how many bytes wait for it on disk at most."""

    receiver: SyslogCopy | HttpsCopy
    spool: int


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where log lines go: `output` is stderr, stdout, syslog or a path; `format` is text or json."""

    output: str = "stderr"
    severity: Severity = Severity.INFO
    format: str = "text"
    ship: tuple[ShippedLog, ...] = ()  # where it goes besides


SNAPSHOTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "etcd": "a snapshot of etcd (etcdctl snapshot restore)",
        "PostgreSQL": "a dump of the database (pg_restore)",
        "DynamoDB": "a backup of the table into another one (aws dynamodb restore-table-from-backup)",
    }
)  # what a storage that auth servers share is brought back from


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Where state, events and recordings are: in directories, except the state where a service is named."""

    path: Path  # the database of the cluster's state, when it is the embedded one
    events_path: Path
    recordings_path: Path
    sync: str  # OFF, NORMAL or FULL
    journal: str
    copies: tuple[CopySettings, ...] = ()  # of audit events
    searched: CopySettings | None = None  # the first of these, where searches go to it and not to the log
    region: str = ""
    audit_events_uri: tuple[str, ...] = ()  # as the file has them; the paths above are what they come to
    audit_sessions_uri: str = ""
    etcd: EtcdSettings | None = None
    postgresql: PostgresqlSettings | None = None
    dynamodb: DynamoSettings | None = None
    recordings_s3: S3Settings | None = None  # where recordings are brought from `recordings_path`

    @property
    def shared(self) -> str:
        """What the state is in, when other auth servers may use it, too; else nothing."""
        named = {"etcd": self.etcd, "PostgreSQL": self.postgresql, "DynamoDB": self.dynamodb}
        return next((name for name, settings in named.items() if settings is not None), "")


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What ends or watches over sessions; zero means never."""

    client_idle_timeout: Duration
    client_idle_timeout_message: str
    web_idle_timeout: Duration
    disconnect_expired_cert: bool
    keep_alive_interval: Duration
    keep_alive_count_max: int
    session_control_timeout: Duration


@dataclass(frozen=True, slots=True)
class KeyToken:
    """The PKCS#11 token in which private keys of authorities are made."""

    module: Path
    label: str = ""
    slot: int | None = None
    pin: str = field(default="", repr=False)
    pin_path: Path | None = None


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """The auth service."""

    listen_addr: HostPort
    public_addrs: tuple[HostPort, ...]
    cluster_name: str
    static_tokens: tuple[StaticToken, ...]
    authentication: Authentication
    recording_mode: RecordingMode
    proxy_checks_host_keys: bool
    session_limits: SessionLimits
    routing_strategy: RoutingStrategy
    tunnel_strategy: TunnelStrategy
    message_of_the_day: str
    balancers: tuple[str, ...]  # networks that must send a PROXY header
    managed: frozenset[ManagedResource]
    key_token: KeyToken | None = None  # None: private keys of authorities are in the storage
    proxy_listener_mode: ProxyListenerMode = ProxyListenerMode.SEPARATE
    ship_events: tuple[CopySettings, ...] = ()
    recordings_retention: tuple[tuple[str, timedelta | None], ...] = ()
    retention: tuple[tuple[str, timedelta | None], ...] = ()  # of audit events; None: for ever

    @property
    def second_factor(self) -> SecondFactor:
        return self.authentication.second_factor

    @property
    def locking_mode(self) -> LockingMode:
        return self.authentication.locking_mode


@dataclass(frozen=True, slots=True)
class AcmeConfig:
    """Certificates of the proxy by ACME."""

    uri: str  # of the directory
    email: str
    names: tuple[str, ...]  # public names of this proxy


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """The proxy service. Port 0 in a public address stands for the port that its listener gets."""

    listen_addr: HostPort | None  # None: SSH is reached by the web listener alone
    web_listen_addr: HostPort
    tunnel_listen_addr: HostPort
    public_addrs: tuple[HostPort, ...]
    ssh_public_addrs: tuple[HostPort, ...]
    tunnel_public_addrs: tuple[HostPort, ...]
    kube_public_addrs: tuple[HostPort, ...]
    keypairs: tuple[KeyPair, ...]  # none: a self-signed pair is generated
    balancers: tuple[str, ...]  # networks that must send a PROXY header
    plain_http: bool  # TLS ends at a balancer in front of the proxy
    peer_listen_addr: HostPort  # for other proxies
    one_port: bool = False  # the web listener serves everything, by first bytes
    peer_always: bool = False  # also while the cluster's settings do not ask for it
    peer_public_addr: HostPort | None = None
    kube_listen_addr: HostPort | None = None  # None: Kubernetes clients are not served
    kube_clusters: tuple[KubeCluster, ...] = ()  # those that the proxy itself reaches
    acme: AcmeConfig | None = None


@dataclass(frozen=True, slots=True)
class Pam:
    """Sessions of PAM."""

    service: str
    auth: bool
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class EnhancedRecording:
    """Watching sessions in the kernel; buffers in pages for each processor."""

    command_pages: int
    disk_pages: int
    network_pages: int


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The SSH service of this host."""

    listen_addr: HostPort
    public_addrs: tuple[HostPort, ...]
    labels: Labels
    permit_user_env: bool
    port_forwarding: bool
    recording_quota: int  # bytes; 0 is none
    enhanced_recording: EnhancedRecording | None = None  # None: off
    pam: Pam | None = None  # None: off


@dataclass(frozen=True, slots=True)
class KubeServiceConfig:
    """The Kubernetes service of this host."""

    listen_addr: HostPort | None  # None: proxies reach it by the reverse tunnels that it keeps
    public_addrs: tuple[HostPort, ...]
    clusters: tuple[KubeCluster, ...]
    labels: Labels  # of each of them


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Where spans of requests go."""

    url: str
    rate: int  # of a million traces that begin here, so many are kept
    ca_files: tuple[Path, ...] = ()
    keypairs: tuple[tuple[Path, Path], ...] = ()  # certificate, key


@dataclass(frozen=True, slots=True)
class SshAlgorithms:
    """What SSH connections may negotiate, in order of preference."""

    ciphers: tuple[str, ...]
    kex: tuple[str, ...]
    macs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the daemon needs to know, decided. A service that is not run is None."""

    data_dir: Path
    nodename: str
    auth: AuthConfig | None
    proxy: ProxyConfig | None
    node: NodeConfig | None
    auth_servers: tuple[HostPort, ...]
    ca_pins: tuple[str, ...]
    token: TokenSource | None
    join_method: JoinMethod
    advertise_ip: HostPort | None  # port 0: the port that is listened on
    diag_addr: HostPort | None
    pid_file: Path | None
    storage: StorageConfig
    limits: ConnectionLimits  # of each service
    log: LogConfig
    algorithms: SshAlgorithms
    tls_suites: tuple[str, ...]
    bootstrap: Path | None
    insecure: bool
    debug: bool
    warnings: tuple[str, ...]
    kube: KubeServiceConfig | None = None
    tracing: TracingConfig | None = None  # None: no span is made

    @property
    def roles(self) -> tuple[ServiceRole, ...]:
        """The services to run."""
        services = (
            (ServiceRole.AUTH, self.auth),
            (ServiceRole.PROXY, self.proxy),
            (ServiceRole.NODE, self.node),
            (ServiceRole.KUBE, self.kube),
        )
        return tuple(role for role, service in services if service is not None)

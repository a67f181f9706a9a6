"""What the daemon runs with, found: built-in defaults, then the file, then the flags of `teleport start` (flags win).

`Config` is complete: whoever assembles the daemon finds every value decided here and never looks at the file.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from teleport.backend.etcd.settings import EtcdSettings
from teleport.copies.settings import CopySettings, PostgresqlCopy, StdoutCopy
from teleport.daemon.config import forms, kubernetes, ports
from teleport.daemon.config.auth_section import AuthSection
from teleport.daemon.config.file import Document, FileConfig
from teleport.daemon.config.proxy_section import acme_names
from teleport.daemon.config.resource_sections import KubernetesSection
from teleport.daemon.config.ssh_section import SshSection
from teleport.daemon.config.storage import (
    DirStorage,
    DynamoStorage,
    EtcdStorage,
    PostgresqlStorage,
    Storage,
    event_tables,
)
from teleport.daemon.config.storage_uri import SEARCHED, StorageUri
from teleport.daemon.config.teleport_section import ConnectionLimits as LimitsSection
from teleport.daemon.config.teleport_section import Log
from teleport.daemon.config.token_source import TokenSource
from teleport.daemon.config.values import (
    AcmeConfig,
    AuthConfig,
    Config,
    EnhancedRecording,
    JoinMethod,
    KeyToken,
    KubeServiceConfig,
    LogConfig,
    ManagedResource,
    NodeConfig,
    Pam,
    ProxyConfig,
    ServiceRole,
    SessionLimits,
    Severity,
    SshAlgorithms,
    StorageConfig,
)
from teleport.errors import BadRequest
from teleport.resources.cluster import ProxyListenerMode, TunnelStrategy
from teleport.resources.values import (
    ADDRESS_FORMS,
    Duration,
    HostPort,
    Labels,
    parse_host,
    parse_labels,
)
from teleport.resources.yaml_document import quoted
from teleport.transport.entrance import ConnectionLimits, Rate

T = TypeVar("T")


_ROLES_LATER: Final = frozenset({"app", "db"})


_NETWORKING_KEYS: Final = (
    "client_idle_timeout",
    "client_idle_timeout_message",
    "web_idle_timeout",
    "keep_alive_interval",
    "keep_alive_count_max",
    "session_control_timeout",
    "routing_strategy",
    "tunnel_strategy",
    "proxy_listener_mode",
)
_MANAGED_BY: Final[Mapping[str, ManagedResource]] = {
    "auth_service.authentication": ManagedResource.AUTHENTICATION,
    "auth_service.disconnect_expired_cert": ManagedResource.AUTHENTICATION,
    "auth_service.message_of_the_day": ManagedResource.AUTHENTICATION,
    "auth_service.session_recording": ManagedResource.RECORDING,
    "auth_service.proxy_checks_host_keys": ManagedResource.RECORDING,
    **{f"auth_service.{name}": ManagedResource.NETWORKING for name in _NETWORKING_KEYS},
}


@dataclass(frozen=True, slots=True)
class StartFlags:
    """What was typed after `teleport start`. Empty means not given; `ca_pins` is None then, as "" says "no pin"."""

    roles: str = ""  # comma list
    auth_servers: tuple[str, ...] = ()
    token: str = field(default="", repr=False)  # the token or its file
    ca_pins: tuple[str, ...] | None = None
    listen_ip: str = ""
    nodename: str = ""
    labels: str = ""
    diag_addr: str = ""
    pid_file: str = ""
    advertise_ip: str = ""
    bootstrap: str = ""
    insecure: bool = False
    insecure_no_tls: bool = False
    permit_user_env: bool = False
    fips: bool = False
    debug: bool = False


class _Flags:
    """Reads the texts of flags, collecting what is wrong with all of them."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def read(self, flag: str, value: str, parse: Callable[[str], T], allowed: str, *, secret: bool = False) -> T | None:
        if not value:
            return None
        try:
            return parse(value)
        except ValueError as error:
            shown = "a value that is not shown" if secret else quoted(value)
            self.problems.append(f"{flag}: found {shown}, allowed: {allowed or error}")
            return None

    def raise_if_any(self) -> None:
        if self.problems:
            raise BadRequest("\n".join(self.problems), hint="teleport start --help describes the flags")


def _parse_ip(value: str) -> str:
    text = value.removeprefix("[").removesuffix("]")
    ipaddress.ip_address(text)  # no name
    return parse_host(text)


def _parse_roles(value: str) -> frozenset[ServiceRole]:
    names = [name.strip().lower() for name in value.split(",")]
    if later := [name for name in names if name in _ROLES_LATER]:
        raise ValueError(f"node, proxy and auth; this version does not have the {later[0]} service yet")
    if ServiceRole.KUBE in names:
        raise ValueError("node, proxy and auth; kubernetes_service is enabled by the file alone")
    try:
        return frozenset(ServiceRole(name) for name in names)
    except ValueError:
        raise ValueError("a comma list of node, proxy and auth") from None


def _parse_labels(value: str) -> Labels:
    try:
        return parse_labels(value)
    except ValueError as error:
        raise ValueError(f'key=value,key=[1m:"command arguments"] ({error})') from None


def effective_config(file: FileConfig | None, flags: StartFlags, hostname: str) -> Config:
    """The configuration to run with; `hostname` names the host when neither file nor flags do.

    Raises `BadRequest` with every flag that cannot be meant, or when no service is left to run.
    """
    document = file.document if file is not None else Document()
    present = file.present if file is not None else frozenset()
    warnings = list(file.warnings) if file is not None else []
    read = _Flags()
    if flags.fips:
        read.problems.append(
            "--fips: found the flag, allowed: to leave it out; the cryptography in use is not validated for FIPS 140"
        )
    roles = read.read("--roles", flags.roles, _parse_roles, "")
    given_servers = tuple(
        read.read("--auth-server", server, lambda value: HostPort.parse(value, ports.AUTH), ADDRESS_FORMS)
        for server in flags.auth_servers
    )
    token = read.read(
        "--token", flags.token, TokenSource.parse, "a token, or the absolute path of a file that holds it", secret=True
    )
    pins = _pins(flags.ca_pins, read)
    listen_ip = read.read("--listen-ip", flags.listen_ip, _parse_ip, "an IP address")
    nodename = read.read("--nodename", flags.nodename, forms.host_name.parse, forms.host_name.allowed)
    labels = read.read("--labels", flags.labels, _parse_labels, "")
    diag_addr = read.read(
        "--diag-addr",
        flags.diag_addr,
        lambda value: HostPort.parse(value, ports.DIAG, any_host=forms.ANY_HOST),
        ADDRESS_FORMS,
    )
    advertise_ip = read.read("--advertise-ip", flags.advertise_ip, forms.parse_advertised, forms.ADVERTISED_FORMS)
    read.raise_if_any()

    enabled = _enabled(document)
    if roles is not None:
        enabled = roles | (enabled & {ServiceRole.KUBE})
    auth_servers = tuple(server for server in given_servers if server is not None) or document.teleport.auth_servers
    if flags.auth_servers and ServiceRole.AUTH in enabled:
        enabled -= {ServiceRole.AUTH}
        if roles is not None or "auth_service.enabled" in present:
            warnings.append("--auth-server names the auth server to use: no auth service is run here")
    if not enabled:
        raise BadRequest("no service is left to run", hint="enable one in the file, or name one with --roles")

    def bound(address: HostPort) -> HostPort:
        return address if listen_ip is None else replace(address, host=listen_ip)

    name = nodename or document.teleport.nodename or hostname
    auth = _auth_config(document.auth_service, present, name, bound)
    if ServiceRole.AUTH in enabled and not auth_servers:
        auth_servers = (_reachable(auth.listen_addr),)
    global_section = document.teleport
    if flags.insecure_no_tls and document.proxy_service.acme.enabled:
        warnings.append("--insecure-no-tls: proxy_service.acme has no effect: TLS ends elsewhere, with its certificate")
    if flags.insecure:
        warnings.append("--insecure: has no effect: the daemon checks the certificates of other servers all the same")
    join_params = global_section.join_params
    return Config(
        data_dir=global_section.data_dir,
        nodename=name,
        auth=auth if ServiceRole.AUTH in enabled else None,
        proxy=_proxy_config(document, present, name, bound, plain_http=flags.insecure_no_tls)
        if ServiceRole.PROXY in enabled
        else None,
        node=_node_config(document.ssh_service, labels, bound, permit_user_env=flags.permit_user_env)
        if ServiceRole.NODE in enabled
        else None,
        auth_servers=auth_servers or (HostPort("127.0.0.1", ports.AUTH),),
        ca_pins=global_section.ca_pin if pins is None else pins,
        token=token or global_section.auth_token or (join_params.token_name if join_params is not None else None),
        join_method=JoinMethod.TOKEN if token is not None or join_params is None else join_params.method,
        advertise_ip=advertise_ip or global_section.advertise_ip,
        diag_addr=diag_addr or global_section.diag_addr,
        pid_file=Path(flags.pid_file) if flags.pid_file else global_section.pid_file,
        storage=_storage_config(document),
        limits=_limits(global_section.connection_limits),
        log=_log(global_section.log, debug=flags.debug),
        algorithms=SshAlgorithms(global_section.ciphers, global_section.kex_algos, global_section.mac_algos),
        tls_suites=global_section.ciphersuites,
        bootstrap=Path(flags.bootstrap) if flags.bootstrap else None,
        insecure=flags.insecure,
        debug=flags.debug,
        warnings=tuple(warnings),
        kube=_kube_config(document.kubernetes_service, enabled, bound) if ServiceRole.KUBE in enabled else None,
        tracing=document.tracing_service.settings(),
    )


def _limits(section: LimitsSection) -> ConnectionLimits:
    rates = (Rate(rate.period.nanoseconds / 1e9, rate.average, rate.burst) for rate in section.rates)
    return ConnectionLimits(section.max_connections, section.max_users, tuple(rates))


def _log(section: Log, *, debug: bool) -> LogConfig:
    return LogConfig(
        section.output,
        Severity.DEBUG if debug else section.severity,
        section.format.output,
        tuple(one.settings() for one in section.ship),
    )


def _enabled(document: Document) -> frozenset[ServiceRole]:
    sections = (
        (ServiceRole.AUTH, document.auth_service.enabled),
        (ServiceRole.PROXY, document.proxy_service.enabled),
        (ServiceRole.NODE, document.ssh_service.enabled),
        (ServiceRole.KUBE, document.kubernetes_service.enabled),
    )
    return frozenset(role for role, enabled in sections if enabled)


def _pins(given: tuple[str, ...] | None, read: _Flags) -> tuple[str, ...] | None:
    """None when the flag was not given; nothing when it was given once and empty."""
    if given is None or given == ():
        return None
    if given == ("",):
        return ()
    if "" in given:
        read.problems.append("--ca-pin: found an empty pin among others, allowed: pins, or one empty text for no pin")
    found = [read.read("--ca-pin", pin, forms.parse_pin, forms.PIN_FORM) for pin in given]
    return tuple(pin for pin in found if pin is not None)


def _reachable(listener: HostPort) -> HostPort:
    """How this host itself reaches a listener that takes connections on every interface."""
    match listener.host:
        case forms.ANY_HOST:
            return replace(listener, host="127.0.0.1")
        case "::":
            return replace(listener, host="::1")
        case _:
            return listener


def _auth_config(
    section: AuthSection, present: frozenset[str], nodename: str, bound: Callable[[HostPort], HostPort]
) -> AuthConfig:
    return AuthConfig(
        listen_addr=bound(section.listen_addr),
        public_addrs=section.public_addr,
        cluster_name=section.cluster_name or nodename,
        static_tokens=section.tokens,
        authentication=section.authentication,
        recording_mode=section.session_recording,
        proxy_checks_host_keys=section.proxy_checks_host_keys,
        session_limits=SessionLimits(
            client_idle_timeout=section.client_idle_timeout,
            client_idle_timeout_message=section.client_idle_timeout_message,
            web_idle_timeout=section.web_idle_timeout,
            disconnect_expired_cert=section.disconnect_expired_cert,
            keep_alive_interval=section.keep_alive_interval,
            keep_alive_count_max=section.keep_alive_count_max,
            session_control_timeout=section.session_control_timeout,
        ),
        routing_strategy=section.routing_strategy,
        tunnel_strategy=TunnelStrategy(
            type=section.tunnel_strategy.type, agent_connection_count=section.tunnel_strategy.agent_connection_count
        ),
        message_of_the_day=section.message_of_the_day,
        balancers=section.proxy_protocol_from if section.proxy_protocol else (),
        managed=frozenset(resource for path, resource in _MANAGED_BY.items() if path in present),
        key_token=_key_token(section),
        proxy_listener_mode=section.proxy_listener_mode,
        retention=tuple(_times(section.retention.events)),
        recordings_retention=tuple(_times(section.retention.recordings)),
        ship_events=tuple(receiver.settings() for receiver in section.ship_events),
    )


def _times(rules: Mapping[str, Duration]) -> Iterator[tuple[str, timedelta | None]]:
    for name, kept in rules.items():
        yield name, timedelta(seconds=kept.seconds) if kept.seconds else None


def _key_token(section: AuthSection) -> KeyToken | None:
    found = section.ca_key_params.pkcs11 if section.ca_key_params is not None else None
    if found is None or found.module_path is None:
        return None
    return KeyToken(found.module_path, found.token_label, found.slot_number, found.pin, found.pin_path)


def _proxy_config(
    document: Document,
    present: frozenset[str],
    nodename: str,
    bound: Callable[[HostPort], HostPort],
    *,
    plain_http: bool,
) -> ProxyConfig:
    section = document.proxy_service
    one_port = (
        document.version == "v2"
        or document.auth_service.proxy_listener_mode is ProxyListenerMode.MULTIPLEX
        or section.tunnel_listen_addr == section.web_listen_addr
    )
    alone = document.version == "v2" and "proxy_service.listen_addr" not in present
    tunnels_alone = one_port and "proxy_service.tunnel_listen_addr" not in present
    tunnel = section.web_listen_addr if tunnels_alone else section.tunnel_listen_addr
    web = section.public_addr or (HostPort(nodename, section.web_listen_addr.port),)
    hosts = [address.host for address in web]
    kube = kubernetes.listener(section, HostPort(forms.ANY_HOST, ports.PROXY_KUBE))
    return ProxyConfig(
        listen_addr=None if alone else bound(section.listen_addr),
        web_listen_addr=bound(section.web_listen_addr),
        tunnel_listen_addr=bound(tunnel),
        public_addrs=web,
        ssh_public_addrs=section.ssh_public_addr
        or (web if one_port else tuple(HostPort(host, section.listen_addr.port) for host in hosts)),
        tunnel_public_addrs=section.tunnel_public_addr
        or (web if tunnel == section.web_listen_addr else tuple(HostPort(host, tunnel.port) for host in hosts)),
        kube_public_addrs=section.kube_public_addr
        or (section.kubernetes.public_addr if section.kubernetes is not None else ())
        or (tuple(HostPort(host, kube.port) for host in hosts) if kube is not None else ()),
        kube_listen_addr=bound(kube) if kube is not None else None,
        kube_clusters=kubernetes.clusters(section, document.auth_service.cluster_name or nodename),
        keypairs=section.keypairs,
        balancers=section.proxy_protocol_from if section.proxy_protocol else (),
        plain_http=plain_http,
        one_port=one_port,
        peer_listen_addr=bound(section.peer_listen_addr),
        peer_always="proxy_service.peer_listen_addr" in present,
        peer_public_addr=section.peer_public_addr,
        acme=AcmeConfig(section.acme.uri, section.acme.email, acme_names(section))
        if section.acme.enabled and not plain_http
        else None,
    )


def _node_config(
    section: SshSection, labels: Labels | None, bound: Callable[[HostPort], HostPort], *, permit_user_env: bool
) -> NodeConfig:
    return NodeConfig(
        listen_addr=bound(section.listen_addr),
        public_addrs=section.public_addr,
        labels=labels if labels is not None else Labels(section.labels, section.commands),
        permit_user_env=permit_user_env or section.permit_user_env,
        port_forwarding=section.port_forwarding,
        recording_quota=section.recording_quota_mib << 20,
        enhanced_recording=_enhanced(section),
        pam=Pam(section.pam.service_name, section.pam.use_pam_auth, tuple(section.pam.environment.items()))
        if section.pam.enabled
        else None,
    )


def _kube_config(
    section: KubernetesSection, enabled: frozenset[ServiceRole], bound: Callable[[HostPort], HostPort]
) -> KubeServiceConfig:
    beside = enabled & {ServiceRole.AUTH, ServiceRole.PROXY}
    if section.listen_addr is None and beside:
        raise BadRequest(
            "kubernetes_service.listen_addr: found nothing, allowed: where proxies reach the service, since a host "
            f"that runs {' and '.join(sorted(beside))} keeps no tunnels",
            hint="listen_addr: 127.0.0.1:3027 where the only proxy is beside it, else 0.0.0.0:3027",
        )
    return KubeServiceConfig(
        listen_addr=bound(section.listen_addr) if section.listen_addr is not None else None,
        public_addrs=section.public_addr,
        clusters=kubernetes.of_service(section),
        labels=Labels(section.labels, section.commands),
    )


def _enhanced(section: SshSection) -> EnhancedRecording | None:
    asked = section.enhanced_recording
    if not asked.enabled:
        return None
    return EnhancedRecording(asked.command_buffer_size, asked.disk_buffer_size, asked.network_buffer_size)


def _storage_config(document: Document) -> StorageConfig:
    storage, data_dir = document.teleport.storage, document.teleport.data_dir
    if not isinstance(storage, DirStorage | EtcdStorage | PostgresqlStorage | DynamoStorage):
        raise BadRequest(
            f"storage of type {storage.type} cannot be used by this version",
            hint="use type: dir, etcd, postgresql or dynamodb",
        )
    embedded = storage if isinstance(storage, DirStorage) else DirStorage()
    files = [uri for uri in storage.audit_events_uri if uri.scheme == "file"]
    first = next(iter(storage.audit_events_uri), None)
    return StorageConfig(
        path=embedded.path or data_dir / "backend",
        events_path=_directory(files[0] if files else None, data_dir / "log"),
        recordings_path=_directory(
            storage.audit_sessions_uri if storage.recordings_s3 is None else None, data_dir / "log" / "records"
        ),
        sync=embedded.sync,
        journal=embedded.journal,
        copies=(copies := tuple(_copies(storage))),
        searched=copies[0] if first is not None and first.scheme in SEARCHED else None,
        region=storage.region,
        audit_events_uri=tuple(str(uri) for uri in storage.audit_events_uri),
        audit_sessions_uri=str(storage.audit_sessions_uri) if storage.audit_sessions_uri is not None else "",
        etcd=_etcd(storage) if isinstance(storage, EtcdStorage) else None,
        postgresql=storage.settings() if isinstance(storage, PostgresqlStorage) else None,
        dynamodb=storage.settings() if isinstance(storage, DynamoStorage) else None,
        recordings_s3=storage.recordings_s3,
    )


def _copies(storage: Storage) -> Iterator[CopySettings]:
    """In the order of the file."""
    tables = event_tables(storage)
    for uri in storage.audit_events_uri:
        if uri.scheme == "dynamodb":
            yield next(tables)
        elif uri.scheme == "stdout":
            yield StdoutCopy()
        elif uri.database is not None:
            yield PostgresqlCopy(uri.database)


def _etcd(storage: EtcdStorage) -> EtcdSettings:
    return EtcdSettings(
        peers=storage.peers,
        prefix=storage.prefix,
        ca_file=storage.tls_ca_file,
        cert_file=storage.tls_cert_file,
        key_file=storage.tls_key_file,
        username=storage.username,
        password_file=storage.password_file,
        insecure=storage.insecure,
        max_message=storage.etcd_max_client_msg_size_bytes,
    )


def _directory(uri: StorageUri | None, default: Path) -> Path:
    return default if uri is None else Path(uri.location)

"""What holds for the whole cluster: one resource of each kind, with the defaults of `resources.md` 8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from teleport.resources.kinds import Kind
from teleport.resources.metadata import (
    ORIGIN_LABEL,
    FieldWarning,
    Finding,
    Metadata,
    Moment,
    Value,
    shown,
    text_findings,
)
from teleport.resources.names import canonical_address, check_hostname
from teleport.resources.values import Duration

S = TypeVar("S", bound="Singleton")


class SecondFactor(StrEnum):
    OFF = "off"
    OTP = "otp"
    U2F = "u2f"
    WEBAUTHN = "webauthn"
    ON = "on"
    OPTIONAL = "optional"


class LockingMode(StrEnum):
    BEST_EFFORT = "best_effort"
    STRICT = "strict"


class RecordingMode(StrEnum):
    NODE = "node"
    PROXY = "proxy"
    OFF = "off"
    NODE_SYNC = "node-sync"
    PROXY_SYNC = "proxy-sync"


class RoutingStrategy(StrEnum):
    UNAMBIGUOUS_MATCH = "unambiguous_match"
    MOST_RECENT = "most_recent"


class ProxyListenerMode(StrEnum):
    SEPARATE = "separate"
    MULTIPLEX = "multiplex"  # the web port of each proxy serves everything, too


class U2F(Value, frozen=True, kw_only=True):
    app_id: str = ""
    facets: tuple[str, ...] = ()
    device_attestation_cas: tuple[str, ...] = ()


class Webauthn(Value, frozen=True, kw_only=True):
    rp_id: str = ""  # empty: the host of u2f.app_id, else that of the proxy's public address
    attestation_allowed_cas: tuple[str, ...] = ()
    attestation_denied_cas: tuple[str, ...] = ()
    disabled: bool = False


class AuthPreferenceSpec(Value, frozen=True, kw_only=True):
    type: Literal["local", "github", "oidc", "saml"] = "local"
    second_factor: SecondFactor = SecondFactor.OTP
    connector_name: str = ""
    u2f: U2F | None = None
    webauthn: Webauthn | None = None
    require_session_mfa: bool = False
    disconnect_expired_cert: bool = False
    allow_local_auth: bool = True
    passwordless: bool = True  # whether passkeys log in, where hardware keys count
    message_of_the_day: str = ""
    locking_mode: LockingMode = LockingMode.BEST_EFFORT


class AuthPreference(Value, frozen=True, kw_only=True):
    kind: Literal["cluster_auth_preference"] = "cluster_auth_preference"
    version: Literal["v2"] = "v2"
    metadata: Metadata = Metadata(name="cluster-auth-preference")
    spec: AuthPreferenceSpec = AuthPreferenceSpec()

    @property
    def name(self) -> str:
        return self.metadata.name

    def findings(self) -> Iterator[Finding]:
        yield from _singleton_findings(self.metadata, "cluster-auth-preference")
        yield from _hardware_key_findings(self.spec)
        yield from text_findings(("spec", "message_of_the_day"), self.spec.message_of_the_day)

    @property
    def warnings(self) -> tuple[FieldWarning, ...]:
        found = []
        if self.spec.type != "local":
            found.append(FieldWarning("spec.type", "single sign-on is not available yet"))
        if self.spec.connector_name:
            found.append(FieldWarning("spec.connector_name", "single sign-on is not available yet"))
        if self.spec.require_session_mfa:
            found.append(
                FieldWarning(
                    "spec.require_session_mfa", "users who have registered no second factor open no session then"
                )
            )
        if not self.spec.allow_local_auth:
            found.append(
                FieldWarning("spec.allow_local_auth", "nobody can log in then: single sign-on is not available yet")
            )
        return tuple(found)


def _hardware_key_findings(spec: AuthPreferenceSpec) -> Iterator[Finding]:
    """What is wrong with the settings of hardware keys; browsers take no address as a domain."""
    lists: list[tuple[tuple[str, str], tuple[str, ...]]] = []
    if spec.u2f is not None:
        if not spec.u2f.app_id.startswith("https://") or check_hostname(urlsplit(spec.u2f.app_id).hostname or ""):
            yield Finding(
                ("spec", "u2f", "app_id"), shown(spec.u2f.app_id), "https://NAME of the cluster's web address"
            )
        lists.append((("u2f", "device_attestation_cas"), spec.u2f.device_attestation_cas))
    if (webauthn := spec.webauthn) is not None:
        if webauthn.rp_id and (check_hostname(webauthn.rp_id) or canonical_address(webauthn.rp_id)):
            yield Finding(("spec", "webauthn", "rp_id"), shown(webauthn.rp_id), "the domain of the web address")
        if webauthn.disabled and spec.second_factor in {SecondFactor.WEBAUTHN, SecondFactor.U2F}:
            yield Finding(("spec", "webauthn", "disabled"), "true", f"false with second_factor {spec.second_factor}")
        lists.append((("webauthn", "attestation_allowed_cas"), webauthn.attestation_allowed_cas))
        lists.append((("webauthn", "attestation_denied_cas"), webauthn.attestation_denied_cas))
    for path, certificates in lists:
        for number, text in enumerate(certificates):
            if not text.lstrip().startswith("-----BEGIN CERTIFICATE-----"):
                yield Finding(("spec", *path, number), shown(text), "a certificate in PEM")


class TunnelStrategyType(StrEnum):
    AGENT_MESH = "agent_mesh"
    PROXY_PEERING = "proxy_peering"


MOST_CONNECTIONS = 64  # tunnels of one host that a setting may ask for


class TunnelStrategy(Value, frozen=True, kw_only=True):
    """To how many proxies a host behind a tunnel keeps one: to all, or to a few that lead clients for the others."""

    type: TunnelStrategyType = TunnelStrategyType.AGENT_MESH
    agent_connection_count: int = 1  # of proxy_peering

    @property
    def connections(self) -> int:
        """How many proxies a host is to have; 0: every one."""
        return self.agent_connection_count if self.type is TunnelStrategyType.PROXY_PEERING else 0


class NetworkingSpec(Value, frozen=True, kw_only=True):
    client_idle_timeout: Duration = Duration(0)  # zero: never
    client_idle_timeout_message: str = ""
    web_idle_timeout: Duration = Duration(0)
    keep_alive_interval: Duration = Duration.of(minutes=5)
    keep_alive_count_max: int = 3
    session_control_timeout: Duration = Duration.of(minutes=2)
    routing_strategy: RoutingStrategy = RoutingStrategy.UNAMBIGUOUS_MATCH
    tunnel_strategy: TunnelStrategy = TunnelStrategy()
    proxy_listener_mode: ProxyListenerMode = ProxyListenerMode.SEPARATE


class NetworkingConfig(Value, frozen=True, kw_only=True):
    kind: Literal["cluster_networking_config"] = "cluster_networking_config"
    version: Literal["v2"] = "v2"
    metadata: Metadata = Metadata(name="cluster-networking-config")
    spec: NetworkingSpec = NetworkingSpec()

    @property
    def name(self) -> str:
        return self.metadata.name

    def findings(self) -> Iterator[Finding]:
        yield from _singleton_findings(self.metadata, "cluster-networking-config")
        yield from text_findings(("spec", "client_idle_timeout_message"), self.spec.client_idle_timeout_message)
        if not 1 <= self.spec.keep_alive_count_max <= 1000:
            yield Finding(("spec", "keep_alive_count_max"), str(self.spec.keep_alive_count_max), "1 to 1000")
        if not 1 <= (count := self.spec.tunnel_strategy.agent_connection_count) <= MOST_CONNECTIONS:
            path = ("spec", "tunnel_strategy", "agent_connection_count")
            yield Finding(path, str(count), f"1 to {MOST_CONNECTIONS}")
        for name in ("keep_alive_interval", "session_control_timeout"):
            if not getattr(self.spec, name):
                yield Finding(("spec", name), "0", "a duration above zero")


class RecordingSpec(Value, frozen=True, kw_only=True):
    mode: RecordingMode = RecordingMode.NODE
    proxy_checks_host_keys: bool = True


class SessionRecordingConfig(Value, frozen=True, kw_only=True):
    kind: Literal["session_recording_config"] = "session_recording_config"
    version: Literal["v2"] = "v2"
    metadata: Metadata = Metadata(name="session-recording-config")
    spec: RecordingSpec = RecordingSpec()

    @property
    def name(self) -> str:
        return self.metadata.name

    def findings(self) -> Iterator[Finding]:
        yield from _singleton_findings(self.metadata, "session-recording-config")


class AuditSpec(Value, frozen=True, kw_only=True):
    """Where audit events and recordings go, as `teleport.storage` of the auth server's file says."""

    type: str = "dir"
    region: str = ""
    audit_events_uri: tuple[str, ...] = ()
    audit_sessions_uri: str = ""


class AuditConfig(Value, frozen=True, kw_only=True):
    """Only the configuration file decides it (`resources.md` 1)."""

    kind: Literal["cluster_audit_config"] = "cluster_audit_config"
    version: Literal["v2"] = "v2"
    metadata: Metadata = Metadata(name="cluster-audit-config")
    spec: AuditSpec = AuditSpec()

    @property
    def name(self) -> str:
        return self.metadata.name

    def findings(self) -> Iterator[Finding]:
        yield from _singleton_findings(self.metadata, "cluster-audit-config")
        for name in ("type", "region", "audit_sessions_uri"):
            yield from text_findings(("spec", name), getattr(self.spec, name))
        for position, uri in enumerate(self.spec.audit_events_uri):
            yield from text_findings(("spec", "audit_events_uri", position), uri)


Singleton = AuthPreference | NetworkingConfig | SessionRecordingConfig | AuditConfig
SINGLETONS: Mapping[Kind, type[Singleton]] = {
    Kind.CLUSTER_AUTH_PREFERENCE: AuthPreference,
    Kind.CLUSTER_NETWORKING_CONFIG: NetworkingConfig,
    Kind.SESSION_RECORDING_CONFIG: SessionRecordingConfig,
    Kind.CLUSTER_AUDIT_CONFIG: AuditConfig,
}
"""The settings of a cluster: one resource of each kind, which is there also when nobody wrote it."""


class Origin(StrEnum):
    """Who decided a setting (label `teleport.dev/origin`)."""

    DEFAULTS = "defaults"
    CONFIG_FILE = "config-file"
    DYNAMIC = "dynamic"


def origin_of(resource: Singleton) -> Origin:
    """Unmarked ones were written by hand."""
    found = resource.metadata.labels.get(ORIGIN_LABEL, "")
    return Origin(found) if found in set(Origin) else Origin.DYNAMIC


def with_origin(resource: S, origin: Origin) -> S:
    """`resource`, marked; whatever its document says of its origin."""
    labels = {**resource.metadata.labels, ORIGIN_LABEL: origin.value}
    metadata = msgspec.structs.replace(resource.metadata, labels=labels)
    return msgspec.structs.replace(resource, metadata=metadata)


def default_of(kind: Kind) -> Singleton:
    """What holds while nobody has decided."""
    return with_origin(SINGLETONS[kind](), Origin.DEFAULTS)


def setting_name(kind: Kind) -> str:
    """The one name that a resource of `kind` may have."""
    return str(kind).replace("_", "-")


class ClusterNameSpec(Value, frozen=True, kw_only=True):
    cluster_name: str
    cluster_id: str = ""
    created: Moment | None = None


class ClusterName(Value, frozen=True, kw_only=True):
    kind: Literal["cluster_name"] = "cluster_name"
    version: Literal["v2"] = "v2"
    metadata: Metadata = Metadata(name="cluster-name")
    spec: ClusterNameSpec

    @property
    def name(self) -> str:
        return self.metadata.name

    def findings(self) -> Iterator[Finding]:
        yield from _singleton_findings(self.metadata, "cluster-name")
        if problem := check_hostname(self.spec.cluster_name):
            yield Finding(
                ("spec", "cluster_name"), shown(self.spec.cluster_name), f"a cluster name; this one {problem}"
            )


def _singleton_findings(metadata: Metadata, name: str) -> Iterator[Finding]:
    yield from metadata.findings()
    if metadata.name != name:
        yield Finding(("metadata", "name"), shown(metadata.name), f"{name}, there is one such resource")

"""`auth_service`: the cluster's authority and its policy (`config.md` 4)."""

# ruff: noqa: RUF009  # `key` makes a dataclass field

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from teleport.daemon.config import forms, ports
from teleport.daemon.config.keeping import RetentionSection
from teleport.daemon.config.shipping import Receiver, check_receivers, receivers
from teleport.daemon.config.token_source import TokenSource
from teleport.resources.cluster import (
    MOST_CONNECTIONS,
    LockingMode,
    ProxyListenerMode,
    RecordingMode,
    RoutingStrategy,
    SecondFactor,
    TunnelStrategyType,
)
from teleport.resources.values import Duration, HostPort
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import (
    ListOf,
    boolean,
    duration,
    duration_or_never,
    integer,
    key,
    matching,
    one_of,
    one_or_many,
    secret_text,
    some_text,
    text,
)


class TokenRole(StrEnum):
    """What a host that joins with a token may become."""

    AUTH = "auth"
    PROXY = "proxy"
    NODE = "node"
    KUBE = "kube"
    APP = "app"
    DB = "db"
    TRUSTED_CLUSTER = "trusted_cluster"


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A join token from the file: it never expires."""

    roles: tuple[TokenRole, ...]
    token: TokenSource


STATIC_TOKEN_FORM: Final = "role[,role]:value with the roles " + ", ".join(TokenRole)


def _static_token(value: str) -> StaticToken:
    roles, colon, token = value.partition(":")
    if not colon or ":" in token:
        raise ValueError
    kinds = tuple(dict.fromkeys(TokenRole(role.strip().lower()) for role in roles.split(",")))
    return StaticToken(kinds, TokenSource.parse(token))


@dataclass(frozen=True, slots=True)
class U2f:
    """`authentication.u2f`."""

    app_id: str = key(
        matching("a URL that begins with https://", lambda value: _https(value)),
        "",
        "the cluster's web address; must never change",
        required=True,
    )
    facets: tuple[str, ...] = key(ListOf(some_text), (), "web addresses that may ask for a touch")
    device_attestation_cas: tuple[str, ...] = key(
        ListOf(some_text), (), "CAs of allowed devices: PEM text or files", default_text="any vendor"
    )


def _https(value: str) -> str:
    rest = value.removeprefix("https://")
    if rest == value or not rest or any(character.isspace() for character in rest):
        raise ValueError
    return value


@dataclass(frozen=True, slots=True)
class Webauthn:
    """`authentication.webauthn`."""

    rp_id: str = key(forms.host, "", "domain of the cluster's web address", default_text="from u2f.app_id")
    attestation_allowed_cas: tuple[str, ...] = key(ListOf(some_text), (), "CAs of allowed devices")
    attestation_denied_cas: tuple[str, ...] = key(ListOf(some_text), (), "CAs of refused devices")
    disabled: bool = key(boolean, False, "take no hardware keys")


@dataclass(frozen=True, slots=True)
class Authentication:
    """`auth_service.authentication`."""

    type: str = key(one_of(("local", "github", "oidc", "saml")), "local", "who proves users")
    local_auth: bool = key(boolean, True, "allow users with a password")
    connector_name: str = key(some_text, "", "connector to use by default")
    second_factor: SecondFactor = key(
        one_of({kind.value: kind for kind in SecondFactor}), SecondFactor.OTP, "second factor of local users"
    )
    u2f: U2f | None = key(forms.section(U2f), None, "U2F devices")
    webauthn: Webauthn | None = key(forms.section(Webauthn), None, "WebAuthn devices")
    passwordless: bool = key(boolean, True, "let passkeys log in, where hardware keys count")
    require_session_mfa: bool = key(boolean, False, "ask for the second factor for each session")
    locking_mode: LockingMode = key(
        one_of({kind.value: kind for kind in LockingMode}), LockingMode.BEST_EFFORT, "when the locks are not known"
    )


def _check_authentication(section: Authentication, node: Node, problems: Problems) -> None:
    factor = node.get("second_factor")
    if factor is None:
        return
    kind = section.second_factor
    needs_u2f = kind is SecondFactor.U2F or (
        kind in (SecondFactor.ON, SecondFactor.OPTIONAL) and node.get("webauthn") is None
    )
    if needs_u2f and node.get("u2f") is None:
        factor.problem(problems, f"with second_factor {kind} also u2f.app_id", found="no u2f section")
    if kind is SecondFactor.WEBAUTHN and node.get("webauthn") is None and node.get("u2f") is None:
        factor.problem(problems, "with second_factor webauthn also webauthn.rp_id", found="no webauthn section")
    if kind in (SecondFactor.WEBAUTHN, SecondFactor.U2F) and section.webauthn is not None and section.webauthn.disabled:
        factor.problem(problems, f"with second_factor {kind} no webauthn.disabled", found="webauthn.disabled: yes")


@dataclass(frozen=True, slots=True)
class Pkcs11:
    """`ca_key_params.pkcs11`: a hardware module in which the keys of authorities are made. Those that sign already stay
    where they are: the next rotation replaces them."""

    module_path: Path | None = key(forms.path, None, "the module's library", required=True)
    token_label: str = key(some_text, "", "label of the token")
    slot_number: int | None = key(integer(0), None, "number of the token's slot")
    pin: str = key(secret_text, "", "the token's PIN", secret=True)
    pin_path: Path | None = key(forms.path, None, "file that holds the PIN")


def _check_pkcs11(section: Pkcs11, node: Node, problems: Problems) -> None:
    pin, pin_path = node.get("pin"), node.get("pin_path")
    if pin is not None and pin_path is not None:
        pin_path.problem(problems, "pin or pin_path, not both", found="both pin and pin_path")
    label, slot = node.get("token_label"), node.get("slot_number")
    if label is None and slot is None:
        node.problem(problems, "token_label or slot_number", found="neither token_label nor slot_number")
    if label is not None and slot is not None:
        slot.problem(problems, "token_label or slot_number, not both", found="both token_label and slot_number")


@dataclass(frozen=True, slots=True)
class CaKeyParams:
    """`auth_service.ca_key_params`."""

    pkcs11: Pkcs11 | None = key(forms.section(Pkcs11, _check_pkcs11), None, "a hardware module")


@dataclass(frozen=True, slots=True)
class TunnelStrategySection:
    """`auth_service.tunnel_strategy`."""

    type: TunnelStrategyType = key(
        one_of({kind.value: kind for kind in TunnelStrategyType}),
        TunnelStrategyType.AGENT_MESH,
        "hosts keep a tunnel to every proxy, or to a few of which the others ask",
    )
    agent_connection_count: int = key(
        integer(1, MOST_CONNECTIONS), 1, "with proxy_peering: to how many proxies a host keeps a tunnel"
    )


@dataclass(frozen=True, slots=True)
class AuthSection:
    """`auth_service` as it stands in the file."""

    enabled: bool = key(boolean, True, "run the auth service")
    listen_addr: HostPort = key(
        forms.listen_address(ports.AUTH), HostPort(forms.ANY_HOST, ports.AUTH), "listener of the auth API"
    )
    public_addr: tuple[HostPort, ...] = key(
        forms.public_addresses(ports.AUTH), (), "further names in the auth server's certificate"
    )
    proxy_protocol: bool = key(boolean, True, "take HAProxy's PROXY header from those listed in proxy_protocol_from")
    proxy_protocol_from: tuple[str, ...] = key(
        one_or_many(forms.network), (), "balancers that must send a PROXY header", default_text="nobody"
    )
    cluster_name: str | None = key(
        forms.host_name, None, "name of the cluster; can never be changed", default_text="the nodename"
    )
    tokens: tuple[StaticToken, ...] = key(
        ListOf(matching(STATIC_TOKEN_FORM, _static_token, secret=True)), (), "join tokens that never expire"
    )
    authentication: Authentication = key(
        forms.section(Authentication, _check_authentication), Authentication, "how users prove who they are"
    )
    session_recording: RecordingMode = key(
        one_of({kind.value: kind for kind in RecordingMode}), RecordingMode.NODE, "where sessions are recorded"
    )
    proxy_checks_host_keys: bool = key(boolean, True, "with recording at the proxy: check hosts' certificates")
    client_idle_timeout: Duration = key(duration_or_never, Duration(0), "cut idle SSH clients", default_text="never")
    client_idle_timeout_message: str = key(text, "", "told to the user before the cut")
    web_idle_timeout: Duration = key(duration_or_never, Duration.of(minutes=10), "log idle browsers out")
    disconnect_expired_cert: bool = key(boolean, False, "end sessions when the certificate ends")
    keep_alive_interval: Duration = key(
        forms.positive_duration, Duration.of(minutes=5), "time between keep-alives to clients"
    )
    keep_alive_count_max: int = key(integer(1), 3, "missed keep-alives before the client is cut")
    session_control_timeout: Duration = key(
        duration, Duration.of(minutes=2), "how long a counted session may outlive contact with auth"
    )
    routing_strategy: RoutingStrategy = key(
        one_of({kind.value: kind for kind in RoutingStrategy}),
        RoutingStrategy.UNAMBIGUOUS_MATCH,
        "which of several nodes of the same name is meant",
    )
    tunnel_strategy: TunnelStrategySection = key(
        forms.section(TunnelStrategySection), TunnelStrategySection, "which tunnels hosts keep"
    )
    message_of_the_day: str = key(text, "", "shown before login")
    license_file: Path | None = key(forms.path, None, "legacy", warning="is ignored: no licence is needed")
    kubeconfig_file: Path | None = key(
        forms.path, None, "legacy", warning="is ignored: it belongs under kubernetes_service"
    )
    ca_key_params: CaKeyParams | None = key(forms.section(CaKeyParams), None, "where the authorities' keys are kept")
    proxy_listener_mode: ProxyListenerMode = key(
        one_of({kind.value: kind for kind in ProxyListenerMode}),
        ProxyListenerMode.SEPARATE,
        "whether proxies serve everything on their web port",
    )
    retention: RetentionSection = key(
        forms.section(RetentionSection), RetentionSection, "how long audit events and recordings are kept"
    )
    ship_events: tuple[Receiver, ...] = key(receivers, (), "receivers of copies of audit events")
    dynamic_config: Any = key(boolean, None, "legacy", warning="is ignored")


def check_auth(section: AuthSection, node: Node, problems: Problems) -> None:
    shipped, tokens = node.get("ship_events"), node.get("tokens")
    if shipped is not None:
        check_receivers(shipped, problems)
    if tokens is None:
        return
    seen: set[str] = set()
    for child in tokens.items():
        secret = child.value.partition(":")[2]
        if secret and secret in seen:
            child.problem(problems, "each token once", found="a token a second time")
        seen.add(secret)

"""The kinds of resources, what may be asked of them, and the names that people use for kinds on the command line.

`Kind` also has the kinds that only rules name (`resources.md` 1 and 3.3). A kind that is not here cannot be granted.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

from teleport.errors import BadRequest
from teleport.resources.names import check_name


class Kind(StrEnum):
    """A sort of resource."""

    USER = "user"
    ROLE = "role"
    NODE = "node"
    PROXY = "proxy"
    AUTH_SERVER = "auth_server"
    KUBE_SERVICE = "kube_service"
    APP_SERVER = "app_server"
    DB_SERVER = "db_server"
    TOKEN = "token"  # noqa: S105 - a kind, not a secret
    CERT_AUTHORITY = "cert_authority"
    TRUSTED_CLUSTER = "trusted_cluster"
    REMOTE_CLUSTER = "remote_cluster"
    TUNNEL = "tunnel"
    TUNNEL_CONNECTION = "tunnel_connection"
    GITHUB = "github"
    OIDC = "oidc"
    SAML = "saml"
    AUTH_CONNECTOR = "auth_connector"
    GITHUB_REQUEST = "github_request"
    OIDC_REQUEST = "oidc_request"
    SAML_REQUEST = "saml_request"
    CLUSTER_AUTH_PREFERENCE = "cluster_auth_preference"
    CLUSTER_NETWORKING_CONFIG = "cluster_networking_config"
    SESSION_RECORDING_CONFIG = "session_recording_config"
    CLUSTER_AUDIT_CONFIG = "cluster_audit_config"
    CLUSTER_NAME = "cluster_name"
    CLUSTER_CONFIG = "cluster_config"
    STATIC_TOKENS = "static_tokens"
    LOCK = "lock"
    ACCESS_REQUEST = "access_request"
    ACCESS_PLUGIN_DATA = "access_plugin_data"
    SEMAPHORE = "semaphore"
    NETWORK_RESTRICTIONS = "network_restrictions"
    NAMESPACE = "namespace"
    LICENSE = "license"
    EVENT = "event"
    SESSION = "session"
    SSH_SESSION = "ssh_session"
    WEB_SESSION = "web_session"
    WEB_TOKEN = "web_token"  # noqa: S105 - a kind, not a secret
    APP_SESSION = "app_session"
    USER_TOKEN = "user_token"  # noqa: S105 - a kind, not a secret
    MFA_DEVICE = "mfa_device"
    MFA_LEASE = "mfa_lease"
    HOST_CERT = "host_cert"
    USER_CERT = "user_cert"
    JWT = "jwt"


class Verb(StrEnum):
    """What is asked of a kind (`resources.md` 3.3)."""

    LIST = "list"
    CREATE = "create"
    READ = "read"
    READ_NO_SECRETS = "readnosecrets"
    UPDATE = "update"
    DELETE = "delete"
    ROTATE = "rotate"


WILDCARD = "*"
RW = (Verb.LIST, Verb.CREATE, Verb.READ, Verb.UPDATE, Verb.DELETE)
RO = (Verb.LIST, Verb.READ)
READ_NO_SECRETS = (Verb.LIST, Verb.READ_NO_SECRETS)

_SHORT: dict[str, Kind] = {
    "ca": Kind.CERT_AUTHORITY,
    "cas": Kind.CERT_AUTHORITY,
    "cert_authorities": Kind.CERT_AUTHORITY,
    "cluster": Kind.TRUSTED_CLUSTER,
    "clusters": Kind.TRUSTED_CLUSTER,
    "tc": Kind.TRUSTED_CLUSTER,
    "rc": Kind.REMOTE_CLUSTER,
    "rcs": Kind.REMOTE_CLUSTER,
    "sem": Kind.SEMAPHORE,
    "sems": Kind.SEMAPHORE,
    "connector": Kind.AUTH_CONNECTOR,
    "connectors": Kind.AUTH_CONNECTOR,
    "cap": Kind.CLUSTER_AUTH_PREFERENCE,
    "auth_preference": Kind.CLUSTER_AUTH_PREFERENCE,
    "netconfig": Kind.CLUSTER_NETWORKING_CONFIG,
    "recconfig": Kind.SESSION_RECORDING_CONFIG,
    "auth": Kind.AUTH_SERVER,
    "auths": Kind.AUTH_SERVER,
    "proxies": Kind.PROXY,
    "server": Kind.NODE,
    "servers": Kind.NODE,
    "rts": Kind.TUNNEL,
}

PLURALS: dict[str, Kind] = {f"{kind}s": kind for kind in Kind if not kind.endswith("s")}


def kind_by_name(name: str) -> Kind:
    """The kind that an operator means by `users`, `ca`, `netconfig`; raises `BadRequest` naming the nearest."""
    word = name.strip().lower().replace("-", "_")
    if word in Kind.__members__.values():
        return Kind(word)
    kind = _SHORT.get(word) or PLURALS.get(word)
    if kind is not None:
        return kind
    known = [*Kind.__members__.values(), *PLURALS, *_SHORT]
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else f"kinds are {', '.join(sorted(Kind))}"
    raise BadRequest(f"unknown kind of resource {name[:64]!r}", hint=hint)


@dataclass(frozen=True, slots=True)
class ResourceRef:
    """What `kind/name`, `kind/sub_kind/name` or `kind` on a command line points at."""

    kind: Kind
    name: str = ""
    sub_kind: str = ""

    @classmethod
    def parse(cls, text: str) -> ResourceRef:
        """Raises `BadRequest`. `cert_authority/user` names the type; the cluster's name may follow."""
        parts = text.split("/")
        kind = kind_by_name(parts[0])
        if len(parts) > 3 or any(check_name(part) for part in parts[1:]):
            raise BadRequest(f"{text[:128]!r} names no resource", hint="write kind, kind/name or kind/sub_kind/name")
        if len(parts) == 3:
            return cls(kind, parts[2], parts[1])
        if len(parts) == 2 and kind is Kind.CERT_AUTHORITY:
            return cls(kind, "", parts[1])
        return cls(kind, parts[1] if len(parts) == 2 else "")

"""The kinds of resources, and what may be asked of them.

`Kind` also has the kinds that only rules name (`resources.md` 1 and 3.3). A kind that is not here cannot be granted.
"""

from __future__ import annotations

from enum import StrEnum


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
    SESSION_TRACKER = "session_tracker"
    WEB_SESSION = "web_session"
    WEB_TOKEN = "web_token"  # noqa: S105 - a kind, not a secret
    APP_SESSION = "app_session"
    USER_TOKEN = "user_token"  # noqa: S105 - a kind, not a secret
    MFA_DEVICE = "mfa_device"
    MFA_LEASE = "mfa_lease"
    HOST_CERT = "host_cert"
    WEB_CERTIFICATE = "web_certificate"  # of proxies, by ACME
    USER_CERT = "user_cert"
    OPENSSH_CERT = "openssh_cert"
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

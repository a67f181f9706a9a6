"""The roles that a new cluster has, and the implicit one that everybody has (`resources.md` 3.4)."""

from __future__ import annotations

from teleport.resources.kinds import READ_NO_SECRETS, RO, RW, Kind, Verb
from teleport.resources.metadata import Metadata
from teleport.resources.names import NO_LOGIN_PREFIX
from teleport.resources.role import (
    ANY_LABELS,
    DEFAULT_ENHANCED_RECORDING,
    DEFAULT_MAX_SESSION_TTL,
    IMPLICIT_ROLE_NAME,
    Conditions,
    Options,
    Role,
    RoleSpec,
    Rule,
)
from teleport.resources.values import Duration

PRESET_NAMES = ("access", "auditor", "editor")
OWN_SESSIONS = "contains(session.participants, user.metadata.name)"
UNLIMITED = Duration(2**63 - 1)

_EDITOR_KINDS = (
    Kind.USER,
    Kind.ROLE,
    Kind.OIDC,
    Kind.SAML,
    Kind.GITHUB,
    Kind.CLUSTER_AUTH_PREFERENCE,
    Kind.AUTH_CONNECTOR,
    Kind.CLUSTER_CONFIG,
    Kind.TRUSTED_CLUSTER,
    Kind.REMOTE_CLUSTER,
    Kind.TOKEN,
    Kind.CLUSTER_NETWORKING_CONFIG,
    Kind.SESSION_RECORDING_CONFIG,
    Kind.CLUSTER_NAME,
    Kind.CLUSTER_AUDIT_CONFIG,
    Kind.LOCK,
)
_IMPLICIT_KINDS = (
    Kind.NODE,
    Kind.PROXY,
    Kind.AUTH_SERVER,
    Kind.TUNNEL,
    Kind.CLUSTER_AUTH_PREFERENCE,
    Kind.CLUSTER_NAME,
    Kind.SSH_SESSION,
    Kind.APP_SERVER,
    Kind.REMOTE_CLUSTER,
    Kind.KUBE_SERVICE,
    Kind.DB_SERVER,
)


def rule(kind: Kind, verbs: tuple[Verb, ...], where: str = "") -> Rule:
    return Rule(resources=(kind.value,), verbs=tuple(verb.value for verb in verbs), where=where)


def editor() -> Role:
    """Edits the configuration of the cluster; reaches no host."""
    return Role(
        version="v3",
        metadata=Metadata(name="editor", description="Edit cluster configuration"),
        spec=RoleSpec(
            options=Options(
                max_session_ttl=DEFAULT_MAX_SESSION_TTL,
                port_forwarding=True,
                forward_agent=True,
                enhanced_recording=DEFAULT_ENHANCED_RECORDING,
            ),
            allow=Conditions(rules=tuple(rule(kind, RW) for kind in _EDITOR_KINDS)),
        ),
    )


def access() -> Role:
    """Uses the resources of the cluster as whom the user's traits say."""
    return Role(
        version="v3",
        metadata=Metadata(name="access", description="Access cluster resources"),
        spec=RoleSpec(
            options=Options(
                max_session_ttl=DEFAULT_MAX_SESSION_TTL,
                port_forwarding=True,
                forward_agent=True,
                enhanced_recording=DEFAULT_ENHANCED_RECORDING,
            ),
            allow=Conditions(
                logins=("{{internal.logins}}",),
                node_labels=ANY_LABELS,
                app_labels=ANY_LABELS,
                kubernetes_labels=ANY_LABELS,
                db_labels=ANY_LABELS,
                db_names=("{{internal.db_names}}",),
                db_users=("{{internal.db_users}}",),
                kubernetes_users=("{{internal.kubernetes_users}}",),
                kubernetes_groups=("{{internal.kubernetes_groups}}",),
                rules=(rule(Kind.EVENT, RO), rule(Kind.SESSION, RO, OWN_SESSIONS)),
            ),
        ),
    )


def auditor(no_login_id: str) -> Role:
    """Reviews events and replays sessions; reaches no host. `no_login_id` is a fresh UUID, handed in."""
    return Role(
        version="v3",
        metadata=Metadata(name="auditor", description="Review cluster events and replay sessions"),
        spec=RoleSpec(
            options=Options(max_session_ttl=DEFAULT_MAX_SESSION_TTL),
            allow=Conditions(
                logins=(NO_LOGIN_PREFIX + no_login_id,), rules=(rule(Kind.SESSION, RO), rule(Kind.EVENT, RO))
            ),
            deny=Conditions(
                namespaces=("*",),
                node_labels=ANY_LABELS,
                app_labels=ANY_LABELS,
                kubernetes_labels=ANY_LABELS,
                db_labels=ANY_LABELS,
            ),
        ),
    )


def preset_roles(no_login_id: str) -> tuple[Role, ...]:
    """The roles to create on first start, when missing; an edited one is left alone."""
    return access(), auditor(no_login_id), editor()


def implicit_role() -> Role:
    """What every user may read; it limits nothing and forwards nothing."""
    return Role(
        version="v3",
        metadata=Metadata(name=IMPLICIT_ROLE_NAME),
        spec=RoleSpec(
            options=Options(max_session_ttl=UNLIMITED, port_forwarding=False),
            allow=Conditions(
                rules=(
                    *(rule(kind, RO) for kind in _IMPLICIT_KINDS),
                    rule(Kind.CERT_AUTHORITY, READ_NO_SECRETS),
                )
            ),
        ),
    )

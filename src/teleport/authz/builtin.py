"""What hosts may ask of auth, by their system role (`resources.md` 3.5). A missing row means no.

Narrower than the reference where a stolen host key would reach too far: hosts announce only themselves, may add
events and recordings but neither list nor read them, and see users and authorities without secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from teleport.identity import SystemRole
from teleport.resources.kinds import READ_NO_SECRETS, RO, RW, Kind, Verb

Grants = Mapping[Kind, frozenset[Verb]]

_CONFIGS = (
    Kind.CLUSTER_NAME,
    Kind.CLUSTER_CONFIG,
    Kind.CLUSTER_AUTH_PREFERENCE,
    Kind.CLUSTER_NETWORKING_CONFIG,
    Kind.SESSION_RECORDING_CONFIG,
    Kind.CLUSTER_AUDIT_CONFIG,
)
_ADD = (Verb.CREATE, Verb.UPDATE)
_NO_SECRETS = READ_NO_SECRETS

OWN_ONLY = frozenset({Kind.NODE, Kind.PROXY, Kind.AUTH_SERVER, Kind.KUBE_SERVICE, Kind.APP_SERVER, Kind.DB_SERVER})
"""Presence: a host may write only the entry that has its own UUID for a name."""
WRITING = frozenset({Verb.CREATE, Verb.UPDATE, Verb.DELETE, Verb.ROTATE})


def _grants(*rows: tuple[Iterable[Kind], tuple[Verb, ...]]) -> Grants:
    table: dict[Kind, frozenset[Verb]] = {}
    for kinds, verbs in rows:
        for kind in kinds:
            table[kind] = table.get(kind, frozenset()) | frozenset(verbs)
    return table


_AS_NODE_READS = (
    ((Kind.CERT_AUTHORITY, Kind.USER, Kind.HOST_CERT), _NO_SECRETS),
    (
        (
            Kind.PROXY,
            Kind.ROLE,
            Kind.NAMESPACE,
            Kind.AUTH_SERVER,
            Kind.TUNNEL_CONNECTION,
            Kind.LOCK,
            Kind.MFA_LEASE,
            Kind.TRUSTED_CLUSTER,  # whose users come, and as what
            Kind.NETWORK_RESTRICTIONS,
            *_CONFIGS,
        ),
        RO,
    ),
)

BUILTIN: Mapping[SystemRole, Grants] = {
    # Admin is not here: it may do everything, which `api` says in so many words.
    SystemRole.AUTH: _grants(((Kind.AUTH_SERVER,), RW), ((Kind.EVENT, Kind.SSH_SESSION), _ADD), *_AS_NODE_READS),
    SystemRole.NODE: _grants(
        ((Kind.NODE, Kind.TUNNEL, Kind.SEMAPHORE), RW),
        ((Kind.EVENT, Kind.SSH_SESSION), _ADD),
        ((Kind.SESSION_TRACKER,), (Verb.UPDATE,)),
        *_AS_NODE_READS,
    ),
    SystemRole.PROXY: _grants(
        (
            (
                Kind.PROXY,
                Kind.OIDC_REQUEST,
                Kind.SAML_REQUEST,
                Kind.GITHUB_REQUEST,
                Kind.TUNNEL_CONNECTION,
                Kind.SEMAPHORE,
                Kind.WEB_SESSION,
                Kind.WEB_TOKEN,
            ),
            RW,
        ),
        ((Kind.EVENT, Kind.SSH_SESSION), _ADD),
        ((Kind.SESSION_TRACKER,), (Verb.UPDATE,)),  # of sessions in pods
        ((Kind.OIDC, Kind.SAML, Kind.GITHUB, Kind.AUTH_CONNECTOR), _NO_SECRETS),
        ((Kind.MFA_LEASE,), (Verb.CREATE,)),  # by a certificate that a client proved there, and a code of its user
        ((Kind.OPENSSH_CERT,), (Verb.CREATE,)),  # for a session that a user has proved at this proxy
        ((Kind.WEB_CERTIFICATE,), (*RO, Verb.READ_NO_SECRETS, *_ADD)),  # of its own names, shared by all proxies
        ((Kind.USER_TOKEN,), (Verb.READ, Verb.UPDATE)),  # invitation and reset pages, by the token in the link
        (
            (
                Kind.NODE,
                Kind.TUNNEL,
                Kind.STATIC_TOKENS,
                Kind.REMOTE_CLUSTER,
                Kind.KUBE_SERVICE,
                Kind.APP_SERVER,
                Kind.DB_SERVER,
            ),
            RO,
        ),
        *_AS_NODE_READS,
    ),
    SystemRole.KUBE: _grants(
        ((Kind.KUBE_SERVICE, Kind.TUNNEL, Kind.SEMAPHORE), RW),
        ((Kind.EVENT, Kind.SSH_SESSION), _ADD),
        *_AS_NODE_READS,
    ),
    SystemRole.APP: _grants(
        ((Kind.APP_SERVER, Kind.TUNNEL), RW), ((Kind.EVENT,), _ADD), ((Kind.JWT,), (Verb.CREATE,)), *_AS_NODE_READS
    ),
    SystemRole.DB: _grants(((Kind.DB_SERVER, Kind.TUNNEL, Kind.SEMAPHORE), RW), ((Kind.EVENT,), _ADD), *_AS_NODE_READS),
}

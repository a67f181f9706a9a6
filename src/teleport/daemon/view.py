"""What a service knows of its cluster: typed reads over a watched cache, in the shapes that node and proxy ask for.

Parsed values are kept until the cached item changes. When auth is away the last view stays (decision 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import is_not
from typing import TypeVar

import msgspec

from teleport.authz.decision import ClusterDefaults, Policy
from teleport.authz.locks import host_lock_denial
from teleport.authz.role_map import map_user, still_mapped
from teleport.authz.session_mfa import once_open
from teleport.clock import Clock
from teleport.daemon.view_nodes import KnownNodes
from teleport.errors import AccessDenied, NotFound
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki.keys import PublicKey
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.rotation import retired_refusal
from teleport.pki.sshformat import parse_certificate
from teleport.pki.sshverify import ENFORCED, last_moment, verify_host_cert, verify_user_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority, TrustedTLSAuthority
from teleport.pki.trust_digest import trust_digest
from teleport.pki.x509verify import identity_from_tls, trusted_tls_authority
from teleport.resources.authority import Authority, AuthorityType, RetiredKeys, RotationState
from teleport.resources.cluster import (
    AuthPreference,
    NetworkingConfig,
    RecordingMode,
    RoutingStrategy,
    SessionRecordingConfig,
)
from teleport.resources.codec import Resource, from_json
from teleport.resources.lock import Lock
from teleport.resources.mfa_lease import MfaLease, lease_name
from teleport.resources.names import canonical_address
from teleport.resources.role import Role
from teleport.resources.server import Server
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster
from teleport.resources.user import User
from teleport.store.cache import Cache
from teleport.store.foreign import C, foreign_authority, other_cluster
from teleport.store.records import (
    HOSTS,
    KUBE_SERVICES,
    MFA_LEASES,
    PROXIES,
    REMOTE_CLUSTERS,
    TRUSTED_CLUSTERS,
    HostRecord,
    authority_key,
)
from teleport.store.standing import forced_labels, host_counts, user_present

NODE_KINDS = (
    "role",
    "user",
    "cert_authority",
    "lock",
    "mfa_lease",
    "trusted_cluster",
    "host_cert",
    "cluster_auth_preference",
    "cluster_networking_config",
    "session_recording_config",
)
PROXY_KINDS = (*NODE_KINDS, "node", "proxy", "kube_service", "remote_cluster", "web_certificate", "web_session")
R = TypeVar("R")
VERIFIED = 64  # host certificates that are remembered


@dataclass(frozen=True, slots=True)
class _Verified:
    """A host certificate that was verified against authorities, at a moment."""

    authorities: list[TrustedSSHAuthority]
    at: datetime
    identity: HostIdentity


class View:
    """Reads of one cluster through one cache."""

    def __init__(self, cache: Cache, clock: Clock, cluster: str) -> None:
        self.cache = cache
        self.clock = clock
        self.cluster = cluster
        self.own_host = ""  # UUID of the node that judges by this; it refuses everybody itself while its host is locked
        self._nodes: KnownNodes | None = None
        self._anchors: tuple[tuple[str, ...], list[TrustedTLSAuthority]] | None = None
        self._trusted: dict[AuthorityKind, tuple[list[Authority], tuple[TrustedSSHAuthority, ...]]] = {}
        self._verified: dict[bytes, _Verified] = {}  # by certificate
        self._parsed: dict[str, dict[str, tuple[int, Resource]]] = {}  # by prefix, then key, with its revision

    def _clusters(self, prefix: str, kind: type[C]) -> list[C]:
        """The other clusters of a kind that can be read."""
        found = [other_cluster(item.value, kind, item.key.removeprefix(prefix)) for item in self.cache.range(prefix)]
        return [one for one in found if one is not None]

    def _items(self, prefix: str, kind: type[R]) -> list[R]:
        found: list[R] = []
        former, present = self._parsed.get(prefix, {}), {}
        for item in self.cache.range(prefix):
            known = former.get(item.key)
            if known is None or known[0] != item.revision:
                known = (item.revision, from_json(item.value))
            present[item.key] = known
            if isinstance(known[1], kind):
                found.append(known[1])
        self._parsed[prefix] = present  # what is gone is forgotten
        return found

    def roles(self) -> Mapping[str, Role]:
        return {role.name: role for role in self._items("roles/", Role)}

    def locks(self) -> list[Lock]:
        return self._items("locks/", Lock)

    def leases(self, user: str, key: str, client_address: str) -> list[MfaLease]:
        """The lease of a second factor that a user has for a key and an address, if one is in view."""
        item = self.cache.get(MFA_LEASES + lease_name(user, key, canonical_address(client_address)))
        found = from_json(item.value) if item is not None else None
        return [found] if isinstance(found, MfaLease) else []

    @property
    def known_nodes(self) -> KnownNodes:
        """The registered nodes, by id and by name."""
        if self._nodes is None:
            self._nodes = KnownNodes(self.cache, self.clock)
        return self._nodes

    def nodes(self) -> list[Server]:
        return list(self.known_nodes.all())

    def proxies(self) -> list[Server]:
        return self._items(PROXIES, Server)

    def kube_services(self) -> list[Server]:
        """The services that lead to Kubernetes clusters."""
        return self._items(KUBE_SERVICES, Server)

    def node(self, host_id: str) -> Server | None:
        """A registered node."""
        return self.known_nodes.get(host_id)

    def knows_host(self, host_id: str) -> bool:
        """Whether it is a host that joined, in whatever role, or one that was registered."""
        return self.cache.get(HOSTS + host_id) is not None or self.node(host_id) is not None

    def preference(self) -> AuthPreference:
        """How people prove themselves; the defaults when nobody decided."""
        return next(iter(self._items("cluster/cluster-auth-preference", AuthPreference)), AuthPreference())

    def networking(self) -> NetworkingConfig:
        """What ends or watches over connections; the defaults when nobody decided."""
        return next(iter(self._items("cluster/cluster-networking-config", NetworkingConfig)), NetworkingConfig())

    def defaults(self) -> ClusterDefaults:
        """What the cluster's settings add to every role."""
        recording = next(iter(self._items("cluster/session-recording-config", SessionRecordingConfig)), None)
        return ClusterDefaults.of(self.preference(), self.networking(), recording or SessionRecordingConfig())

    def most_recent(self) -> bool:
        """Whether of several nodes with one name the one that started last is meant."""
        return self.networking().spec.routing_strategy is RoutingStrategy.MOST_RECENT

    def recording(self) -> SessionRecordingConfig:
        """Whether and where sessions are recorded; the defaults when nobody decided."""
        found = self._items("cluster/session-recording-config", SessionRecordingConfig)
        return found[0] if found else SessionRecordingConfig()

    def recording_mode(self) -> RecordingMode:
        return self.recording().spec.mode

    def policy(self) -> Policy:
        return Policy(roles=self.roles(), cluster=self.defaults(), age=self.cache.age(self.clock.now()))

    def authorities(self) -> dict[AuthorityType, Authority]:
        """The authorities of this cluster, without their private keys."""
        found = [one for kind in AuthorityType for one in self._items(authority_key(kind, self.cluster), Authority)]
        return {one.type: one for one in found if one.spec.cluster_name == self.cluster}

    def authorities_now(self) -> tuple[str, bool]:
        """What clients are told of them: the digest of what they are to hold, and whether a rotation is under way.

        It is one for everybody: who may not go to some cluster holds less, asks once, and rests until it changes."""
        known = self.authorities()
        host, user = known.get(AuthorityType.HOST), known.get(AuthorityType.USER)
        if host is None or user is None:
            return "", False
        signer = PublicKey.parse(user.spec.active_keys.ssh[0].public_key).blob
        hosts = [host, *self.hosts_of_remote_clusters()]
        keys, certificates = (
            [line for one in hosts for line in one.trusted_ssh_keys],
            [pem for one in hosts for pem in one.trusted_tls_certs],
        )
        digest = trust_digest(keys, certificates, signer)
        return digest, any(one.spec.rotation.state is RotationState.IN_PROGRESS for one in (host, user))

    def hosts_of_remote_clusters(self) -> list[Authority]:
        """The host authorities of clusters whose hosts are reached from here, of which users are told."""
        found = [self.authority_of(AuthorityKind.HOST, one.name) for one in self.remote_clusters() if not one.removed]
        return [one for one in found if one is not None]

    def _retired(self, kind: AuthorityKind, signer: bytes) -> RetiredKeys | None:
        """The generation of keys that a rotation ended and that this key (SSH blob) belongs to."""
        authority = self.authorities().get(AuthorityType(kind))
        return _generation(authority, signer) if authority is not None else None

    def ssh_authorities(self, kind: AuthorityKind) -> list[TrustedSSHAuthority]:
        """The authorities of this cluster whose SSH certificates of a kind are believed."""
        stored = self._items(authority_key(kind, self.cluster), Authority)
        known = self._trusted.get(kind)
        if known is None or len(known[0]) != len(stored) or any(map(is_not, known[0], stored)):
            trusted = tuple(
                TrustedSSHAuthority(
                    kind, authority.spec.cluster_name, tuple(PublicKey.parse(key) for key in authority.trusted_ssh_keys)
                )
                for authority in stored
                if authority.spec.cluster_name == self.cluster
            )
            known = self._trusted[kind] = stored, trusted
        return list(known[1])

    # other clusters

    def trusted_clusters(self) -> list[TrustedCluster]:
        """The clusters whose users are let in here: those that are enabled."""
        return [one for one in self._clusters(TRUSTED_CLUSTERS, TrustedCluster) if one.spec.enabled]

    def trusted_cluster(self, name: str) -> TrustedCluster | None:
        """The one of this name; None also when it is disabled."""
        return next((one for one in self.trusted_clusters() if one.name == name), None)

    def remote_clusters(self) -> list[RemoteCluster]:
        """The clusters whose hosts are reached from here, also those that have said goodbye (`removed`). Only proxies
        see them."""
        return self._clusters(REMOTE_CLUSTERS, RemoteCluster)

    def remote_cluster(self, name: str) -> RemoteCluster | None:
        return next((one for one in self.remote_clusters() if one.name == name), None)

    def authority_of(self, kind: AuthorityKind, cluster: str) -> Authority | None:
        """An authority of another cluster as it was exchanged last, whether or not it is trusted; its public halves."""
        item = self.cache.get(authority_key(kind, cluster))
        return foreign_authority(item.value, kind, cluster) if item is not None else None

    def _keys_of(self, kind: AuthorityKind, cluster: str) -> list[TrustedSSHAuthority]:
        authority = self.authority_of(kind, cluster)
        if authority is None or cluster == self.cluster:
            return []
        keys = tuple(PublicKey.parse(line) for line in authority.trusted_ssh_keys)
        return [TrustedSSHAuthority(kind, cluster, keys)] if keys else []

    def remote_user_authorities(self) -> list[TrustedSSHAuthority]:
        """The authorities of other clusters whose users are let in here."""
        return [found for one in self.trusted_clusters() for found in self._keys_of(AuthorityKind.USER, one.name)]

    def verify_remote_user(self, certificate: bytes) -> UserIdentity:
        """Who somebody of a trusted cluster is here: with the roles that its role map gives.

        Raises `CertificateRefused`, and `AccessDenied` when no role is mapped.
        """
        authorities = self.remote_user_authorities()
        identity = verify_user_cert(certificate, authorities, self.clock.now(), enforced_critical_options=ENFORCED)
        trusted = self.trusted_cluster(identity.cluster)
        if trusted is None:  # the key said which
            raise AccessDenied(f"Users of the cluster {identity.cluster} are not let in here.", hint="tctl get tc")
        return map_user(identity, trusted.role_map, self.cluster)

    def verify_any_user(self, certificate: bytes) -> UserIdentity:
        """Who the user is: one of this cluster, or one of a trusted cluster, mapped. The key that signed decides."""
        signer = parse_certificate(certificate).signer
        own = any(key.blob == signer for one in self.ssh_authorities(AuthorityKind.USER) for key in one.keys)
        if not own and any(key.blob == signer for one in self.remote_user_authorities() for key in one.keys):
            return self.verify_remote_user(certificate)
        return self.verify_user(certificate)

    def verify_host_of(self, cluster: str, certificate: bytes, role: SystemRole) -> HostIdentity:
        """Which host of another cluster it is, that has this role there: of one whose hosts are reached from here, or
        one whose users are let in. Raises `NotFound` for any other cluster, and `AccessDenied`."""
        remote = self.remote_cluster(cluster)
        if (remote is None or remote.removed) and self.trusted_cluster(cluster) is None:
            raise NotFound(f"The cluster {cluster[:80]!a} is not known here.", hint="tctl get rc,tc")
        authorities = self._keys_of(AuthorityKind.HOST, cluster)
        identity = verify_host_cert(certificate, authorities, self.clock.now(), hostname=None)
        if identity.role is not role:
            raise AccessDenied(
                f"The host {identity.host_id} of {cluster} is no {role}: its role is {identity.role}.",
                hint="check which address the other cluster's proxies are told to use",
            )
        denial = host_lock_denial(identity, self.locks(), self.clock.now())
        if denial is not None:
            raise AccessDenied(f"The host {identity.host_id} of {cluster} is locked.", hint="tctl get lock")
        return identity

    # node.needs.Certificates and Rules, proxy.needs.UserCertificates

    def verify_user(self, certificate: bytes, *, opened: bool = False) -> UserIdentity:
        """Who the user of this cluster is; those of other clusters are refused. `opened`: of what is open already,
        which a certificate for one session lets go on (`authz.session_mfa.once_open`)."""
        authorities = self.ssh_authorities(AuthorityKind.USER)
        at = last_moment(certificate, self.clock.now()) if opened else self.clock.now()
        try:
            identity = verify_user_cert(certificate, authorities, at, enforced_critical_options=ENFORCED)
        except CertificateRefused as refused:
            self._explain(certificate, refused)
            raise
        if self.present(identity) is None:
            raise AccessDenied("The user of this certificate does not exist any more.", hint="tsh login")
        return once_open(identity) if opened else identity

    def _explain(self, certificate: bytes, refused: CertificateRefused) -> None:
        """Raises what says that a rotation ended the authority of this certificate, if that is why it is refused."""
        if refused.reason is not Refusal.UNKNOWN_AUTHORITY:
            return
        signer = parse_certificate(certificate).signer
        retired = self._retired(AuthorityKind.USER, signer)
        for one in self.remote_user_authorities():
            if retired is None and any(key.blob == signer for key in one.keys):
                raise AccessDenied(
                    f"Your certificate is of the cluster {one.cluster}: its users come in through its own proxy.",
                    hint=f"connect through a proxy of {one.cluster}; tsh clusters lists where that leads",
                ) from None
        if retired is None:
            return
        keys = tuple(PublicKey.parse(line) for line in retired.ssh)
        former = TrustedSSHAuthority(AuthorityKind.USER, self.cluster, keys)
        identity = verify_user_cert(certificate, [former], self.clock.now())
        raise retired_refusal(identity, retired.retired) from None

    def user_signer(self) -> bytes:
        """The key (SSH blob) that signs users' certificates now; empty while nothing is known."""
        authority = self.authorities().get(AuthorityType.USER)
        return PublicKey.parse(authority.spec.active_keys.ssh[0].public_key).blob if authority is not None else b""

    def trusts_user_authority(self, signer: bytes) -> bool:
        everyone = (*self.ssh_authorities(AuthorityKind.USER), *self.remote_user_authorities())
        return any(key.blob == signer for one in everyone for key in one.keys)

    def let_go(self, signer: bytes) -> bool:
        """Whether a rotation that went through its phases ended this key (SSH blob) of the user authority: what was
        begun before may go on. A key that was replaced at once is taken for stolen."""
        retired = self._retired(AuthorityKind.USER, signer)
        for one in self.trusted_clusters() if retired is None else ():
            authority = self.authority_of(AuthorityKind.USER, one.name)
            retired = _generation(authority, signer) if authority is not None and retired is None else retired
        return retired is not None and not retired.at_once

    def present(self, identity: UserIdentity) -> UserIdentity | None:
        """What is left of the identity (`auth.standing.user_present`); None when nothing is. Of a user of another
        cluster it is what the trust and its role map still give."""
        if identity.origin is not None:
            trusted = self.trusted_cluster(identity.origin.cluster)
            return still_mapped(identity, trusted.role_map if trusted is not None else (), self.cluster)
        found = self._items(f"users/{identity.name}", User)
        user = next((user for user in found if user.name == identity.name), None)
        return user_present(identity, user, self.clock.now())

    def forced_labels(self, host_id: str, role: SystemRole) -> Mapping[str, str]:
        """The labels that the token of this host forces on it; auth shows a host those of its own record only."""
        item = self.cache.get(HOSTS + host_id)
        return forced_labels(msgspec.json.decode(item.value, type=HostRecord), role) if item is not None else {}

    def verify_host(self, certificate: bytes) -> HostIdentity:
        return self._counting(self._identify_host(certificate))

    def _identify_host(self, certificate: bytes) -> HostIdentity:
        """Whose certificate it is. A proxy shows the same one whenever it leads somebody to a node, so what was
        verified against the authorities as they are is remembered until it expires."""
        authorities, now = self.ssh_authorities(AuthorityKind.HOST), self.clock.now()
        known = self._verified.get(certificate)
        if known is not None and known.authorities == authorities and known.at <= now < known.identity.expires:
            return known.identity
        identity = verify_host_cert(certificate, authorities, now, hostname=None)
        if len(self._verified) >= VERIFIED:
            self._verified.clear()
        self._verified[certificate] = _Verified(authorities, now, identity)
        return identity

    # tunnel.peer_link.Hosts

    def tls_authorities(self) -> tuple[str, ...]:
        """The certificates (PEM) of this cluster's host authority that count now."""
        authority = self.authorities().get(AuthorityType.HOST)
        return tuple(authority.trusted_tls_certs) if authority is not None else ()

    def verify_host_tls(self, certificate: bytes) -> HostIdentity:
        """As `verify_host`, of a certificate (DER) that was proved in TLS."""
        return self._counting(self.identify_host_tls(certificate))

    def identify_host_tls(self, certificate: bytes) -> HostIdentity:
        """Whose certificate (DER) it is, whether that host may be here or not. Raises `AccessDenied`."""
        pems = self.tls_authorities()
        if self._anchors is None or self._anchors[0] != pems:
            anchors = [trusted_tls_authority(AuthorityKind.HOST, self.cluster, pem.encode()) for pem in pems]
            self._anchors = (pems, anchors)
        identity = identity_from_tls(certificate, self._anchors[1], self.clock.now())
        if not isinstance(identity, HostIdentity):  # no authority of users is among those
            raise AccessDenied("The certificate is no host's.", hint="only hosts of the cluster come here")
        return identity

    def _counting(self, identity: HostIdentity) -> HostIdentity:
        """The same, if the host still belongs to the cluster and is not locked."""
        item = self.cache.get(HOSTS + identity.host_id)
        record = msgspec.json.decode(item.value, type=HostRecord) if item is not None else None
        if not host_counts(identity, record):
            raise AccessDenied(
                f"The host {identity.host_id} does not belong to the cluster any more as {identity.role}.",
                hint="join it again with a new token",
            )
        locks = self.locks()
        if identity.host_id == self.own_host:
            # that node tells whoever comes through the proxy beside it why, which it cannot before it knows who it is
            locks = [lock for lock in locks if not lock.spec.target.node]
        denial = host_lock_denial(identity, locks, self.clock.now())
        if denial is not None:
            raise AccessDenied(
                f"The host {identity.host_id} is locked: {'; '.join(denial.reasons)}", hint="tctl get lock"
            )
        return identity


class AnyUsers:
    """The same view for those who judge users of this cluster and of trusted ones alike: nodes, and proxies where they
    record (`node.needs.Certificates`)."""

    def __init__(self, view: View) -> None:
        self.verify_user = view.verify_any_user
        self.verify_host = view.verify_host
        self.trusts_user_authority = view.trusts_user_authority
        self.let_go = view.let_go


def _generation(authority: Authority, signer: bytes) -> RetiredKeys | None:
    """The generation of an authority's retired keys that this key (SSH blob) belongs to."""
    for generation in reversed(authority.spec.retired_keys):
        if any(PublicKey.parse(line).blob == signer for line in generation.ssh):
            return generation
    return None

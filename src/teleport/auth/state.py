"""The cluster's state as auth sees it: typed reads, and writes that carry their audit events.

A change and the events that tell of it are one transaction of the backend (decision 10): the events travel as items
of the outbox, from where a pump moves them into this daemon's chain. Nothing else writes to the backend.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from teleport.api.messages import Document, UserCerts
from teleport.audit.events import CertCreate, Event, new_event
from teleport.audit.events.base import Actor, ResourceEvent
from teleport.audit.outbox import outbox_write
from teleport.auth.authorities.certify import Certifier, UserGrant
from teleport.auth.authorities.keys import AuthorityKeys, StoredKeys
from teleport.auth.caller import Caller
from teleport.auth.certificates.last_use import Uses
from teleport.authz.role_map import map_user, still_mapped
from teleport.backend.interface import Backend, Condition, Exists, Item, PutOp, Write
from teleport.clock import Clock
from teleport.errors import AccessDenied, NotFound, TeleportError
from teleport.identity import HostIdentity, UserIdentity
from teleport.pki.keys import PublicKey
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.rotation import retired_refusal
from teleport.pki.sshverify import ENFORCED, verify_user_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority, TrustedTLSAuthority
from teleport.pki.x509cert import trusted_tls_authority
from teleport.pki.x509verify import identity_from_tls
from teleport.resources.authority import Authority
from teleport.resources.cluster import AuthPreference, ClusterName, NetworkingConfig, SessionRecordingConfig
from teleport.resources.codec import Resource, from_json, to_json, without_secrets
from teleport.resources.kinds import Kind
from teleport.resources.lock import Lock
from teleport.resources.role import Role
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster
from teleport.resources.user import User
from teleport.store import records
from teleport.store.foreign import C, foreign_authority, other_cluster, refuse_unreadable
from teleport.store.issued import issued_write
from teleport.store.standing import user_present

# Verified certificates that are remembered, by their digest: some 0.5 KiB each. Hosts announce themselves in turn, so
# of more hosts than that none would be remembered until it comes again.
MAX_IDENTITIES = 32_768
R = TypeVar("R")
Rec = TypeVar("Rec", bound=records.Record)
E_ = TypeVar("E_", bound=Event)


class ClusterState:
    """Reads and writes of one cluster. `cluster` is known once `load` found or `bootstrap` made it."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        cluster: str,
        *,
        on_events: Callable[[], None],
        keys: AuthorityKeys | None = None,
    ) -> None:
        self.backend = backend
        self.clock = clock
        self.cluster = cluster
        self.keys: AuthorityKeys = keys or StoredKeys()
        self.uses = Uses(backend)
        self._on_events = on_events
        self._certifier: tuple[tuple[int, ...], Certifier] | None = None
        self._trusted: tuple[tuple[int, ...], tuple[TrustedTLSAuthority, ...]] | None = None
        self._identities: OrderedDict[bytes, tuple[tuple[TrustedTLSAuthority, ...], UserIdentity | HostIdentity]] = (
            OrderedDict()
        )

    # writing

    def event(self, cls: type[E_], caller: Caller | None = None, **fields: Any) -> E_:
        """An event of this cluster, now; with the caller and the person at a local tctl when there is one."""
        if caller is not None:
            if "user" in cls.__struct_fields__:
                fields.setdefault("user", caller.name)
            if issubclass(cls, ResourceEvent):
                fields.setdefault("addr", caller.address)
            if caller.local_actor and "actor" in cls.__struct_fields__:
                actor = caller.local_actor
                login_uid = actor.get("login_uid", "")
                fields["actor"] = Actor(
                    unix_user=actor.get("unix_user", ""),
                    login_uid=int(login_uid) if login_uid.isdecimal() else -1,
                    terminal=actor.get("terminal", ""),
                )
        return new_event(cls, self.clock.now(), str(uuid.uuid4()), cluster_name=self.cluster, **fields)

    def certified(
        self,
        caller: Caller | None,
        grant: UserGrant,
        public_key: PublicKey,
        certs: UserCerts,
        *,
        addr: str = "",
        factor: str = "",
        renewed_from: str = "",
    ) -> CertCreate:
        """That a user's certificates were made; `caller` is None when the user asked, who has none yet.

        `addr` is where the user is, when that is not where the caller is; `factor` what was proved.
        """
        asked = {} if caller is not None else {"user": grant.user}
        return self.event(
            CertCreate,
            caller,
            cert_type="user",
            subject=grant.user,
            roles=list(grant.roles),
            logins=list(grant.logins),
            key_fingerprint=public_key.fingerprint(),
            valid_until=certs.expires,
            route_to_cluster=grant.route_to_cluster,
            serial=certs.serial,
            traits={name: list(values) for name, values in grant.traits.items()},
            addr=addr or (caller.address if caller is not None else ""),
            factor=factor,
            mfa_device=grant.mfa_device,
            mfa_target=grant.mfa_target,
            source_ip=grant.source_ip,
            renewed_from=renewed_from,
            signed_by=certs.signed_by,
            **asked,
        )

    async def commit(
        self, writes: Sequence[Write], *, events: Sequence[Event], conditions: Sequence[Condition] = ()
    ) -> int:
        """All of it or nothing; raises what `Backend.commit` raises. A certificate that an event tells of is put into
        the inventory."""
        told = [PutOp(*outbox_write(event)) for event in events]
        issued = [write for event in events if isinstance(event, CertCreate) and (write := issued_write(event))]
        revision = await self.backend.commit([*writes, *issued, *told], conditions=conditions)
        if told:
            self._on_events()
        return revision

    async def tell(self, *events: Event) -> None:
        """Events without a change of state: refusals, reads that reveal a secret."""
        await self.commit([], events=events)

    # reading

    async def find(self, prefix: str, name: str, kind: type[R]) -> tuple[R, int] | None:
        """A resource and its revision, with its secrets; None when there is none."""
        item = await self.backend.get(prefix + name)
        if item is None:
            return None
        resource = from_json(item.value)
        if not isinstance(resource, kind):
            raise TeleportError(f"the storage holds no {kind.__name__.lower()} at {prefix}{name}")
        return resource, item.revision

    async def need(self, prefix: str, name: str, kind: type[R]) -> tuple[R, int]:
        """As `find`; raises `NotFound`."""
        found = await self.find(prefix, name, kind)
        if found is None:
            raise NotFound(f"there is no {kind.__name__.lower()} {name!r}")
        return found

    async def record(self, key: str, kind: type[Rec]) -> tuple[Rec, int] | None:
        """An internal record and its revision."""
        item = await self.backend.get(key)
        return None if item is None else (msgspec.json.decode(item.value, type=kind), item.revision)

    async def roles(self, names: Sequence[str]) -> dict[str, Role]:
        """The roles that exist among `names`."""
        found = [await self.find(records.ROLES, name, Role) for name in dict.fromkeys(names)]
        return {pair[0].name: pair[0] for pair in found if pair is not None}

    async def user(self, name: str) -> User | None:
        found = await self.find(records.USERS, name, User)
        return None if found is None else found[0]

    async def authority(self, kind: str) -> Authority:
        """An authority of this cluster, with its private keys."""
        found = await self.find(f"{records.AUTHORITIES}{kind}/", self.cluster, Authority)
        if found is None:
            raise TeleportError(f"the cluster {self.cluster} has no {kind} authority", hint="the storage is incomplete")
        return found[0]

    async def certifier(self) -> Certifier:
        """Signs with the keys as they are now."""
        user = await self.backend.get(records.authority_key("user", self.cluster))
        host = await self.backend.get(records.authority_key("host", self.cluster))
        if user is None or host is None:
            raise TeleportError(f"the cluster {self.cluster} has lost its authorities", hint="restore from a backup")
        others = await self._remote_hosts()
        key = (user.revision, host.revision, *(revision for revision, _ in others))
        if self._certifier is not None and self._certifier[0] == key:
            return self._certifier[1]
        parsed = [from_json(user.value), from_json(host.value)]
        assert isinstance(parsed[0], Authority)
        assert isinstance(parsed[1], Authority)
        made = await asyncio.to_thread(Certifier, parsed[0], parsed[1], self.keys, [one for _, one in others])
        self._certifier = (key, made)  # perhaps an older one than is there by now: the next call looks again
        return made

    async def remote_clusters(self) -> list[RemoteCluster]:
        """The clusters whose hosts are reached from here."""
        return [one for one in await self._others(records.REMOTE_CLUSTERS, RemoteCluster) if not one.removed]

    async def _others(self, prefix: str, kind: type[C]) -> list[C]:
        """The other clusters of a kind that can be read."""
        items = await self.backend.range(prefix)
        found = [other_cluster(item.value, kind, item.key.removeprefix(prefix)) for item in items]
        return [one for one in found if one is not None]

    async def find_cluster(self, name: str, kind: type[C]) -> tuple[C, int] | None:
        """Another cluster and the revision of what is stored. Raises `BadRequest` when that cannot be read."""
        of_kind = Kind.TRUSTED_CLUSTER if kind is TrustedCluster else Kind.REMOTE_CLUSTER
        item = await self.backend.get(records.PREFIX_OF_KIND[of_kind] + name)
        if item is None:
            return None
        found = other_cluster(item.value, kind, name)
        if found is None:
            raise refuse_unreadable(of_kind, name)
        return found, item.revision

    async def _remote_hosts(self) -> list[tuple[int, Authority]]:
        """Their host authorities, each with its revision."""
        found = []
        for cluster in [one.name for one in await self.remote_clusters()]:
            item = await self.backend.get(records.authority_key("host", cluster))
            authority = foreign_authority(item.value, AuthorityKind.HOST, cluster) if item is not None else None
            if item is not None and authority is not None:
                found.append((item.revision, authority))
        return found

    async def trusted_tls(self) -> tuple[TrustedTLSAuthority, ...]:
        """Whose TLS certificates this auth service believes, by issuing key (trap T-3): the authorities of this cluster
        first, then those of the users of trusted ones."""
        user = await self.backend.get(records.authority_key("user", self.cluster))
        host = await self.backend.get(records.authority_key("host", self.cluster))
        if user is None or host is None:
            return ()
        others = await self.user_authorities()
        key = (user.revision, host.revision, *(revision for revision, _ in others))
        if self._trusted is None or self._trusted[0] != key:
            built = []
            own = [(AuthorityKind.USER, from_json(user.value)), (AuthorityKind.HOST, from_json(host.value))]
            for kind, authority in (*own, *((AuthorityKind.USER, other) for _, other in others)):
                assert isinstance(authority, Authority)
                for cert in authority.trusted_tls_certs:
                    built.append(trusted_tls_authority(kind, authority.spec.cluster_name, cert.encode()))
            self._trusted = (key, tuple(built))
        return self._trusted[1]

    async def trusted_clusters(self) -> list[TrustedCluster]:
        """The clusters whose users are let in: those that are enabled."""
        return [one for one in await self._others(records.TRUSTED_CLUSTERS, TrustedCluster) if one.spec.enabled]

    async def user_authorities(self) -> list[tuple[int, Authority]]:
        """The user authorities of trusted clusters, each with its revision."""
        found = []
        for one in await self.trusted_clusters():
            item = await self.backend.get(records.authority_key("user", one.name)) if one.name != self.cluster else None
            authority = foreign_authority(item.value, AuthorityKind.USER, one.name) if item is not None else None
            if item is not None and authority is not None:
                found.append((item.revision, authority))
        return found

    async def present(self, identity: UserIdentity) -> UserIdentity | None:
        """What is left of the identity, as the cluster is now; None when nothing is. Of somebody of a trusted cluster
        it is what its role map gives. Raises `AccessDenied` when that is nothing."""
        if identity.cluster == self.cluster and identity.origin is None:
            return user_present(identity, await self.user(identity.name), self.clock.now())
        if identity.origin is not None and identity.cluster != self.cluster:
            # only this cluster says, in certificates of its own, whom another one's user became here
            raise AccessDenied(f"The cluster {identity.cluster} does not say who somebody of another cluster is here.")
        cluster = identity.origin.cluster if identity.origin is not None else identity.cluster
        trusted = next((one for one in await self.trusted_clusters() if one.name == cluster), None)
        if trusted is None:
            return None
        if identity.origin is not None:
            return still_mapped(identity, trusted.role_map, self.cluster)
        return map_user(identity, trusted.role_map, self.cluster)

    async def ssh_user(self, certificate: bytes) -> UserIdentity:
        """Who somebody is who proved an SSH certificate, of this cluster or of a trusted one, as far as it still holds.
        Raises `CertificateRefused`, `AccessDenied`."""
        authorities = [await self.authority("user"), *(found for _, found in await self.user_authorities())]
        trusted = [
            TrustedSSHAuthority(
                AuthorityKind.USER, one.name, tuple(PublicKey.parse(line) for line in one.trusted_ssh_keys)
            )
            for one in authorities
        ]
        identity = verify_user_cert(certificate, trusted, self.clock.now(), enforced_critical_options=ENFORCED)
        present = await self.present(identity)
        if present is None:
            raise AccessDenied("The user of this certificate does not exist any more.", hint="tsh login")
        return present

    async def tls_identity(self, certificate: bytes) -> UserIdentity | HostIdentity:
        """Who showed this certificate (DER) in a handshake; raises `CertificateRefused`.

        A connection makes many calls with one certificate: what was verified against the authorities as they are is
        remembered until it expires.
        """
        trusted, now = await self.trusted_tls(), self.clock.now()
        digest = hashlib.sha256(certificate).digest()
        known = self._identities.get(digest)
        if known is not None and known[0] is trusted and now < known[1].expires:
            self._identities.move_to_end(digest)
            return known[1]
        try:
            identity = identity_from_tls(certificate, trusted, now)
        except CertificateRefused as refused:
            if refused.reason is Refusal.UNKNOWN_AUTHORITY:
                await self._refuse_retired(certificate)
            raise
        self._identities[digest] = (trusted, identity)
        while len(self._identities) > MAX_IDENTITIES:
            self._identities.popitem(last=False)
        return identity

    async def locks(self) -> list[Lock]:
        return _locks(await self.backend.range(records.LOCKS))

    async def locks_heard_of(self) -> list[Lock]:
        """As `locks`, as watches hear of them: within moments of a change. For what follows changes anyway and only
        makes sure; a decision about somebody who asks reads `locks`."""
        return _locks((await self.backend.watched_snapshot((records.LOCKS,))).items)

    async def _refuse_retired(self, certificate: bytes) -> None:
        """Raises `CertificateRefused` saying what to do when a rotation ended the authority of this certificate."""
        for kind in (AuthorityKind.USER, AuthorityKind.HOST):
            authority = await self.authority(kind)
            for retired in reversed(authority.spec.retired_keys):
                former = [trusted_tls_authority(kind, self.cluster, cert.encode()) for cert in retired.tls]
                try:
                    identity = identity_from_tls(certificate, former, self.clock.now())
                except CertificateRefused:
                    continue
                raise retired_refusal(identity, retired.retired)

    async def preference(self) -> AuthPreference:
        found = await self.find(records.CLUSTER, "cluster-auth-preference", AuthPreference)
        return AuthPreference() if found is None else found[0]

    async def networking(self) -> NetworkingConfig:
        found = await self.find(records.CLUSTER, "cluster-networking-config", NetworkingConfig)
        return NetworkingConfig() if found is None else found[0]

    async def recording(self) -> SessionRecordingConfig:
        found = await self.find(records.CLUSTER, "session-recording-config", SessionRecordingConfig)
        return SessionRecordingConfig() if found is None else found[0]


def _locks(items: Sequence[Item]) -> list[Lock]:
    return [lock for lock in (from_json(item.value) for item in items) if isinstance(lock, Lock)]


def giving_roles(roles: Sequence[str]) -> tuple[Write, list[Condition]]:
    """What goes along with a write that gives a user these roles: each is still there, and whoever removes one, having
    looked who holds it, notices that somebody was given roles meanwhile."""
    return PutOp(records.GIVEN_ROLES, b"{}"), [Exists(records.ROLES + role) for role in dict.fromkeys(roles)]


async def stored_cluster_name(backend: Backend) -> str | None:
    """The name of the cluster whose state `backend` holds; None on the very first start."""
    item = await backend.get(records.CLUSTER + "cluster-name")
    if item is None:
        return None
    resource = from_json(item.value)
    assert isinstance(resource, ClusterName)
    return resource.spec.cluster_name


def document(resource: Resource, *, with_secrets: bool = False) -> Document:
    """A resource as it travels."""
    if with_secrets:
        return Document(to_json(resource, with_secrets=True))
    return Document(to_json(without_secrets(resource)))

"""A second factor for one session: certificates that live for a minute and are marked for one target, and leases.

Rules it keeps (threats T06, T22, T36):
- what is issued says what the shown certificate says, without a restriction less, a login more or a second more;
- who would be refused anyway is refused before a code is looked at;
- a factor that is wrong counts as a failed login, and locks the user as one does; it is good once, for what it was
  asked for;
- a lease is made from a certificate that auth itself verifies; a proxy only adds the address that it saw.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from teleport.api import messages as m
from teleport.audit.events import Event, MfaLeaseCreated, SessionMfa
from teleport.auth.authorizer import Authorizer, Denied
from teleport.auth.certify import UserGrant
from teleport.auth.factors import Factors, event_device, forgiven, refused_factor
from teleport.auth.server import Caller
from teleport.auth.state import ClusterState
from teleport.authz.certificate import certificate_denial
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.locks import user_lock_denial
from teleport.authz.renewal import LEAST_LEFT, evaluate_renewal
from teleport.authz.ssh import SSHAccessRequest, evaluate_ssh_access, lease_lifetime, why_out_of_reach
from teleport.backend.interface import Condition, DeleteOp, Exists, PutOp, Write
from teleport.errors import AccessDenied, BadRequest, CompareFailed
from teleport.identity import MFA_API, HostIdentity, SystemRole, UserIdentity
from teleport.pki.keys import PublicKey
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.sshverify import ENFORCED, verify_user_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.pki.x509subject import decode_user
from teleport.pki.x509verify import certificate_key, load_certificate
from teleport.resources.cluster import RoutingStrategy
from teleport.resources.codec import from_json, to_json
from teleport.resources.lock import Lock
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease, MfaLeaseSpec, lease_name
from teleport.resources.server import Server
from teleport.resources.user import User
from teleport.store import records
from teleport.store.issued import IssuedCert, issued_key
from teleport.store.records import FactorDevice, UserSecret
from teleport.store.resolve import Destination, RegisteredNode, resolve
from teleport.store.standing import user_present

log = logging.getLogger(__name__)

LIFE: Final = timedelta(minutes=1)  # of a certificate for one session (`certificates.md` 2)


@dataclass(frozen=True, slots=True)
class Asked:
    """For what a second factor is proved, as events say it."""

    purpose: str  # session, api, lease
    user: str
    addr: str
    login: str = ""
    server_id: str = ""
    key: str = ""  # fingerprint, of a lease

    @property
    def purpose_of_challenge(self) -> str:
        """What a hardware key's signature is good for: this session, or this lease, and nothing else."""
        return " ".join((self.purpose, self.server_id, self.login, self.key, self.addr if self.key else "")).strip()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Certificates for one session, but for the second factor."""

    asked: Asked
    grant: UserGrant
    key: PublicKey
    login_expires: datetime
    serial: str  # of the login's certificate
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """A second factor that was right. It counts once what is written here has been committed."""

    device: FactorDevice
    writes: tuple[Write, ...]
    conditions: tuple[Condition, ...]


class SessionSecondFactors:
    """The handlers of marked certificates and of leases."""

    def __init__(self, state: ClusterState, authorizer: Authorizer, factors: Factors) -> None:
        self._state = state
        self._authorizer = authorizer
        self._factors = factors

    # certificates

    async def challenge(self, caller: Caller, request: m.SessionChallengeRequest) -> m.FactorChallenge:
        """What the caller's devices are asked, for the one session that is meant. Raises `AccessDenied`."""
        wanted = await self._wanted(caller, request)
        return await self._factors.challenge(wanted.asked.user, wanted.asked.purpose_of_challenge)

    async def session_cert(self, caller: Caller, request: m.SessionCertRequest) -> m.UserCerts:
        """Certificates for the caller's own key, good for a minute and one target. Raises `AccessDenied`."""
        wanted = await self._wanted(caller, request)
        asked, grant = wanted.asked, wanted.grant
        proof = await self._prove(asked, request.factor)
        grant = replace(
            grant,
            ttl=LIFE,
            mfa_device=proof.device.id,
            mfa_target=asked.server_id or MFA_API,
            login_expires=wanted.login_expires,
        )
        now = self._state.clock.now()
        certifier = await self._state.certifier()
        certs = await asyncio.to_thread(certifier.user_certs, grant, wanted.key.line(""), now)
        told = self._state.certified(
            caller, grant, wanted.key, certs, factor=proof.device.kind, renewed_from=wanted.serial
        )
        await self._commit(asked, proof, [], wanted.conditions, [told])
        return certs

    async def _wanted(self, caller: Caller, request: m.SessionChallengeRequest) -> Wanted:
        """What the certificate will say once a second factor was proved; raises `AccessDenied` for whoever would be
        refused with one, too."""
        now = self._state.clock.now()
        serial = caller.identity.serial if isinstance(caller.identity, UserIdentity) else ""
        former = await self._state.record(issued_key("user", serial), IssuedCert)  # read before the locks are
        address = _host(caller.address)
        locks = await self._authorizer.locks()
        permit = evaluate_renewal(
            caller.identity, cluster=self._state.cluster, now=now, client_address=address, locks=locks
        )
        if isinstance(permit, AccessDenial):
            raise Denied(permit)
        identity = caller.identity
        assert isinstance(identity, UserIdentity), "only users have a permit to renew"
        shown = load_certificate(caller.certificate)
        subject = decode_user(shown.subject)
        if subject.usage or subject.kube_cluster:
            raise BadRequest("a certificate that is limited to one use gives none for a session", hint="tsh login")
        user, revision = await self._state.need(records.USERS, permit.user, User)
        policy = Policy(
            roles=await self._state.roles([*identity.roles, *identity.denying]),
            cluster=await self._authorizer.cluster_defaults(),
        )
        if request.host:
            node = await self._node(identity, policy, request)
            self._allowed(identity, policy, node, request.login, address, now, locks)
            asked = Asked("session", user.name, caller.address, request.login, node.host_id)
        else:
            asked = Asked("api", user.name, caller.address)
        grant = await self._authorizer.renewed_grant(user, permit, now, client_ip=address)
        logins = tuple(login for login in grant.logins if login == request.login) if request.host else ()
        if grant.ttl < LEAST_LEFT or (request.host and not logins):
            raise AccessDenied("your roles do not give such certificates any more", hint="tsh login")
        conditions: list[Condition] = [Exists(records.USERS + user.name, revision)]
        if former is not None:  # what ends the login's certificate writes this record, and ends what comes of it
            conditions.append(Exists(former[0].key, former[1]))
        return Wanted(
            asked, replace(grant, logins=logins), certificate_key(shown), identity.expires, serial, tuple(conditions)
        )

    async def _node(self, identity: UserIdentity, policy: Policy, request: m.SessionChallengeRequest) -> Server:
        """The host that is meant, found as the proxy finds it among those that the user may see."""
        now = self._state.clock.now()
        found = [from_json(item.value) for item in await self._state.backend.range(records.NODES)]
        nodes = {server.host_id: server for server in found if isinstance(server, Server)}

        def may_see(node: RegisteredNode) -> bool:
            server = nodes[node.host_id]
            return not why_out_of_reach(
                identity,
                policy,
                cluster=self._state.cluster,
                now=now,
                node_id=server.host_id,
                node_labels=server.all_labels,
                namespace=server.metadata.namespace,
            )

        registered = [RegisteredNode.of(server, now) for server in nodes.values()]
        destination = Destination(request.host, request.port, identity.route_to_cluster)
        strategy = (await self._state.networking()).spec.routing_strategy
        recent = strategy is RoutingStrategy.MOST_RECENT
        return nodes[resolve(destination, registered, self._state.cluster, may_see, most_recent=recent).host_id]

    def _allowed(
        self,
        identity: UserIdentity,
        policy: Policy,
        node: Server,
        login: str,
        address: str,
        now: datetime,
        locks: Sequence[Lock],
    ) -> None:
        """Raises `Denied` unless nothing but the second factor is missing for the session."""
        decision = evaluate_ssh_access(
            SSHAccessRequest(
                identity=identity,
                login=login,
                cluster=self._state.cluster,
                now=now,
                node_id=node.host_id,
                node_hostname=node.hostname,
                node_labels=node.all_labels,
                namespace=node.metadata.namespace,
                client_address=address,
                locks=locks,
            ),
            policy,
        )
        if isinstance(decision, AccessDenial) and decision.code is not DenialCode.MFA_REQUIRED:
            raise Denied(decision)

    # leases

    async def lease(self, caller: Caller, request: m.LeaseRequest) -> m.Lease:
        """A lease for the certificate's key and the client's address. Only proxies ask. Raises `AccessDenied`."""
        if not (isinstance(caller.identity, HostIdentity) and caller.identity.role is SystemRole.PROXY):
            raise AccessDenied("only a proxy asks for leases: it has seen the client prove its key", hint="tsh ssh")
        now = self._state.clock.now()
        try:
            address = str(ipaddress.ip_address(request.client_addr))
        except ValueError:
            raise BadRequest("a lease is for one IP address") from None
        identity, key = await self._proved(request.certificate, now)
        locks = await self._authorizer.locks()
        refused = certificate_denial(
            identity, cluster=self._state.cluster, now=now, client_address=address
        ) or user_lock_denial(identity, locks, now)
        if refused is not None:
            raise Denied(refused)
        policy = Policy(
            roles=await self._state.roles([*identity.roles, *identity.denying]),
            cluster=await self._authorizer.cluster_defaults(),
        )
        lifetime = lease_lifetime(identity, policy, key=key, client_address=address, leases=(), now=now)
        if not lifetime:
            raise AccessDenied("no role of yours gives a lease for plain ssh", hint="tsh ssh asks for a second factor")
        asked = Asked("lease", identity.name, address, key=key)
        proof = await self._prove(asked, request.factor)
        device = proof.device.id
        expires = min(now + lifetime, identity.expires)
        lease = MfaLease(
            metadata=Metadata(name=lease_name(identity.name, key, address), expires=expires),
            spec=MfaLeaseSpec(
                user=identity.name, key=key, client_address=address, device=device, granted=now, expires=expires
            ),
        )
        await self._commit(
            asked,
            proof,
            [PutOp(records.MFA_LEASES + lease.name, to_json(lease), expires)],
            [Exists(records.USERS + identity.name)],
            [
                self._state.event(
                    MfaLeaseCreated,
                    user=identity.name,
                    name=lease.name,
                    expires=expires,
                    key_fingerprint=key,
                    client_addr=address,
                    mfa_device=event_device(proof.device),
                )
            ],
        )
        return m.Lease(name=lease.name, expires=expires)

    async def _proved(self, line: str, now: datetime) -> tuple[UserIdentity, str]:
        """Who the certificate is of, as the cluster knows them now, and the fingerprint of its key."""
        try:
            certificate = parse_certificate_line(line)
        except CertificateRefused as error:
            raise BadRequest(f"a lease is made for an SSH user certificate: {error.message}") from None
        authority = await self._state.authority("user")
        keys = tuple(PublicKey.parse(text) for text in authority.trusted_ssh_keys)
        trusted = TrustedSSHAuthority(AuthorityKind.USER, self._state.cluster, keys)
        identity = verify_user_cert(certificate.blob, (trusted,), now, enforced_critical_options=ENFORCED)
        present = user_present(identity, await self._state.user(identity.name), now)
        if present is None:
            raise AccessDenied("the user of this certificate does not exist any more", hint="tsh login")
        return present, certificate.body.public_key.fingerprint()

    # the second factor itself

    async def _prove(self, asked: Asked, answer: m.FactorResponse) -> Proof:
        """What is to be written for the answer to count. Raises `AccessDenied`, the failure being counted."""
        key = records.USER_SECRETS + asked.user
        found = await self._state.record(key, UserSecret)
        secret, revision = found if found is not None else (UserSecret(), 0)
        checked = await self._factors.check(asked.user, secret, answer, asked.purpose_of_challenge)
        locked = secret.locked(self._state.clock.now())
        if checked.device is None or locked:
            reason = "the user is locked after too many failures" if locked else checked.reason
            await self._failed(asked, reason, checked.spent)
            raise refused_factor()
        return Proof(
            checked.device,
            (PutOp(key, forgiven(checked.secret).encode()), *checked.spent),
            (Exists(key, revision), *checked.conditions),
        )

    async def _commit(
        self,
        asked: Asked,
        proof: Proof,
        writes: Sequence[Write],
        conditions: Sequence[Condition],
        events: Sequence[Event],
    ) -> None:
        """The use of the factor, what it gives and what tells of both, all of it or nothing."""
        try:
            await self._state.commit(
                [*proof.writes, *writes],
                conditions=[*proof.conditions, *conditions],
                events=[self._event(asked, device=proof.device), *events],
            )
        except CompareFailed:
            await self._failed(asked, "the factor was used at the same moment, or the user changed", ())
            raise refused_factor() from None

    async def _failed(self, asked: Asked, reason: str, spent: Sequence[Write]) -> None:
        """Counts the failure as that of a login, with its event, in one transaction."""
        events = [self._event(asked, error=reason)]
        await self._factors.failed(asked.user, known=True, events=events, spent=spent)

    def _event(self, asked: Asked, *, error: str = "", device: FactorDevice | None = None) -> SessionMfa:
        told: dict[str, Any] = {} if device is None else {"mfa_device": event_device(device)}
        return self._state.event(
            SessionMfa,
            user=asked.user,
            login=asked.login,
            purpose=asked.purpose,
            server_id=asked.server_id,
            addr=asked.addr,
            success=not error,
            error=error,
            **told,
        )


async def leases_of(state: ClusterState, user: str, device: str = "") -> list[Write]:
    """What takes every lease of a user away, or those that one device gave."""
    found = [(item.key, from_json(item.value)) for item in await state.backend.range(records.MFA_LEASES)]
    return [DeleteOp(key, missing_ok=True) for key, one in found if isinstance(one, MfaLease) and one.spec.user == user]


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")

"""Leases of second factors for plain ssh: made by a proxy that passes on a code, or by a link that a browser opens.

A lease is made from a certificate that auth itself verifies, each time anew; a proxy only adds the address that it saw.
A link is good once and for as long as its challenge; whoever opens it reads for whom and from where it was asked.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import msgspec

from teleport.api import messages as m
from teleport.audit.events import MfaLeaseCreated
from teleport.auth.authorizer import Authorizer, Denied
from teleport.auth.caller import Caller
from teleport.auth.factors.checking import event_device
from teleport.auth.factors.one_use import Asked, SessionFactor
from teleport.auth.state import ClusterState
from teleport.authz.certificate import certificate_denial
from teleport.authz.decision import Policy
from teleport.authz.locks import user_lock_denial
from teleport.authz.ssh import lease_lifetime
from teleport.backend.interface import Condition, DeleteOp, Exists, PutOp, Write
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki.keys import PublicKey
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.sshverify import ENFORCED, verify_user_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.resources.codec import from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease, MfaLeaseSpec, lease_name
from teleport.store import records
from teleport.store.records import LeaseApprovalRecord
from teleport.store.standing import user_present


class Sites(Protocol):
    """Where people reach the proxies."""

    async def web_address(self) -> str:
        """`host:port`."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """A lease that could be made, but for the second factor."""

    identity: UserIdentity
    key: str
    address: str
    expires: datetime

    @property
    def asked(self) -> Asked:
        return Asked("lease", self.identity.name, self.address, key=self.key)


class MfaLeases:
    """The handlers of leases. Only proxies call them."""

    def __init__(self, state: ClusterState, authorizer: Authorizer, factor: SessionFactor, sites: Sites) -> None:
        self._state = state
        self._authorizer = authorizer
        self._factor = factor
        self._sites = sites

    async def challenge(self, caller: Caller, request: m.LeaseChallengeRequest) -> m.LeaseChallenge:
        """How somebody who has just proved a certificate to a proxy can prove a second factor."""
        _only_proxies(caller)
        wish = await self._wish(request.certificate, request.client_addr)
        challenge = await self._factor.challenge(wish.asked)
        if challenge.webauthn is None:
            return m.LeaseChallenge(totp=challenge.totp)
        token = secrets.token_urlsafe(24)
        record = LeaseApprovalRecord(
            certificate=request.certificate,
            client_addr=wish.address,
            challenge_id=challenge.id,
            challenge=msgspec.json.encode(challenge).decode(),
            expires=challenge.expires,
        )
        key = records.secret_key(records.LEASE_APPROVALS, token)
        await self._state.commit([PutOp(key, record.encode(), record.expires)], events=[])
        return m.LeaseChallenge(
            totp=challenge.totp, link=f"https://{await self._sites.web_address()}/web/lease/{token}"
        )

    async def approval(self, caller: Caller, request: m.LeaseApprovalRequest) -> m.LeaseApproval:
        """What the page behind a link shows, and asks a hardware key."""
        _only_proxies(caller)
        record, _, _ = await self._asked(request.token)
        wish = await self._wish(record.certificate, record.client_addr)
        return m.LeaseApproval(
            user=wish.identity.name,
            cluster=self._state.cluster,
            client_addr=wish.address,
            key_fingerprint=wish.key,
            until=wish.expires,
            challenge=msgspec.json.decode(record.challenge, type=m.FactorChallenge),
        )

    async def approve(self, caller: Caller, request: m.ApproveLeaseRequest) -> m.Lease:
        """The lease that a link was for, by what a hardware key signed. A link is good for one attempt."""
        _only_proxies(caller)
        record, spent, unspent = await self._asked(request.token)
        if request.factor.challenge_id != record.challenge_id or request.factor.webauthn is None:
            raise BadRequest("this link is approved with a hardware key", hint="type a code where ssh asks for one")
        wish = await self._wish(record.certificate, record.client_addr)
        return await self._make(wish, request.factor, [spent], [unspent])

    async def lease(self, caller: Caller, request: m.LeaseRequest) -> m.Lease:
        """A lease for the certificate's key and the client's address. Raises `AccessDenied`."""
        _only_proxies(caller)
        return await self._make(await self._wish(request.certificate, request.client_addr), request.factor, [], [])

    async def _wish(self, line: str, client_addr: str) -> Wish:
        """What a lease would be; raises `AccessDenied` for whoever could have none."""
        now = self._state.clock.now()
        try:
            address = str(ipaddress.ip_address(client_addr))
        except ValueError:
            raise BadRequest("a lease is for one IP address") from None
        identity, key = await self._proved(line, now)
        refused = certificate_denial(
            identity, cluster=self._state.cluster, now=now, client_address=address
        ) or user_lock_denial(identity, await self._authorizer.locks(), now)
        if refused is not None:
            raise Denied(refused)
        policy = Policy(
            roles=await self._state.roles([*identity.roles, *identity.denying]),
            cluster=await self._authorizer.cluster_defaults(),
        )
        lifetime = lease_lifetime(identity, policy, key=key, client_address=address, leases=(), now=now)
        if not lifetime:
            raise AccessDenied("no role of yours gives a lease for plain ssh", hint="tsh ssh asks for a second factor")
        return Wish(identity, key, address, min(now + lifetime, identity.expires))

    async def _make(
        self, wish: Wish, factor: m.FactorResponse, writes: Sequence[Write], conditions: Sequence[Condition]
    ) -> m.Lease:
        proof = await self._factor.prove(wish.asked, factor)
        user, now = wish.identity.name, self._state.clock.now()
        lease = MfaLease(
            metadata=Metadata(name=lease_name(user, wish.key, wish.address), expires=wish.expires),
            spec=MfaLeaseSpec(
                user=user,
                key=wish.key,
                client_address=wish.address,
                device=proof.device.id,
                granted=now,
                expires=wish.expires,
            ),
        )
        told = self._state.event(
            MfaLeaseCreated,
            user=user,
            name=lease.name,
            expires=wish.expires,
            key_fingerprint=wish.key,
            client_addr=wish.address,
            mfa_device=event_device(proof.device),
        )
        await self._factor.commit(
            wish.asked,
            proof,
            [PutOp(records.MFA_LEASES + lease.name, to_json(lease), wish.expires), *writes],
            [Exists(records.USERS + user), *conditions],
            [told],
        )
        return m.Lease(name=lease.name, expires=wish.expires)

    async def _asked(self, token: str) -> tuple[LeaseApprovalRecord, Write, Condition]:
        """What a link is for, and what uses it up. Raises `NotFound`."""
        key = records.secret_key(records.LEASE_APPROVALS, token)
        found = await self._state.record(key, LeaseApprovalRecord)
        if found is None or found[0].expires <= self._state.clock.now():
            raise NotFound(
                "this link was used, has expired, or never existed", hint="connect again: ssh shows a new one"
            )
        return found[0], DeleteOp(key, missing_ok=True), Exists(key, found[1])

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


def _only_proxies(caller: Caller) -> None:
    if not (isinstance(caller.identity, HostIdentity) and caller.identity.role is SystemRole.PROXY):
        raise AccessDenied("only a proxy asks for leases: it has seen the client prove its key", hint="tsh ssh")


async def leases_of(state: ClusterState, user: str, device: str = "") -> list[Write]:
    """What takes every lease of a user away, or those that one device gave."""
    found = [(item.key, from_json(item.value)) for item in await state.backend.range(records.MFA_LEASES)]
    return [
        DeleteOp(key, missing_ok=True)
        for key, one in found
        if isinstance(one, MfaLease) and one.spec.user == user and device in ("", one.spec.device)
    ]

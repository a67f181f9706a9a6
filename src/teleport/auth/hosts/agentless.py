"""Hosts with a plain sshd: how they are registered, and what proxies get that speak for them.

A proxy gets two things, each for a key that never leaves its memory:

- a host certificate for the name of a *registered* host, for ten minutes, so that whoever comes by `ssh -J` finds that
  name proved. Auth remembers which key speaks for which host, by which proxy;
- a certificate of five minutes to enter that host as one account, against proof of a live connection
  (`pki.live_proof`): the user's own certificate, and the user's signature over a connection to that very key. Auth
  decides about it as a node would, and signs once for each connection.

So a proxy cannot invent a user; what was on its disk gives nobody a certificate to enter; and a signature that somebody
made for another server, or an hour ago, is for a key that auth does not know any more.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import ipaddress
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn

from teleport.api import messages as m
from teleport.audit.events import AuthSign, CertCreate, Event, NodeCreate, OpensshCertCreate, OpensshNameCreate
from teleport.auth.authorities.certify import UserGrant, agentless_cert
from teleport.auth.authorizer import Authorizer, Denied, require_administrator
from teleport.auth.caller import Caller
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial, Policy
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access
from teleport.backend.interface import Absent, Condition, Exists, PutOp
from teleport.errors import AccessDenied, BadRequest, CompareFailed, NotFound
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki.agentless import LIFE, AgentlessCertRequest, bundle, sign_bundle
from teleport.pki.keys import PublicKey
from teleport.pki.live_proof import Evidence, LiveProof, check_evidence
from teleport.pki.pin import ca_pin
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshcert import HOST_LIFETIME, HostCertRequest
from teleport.pki.sshformat import SSHCertificate, parse_certificate_line
from teleport.pki.trust import AuthorityKind
from teleport.resources.cluster import RecordingMode
from teleport.resources.codec import checked, from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease, lease_name
from teleport.resources.names import canonical_host
from teleport.resources.server import Server, ServerSpec
from teleport.resources.values import HostPort
from teleport.store import records

AT_PROXIES: Final = (RecordingMode.PROXY, RecordingMode.PROXY_SYNC)
NAME_LIFE: Final = timedelta(minutes=10)  # of a certificate that shows a registered name
SLACK: Final = timedelta(minutes=5)  # for clocks: what was used is remembered for longer than it could be used again


class NameRecord(records.Record, frozen=True, kw_only=True):
    """A key that speaks for a host."""

    host_id: str
    proxy: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class _Wish:
    """A connection that is asked for, as far as it is proved."""

    identity: UserIdentity
    proof: LiveProof
    name: NameRecord
    node: Server
    key: str  # fingerprint of the user's key
    address: str


class Agentless:
    """The handlers of registered hosts with a plain sshd."""

    def __init__(self, state: ClusterState, authorizer: Authorizer) -> None:
        self._state = state
        self._authorizer = authorizer

    # registering

    async def register(self, caller: Caller, request: m.RegisterOpensshRequest) -> m.OpensshHost:
        """Registers a host, certifies its host key, and says what it is to be told, signed by the authority that the CA
        pin is of."""
        require_administrator(caller, "register a host with a plain sshd")
        key = PublicKey.parse(request.host_key)
        if key.is_security_key:
            raise BadRequest("a security key is no key of a host", hint="--host-key=/etc/ssh/ssh_host_ed25519_key.pub")
        ttl = timedelta(seconds=request.ttl) if request.ttl > 0 else HOST_LIFETIME
        stored, revision = await self._stored(request)
        host_id = stored.host_id if stored is not None else request.host_id or str(uuid.uuid4())
        node = checked(
            Server(
                kind="node",
                sub_kind="openssh",
                metadata=Metadata(name=host_id, labels=request.labels or (stored.metadata.labels if stored else {})),
                spec=ServerSpec(addr=request.addr, hostname=request.hostname),
            )
        )
        now = self._state.clock.now()
        certifier = await self._state.certifier()
        names = node_names(node, self._state.cluster)
        certs = await asyncio.to_thread(certifier.plain_host_cert, host_id, names, key.line(""), ttl, now)
        trusted = await self._state.authority(AuthorityKind.OPENSSH)
        keys = tuple(PublicKey.parse(line) for line in trusted.trusted_ssh_keys)
        text = bundle(self._state.cluster, host_id, keys, certs.ssh_cert)
        pem, signature = await asyncio.to_thread(certifier.sign_for_pin, lambda signer: sign_bundle(text, signer))
        place = records.NODES + host_id
        condition: Condition = Exists(place, revision) if stored is not None else Absent(place)
        events = [
            self._state.event(NodeCreate, caller, name=host_id, hostname=node.hostname),
            self._state.event(
                AuthSign, caller, subject=",".join(names), format="openssh", ttl=f"{ttl.total_seconds():.0f}s",
                valid_until=certs.expires,
            ),
            self._state.event(
                CertCreate, caller, cert_type="host", subject=host_id, system_roles=[str(SystemRole.NODE)],
                valid_until=certs.expires, serial=certs.serial, names=list(names), addr=caller.address,
                factor="administrator", signed_by=certs.signed_by,
            ),
        ]  # fmt: skip
        await self._state.commit([PutOp(place, to_json(node))], conditions=[condition], events=events)
        return m.OpensshHost(
            host_id=host_id,
            bundle=text,
            signature=base64.b64encode(signature).decode(),
            authority=pem.decode(),
            ca_pin=ca_pin(pem),
            expires=certs.expires,
            renewed=stored is not None,
        )

    async def _stored(self, request: m.RegisterOpensshRequest) -> tuple[Server | None, int]:
        """The registered host that is meant, and its revision."""
        if request.host_id:
            found = await self._state.find(records.NODES, request.host_id, Server)
            if found is None:
                return None, 0
            if not found[0].agentless:
                raise BadRequest(
                    f"{request.host_id} is a node with a node service", hint="leave --host-id out: a new one is made"
                )
            return found
        items = await self._state.backend.range(records.NODES)
        same = [
            (server, item.revision)
            for item in items
            if isinstance(server := from_json(item.value), Server)
            and server.agentless
            and canonical_host(server.hostname) == canonical_host(request.hostname)
        ]
        if len(same) > 1:
            raise BadRequest(
                f"{len(same)} registered hosts are called {request.hostname}", hint="say which: --host-id=UUID"
            )
        return same[0] if same else (None, 0)

    # for proxies

    async def name(self, caller: Caller, request: m.OpensshNameRequest) -> m.OpensshName:
        """A host certificate with which a proxy shows the name of a registered host."""
        proxy = _only_proxies(caller)
        node = await self._node(request.host_id)
        key = PublicKey.parse(request.public_key)
        now = self._state.clock.now()
        certifier = await self._state.certifier()
        # The certificate is the proxy's own, with the names of the host: it says nothing for that host elsewhere.
        asked = HostCertRequest(key, proxy.host_id, SystemRole.NODE, node_names(node, self._state.cluster), NAME_LIFE)
        signed = await asyncio.to_thread(certifier.sign_host_cert, asked, now)
        expires = now + NAME_LIFE
        record = NameRecord(host_id=node.host_id, proxy=proxy.host_id, expires=expires)
        place = records.AGENTLESS_NAMES + _fingerprint(key)
        event = self._state.event(
            OpensshNameCreate,
            server_id=node.host_id,
            server_hostname=node.hostname,
            proxy=proxy.host_id,
            key_fingerprint=key.fingerprint(),
            valid_until=expires,
        )
        try:
            await self._state.commit(
                [PutOp(place, record.encode(), expires + SLACK)], conditions=[Absent(place)], events=[event]
            )
        except CompareFailed:
            raise BadRequest("this key speaks for a host already", hint="make one for each") from None
        return m.OpensshName(ssh_cert=signed.line(), expires=expires)

    async def sign(self, caller: Caller, request: m.SignOpensshRequest) -> m.OpensshCert:
        """A certificate to enter a registered host for the user who is connected to the proxy that asks."""
        proxy = _only_proxies(caller)
        key = PublicKey.parse(request.public_key)
        wish = await self._wish(proxy, request)
        decision = await self._decide(wish)
        if isinstance(decision, AccessDenial):
            await self._refuse(wish, key, f"{decision.code}: {'; '.join(decision.reasons)}", Denied(decision))
        now = self._state.clock.now()
        told: list[Event] = []
        if wish.node.agentless:
            signed = await self._for_sshd(wish, decision, key, now)
        else:
            signed = await self._for_node(wish, decision, key, now)
            told.append(self._in_inventory(wish, signed, now))
        used = records.AGENTLESS_PROOFS + hashlib.sha256(wish.proof.session_id).hexdigest()
        event = self._told(wish, key, serial=str(signed.body.serial), valid_until=now + LIFE)
        try:
            # In one transaction with the event: a connection is signed for once, whatever happens at the same moment.
            await self._state.commit(
                [PutOp(used, b"{}", wish.name.expires + SLACK + SLACK)],
                conditions=[Absent(used)],
                events=[event, *told],
            )
        except CompareFailed:
            await self._refuse(wish, key, "this connection was signed for before", AccessDenied(
                "a certificate was signed for this connection before", hint="connect again"
            ))  # fmt: skip
        return m.OpensshCert(ssh_cert=signed.line(), host_id=wish.node.host_id, expires=now + LIFE)

    async def _for_sshd(self, wish: _Wish, decision: SSHAccessPermit, key: PublicKey, now: datetime) -> SSHCertificate:
        authority = await self._state.authority(AuthorityKind.OPENSSH)
        asked = AgentlessCertRequest(
            public_key=key,
            user=wish.identity.name,
            login=decision.login,
            host_id=wish.node.host_id,
            port_forwarding=decision.channels.port_forwarding,
            agent_forwarding=decision.channels.forward_agent,
            x11_forwarding=decision.channels.x11_forwarding,
        )
        return await asyncio.to_thread(agentless_cert, authority, self._state.keys, asked, now)

    async def _for_node(self, wish: _Wish, decision: SSHAccessPermit, key: PublicKey, now: datetime) -> SSHCertificate:
        """What the user's own certificate says, for the proxy's key, for minutes and this one account.

        The node decides by it as by the user's own. A second factor counts for this node, also one that a lease stands
        for, which is for the user's own key; how long the lease lasts is for the proxy to hold to.
        """
        identity = wish.identity
        if identity.force_command:
            raise AccessDenied(
                "your certificate is good for one command, which is not done where proxies record",
                hint="ask an administrator for another certificate",
            )
        device, target = identity.mfa_device, identity.mfa_target
        if decision.mfa_verified:
            device = decision.lease.spec.device if decision.lease is not None else identity.mfa_device
            target = wish.node.host_id
        grant = UserGrant(
            user=identity.name,
            roles=identity.roles,
            logins=(decision.login,),
            traits=identity.traits,
            ttl=LIFE,
            route_to_cluster=identity.route_to_cluster,
            port_forwarding=decision.channels.port_forwarding,
            agent_forwarding=decision.channels.forward_agent,
            x11_forwarding=decision.channels.x11_forwarding,
            client_ip=wish.address,
            mfa_device=device,
            mfa_target=target,
            login_expires=identity.login_expires or identity.expires,
            login_serial=identity.login_serial or identity.serial,
            source_ip=identity.source_ip,
            active_requests=identity.active_requests,
            impersonator=identity.impersonator,
            recorded_by=wish.name.proxy,
            origin=identity.origin,
        )
        certifier = await self._state.certifier()
        return await asyncio.to_thread(certifier.proxied_user_cert, grant, key, now)

    def _in_inventory(self, wish: _Wish, signed: SSHCertificate, now: datetime) -> CertCreate:
        """Whoever ends the user's certificate ends this one, too."""
        identity, body = wish.identity, signed.body
        return self._state.event(
            CertCreate,
            user=identity.name,
            cert_type="user",
            subject=identity.name,
            roles=list(identity.roles),
            logins=list(body.principals),
            key_fingerprint=body.public_key.fingerprint(),
            valid_until=now + LIFE,
            serial=str(body.serial),
            traits={name: list(values) for name, values in identity.traits.items()},
            addr=wish.address,
            factor="proxy",
            source_ip=identity.source_ip,
            renewed_from=identity.serial,
            signed_by=PublicKey.from_blob(signed.signer).fingerprint(),
        )

    async def _wish(self, proxy: HostIdentity, request: m.SignOpensshRequest) -> _Wish:
        """Who is connected, to which host's name, as what account. Raises `AccessDenied`."""
        now = self._state.clock.now()
        try:
            address = str(ipaddress.ip_address(request.client_addr))
        except ValueError:
            raise BadRequest("a connection comes from one IP address") from None
        evidence = Evidence(
            _bytes(request.exchange), request.hash_name, _bytes(request.request), _bytes(request.signature)
        )
        try:
            certificate = parse_certificate_line(request.certificate)
        except CertificateRefused as error:
            raise BadRequest(f"what a user proved is a certificate: {error.message}") from error
        proof = check_evidence(evidence, certificate.blob)
        identity = await self._state.ssh_user(certificate.blob)
        found = await self._state.record(records.AGENTLESS_NAMES + _fingerprint(proof.host_key), NameRecord)
        name = found[0] if found is not None else None
        if name is None or now >= name.expires or name.proxy != proxy.host_id:
            # Not a word about the user's rights: the proof is not of a connection to a name of this proxy's.
            await self._state.tell(
                self._state.event(
                    OpensshCertCreate,
                    success=False,
                    error="the proof is of a connection to a key that speaks for no host at this proxy",
                    user=identity.name,
                    login=proof.login,
                    proxy=proxy.host_id,
                    addr_remote=address,
                    cert_serial=identity.serial,
                )
            )
            raise AccessDenied("this connection does not prove whom it is for", hint="connect again")
        node = await self._node(name.host_id)
        key = certificate.body.public_key.fingerprint()
        return _Wish(identity, proof, name, node, key, address)

    async def _decide(self, wish: _Wish) -> SSHAccessPermit | AccessDenial:
        """As a node would, by what auth knows now."""
        now, identity, node = self._state.clock.now(), wish.identity, wish.node
        policy = Policy(
            roles=await self._state.roles([*identity.roles, *identity.denying]),
            cluster=await self._authorizer.cluster_defaults(),
        )
        lease = await self._state.find(records.MFA_LEASES, lease_name(identity.name, wish.key, wish.address), MfaLease)
        request = SSHAccessRequest(
            identity=identity,
            login=wish.proof.login,
            cluster=self._state.cluster,
            now=now,
            node_id=node.host_id,
            node_hostname=node.hostname,
            node_labels=node.all_labels,
            namespace=node.metadata.namespace,
            client_address=wish.address,
            locks=await self._authorizer.locks(),
            key=wish.key,
            vouched=True,
            leases=(lease[0],) if lease is not None else (),
            joinable=False,
        )
        return evaluate_ssh_access(request, policy)

    async def _refuse(self, wish: _Wish, key: PublicKey, why: str, error: AccessDenied) -> NoReturn:
        await self._state.tell(self._told(wish, key, success=False, error=why))
        raise error

    def _told(self, wish: _Wish, key: PublicKey, **fields: Any) -> OpensshCertCreate:
        return self._state.event(
            OpensshCertCreate,
            user=wish.identity.name,
            login=wish.proof.login,
            server_id=wish.node.host_id,
            server_hostname=wish.node.hostname,
            addr_remote=wish.address,
            proxy=wish.name.proxy,
            key_fingerprint=key.fingerprint(),
            user_key=wish.key,
            cert_serial=wish.identity.serial,
            **fields,
        )

    async def _node(self, host_id: str) -> Server:
        """A host for which proxies speak: one with a plain sshd; where the cluster records at proxies, every node."""
        found = await self._state.find(records.NODES, host_id, Server)
        if found is None or not (found[0].agentless or (await self._state.recording()).spec.mode in AT_PROXIES):
            raise NotFound(
                f"no host with a plain sshd is registered as {host_id[:64]!r}", hint="tctl nodes add --type=openssh"
            )
        return found[0]


def node_names(node: Server, cluster: str) -> tuple[str, ...]:
    """The names by which people reach a registered host."""
    address = canonical_host(HostPort.parse(node.spec.addr, 0).host)
    hostname = canonical_host(node.hostname)
    return tuple(dict.fromkeys((f"{node.host_id}.{cluster}", node.host_id, f"{hostname}.{cluster}", hostname, address)))


def _only_proxies(caller: Caller) -> HostIdentity:
    identity = caller.identity
    if not isinstance(identity, HostIdentity) or identity.role is not SystemRole.PROXY:
        raise AccessDenied("only a proxy speaks for hosts")
    return identity


def _fingerprint(key: PublicKey) -> str:
    return hashlib.sha256(key.blob).hexdigest()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadRequest("what proves a connection is base64") from None

"""A second factor for one session: certificates that live for a minute and are marked for one target.

Rules it keeps (threat T06): what is issued says what the shown certificate says, without a restriction less, a login
more or a second more; who would be refused anyway is refused before a factor is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.auth.authorities.certify import UserGrant
from teleport.auth.authorizer import Authorizer, Denied
from teleport.auth.caller import Caller
from teleport.auth.certificates.renewal import KUBE, kube_name
from teleport.auth.factors.one_use import Asked, SessionFactor
from teleport.auth.resources.kube_access import KubeAccess
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.kube import is_due
from teleport.authz.renewal import LEAST_LEFT, evaluate_renewal
from teleport.authz.ssh import SSHAccessRequest, evaluate_ssh_access, why_out_of_reach
from teleport.backend.interface import Condition, Exists
from teleport.errors import AccessDenied, BadRequest, LimitExceeded
from teleport.identity import UserIdentity
from teleport.pki.keys import PublicKey
from teleport.pki.x509subject import decode_user
from teleport.pki.x509verify import certificate_key, load_certificate
from teleport.resources.cluster import RoutingStrategy
from teleport.resources.codec import at_a_glance, from_json
from teleport.resources.lock import Lock
from teleport.resources.server import Server
from teleport.resources.user import User
from teleport.store import records
from teleport.store.issued import IssuedCert, issued_key
from teleport.store.resolve import Destination, RegisteredNode, resolve
from teleport.transport.limits import RateLimit

LIFE: Final = timedelta(minutes=1)  # of a certificate for one session (`certificates.md` 2)
ASKED: Final = 1.0  # of one user in a second, after the first: each looks at all hosts
ASKED_BURST: Final = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Certificates for one session, but for the second factor."""

    asked: Asked
    grant: UserGrant
    key: PublicKey
    login_expires: datetime
    serial: str  # of the login's certificate
    conditions: tuple[Condition, ...]
    user: User


class SessionSecondFactors:
    """The handlers of marked certificates."""

    def __init__(self, state: ClusterState, authorizer: Authorizer, factor: SessionFactor) -> None:
        self._state = state
        self._authorizer = authorizer
        self._factor = factor
        self._asked = RateLimit(ASKED, ASKED_BURST)

    async def challenge(self, caller: Caller, request: m.SessionChallengeRequest) -> m.FactorChallenge:
        """What the caller's devices are asked, for the one session that is meant. Raises `AccessDenied`."""
        wanted = await self._wanted(caller, request)
        return await self._factor.challenge(wanted.asked)

    async def session_cert(self, caller: Caller, request: m.SessionCertRequest) -> m.UserCerts:
        """Certificates for the caller's own key, good for a minute and one target. Raises `AccessDenied`."""
        wanted = await self._wanted(caller, request)
        asked, grant = wanted.asked, wanted.grant
        proof = await self._factor.prove(asked, request.factor)
        grant = replace(
            grant,
            ttl=LIFE,
            mfa_device=proof.device.id,
            mfa_target=asked.target,
            login_expires=wanted.login_expires,
            login_serial=wanted.serial,
        )
        now = self._state.clock.now()
        certifier = await self._state.certifier()
        certs = await asyncio.to_thread(certifier.user_certs, grant, wanted.key.line(""), now)
        told = self._state.certified(
            caller, grant, wanted.key, certs, factor=proof.device.kind, renewed_from=wanted.serial
        )
        await self._factor.commit(asked, proof, [], wanted.conditions, [told])
        if request.joins:  # what calls need is given to whoever asked for calls
            certs = msgspec.structs.replace(certs, tls_cert="")
        return await self._authorizer.told_of_clusters(certs, wanted.user, grant)

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
        if not self._asked.allow(identity.name, self._state.clock.monotonic()):
            raise LimitExceeded(
                "second factors for sessions are asked for too often", hint="try again in a few seconds"
            )
        shown = load_certificate(caller.certificate)
        subject = decode_user(shown.subject)
        if subject.usage or subject.kube_cluster:
            raise BadRequest("a certificate that is limited to one use gives none for a session", hint="tsh login")
        user, revision = await self._state.need(records.USERS, permit.user, User)
        _one_target(request)
        if request.host:
            policy = Policy(
                roles=await self._state.roles([*identity.roles, *identity.denying]),
                cluster=await self._authorizer.cluster_defaults(),
            )
            node = await self._node(identity, policy, request)
            self._allowed(identity, policy, node, request.login, address, now, locks)
            asked = Asked("session", user.name, caller.address, request.login, node.host_id)
        elif request.kube_cluster:
            name = kube_name(request.kube_cluster)
            decision = (await KubeAccess.of(self._state, self._authorizer, identity, address)).of_certificate(name)
            if isinstance(decision, AccessDenial) and not is_due(decision):
                raise Denied(decision)
            asked = Asked("session", user.name, caller.address, kube_cluster=name, joins=request.joins)
            permit = replace(permit, route_to_cluster=self._state.cluster)
        else:
            asked = Asked("api", user.name, caller.address)
        grant = await self._authorizer.grants.renewed(user, identity, permit, now, client_ip=address)
        if asked.kube_cluster and not request.joins:
            grant = replace(grant, usage=KUBE, kube_cluster=asked.kube_cluster)
        logins = tuple(login for login in grant.logins if login == request.login) if request.host else ()
        if grant.ttl < LEAST_LEFT or (request.host and not logins):
            raise AccessDenied("your roles do not give such certificates any more", hint="tsh login")
        conditions: list[Condition] = [Exists(records.USERS + user.name, revision)]
        if former is not None:  # what ends the login's certificate writes this record, and ends what comes of it
            conditions.append(Exists(former[0].key, former[1]))
        return Wanted(
            asked,
            replace(grant, logins=logins),
            certificate_key(shown),
            identity.expires,
            serial,
            tuple(conditions),
            user,
        )

    async def _node(self, identity: UserIdentity, policy: Policy, request: m.SessionChallengeRequest) -> Server:
        """The host that is meant, found as the proxy finds it among those that the user may see."""
        now = self._state.clock.now()
        items = {item.key: item for item in await self._state.backend.range(records.NODES)}
        seen = [at_a_glance(item.value) for item in items.values()]
        nodes = {one.host_id: one for one in seen}

        def may_see(node: RegisteredNode) -> bool:
            one = nodes[node.host_id]
            return not why_out_of_reach(
                identity,
                policy,
                cluster=self._state.cluster,
                now=now,
                node_id=one.host_id,
                node_labels=one.all_labels,
                namespace=one.namespace,
            )

        registered = [RegisteredNode.of(one, now) for one in seen]
        destination = Destination(request.host, request.port, identity.route_to_cluster)
        strategy = (await self._state.networking()).spec.routing_strategy
        recent = strategy is RoutingStrategy.MOST_RECENT
        host_id = resolve(destination, registered, self._state.cluster, may_see, most_recent=recent).host_id
        server = from_json(items[records.NODES + host_id].value)
        assert isinstance(server, Server), "nothing else is stored there"
        return server

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


def _one_target(request: m.SessionChallengeRequest) -> None:
    """Raises `BadRequest` where it is not clear what the factor is for."""
    if request.kube_cluster and (request.host or request.port or request.login):
        raise BadRequest("a second factor is for a host or for a Kubernetes cluster, not for both")
    if request.joins and not request.kube_cluster:
        raise BadRequest("a second factor for joining is one for a Kubernetes cluster, and none was named")


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")

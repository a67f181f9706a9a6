"""A user's certificate issued anew before it ends: with what the user's roles say now, never for longer.

The request says nothing. Name, key and end are those of the certificate that the TLS session proved, so nobody can
ask for another name, another key or more time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer, Denied
from teleport.auth.caller import Caller
from teleport.auth.resources.kube_access import KubeAccess
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial
from teleport.authz.kube import is_due
from teleport.authz.renewal import LEAST_LEFT, evaluate_renewal
from teleport.backend.interface import Exists
from teleport.clock import Clock
from teleport.errors import AccessDenied, BadRequest, LimitExceeded, NotFound
from teleport.identity import HostIdentity, UserIdentity
from teleport.pki.x509subject import decode_user
from teleport.pki.x509verify import certificate_key, load_certificate
from teleport.resources.user import User
from teleport.store import records
from teleport.store.issued import IssuedCert, issued_key
from teleport.store.standing import user_present
from teleport.transport.limits import RateLimit

RENEWALS: Final = 1 / 15  # of one identity in a second, after the first
RENEWAL_BURST: Final = 20.0
IDENTITIES: Final = 100_000  # that are remembered
MAX_KUBE_NAME: Final = 253  # bytes
KUBE: Final = "usage:kube"


class RenewalRate:
    """How often one identity gets certificates anew: each is a signature, an event and a write.

    A rotation takes a handful for each; whoever asks more often is told when to come again, a little later than
    others so that they do not come together.
    """

    def __init__(self, clock: Clock, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers in [0, 1)."""
        self._clock, self._jitter = clock, jitter
        self._rate = RateLimit(RENEWALS, RENEWAL_BURST, addresses=IDENTITIES)

    def take(self, identity: str) -> None:
        """Counts one. Raises `LimitExceeded`, which says when to try again."""
        now = self._clock.monotonic()
        if not self._rate.allow(identity, now):
            after = self._rate.wait(identity, now) * (1 + self._jitter())
            raise LimitExceeded(
                "certificates were renewed too often", hint=f"try again in {after:.0f} s", retry_after=after
            )


def kube_name(text: str) -> str:
    """The name of a Kubernetes cluster that a certificate may carry. Whether there is one, the proxy knows. Raises
    `BadRequest`."""
    if len(text.encode("utf-8", "replace")) > MAX_KUBE_NAME or not text.isprintable() or text != text.strip():
        raise BadRequest(f"{text[:80]!a} cannot be the name of a Kubernetes cluster", hint="tsh kube ls")
    return text


class Renewals:
    """Renews what users hold. A certificate for one Kubernetes cluster holds the same and is good for less: it has the
    login's key and end, and ends with it (`login_serial`)."""

    def __init__(self, state: ClusterState, authorizer: Authorizer) -> None:
        self._state = state
        self._authorizer = authorizer
        self._rate = RenewalRate(state.clock, random.random)

    def limited(
        self, renew: Callable[[Caller, m.RenewHostRequest], Awaitable[m.HostCredentials]]
    ) -> Callable[[Caller, m.RenewHostRequest], Awaitable[m.HostCredentials]]:
        """The handler that renews what hosts hold, no oftener than one identity may."""

        async def handler(caller: Caller, request: m.RenewHostRequest) -> m.HostCredentials:
            if isinstance(caller.identity, HostIdentity):
                self._rate.take(f"host {caller.identity.host_id} {caller.identity.role}")
            return await renew(caller, request)

        return handler

    async def _known(self, cluster: str, identity: UserIdentity, user: User) -> None:
        """Raises `NotFound` for a cluster to which no certificate leads, or none of this user's."""
        present = user_present(identity, user, self._state.clock.now())
        reached = await self._authorizer.reached_clusters(present) if present is not None else ()
        if cluster != self._state.cluster and cluster not in reached:
            raise NotFound(f"the cluster {cluster[:100]!r} is not known here", hint="tsh clusters")

    async def _no_factor_due(self, caller: Caller, name: str, cluster: str) -> None:
        """Raises `Denied` where calls to a Kubernetes cluster of ours need a second factor: no certificate of this kind
        would let in there (`factors.session` gives one that does). What else forbids them, its proxy says."""
        assert isinstance(caller.identity, UserIdentity), "only users have a permit to renew"
        if cluster != self._state.cluster:
            return
        access = await KubeAccess.of(self._state, self._authorizer, caller.identity, caller.host)
        decision = access.of_certificate(name)
        if isinstance(decision, AccessDenial) and is_due(decision):
            raise Denied(decision)

    async def renew(self, caller: Caller, request: m.RenewUserRequest) -> m.UserCerts:
        """Certificates for the key of the caller's own, which end when those do; perhaps to go to another cluster.
        Raises `AccessDenied`, `NotFound` for a cluster that is none, `LimitExceeded` when asked for too often."""
        now = self._state.clock.now()
        serial = caller.identity.serial if isinstance(caller.identity, UserIdentity) else ""
        former = await self._state.record(issued_key("user", serial), IssuedCert)  # read before the locks are
        decision = evaluate_renewal(
            caller.identity,
            cluster=self._state.cluster,
            now=now,
            client_address=caller.host,
            locks=await self._authorizer.locks(),
        )
        if isinstance(decision, AccessDenial):
            raise Denied(decision)
        shown = load_certificate(caller.certificate)
        self._rate.take(f"user {decision.user} {certificate_key(shown).fingerprint()}")
        subject = decode_user(shown.subject)
        if subject.usage or subject.kube_cluster:
            raise BadRequest("a certificate that is limited to one use is not renewed", hint="tsh login")
        found = await self._state.find(records.USERS, decision.user, User)
        if found is None:
            raise AccessDenied("the user of this certificate does not exist any more", hint="tsh login")
        user, revision = found
        assert isinstance(caller.identity, UserIdentity), "only users have a permit to renew"
        if request.route_to_cluster:
            await self._known(request.route_to_cluster, caller.identity, user)
            decision = replace(decision, route_to_cluster=request.route_to_cluster)
        grant = await self._authorizer.grants.renewed(user, caller.identity, decision, now, client_ip=subject.client_ip)
        if request.kube_cluster:
            name = kube_name(request.kube_cluster)
            await self._no_factor_due(caller, name, grant.route_to_cluster)
            grant = replace(grant, usage=KUBE, kube_cluster=name, logins=(), login_serial=serial)
        if grant.ttl < LEAST_LEFT:
            raise AccessDenied("your roles do not give certificates that long any more", hint="tsh login")
        key = certificate_key(shown)
        certifier = await self._state.certifier()
        certs = await asyncio.to_thread(certifier.user_certs, grant, key.line(""), now)
        conditions = [Exists(records.USERS + user.name, revision)]
        if former is not None:  # what ends it writes this record: then there is no new one
            conditions.append(Exists(former[0].key, former[1]))
        told = self._state.certified(
            caller,
            grant,
            key,
            certs,
            factor=former[0].factor if former is not None else "",
            renewed_from=serial,
        )
        await self._state.commit([], conditions=conditions, events=[told])
        return await self._authorizer.told_of_clusters(certs, user, grant)

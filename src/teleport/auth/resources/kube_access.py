"""What auth itself decides about Kubernetes clusters: who may use which, by the labels that proxies and services tell.

It is the decision of the proxy that `kubectl` comes to (`authz.kube`), over the same clusters: those that proxies lead
to themselves come first, then those of services.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from teleport.auth.authorizer import Authorizer
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial, Policy
from teleport.authz.kube import KubeAccessPermit, KubeAccessRequest, evaluate_kube_access, is_due, is_open
from teleport.identity import UserIdentity
from teleport.resources.codec import from_json
from teleport.resources.server import KubeClusterEntry, Server
from teleport.store import records

WHERE: Final = (records.PROXIES, records.KUBE_SERVICES)  # a proxy asks those that it leads to itself before services


class KubeAccess:
    """The decisions about one person, by the policy of the moment when it was made."""

    def __init__(self, request: KubeAccessRequest, policy: Policy, servers: list[Server]) -> None:
        self._request = request
        self._policy = policy
        self._servers = servers

    @classmethod
    async def of(
        cls, state: ClusterState, authorizer: Authorizer, identity: UserIdentity, client_address: str
    ) -> KubeAccess:
        """Those about `identity`, wherever its certificate leads: clusters of this one are asked about."""
        policy = Policy(
            roles=await state.roles([*identity.roles, *identity.denying]),
            cluster=await authorizer.cluster_defaults(),
        )
        request = KubeAccessRequest(
            identity=replace(identity, route_to_cluster=""),
            cluster=state.cluster,
            now=state.clock.now(),
            kube_cluster="",
            client_address=client_address,
            locks=await authorizer.locks(),
        )
        found = [from_json(item.value) for prefix in WHERE for item in await state.backend.range(prefix)]
        return cls(request, policy, [one for one in found if isinstance(one, Server)])

    def all(self) -> Iterator[tuple[Server, KubeClusterEntry, KubeAccessPermit | AccessDenial]]:
        """Each cluster of each server, with what is decided about it."""
        for server in self._servers:
            for one in server.spec.kube_clusters:
                asked = replace(self._request, kube_cluster=one.name, labels=dict(one.all_labels))
                yield server, one, evaluate_kube_access(asked, self._policy)

    def of_certificate(self, name: str) -> KubeAccessPermit | AccessDenial:
        """Whether a certificate for the cluster of this name would let in there; `MFA_REQUIRED` where nothing but a
        second factor is missing at one of the servers that lead there. Which Kubernetes user is meant, calls say."""
        request = replace(self._request, kube_cluster=name, joins=True)
        best = evaluate_kube_access(replace(request, exists=False), self._policy)
        for server in self._servers:
            for one in server.spec.kube_clusters:
                if one.name != name:
                    continue
                found = evaluate_kube_access(replace(request, labels=dict(one.all_labels)), self._policy)
                if is_due(found) or not is_open(best):
                    best = found
        return best

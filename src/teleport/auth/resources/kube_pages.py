"""The Kubernetes clusters that a person may use: those of services, and those that proxies lead to themselves.

Who may use which is decided as at the proxy that `kubectl` comes to (`authz.kube`), by the same labels: what is listed
here is let in there, and nothing else is listed. Cluster by cluster, so that which services there are stays unsaid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer
from teleport.auth.resources.found_pages import MAX_SEARCH, MOST, cut
from teleport.auth.server import Caller
from teleport.auth.state import ClusterState
from teleport.authz.decision import Policy
from teleport.authz.kube import KubeAccessRequest, evaluate_kube_access, is_open
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import UserIdentity
from teleport.resources.codec import from_json
from teleport.resources.server import Server
from teleport.store import records

WHERE: Final = (records.PROXIES, records.KUBE_SERVICES)  # a proxy asks those that it leads to itself before services


class KubeClusterPages:
    """The handler of `find_kube_clusters`."""

    def __init__(self, state: ClusterState, authorizer: Authorizer) -> None:
        self._state = state
        self._authorizer = authorizer

    async def find(self, caller: Caller, request: m.FindKubeClustersRequest) -> m.FoundKubeClusters:
        """A page of the caller's clusters. Raises `BadRequest`, `AccessDenied`."""
        if not 1 <= request.limit <= MOST or request.start < 0:
            raise BadRequest(f"a page has 1 to {MOST} clusters", hint="ask for fewer")
        if len(request.search) > MAX_SEARCH:
            raise BadRequest(f"a search has at most {MAX_SEARCH} characters", hint="ask for less")
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            raise AccessDenied("only people use Kubernetes clusters", hint="tctl kube ls")
        words = request.search.lower().split()
        found = sorted(await self._open(identity, caller.host), key=lambda one: one.name)
        fitting = [one for one in found if _fits(one, words)]
        page = cut(fitting[request.start : request.start + request.limit])
        end = request.start + len(page)
        return m.FoundKubeClusters(items=page, total=len(fitting), next_start=end if page and end < len(fitting) else 0)

    async def _open(self, identity: UserIdentity, client_address: str) -> list[m.FoundKubeCluster]:
        policy = Policy(
            roles=await self._state.roles([*identity.roles, *identity.denying]),
            cluster=await self._authorizer.cluster_defaults(),
        )
        anywhere = replace(identity, route_to_cluster="")  # it is asked what there is, whatever was chosen
        request = KubeAccessRequest(
            identity=anywhere,
            cluster=self._state.cluster,
            now=self._state.clock.now(),
            kube_cluster="",
            client_address=client_address,
            locks=await self._authorizer.locks(),
        )
        found: dict[str, m.FoundKubeCluster] = {}
        for server in await self._servers():
            silent = self._silent_for(server)
            for one in server.spec.kube_clusters:
                known = found.get(one.name)
                if known is not None and known.silent_for <= silent:
                    continue
                labels = dict(one.all_labels)
                decision = evaluate_kube_access(replace(request, kube_cluster=one.name, labels=labels), policy)
                if is_open(decision):
                    found[one.name] = m.FoundKubeCluster(name=one.name, labels=labels, silent_for=silent)
        return list(found.values())

    async def _servers(self) -> list[Server]:
        found = [from_json(item.value) for prefix in WHERE for item in await self._state.backend.range(prefix)]
        return [one for one in found if isinstance(one, Server)]

    def _silent_for(self, server: Server) -> int:
        now = self._state.clock.now()
        heard = server.spec.heard
        return max(int((now - heard).total_seconds()), 1) if heard is not None and server.lost(now) else 0


def _fits(one: m.FoundKubeCluster, words: list[str]) -> bool:
    text = "\n".join([one.name, *(f"{key}={value}" for key, value in one.labels.items())]).lower()
    return all(word in text for word in words)

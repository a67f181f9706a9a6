"""The Kubernetes clusters that a person may use: those of services, and those that proxies lead to themselves.

Who may use which is decided as at the proxy that `kubectl` comes to (`authz.kube`), by the same labels: what is listed
here is let in there, and nothing else is listed. Cluster by cluster, so that which services there are stays unsaid.
"""

from __future__ import annotations

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.resources.found_pages import MAX_SEARCH, MOST, cut
from teleport.auth.resources.kube_access import KubeAccess
from teleport.auth.state import ClusterState
from teleport.authz.kube import is_open
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import UserIdentity
from teleport.resources.server import Server


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
        access = await KubeAccess.of(self._state, self._authorizer, identity, client_address)
        found: dict[str, m.FoundKubeCluster] = {}
        for server, one, decision in access.all():
            silent = self._silent_for(server)
            known = found.get(one.name)
            if (known is None or silent < known.silent_for) and is_open(decision):
                found[one.name] = m.FoundKubeCluster(name=one.name, labels=dict(one.all_labels), silent_for=silent)
        return list(found.values())

    def _silent_for(self, server: Server) -> int:
        now = self._state.clock.now()
        heard = server.spec.heard
        return max(int((now - heard).total_seconds()), 1) if heard is not None and server.lost(now) else 0


def _fits(one: m.FoundKubeCluster, words: list[str]) -> bool:
    text = "\n".join([one.name, *(f"{key}={value}" for key, value in one.labels.items())]).lower()
    return all(word in text for word in words)

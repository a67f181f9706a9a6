"""What auth does about other clusters, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from teleport.api import routes
from teleport.auth.authorizer import Authorizer
from teleport.auth.clusters.driver import ExchangeDriver
from teleport.auth.clusters.leaf import TrustedClusters
from teleport.auth.clusters.reaching import Reaching
from teleport.auth.clusters.root import RemoteClusters
from teleport.auth.clusters.statements import Statements
from teleport.auth.hosts.tokens import Tokens
from teleport.auth.state import ClusterState


class Clusters:
    """Both sides: this cluster may be a leaf of some and the root of others."""

    def __init__(
        self,
        state: ClusterState,
        authorizer: Authorizer,
        tokens: Tokens,
        lease: Callable[[], AbstractAsyncContextManager[object]],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self.statements = Statements(state)
        self.reaching = Reaching(state.clock.now)
        self.root = RemoteClusters(state, tokens, self.statements)
        self.leaf = TrustedClusters(state, authorizer, self.statements, self.reaching, look)
        self.driver = ExchangeDriver(state, self.leaf, self.statements, lease)

    def handlers(self) -> Mapping[str, Any]:
        """The handlers of the routes, by name; those of trusted clusters take the place of the general ones."""
        return {
            routes.VALIDATE_CLUSTER.name: self.root.validate,
            routes.EXCHANGE_AUTHORITIES.name: self.root.exchange,
            routes.SEEN_CLUSTERS.name: self.root.seen,
            routes.STORE["trusted_cluster"].name: self.leaf.store,
            routes.REMOVE["trusted_cluster"].name: self.leaf.remove,
        }

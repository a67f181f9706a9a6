"""The routes by which people run the cluster in a browser, put together."""

from __future__ import annotations

from collections.abc import Sequence

from teleport.clock import Clock
from teleport.web.admin_cluster import AuthorityRoutes
from teleport.web.admin_clusters import ClusterRoutes
from teleport.web.admin_desk import Add, Desk
from teleport.web.admin_joining import TokenRoutes
from teleport.web.admin_locks import LockRoutes
from teleport.web.admin_roles import RoleRoutes
from teleport.web.admin_rotation import RotationRoutes
from teleport.web.admin_users import UserRoutes
from teleport.web.sessions import WebSessions


class AdminRoutes:
    """Users, roles, join tokens, locks, other clusters, authorities, diagnostics."""

    def __init__(
        self, sessions: WebSessions, cluster: str, auth_servers: Sequence[tuple[str, int]], clock: Clock
    ) -> None:
        desk = Desk(sessions, cluster)
        self._parts = (
            UserRoutes(desk),
            RoleRoutes(desk),
            TokenRoutes(desk, auth_servers),
            LockRoutes(desk, clock),
            ClusterRoutes(desk),
            AuthorityRoutes(desk, clock),
            RotationRoutes(desk),
        )

    def add(self, add: Add, prefix: str) -> None:
        """Puts the routes into an application."""
        for part in self._parts:
            part.add(add, prefix)

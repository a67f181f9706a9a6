"""Calls that were refused, on record.

A refusal is on record before it is answered. What is only noise is left out: what callers without a certificate are
refused, and what a handler has told of itself.
"""

from __future__ import annotations

from typing import Any

from teleport.api import routes
from teleport.api.routes import Route
from teleport.audit.events import ApiDenied
from teleport.auth.authorizer import Denied
from teleport.auth.caller import Caller
from teleport.auth.state import ClusterState
from teleport.errors import AccessDenied
from teleport.identity import Anonymous, HostIdentity

# These write their own event of a refusal, with more to say, or would tell of every wrong password twice.
_AUDITED_BY_HANDLER = frozenset(
    {
        routes.JOIN.name,
        routes.VALIDATE_CLUSTER.name,
        routes.EXCHANGE_AUTHORITIES.name,
        routes.LOGIN.name,
        routes.FINISH_BROWSER_LOGIN.name,
        routes.FINISH_USER_TOKEN.name,
    }
)


class Refusals:
    """Told of each one by what serves the routes."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state

    async def tell(self, caller: Caller, route: Route[Any, Any], denied: AccessDenied) -> None:
        """Returns once it is on record, unless it is left out."""
        told = route.name in _AUDITED_BY_HANDLER and not isinstance(denied, Denied)  # refused before its handler: not
        if isinstance(caller.identity, Anonymous) or told:
            return
        reasons = "; ".join(denied.denial.reasons) if isinstance(denied, Denied) else denied.message
        host = caller.identity.host_id if isinstance(caller.identity, HostIdentity) else ""
        await self._state.tell(
            self._state.event(
                ApiDenied,
                caller,
                host_id=host,
                verb=str(route.verb),
                kind=route.kind,
                route=route.name,
                addr=caller.address,
                error=reasons,
            )
        )

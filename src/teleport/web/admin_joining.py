"""Join tokens in the browser: what to type on a new host, or to write on another cluster, and which tokens there are.

A token's secret is shown once, in the answer that made it; afterwards it goes by its public id, as in tctl.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from teleport.api import join_steps, routes
from teleport.api import messages as m
from teleport.clock import rfc3339
from teleport.resources.metadata import ORIGIN_LABEL
from teleport.resources.token import NAMES_NONE, Token
from teleport.resources.values import HostPort
from teleport.web.admin_desk import Add, Desk, done, told
from teleport.web.bodies import body_of


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/sites/:site/tokens."""

    roles: list[str]
    ttl: float = 1800  # seconds
    labels: dict[str, str] = {}
    single_use: bool = False
    cluster: str = ""  # the one that a token for trusted clusters is for


class TokenRoutes:
    """Handlers and where they are reached."""

    def __init__(self, desk: Desk, auth_servers: Sequence[tuple[str, int]]) -> None:
        """`auth_servers`: where this proxy reaches auth, when no auth server has said where hosts do."""
        self._desk = desk
        self._reached = [str(HostPort(host, port)) for host, port in auth_servers]

    def add(self, add: Add, prefix: str) -> None:
        """Puts the routes into an application."""
        api = f"{prefix}/webapi/sites/{{site}}/tokens"
        add("GET", api, self.found)
        add("POST", api, self.create)
        add("DELETE", f"{api}/{{id}}", self.remove)

    async def found(self, request: web.Request) -> web.Response:
        """All tokens, those that end first at the top."""
        session = await self._desk.session(request)
        found, more = await self._desk.all_of(session, request, "token")
        tokens = [token for token in found if isinstance(token, Token)]
        tokens.sort(key=lambda token: (token.metadata.expires is None, token.metadata.expires, token.name))
        return told({"items": [_shown(token) for token in tokens], "more": more})

    async def create(self, request: web.Request) -> web.Response:
        session = await self._desk.session(request)
        asked = await body_of(request, TokenRequest)
        add = m.AddTokenRequest(
            roles=asked.roles, ttl=asked.ttl, labels=asked.labels, single_use=asked.single_use, cluster=asked.cluster
        )
        made = await self._desk.ask(session, request, routes.ADD_TOKEN, add)
        return told(
            {
                "id": made.id,
                "token": made.token,
                "roles": made.roles,
                "expires": made.expires,
                "labels": made.labels,
                "single_use": made.single_use,
                "ca_pins": made.ca_pins,
                "cluster": made.cluster,
                **self._steps(made),
            }
        )

    async def remove(self, request: web.Request) -> web.Response:
        session = await self._desk.session(request)
        asked = m.ExpelRequest(name=request.match_info["id"])
        await self._desk.ask(session, request, routes.REMOVE["token"], asked)
        return done()

    def _steps(self, made: m.JoinToken) -> dict[str, Any]:
        """What to do with the token: commands for a host, or the document for a cluster."""
        if "trusted_cluster" in made.roles:
            return {"document": join_steps.cluster_document(made), "warning": "" if made.cluster else NAMES_NONE}
        if not join_steps.SERVED.intersection(made.roles):
            return {"warning": "this version has no service that joins with this token"}
        if not join_steps.BY_FLAG.intersection(made.roles):
            return {"command": join_steps.kube_command(made, self._reached), "warning": ""}
        only_here = join_steps.own_host_only(made, self._reached)
        return {
            "command": f"{join_steps.write_token(made)}\n"
            f"{join_steps.start_command(made, '', self._reached, indent='')}",
            "warning": join_steps.OWN_HOST_ONLY if only_here else "",
        }


def _shown(token: Token) -> dict[str, Any]:
    return {
        "id": token.name,
        "roles": [str(role) for role in token.spec.roles],
        "labels": {key: value for key, value in token.metadata.labels.items() if key != ORIGIN_LABEL},
        "expires": rfc3339(token.metadata.expires) if token.metadata.expires is not None else None,
        "single_use": token.spec.single_use,
        "used_by": token.spec.used_by,
        "cluster": token.spec.cluster,
        "static": token.metadata.labels.get(ORIGIN_LABEL) == "config-file",
    }

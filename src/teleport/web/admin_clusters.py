"""Other clusters in the browser: those whose users are let in here, and those whose hosts are reached from here."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import rfc3339
from teleport.errors import AccessDenied, BadRequest
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import checked, from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.secret import SecretText
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster, TrustedClusterSpec
from teleport.web.admin_desk import Add, Desk, done, told
from teleport.web.bodies import body_of


class TrustRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/trustedclusters: a cluster whose users are to be let in."""

    name: str
    token: str
    web_proxy_addr: str
    tunnel_addr: str = ""
    ca_pins: list[str] = []
    role_map: list[dict[str, Any]]  # {"remote": "access", "local": ["access"]}
    enabled: bool = True


class SwitchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """PUT /webapi/trustedclusters/:name: what may change of one."""

    enabled: bool


class ClusterRoutes:
    """Handlers and where they are reached."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def add(self, add: Add, prefix: str) -> None:
        """Puts the routes into an application."""
        api = f"{prefix}/webapi/trustedclusters"
        add("GET", api, self.found)
        add("POST", api, self.trust)
        add("PUT", f"{api}/{{name}}", self.switch)
        add("DELETE", f"{api}/{{name}}", self.distrust)
        add("DELETE", f"{prefix}/webapi/sites/{{site}}/remoteclusters/{{name}}", self.forget)

    async def found(self, request: web.Request) -> web.Response:
        """Both sorts, with how the exchange with each stands; a sort that the user may not list is left out."""
        session = await self._desk.session(request)
        answer: dict[str, Any] = {"trusted": None, "remote": None}
        refused: AccessDenied | None = None
        for sort, kind in (("trusted", "trusted_cluster"), ("remote", "remote_cluster")):
            try:
                found, _ = await self._desk.all_of(session, request, kind)
            except AccessDenied as error:
                refused = error
                continue
            answer[sort] = [_shown(one) for one in found if isinstance(one, TrustedCluster | RemoteCluster)]
        if refused is not None and answer == {"trusted": None, "remote": None}:
            raise refused
        return told(answer)

    async def trust(self, request: web.Request) -> web.Response:
        """Establishes the trust, with a token of the other cluster."""
        session = await self._desk.session(request)
        asked = await body_of(request, TrustRequest)
        spec = TrustedClusterSpec(
            enabled=asked.enabled,
            token=SecretText(asked.token) if asked.token else None,
            web_proxy_addr=asked.web_proxy_addr,
            tunnel_addr=asked.tunnel_addr,
            ca_pins=tuple(asked.ca_pins),
            role_map=_mappings(asked.role_map),
        )
        cluster = checked(TrustedCluster(metadata=Metadata(name=asked.name), spec=spec))
        store = m.StoreRequest(item=m.Document(to_json(cluster, with_secrets=True)))
        made = await self._desk.ask(session, request, routes.STORE["trusted_cluster"], store)
        return told({"name": made.name or asked.name, "note": made.note})

    async def switch(self, request: web.Request) -> web.Response:
        """Takes the trust away for a while, or gives it back."""
        session = await self._desk.session(request)
        asked = await body_of(request, SwitchRequest)
        get = m.GetRequest(name=request.match_info["name"])
        found = await self._desk.ask(session, request, routes.GET["trusted_cluster"], get)
        cluster = from_json(bytes(found.item))
        assert isinstance(cluster, TrustedCluster)
        spec = msgspec.structs.replace(cluster.spec, enabled=asked.enabled)
        changed = msgspec.structs.replace(cluster, spec=spec)
        store = m.StoreRequest(item=m.Document(to_json(changed)), force=True, revision=found.revision)
        made = await self._desk.ask(session, request, routes.STORE["trusted_cluster"], store)
        return done(made.note)

    async def distrust(self, request: web.Request) -> web.Response:
        return await self._removed(request, "trusted_cluster")

    async def forget(self, request: web.Request) -> web.Response:
        return await self._removed(request, "remote_cluster")

    async def _removed(self, request: web.Request, kind: str) -> web.Response:
        session = await self._desk.session(request)
        asked = m.ExpelRequest(name=request.match_info["name"])
        removed = await self._desk.ask(session, request, routes.REMOVE[kind], asked)
        return done(removed.note)


def _mappings(asked: list[dict[str, Any]]) -> tuple[RoleMapping, ...]:
    try:
        return msgspec.convert(asked, tuple[RoleMapping, ...])
    except msgspec.ValidationError as error:
        raise BadRequest(f"role_map: {error}", hint='as in {"remote": "access", "local": ["access"]}') from None


def _shown(one: TrustedCluster | RemoteCluster) -> dict[str, Any]:
    last = one.status.last_exchange
    common = {"name": one.name, "last_exchange": rfc3339(last) if last is not None else None}
    if isinstance(one, RemoteCluster):
        heard = one.status.last_heartbeat
        return {
            **common,
            "connection": "removed" if one.removed else str(one.status.connection),
            "last_heartbeat": rfc3339(heard) if heard is not None else None,
            "labels": dict(one.metadata.labels),
        }
    return {
        **common,
        "enabled": one.spec.enabled,
        "web_proxy_addr": one.spec.web_proxy_addr,
        "tunnel_addr": one.spec.tunnel_addr,
        "ca_pins": list(one.spec.ca_pins),
        "role_map": [{"remote": mapping.remote, "local": list(mapping.local)} for mapping in one.role_map],
        "problem": one.status.problem,
    }

"""The cluster itself in the browser: its authorities with their pins and rotation, and how its services are."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any, Final

import msgspec
from aiohttp import web

from teleport import __version__
from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import Clock, rfc3339
from teleport.errors import AccessDenied, TeleportError
from teleport.pki.keys import PublicKey
from teleport.pki.x509verify import certificate_key, load_certificate
from teleport.resources.authority import Authority, KeySet
from teleport.resources.codec import from_json, to_document
from teleport.resources.server import is_lost
from teleport.web.admin_desk import Add, Desk, told
from teleport.web.session import WebSession

MOST_NAMED: Final = 100  # nodes that are lost, or of another version, by name


class _Metadata(msgspec.Struct):
    name: str


class _Spec(msgspec.Struct):
    hostname: str = ""
    addr: str = ""
    public_addrs: list[str] = []
    version: str = ""
    started: datetime | None = None
    heard: datetime | None = None
    lost_after: int = 0
    use_tunnel: bool = False
    proxy_ids: list[str] = []


class _Service(msgspec.Struct):
    """A service that announced itself, as far as it is shown."""

    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    sub_kind: str = ""

    def silent(self, now: datetime) -> int:
        """Seconds since it was lost; 0: it is here."""
        heard = self.spec.heard
        lost = heard is not None and is_lost(heard, self.spec.lost_after, now)
        return int((now - heard).total_seconds()) if heard is not None and lost else 0


class AuthorityRoutes:
    """Handlers and where they are reached."""

    def __init__(self, desk: Desk, clock: Clock) -> None:
        self._desk = desk
        self._clock = clock

    def add(self, add: Add, prefix: str) -> None:
        """Puts the routes into an application."""
        site = f"{prefix}/webapi/sites/{{site}}"
        add("GET", f"{site}/authorities", self.authorities)
        add("GET", f"{site}/diagnostics", self.diagnostics)

    async def authorities(self, request: web.Request) -> web.Response:
        """Each authority with its rotation, pins and keys; and who has not followed, for those who may know."""
        session = await self._desk.session(request)
        status = await self._desk.ask(session, request, routes.STATUS, m.Empty())
        held: dict[str, Authority] | None
        try:
            found, _ = await self._desk.all_of(session, request, "cert_authority")
            own = (one for one in found if isinstance(one, Authority) and one.name == self._desk.cluster)
            held = {str(one.type): one for one in own}
        except AccessDenied:
            held = None
        progress = await self._optional(session, request, routes.ROTATION_PROGRESS, m.Empty())
        order = {"host": 0, "user": 1, "openssh": 2, "jwt": 3}
        shown = sorted(status.authorities, key=lambda one: (order.get(one.kind, 9), one.kind))
        return told(
            {
                "cluster": status.cluster,
                "ca_pins": status.ca_pins,
                "authorities": [
                    {
                        **msgspec.to_builtins(one),
                        "fingerprints": _keys(held[one.kind]) if held is not None and one.kind in held else None,
                    }
                    for one in shown
                ],
                "waiting": msgspec.to_builtins(progress.waiting) if progress is not None else None,
            }
        )

    async def diagnostics(self, request: web.Request) -> web.Response:
        """The cluster, its services and their versions, where the evidence is kept, and whose clock says what. What the
        user may not see is null."""
        session = await self._desk.session(request)
        before = self._clock.now()
        status = await self._desk.ask(session, request, routes.STATUS, m.Empty())
        middle = before + (self._clock.now() - before) / 2
        storage = await self._optional(
            session, request, routes.GET["cluster_audit_config"], m.GetRequest(name="cluster-audit-config")
        )
        return told(
            {
                "cluster": status.cluster,
                "version": status.version,
                "proxy_version": __version__,
                "now": status.now,
                "proxy_ahead": (middle - status.now).total_seconds(),
                "auth_servers": await self._services(session, request, "auth_server", status.now),
                "proxies": await self._services(session, request, "proxy", status.now),
                "nodes": await self._nodes(session, request, status.version, status.now),
                "audit": to_document(from_json(bytes(storage.item)))["spec"] if storage is not None else None,
            }
        )

    async def _optional(
        self, session: WebSession, request: web.Request, route: routes.Route[Any, Any], asked: m.Request
    ) -> Any:
        """What auth answers; None when the user may not know."""
        try:
            return await self._desk.ask(session, request, route, asked)
        except AccessDenied:
            return None

    async def _services(
        self, session: WebSession, request: web.Request, kind: str, now: datetime
    ) -> list[dict[str, Any]] | None:
        try:
            found = [_read(item) async for item in self._desk.documents(session, request, kind)]
        except AccessDenied:
            return None
        return [_shown(one, now) for one in sorted(found, key=lambda one: (one.spec.hostname, one.metadata.name))]

    async def _nodes(
        self, session: WebSession, request: web.Request, version: str, now: datetime
    ) -> dict[str, Any] | None:
        """Nodes are counted; named are those that are lost, or of another version than auth."""
        counts: Counter[str] = Counter()
        total = lost = tunnels = agentless = 0
        named: list[dict[str, Any]] = []
        try:
            async for item in self._desk.documents(session, request, "node"):
                node = _read(item)
                total += 1
                lost += bool(node.silent(now))
                tunnels += node.spec.use_tunnel
                agentless += node.sub_kind == "openssh"
                if node.sub_kind != "openssh":
                    counts[node.spec.version or "unknown"] += 1
                    if len(named) < MOST_NAMED and (node.silent(now) or node.spec.version != version):
                        named.append(_shown(node, now))
        except AccessDenied:
            return None
        return {
            "total": total,
            "lost": lost,
            "tunnels": tunnels,
            "agentless": agentless,
            "versions": dict(sorted(counts.items())),
            "named": named,
        }


def _read(item: m.Document) -> _Service:
    return msgspec.json.decode(bytes(item), type=_Service)


def _shown(one: _Service, now: datetime) -> dict[str, Any]:
    spec = one.spec
    return {
        "id": one.metadata.name,
        "hostname": spec.hostname,
        "addr": spec.public_addrs[0] if spec.public_addrs else spec.addr,
        "version": spec.version,
        "started": rfc3339(spec.started) if spec.started is not None else None,
        "silent_for": one.silent(now),
    }


def _keys(authority: Authority) -> list[dict[str, str]]:
    """The keys that sign, then those that are only trusted."""
    spec = authority.spec
    return [*_of(spec.active_keys, "signs"), *_of(spec.additional_trusted_keys, "trusted")]


def _of(held: KeySet, state: str) -> list[dict[str, str]]:
    found = [("ssh", pair.public_key) for pair in held.ssh] + [("tls", pair.cert) for pair in held.tls]
    shown = []
    for use, text in found:
        try:
            key = certificate_key(load_certificate(text.encode())) if use == "tls" else PublicKey.parse(text)
        except TeleportError:
            continue  # of a kind that this proxy does not know
        shown.append({"use": use, "state": state, "algorithm": str(key.kind), "fingerprint": key.fingerprint()})
    return shown

"""The way of Kubernetes clients to other clusters of ours: by the tunnels that proxies of those keep to ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar
from uuid import uuid4

import msgspec

from teleport.authz.kube_elsewhere import why_not_led
from teleport.daemon.kube.side import KubeRules
from teleport.daemon.view import View
from teleport.errors import AccessDenied, NotFound, TeleportError
from teleport.identity import UserIdentity
from teleport.kube.http import READ
from teleport.proxy.other_clusters import ProxyIdentity, Remotes
from teleport.tunnel import cluster_messages as cm
from teleport.tunnel import messages as m
from teleport.wire import vouch

P = TypeVar("P", bound=asyncio.Protocol)


class Tunnels(Protocol):
    """The tunnels of other clusters' proxies."""

    async def connect(self, cluster: str, dial: Callable[[], bytes], make: Callable[[], P]) -> P: ...


class KubeElsewhere:
    """Leads people of this cluster there (`kube.needs.Elsewhere`)."""

    def __init__(self, view: View, remotes: Remotes, tunnels: Tunnels, identity: ProxyIdentity) -> None:
        self._view = view
        self._remotes = remotes
        self._tunnels = tunnels
        self._identity = identity
        self._rules = KubeRules(view)

    def meant(self, identity: UserIdentity) -> bool:
        return identity.route_to_cluster not in ("", self._view.cluster)

    async def connect(
        self, certificate: bytes, identity: UserIdentity, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._check(identity, host)
        dial = cm.ClusterDial(
            cluster=identity.route_to_cluster, certificate=cm.encoded_certificate(certificate), conn_type=cm.KUBE
        )
        reader = asyncio.StreamReader(limit=READ)
        made = await self._tunnels.connect(
            identity.route_to_cluster, lambda: self._signed(dial, host, port), lambda: _Inside(reader)
        )
        assert made.transport is not None
        return reader, asyncio.StreamWriter(made.transport, made, reader, asyncio.get_running_loop())

    def still(self, certificate: bytes, host: str) -> bool:
        try:
            self._check(self._rules.verify_user_tls(certificate), host)
        except TeleportError:
            return False
        return True

    def _signed(self, dial: cm.ClusterDial, host: str, port: int) -> bytes:
        said = vouch.Vouch(
            client_host=host,
            client_port=port,
            session_id=uuid4(),
            target=cm.dial_target(dial),
            time=self._view.clock.now(),
            nonce=uuid4().bytes,
        )
        line = vouch.encode(said, self._identity.certificate, self._identity.sign)
        return m.encode(msgspec.structs.replace(dial, vouch=line.decode("ascii")))

    def _check(self, identity: UserIdentity, host: str) -> None:
        """Raises `TeleportError` when they may not go there."""
        view = self._view
        refused = why_not_led(
            view.present(identity) or replace(identity, roles=()),
            view.policy(),
            cluster=view.cluster,
            now=view.clock.now(),
            client_address=host,
            locks=view.locks(),
        )
        if refused is not None:
            raise _Refused(refused.public, hint=refused.hint, detail=f"{refused.code}: {'; '.join(refused.reasons)}")
        cluster = identity.route_to_cluster
        why = self._remotes.why_not(identity, cluster) if cluster in self._remotes.names() else None
        if cluster not in self._remotes.names() or why is not None:
            raise NotFound(f"There is no cluster {cluster[:80]!a} that you may go to.", hint="tsh clusters")


class _Refused(AccessDenied):
    """With why exactly, for the record."""

    def __init__(self, message: str, *, hint: str, detail: str) -> None:
        super().__init__(message, hint=hint)
        self.detail = detail


class _Inside(asyncio.StreamReaderProtocol):
    """The near end of a connection through a tunnel, with its transport."""

    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

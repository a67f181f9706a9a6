"""How a proxy gets to the Kubernetes services of its cluster: which there are, by which address, and who they prove to
be."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from teleport.daemon.config import ports
from teleport.daemon.credentials import Credentials
from teleport.daemon.view import View
from teleport.errors import AccessDenied
from teleport.identity import SystemRole
from teleport.resources.server import Server
from teleport.resources.values import HostPort
from teleport.transport import judged
from teleport.transport.tls import cluster_client_context
from teleport.tunnel.messages import KUBE
from teleport.wire.alpn import KUBE_SERVICE

P = TypeVar("P", bound=asyncio.Protocol)


class Tunnels(Protocol):
    """The tunnels of the whole cluster (`tunnel.leading`)."""

    async def connect(self, host_id: str, make: Callable[[], P], conn_type: str) -> P:
        """Raises `ConnectionProblem`."""
        ...


class KubeReach:
    """What a proxy knows of services (`kube.services.Reach`)."""

    def __init__(self, view: View, held: Callable[[], Credentials], tunnels: Tunnels) -> None:
        self._view = view
        self._held = held
        self._tunnels = tunnels
        self._context: tuple[Credentials, tuple[str, ...], ssl.SSLContext] | None = None

    def services(self) -> Sequence[Server]:
        return self._view.kube_services()

    def alive(self, service: Server) -> bool:
        return not service.lost(self._view.clock.now())

    def context(self) -> ssl.SSLContext:
        held, pems = self._held(), self._view.tls_authorities()
        if self._context is None or self._context[:2] != (held, pems):
            context = cluster_client_context(pems, held.tls_cert_file, held.tls_key_file)
            context.set_alpn_protocols([KUBE_SERVICE])
            self._context = (held, pems, context)
        return self._context[2]

    def server_name(self, host_id: str) -> str:
        return f"{host_id}.{self._view.cluster}"

    def believe(self, host_id: str, certificate: bytes) -> None:
        identity = self._view.verify_host_tls(certificate)
        if (identity.role, identity.host_id) != (SystemRole.KUBE, host_id):
            raise AccessDenied(
                f"what answers there is the {identity.role} {identity.host_id}", hint="tctl get kube_service"
            )

    async def connect(self, service: Server, make: Callable[[], P]) -> P:
        """By its address where it has one, else by a tunnel."""
        texts = service.spec.public_addrs or ((service.spec.addr,) if service.spec.addr else ())
        if not texts:
            return await self._tunnels.connect(service.host_id, make, KUBE)
        address = HostPort.parse(texts[0], ports.KUBE)
        return await judged.dial(make, address.host, address.port)

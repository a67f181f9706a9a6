"""How the proxy connects to a registered node: in this process, by the node's tunnel, or by the address it announced.

Whom to lead there is decided before (`proxy.ssh_router`); nothing is decided here, and the node decides anew. Rules:

- Each connection begins with the line of `wire.vouch`, also within this process: the node asks for the same vouch,
  certificate and permit however it is reached.
- A node of another process that keeps a tunnel is reached by it alone.
- An address that a node announced was judged by auth. What a name means is judged here, just before it is dialled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from teleport import counted
from teleport.clock import Clock
from teleport.errors import ConnectionProblem
from teleport.proxy.needs import Accept, ProxyIdentity, Tunnels
from teleport.spans import Kind, Span, header, span
from teleport.ssh.surface import Peer
from teleport.store.resolve import RegisteredNode
from teleport.transport import judged, memory_pair
from teleport.wire import vouch

log = logging.getLogger(__name__)

_DIAL_SECONDS = 10.0
_HERE = "127.0.0.1"
P = TypeVar("P", bound=asyncio.Protocol)


class NodeDialer:
    """Connects protocols of its callers with nodes."""

    def __init__(
        self,
        identity: ProxyIdentity,
        clock: Clock,
        *,
        new_id: Callable[[], UUID],
        nonce: Callable[[], bytes],
        beside: Callable[[str], Accept | None],
    ) -> None:
        """`beside` gives what takes connections to the node with a host UUID, if that node runs in this process."""
        self._identity = identity
        self._clock = clock
        self._new_id = new_id
        self._nonce = nonce
        self.beside = beside
        self.tunnels: Tunnels | None = None

    def vouching(self, host_id: str, peer: Peer) -> bytes:
        """The line that says to the node of this host who the client is."""
        said = vouch.Vouch(
            client_host=peer.host,
            client_port=peer.port,
            session_id=self._new_id(),
            target=UUID(host_id),
            time=self._clock.now(),
            nonce=self._nonce(),
            cluster=peer.through,
            trace=header(),
        )
        return vouch.encode(said, self._identity.certificate, self._identity.sign)

    async def reach(self, node: RegisteredNode, peer: Peer, make: Callable[[bytes], P]) -> P:
        """Connects a protocol, which gets the line that vouches for the client. Raises `ConnectionProblem`."""
        counted.TO_NODE.add()
        try:
            with span("proxy.ssh.dial", Kind.CLIENT) as dialling:
                dialling.set("teleport.node.id", node.host_id)
                return await self._dial(node, peer, make, dialling)
        except ConnectionProblem:
            counted.TO_NODE_FAILED.add()
            raise

    async def _dial(self, node: RegisteredNode, peer: Peer, make: Callable[[bytes], P], dialling: Span) -> P:
        line = self.vouching(node.host_id, peer)
        accept = self.beside(node.host_id)
        if accept is not None:
            dialling.set("teleport.way", "memory")
            # The node asks for the same vouch, certificate and permit as over the network.
            return memory_pair.connect(lambda: make(line), accept, peername=(_HERE, 0))
        if node.tunnel or (self.tunnels is not None and self.tunnels.holds(node.host_id)):
            dialling.set("teleport.way", "tunnel")
            return await self._through_tunnel(node, lambda: make(line))
        dialling.set("teleport.way", "dialled")
        host, port = node.endpoint
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                made = await judged.dial(lambda: make(line), host, port)
        except (OSError, TimeoutError) as error:
            log.warning("node unreachable node=%s address=%s error=%s", node.host_id, node.address, error)
            raise ConnectionProblem(
                f"The node {node.hostname} ({node.host_id}) does not answer.",
                hint="try again; if it stays so, ask who runs that host whether its node service runs",
            ) from error
        return made

    async def _through_tunnel(self, node: RegisteredNode, make: Callable[[], P]) -> P:
        try:
            if self.tunnels is None:
                raise ConnectionProblem("this proxy takes no tunnels")
            return await self.tunnels.connect(node.host_id, make)
        except ConnectionProblem as error:
            log.warning("node unreachable node=%s by tunnel error=%s", node.host_id, error)
            raise ConnectionProblem(
                f"The node {node.hostname} ({node.host_id}) keeps no tunnel to this proxy now.",
                hint="try again; if it stays so, ask who runs that host whether it reaches the proxy's tunnel port",
            ) from error

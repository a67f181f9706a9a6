"""Connections to one API server, kept for a while: a handshake costs more than most calls.

A connection that was used before may have been ended by the server at this very moment; whoever takes one says whether
the call can be made again (`again`), else gets a fresh one. Everything about a connection that ended within a call, or
that said more than its answer, is thrown away.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from teleport.errors import BadRequest, ConnectionProblem
from teleport.kube.credentials import KubeCluster
from teleport.kube.http import READ, Server
from teleport.transport.probes import probe
from teleport.transport.tls import in_memory

CONNECT: Final = 10.0  # seconds
KEPT: Final = 32  # idle connections
IDLE: Final = 30.0  # seconds that one is kept; API servers wait longer


class Upstream:
    """The way to one Kubernetes cluster."""

    def __init__(self, cluster: KubeCluster) -> None:
        """Raises `BadRequest` for authorities or a pair that OpenSSL does not take."""
        self.cluster = cluster
        self._idle: dict[Server, asyncio.TimerHandle] = {}
        self._context = _context(cluster)

    def now(self) -> KubeCluster:
        """The cluster as it is now."""
        return self.cluster

    async def take(self, *, again: bool) -> Server:
        """A connection. Raises `ConnectionProblem`."""
        while again and self._idle:
            server, timer = self._idle.popitem()
            timer.cancel()
            if not server.stale:
                server.used = True
                return server
            server.close()
        return await self._open()

    async def _open(self) -> Server:
        address = self.cluster.address
        try:
            async with asyncio.timeout(CONNECT):
                reader, writer = await asyncio.open_connection(
                    address.host,
                    address.port,
                    ssl=self._context,
                    server_hostname=self.cluster.server_name,
                    limit=READ,
                )
        except TimeoutError:
            raise ConnectionProblem(
                f"the API server of {self.cluster.name} does not answer", hint="try again"
            ) from None
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "verify_message", "") or error.strerror or str(error)
            raise ConnectionProblem(f"the API server of {self.cluster.name}: {why}", hint="try again") from None
        probe(writer.transport)
        return Server(reader, writer)

    def give(self, server: Server) -> None:
        """The call is over; the connection is kept if it can take another one."""
        if not server.ended() or server.stale or len(self._idle) >= KEPT:
            server.close()
            return
        self._idle[server] = asyncio.get_running_loop().call_later(IDLE, self._drop, server)

    def _drop(self, server: Server) -> None:
        del self._idle[server]
        server.close()

    def close(self) -> None:
        """Ends those that are idle."""
        while self._idle:
            server, timer = self._idle.popitem()
            timer.cancel()
            server.close()


def _context(cluster: KubeCluster) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=cluster.authorities)
        if cluster.certificate:
            with in_memory(cluster.certificate + b"\n" + cluster.key) as pair:
                context.load_cert_chain(pair)
    except (ssl.SSLError, OSError) as error:
        raise BadRequest(
            f"the certificates for the Kubernetes cluster {cluster.name} cannot be used: {error}",
            hint="kubectl with the same kubeconfig says more",
        ) from None
    return context

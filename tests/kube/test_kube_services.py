"""A proxy's connections to Kubernetes services, over real TLS: where a call goes is what services say now."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from teleport.identity import SystemRole
from teleport.kube.http import Server as Connection
from teleport.kube.services import Services, ServicesOfOne, ServiceWay
from teleport.resources.metadata import Metadata
from teleport.resources.server import KubeClusterEntry, Server, ServerSpec
from teleport.ssh.surface import Peer
from teleport.testing.web_lab import LabCluster
from teleport.transport.tls import cluster_client_context

P = TypeVar("P", bound=asyncio.Protocol)


@dataclass
class Known:
    """What a proxy knows of services (`kube.services.Reach`), each with the port where it listens."""

    cluster: LabCluster
    ports: dict[str, int] = field(default_factory=dict)
    announced: list[Server] = field(default_factory=list)

    def services(self) -> Sequence[Server]:
        return self.announced

    def alive(self, service: Server) -> bool:
        return True

    def context(self) -> ssl.SSLContext:
        return cluster_client_context(self.cluster.ca_pems)

    def server_name(self, host_id: str) -> str:
        return "localhost"

    def believe(self, host_id: str, certificate: bytes) -> None:
        assert certificate

    async def connect(self, service: Server, make: Callable[[], P]) -> P:
        port = self.ports[service.host_id]
        _, made = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
        return made

    def announce(self, host_id: str, env: str) -> None:
        """It leads to the cluster `one`, with this label."""
        entry = KubeClusterEntry(name="one", static_labels={"env": env})
        said = Server(kind="kube_service", metadata=Metadata(name=host_id), spec=ServerSpec(kube_clusters=(entry,)))
        self.announced = [*(other for other in self.announced if other.host_id != host_id), said]


@asynccontextmanager
async def services(folder: Path, count: int) -> AsyncIterator[tuple[Known, list[str]]]:
    """Some that answer every call with their own id."""
    known = Known(LabCluster(folder))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*known.cluster.host_pair(SystemRole.KUBE, "kube"))
    hosts = [str(uuid4()) for _ in range(count)]
    listeners = []
    for host in hosts:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str = host) -> None:
            await reader.readline()
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(host)}\r\n\r\n{host}".encode())

        listener = await asyncio.start_server(_quietly(serve), "127.0.0.1", 0, ssl=context)
        known.ports[host] = listener.sockets[0].getsockname()[1]
        listeners.append(listener)
    try:
        yield known, hosts
    finally:
        for listener in listeners:
            listener.close()
            await listener.wait_closed()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _quietly(serve: Serve) -> Serve:
    async def serving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()

    return serving


async def ask(way: ServiceWay) -> str:
    """Which service answers a call."""
    connection: Connection = await way.take(again=True)
    await connection.ask("GET", "/version", [(b"Host", b"kube")])
    await connection.end()
    await connection.answer()
    said = b"".join([part async for part in connection.body()])
    way.give(connection)
    return said.decode()


async def test_no_call_goes_to_a_service_that_gives_the_cluster_other_labels_now(tmp_path: Path) -> None:
    """By a connection that was kept it would reach another cluster than the one that was decided about."""
    async with services(tmp_path, 2) as (known, hosts):
        for host in hosts:
            known.announce(host, "dev")
        of_all = Services(known)
        ways = ServicesOfOne(of_all, b"a certificate", Peer("192.0.2.7", 1))
        first = await ask(ways.meant("one")[0])
        assert await ask(ways.meant("one")[0]) == first
        known.announce(first, "prod")
        of_all.changed()
        dev, prod = sorted(ways.meant("one"), key=lambda way: way.cluster.labels["env"])
        assert [await ask(dev), await ask(prod)] == [next(host for host in hosts if host != first), first]
        ways.close()

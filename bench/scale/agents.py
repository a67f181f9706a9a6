"""`python -m bench.scale.agents ESTATE.json`: a process of simulated hosts, asked by lines on standard input.

Of each host is real: its certificates, its tunnel (`tunnel.agent`), its node service with the decision about who comes,
its announcements, each over a connection of its own, and with `views` its watch of the cluster. Hosts of one process
share the view by which they decide unless each has its own. There is no launcher: sessions cannot be started.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import ssl
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import msgspec

from bench.scale.values import Ask, Estate, Host, Said, descriptors, read
from teleport.api.client import AuthClient
from teleport.audit.events import Event
from teleport.clock import SystemClock
from teleport.daemon.announce import Announcer
from teleport.daemon.large_pages import collapse
from teleport.daemon.remote import watch
from teleport.daemon.view import NODE_KINDS, View
from teleport.node.needs import NodeConfig
from teleport.node.service import NodeService
from teleport.pki.x509cert import auth_server_name
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.ssh.client_connection import ClientKey
from teleport.ssh.server import HostKey
from teleport.store.cache import Cache
from teleport.testing.memory import MemoryRecordings
from teleport.transport.auth_relay import AuthRelay
from teleport.transport.tls import cluster_client_context
from teleport.tunnel.agent import AgentConfig, TunnelAgent
from teleport.tunnel.link import Link
from teleport.tunnel.proxy_login import ProxyLogin
from teleport.tunnel.reaching import Ways
from teleport.tunnel.seeds import seeds

HANDSHAKES = 16  # of tunnels at once in one process
FIRST = 60.0  # seconds for a first tunnel
GIVES_WAY = 10  # niceness: what all hosts do has processors of its own elsewhere, and is not what is measured
CLOCK = SystemClock()


class _Nowhere:
    async def emit(self, event: Event) -> None:
        return


class _Labels:
    def current(self) -> dict[str, str]:
        return {"env": "bench"}


class _InTurn(ProxyLogin):
    """Begins a tunnel as quickly as a host does that has a processor of its own. If hundreds in one process did so at
    once, each would take seconds, and proxies would judge them by that."""

    at_once: asyncio.Semaphore

    async def log_in(self, link: Link, address: str) -> tuple[str, int]:
        async with self.at_once:
            return await super().log_in(link, address)


class Simulated:
    """One host."""

    def __init__(
        self,
        estate: Estate,
        host: Host,
        servers: list[tuple[str, int]],
        shared: View | None,
        at_once: asyncio.Semaphore,
    ) -> None:
        """`servers` is where auth is reached. `at_once`: for tunnels that begin."""
        self._estate = estate
        self.host = host
        self._cert = Path(estate.folder) / f"{host.host_id}.pem"
        self._cert.write_text(host.tls_cert)
        self._made: ssl.SSLContext | None = None
        self.client = AuthClient(servers, self._context, auth_server_name(estate.cluster))
        self._cache = None if shared is not None else _cache(host.name)
        self.view = shared or View(cast(Cache, self._cache), CLOCK, estate.cluster)
        self.announcer = Announcer(self.client, self._describe)
        self.relay: AuthRelay | None = None
        self.announced = False
        self.started = CLOCK.now()
        self.service = NodeService(
            NodeConfig(estate.cluster, UUID(host.host_id), host.name),
            certificates=self.view,
            rules=self.view,
            present=self.view.present,
            labels=_Labels(),
            launcher=cast(Any, None),
            recordings=MemoryRecordings(),
            emitter=_Nowhere(),
            clock=CLOCK,
            host_keys=[HostKey(estate.ssh_key.encode(), host.ssh_cert)],
        )
        proxies = [("127.0.0.1", estate.web)]
        config = AgentConfig(estate.cluster, UUID(host.host_id), 1, ("127.0.0.1",))
        key = ClientKey(estate.ssh_key.encode(), host.ssh_cert)
        self.agent = TunnelAgent(
            config,
            hosts=self.view,
            key=lambda: key,
            seeds=lambda: seeds(proxies),
            accept=self.service.accepted,
            changed=self._tunnels_changed,
            clock=CLOCK,
        )
        server_id, believed, ways = self.agent.server_id, self.agent.believed, Ways(config.configured)
        self.agent.login = in_turn = _InTurn(server_id, config.epoch, lambda: key, believed, ways)
        in_turn.at_once = at_once

    def _tunnels_changed(self) -> None:
        if self._cache is not None and self.agent.proxies:
            self._cache.hurry()
        self.announcer.changed()

    def _context(self) -> ssl.SSLContext:
        """Made once, as in a real host (`daemon.reaching`)."""
        if self._made is None:
            key = Path(self._estate.folder) / "tls.key"
            self._made = cluster_client_context(self._estate.tls_ca_certs, self._cert, key)
        return self._made

    def _describe(self) -> Server:
        self.announced = True
        return Server(
            kind="node",
            metadata=Metadata(name=self.host.host_id, labels={"env": "bench"}),
            spec=ServerSpec(
                hostname=self.host.name,
                use_tunnel=True,
                proxy_ids=self.agent.proxies,
                version="bench",
                epoch="1",
                started=self.started,
            ),
        )

    async def start(self, tasks: asyncio.TaskGroup, at_once: asyncio.Semaphore) -> None:
        async with at_once:
            if self._cache is not None:
                filled = asyncio.Event()
                tasks.create_task(self._cache.run(lambda: watch(self.client, NODE_KINDS), filled.set))
                await filled.wait()
            serving = asyncio.Event()
            tasks.create_task(self.service.run([], serving.set))
            await serving.wait()
            tasks.create_task(self.agent.run())
            await self.agent.wait_first(FIRST)
            if self.relay is not None:
                self.relay.by_tunnel = self.agent.to_auth
                self.client.way = self.agent.way
                if self._cache is not None:
                    self.agent.turn.heeded_by(self.client, self._cache, lambda: False)
                await self.client.renewed()
        tasks.create_task(self.announcer.run())


def _cache(name: str) -> Cache:
    return Cache(f"cache of {name}", CLOCK, jitter=random.random)


async def _asked(reader: asyncio.StreamReader) -> Ask:
    line = await reader.readline()
    return msgspec.json.decode(line, type=Ask) if line else Ask(do="end")


async def main(path: str) -> None:
    descriptors()
    os.nice(GIVES_WAY)
    estate = read(path, Estate)
    (Path(estate.folder) / "tls.key").write_text(estate.tls_key)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        # a host has some thousand objects to look through, not those of all that live here; there is memory for cycles
        gc.disable()
        shared = None
        if not estate.views:
            cache, filled = _cache("a process"), asyncio.Event()
            shared = View(cache, CLOCK, estate.cluster)
        hosts: list[Simulated] = []
        handshakes = asyncio.Semaphore(HANDSHAKES)
        for host in estate.hosts:
            relay = AuthRelay([("127.0.0.1", estate.web)]) if estate.through_proxy else None
            way = ("127.0.0.1", estate.auth)
            if relay is not None:
                way = (await stack.enter_async_context(relay)).address
            hosts.append(Simulated(estate, host, [way], shared, handshakes))
            hosts[-1].relay = relay
        if shared is not None:
            tasks.create_task(cache.run(lambda: watch(hosts[0].client, NODE_KINDS), filled.set))
            await filled.wait()
        at_once = asyncio.Semaphore(estate.at_once)
        for one in hosts:
            tasks.create_task(one.start(tasks, at_once))
        while (asked := await _asked(reader)).do != "end":
            if asked.do == "large pages":
                collapse()  # a host has some tens of megabytes, which a processor finds its way in
            said = Said(
                tunnels=sum(1 for host in hosts if host.agent.tunnels),
                hearing=sum(1 for host in hosts if host.client.hears),
                announced=sum(1 for host in hosts if host.announced and not host.announcer.problem),
                problems=sorted({host.announcer.problem for host in hosts if host.announcer.problem})[:5],
            )
            sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
            sys.stdout.flush()
        os._exit(0)  # ten thousand farewells are not what is measured


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(main(sys.argv[1]))

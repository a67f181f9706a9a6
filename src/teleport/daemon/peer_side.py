"""Proxies that lead clients to each other's hosts, as this daemon runs them: with which certificates, when, to whom.

The listener is bound when the cluster's settings ask for it (`tunnel_strategy`), or at once where the file sets its
address; bound once, it stays. Other proxies hear of it by presence.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from teleport.audit.emitter import Emitter
from teleport.backend.interface import Event, Put
from teleport.clock import Clock
from teleport.daemon.credentials import Credentials
from teleport.daemon.live_settings import NETWORKING
from teleport.daemon.sockets import PEER, Sockets
from teleport.daemon.view import View
from teleport.errors import TeleportError
from teleport.resources.codec import from_json
from teleport.resources.server import Server
from teleport.resources.values import HostPort
from teleport.store.records import HOSTS, KUBE_SERVICES, NODES, PROXIES
from teleport.transport.tls import cluster_client_context, peer_server_context
from teleport.tunnel.leading import Leading
from teleport.tunnel.peer_dialer import Dialer, PeerProxy
from teleport.tunnel.peer_server import PeerConfig, PeerServer
from teleport.tunnel.server import TunnelServer
from teleport.wire.alpn import PROXY_PEER

log = logging.getLogger(__name__)

BIND_AGAIN: Final = 5.0  # seconds
REMEMBERED: Final = 120.0  # seconds that a proxy is still asked after it withdrew: while it leaves, its hosts do, too


@dataclass(slots=True)
class Known:
    """Another proxy, what it announced, and since when it is not announced (monotonic seconds); None: it is."""

    proxy: PeerProxy
    server: Server
    gone: float | None = None


class PeerDirectory:
    """Where the tunnels of a host may end (`tunnel.leading.Proxies`)."""

    def __init__(self, view: View, own: str, clock: Clock) -> None:
        self._view = view
        self._own = own
        self._clock = clock
        self._known: dict[str, Known] = {}
        for server in view.proxies():
            self._met(server)
        view.cache.subscribe(PROXIES, self._changed)

    def _changed(self, event: Event) -> None:
        if isinstance(event, Put):
            found = from_json(event.item.value)
            if isinstance(found, Server):
                self._met(found)
            return
        known = self._known.get(event.key.removeprefix(PROXIES))
        if known is not None and known.gone is None:
            known.gone = self._clock.monotonic()

    def _met(self, server: Server) -> None:
        if server.host_id == self._own:
            return
        if not server.spec.peer_addr:
            self._known.pop(server.host_id, None)
            return
        address = HostPort.parse(server.spec.peer_addr, 0)
        self._known[server.host_id] = Known(PeerProxy(server.host_id, address.host, address.port), server)

    def peers(self, host_id: str) -> list[PeerProxy]:
        now = self._clock.monotonic()
        for proxy_id, one in list(self._known.items()):
            if one.gone is not None and now - one.gone > REMEMBERED:
                del self._known[proxy_id]
        named: list[str] = []
        for prefix in (NODES, KUBE_SERVICES):
            item = self._view.cache.get(prefix + host_id)
            service = from_json(item.value) if item is not None else None
            named += [one for one in service.spec.proxy_ids if one not in named] if isinstance(service, Server) else []
        order = [self._known[one] for one in named if one in self._known]
        wall = self._clock.now()  # one that is silent for long is asked only for what was said to be there
        order += [one for host, one in self._known.items() if host not in named and not one.server.lost(wall)]
        return [one.proxy for one in order]


class PeerSide:
    """Both ends of this proxy, and the way to hosts that comes of them (`leading`)."""

    def __init__(
        self,
        host_id: str,
        nodename: str,
        view: View,
        emitter: Emitter,
        clock: Clock,
        held: Callable[[], Credentials],
        tunnels: TunnelServer,
        *,
        always: bool,
    ) -> None:
        """`held` gives the proxy's certificates as they are now; with `always` the listener is wanted in any case."""
        self._view = view
        self._held = held
        self._always = always
        self._contexts: tuple[Credentials, tuple[str, ...], ssl.SSLContext, ssl.SSLContext] | None = None
        self._wanted = asyncio.Event()
        self.problem = ""  # why there is no listener, though it is wanted
        self.address = ""  # where others reach the listener; empty while there is none
        self.changed: Callable[[], None] = lambda: None
        self.server = PeerServer(
            PeerConfig(view.cluster, UUID(host_id), nodename),
            tunnels=tunnels,
            hosts=view,
            context=lambda: self._both()[0],
            emitter=emitter,
            clock=clock,
        )
        self.dialer = Dialer(view.cluster, hosts=view, context=lambda: self._both()[1], address=lambda: self.address)
        self.directory = PeerDirectory(view, host_id, clock)
        self.leading = Leading(tunnels, self.dialer, self.directory)
        for prefix in ("locks/", "authorities/", HOSTS):
            view.cache.subscribe(prefix, lambda _: self._reconsider())
        view.cache.subscribe(NETWORKING, lambda _: self._look())
        self._due = False
        self._look()

    def _look(self) -> None:
        if self._always or self._view.networking().spec.tunnel_strategy.connections:
            self._wanted.set()

    def _reconsider(self) -> None:
        if self._due:
            return
        self._due = True
        asyncio.get_running_loop().call_soon(self._check)  # changes come in groups

    def _check(self) -> None:
        self._due = False
        self.server.reconsider()
        self.dialer.reconsider()

    def _both(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """The contexts of the listener and of calls; made anew when certificates or authorities are others."""
        held, pems = self._held(), self._view.tls_authorities()
        if self._contexts is None or self._contexts[0] is not held or self._contexts[1] != pems:
            ours = peer_server_context(held.server_tls_cert_file, held.tls_key_file, pems, PROXY_PEER)
            calling = cluster_client_context(pems, held.tls_cert_file, held.tls_key_file)
            calling.set_alpn_protocols([PROXY_PEER])
            self._contexts = (held, pems, ours, calling)
        return self._contexts[2:]

    def renewed(self) -> None:
        """The proxy has other certificates."""
        self._contexts = None
        self.dialer.renewed()

    async def run(self, sockets: Sockets, started: Callable[[], None]) -> None:
        """Serves until cancelled. `started` is called once a listener that is wanted already is served."""
        async with asyncio.TaskGroup() as tasks:
            calling = asyncio.Event()
            tasks.create_task(self.dialer.run(calling.set), name="connections to other proxies")
            await calling.wait()
            if not self._wanted.is_set():
                started()
            await self._wanted.wait()
            while not self.address:
                try:
                    sockets.open_peer()
                    self.address = str(sockets.peer_address())
                except TeleportError as error:
                    if self.problem != str(error):  # hosts keep a tunnel to every proxy until this one can be asked
                        log.error("%s", error)
                    self.problem = str(error)
                    started()
                    await asyncio.sleep(BIND_AGAIN)

            def serving() -> None:
                self.problem = ""
                log.info("other proxies ask for hosts at %s", self.address)
                started()
                self.changed()

            await self.server.run([sockets[PEER]], serving)

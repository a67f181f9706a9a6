"""The daemon put together: names the concrete classes, starts the services in order, stops them in reverse.

What a running daemon is asked by signals is `succession`'s.

Order at start: the host and its lock, every listener (a taken port stops the daemon before it did anything), auth,
identities, then the services that ask auth. Every service is another's client over the same API, also within one
process, so that one host and many are one design.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from teleport import __version__
from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.audit.shipper import Shipper
from teleport.clock import Clock
from teleport.daemon import (
    cluster_ports,
    clusters_seen,
    identities,
    keypairs,
    logs,
    revocations,
    telling,
    tunnel_metrics,
    tunnels_lost,
)
from teleport.daemon.announce import Announcer
from teleport.daemon.collecting import Collecting
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Credentials
from teleport.daemon.descriptors import raise_limit
from teleport.daemon.diag import Readiness, diagnostics, serve_diagnostics
from teleport.daemon.followers import Followers, of_client, of_listener, with_rotation
from teleport.daemon.following import Follower
from teleport.daemon.host import Host, open_host
from teleport.daemon.imports import import_ahead
from teleport.daemon.live_settings import follow_keep_alive
from teleport.daemon.lock_age import LockAge
from teleport.daemon.metrics import Metrics
from teleport.daemon.reaching import WayToAuth
from teleport.daemon.remote import RemoteDelivery
from teleport.daemon.restarts.first_process import NONE
from teleport.daemon.restarts.handover import Inherited
from teleport.daemon.restarts.leaving import Doors
from teleport.daemon.restarts.succession import Request, Succession
from teleport.daemon.restarts.supervisor import READY_ANYWAY, Supervisor
from teleport.daemon.sockets import KUBE, PEER, Sockets
from teleport.daemon.tasks import Tasks
from teleport.daemon.welcome import Welcome
from teleport.errors import BadRequest, TeleportError
from teleport.identity import SystemRole
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.resources.server import Server
from teleport.store.records import MFA_LEASES, NODES
from teleport.transport import tls_buffers

if TYPE_CHECKING:
    from teleport.auth.service import AuthService
    from teleport.daemon.proxy_side import ProxySide
    from teleport.daemon.recording_side import RecordingSide
    from teleport.daemon.tracing import Tracing
    from teleport.daemon.tunnel_side import Behind
    from teleport.daemon.view import View
    from teleport.node.dynamic_labels import HostLabels
    from teleport.node.service import NodeService
    from teleport.proxy.ssh_router import Accept, SshRouter
    from teleport.tunnel.agent import TunnelAgent

log = logging.getLogger(__name__)

DECIDED_BY = (
    "roles/",
    "users/",
    "locks/",
    "cluster/",
    "authorities/",
    "trusted_clusters/",
)  # what open sessions are decided anew for when it changes
FIRST_TUNNEL = 10.0  # seconds that a node waits for a tunnel before it announces itself
LAST_DELIVERY = 5.0  # seconds for what waits in the spools when the daemon stops


def import_services(config: Config) -> None:
    """Imports what the services of this host need, and nothing of those that it does not run (memory, start)."""
    if config.auth is not None or config.proxy is not None:
        import_module("teleport.transport.quick_web")
    for wanted, name in (
        (config.auth, "auth_side"),
        (config.proxy, "proxy_side"),
        (config.node, "node_side"),
        (config.kube, "kube_service_side"),
    ):
        if wanted is not None:
            import_module(f"teleport.daemon.{name}")


class Daemon:
    """One run of `teleport start`."""

    def __init__(
        self,
        config: Config,
        launcher: LauncherEnd | None,
        clock: Clock,
        welcome: Callable[[Welcome], None],
        inherited: Inherited | None = None,
        requests: asyncio.Queue[Request] | None = None,
        first: int = NONE,
    ) -> None:
        """`inherited` is what a parent handed over; `requests` are what signals ask, beside stopping at once; `first`
        is the pipe to process 1 of a container."""
        self._inherited = inherited
        self._first = first
        self._requests = requests if requests is not None else asyncio.Queue()
        self._doors = Doors({}, {}, {}, {}, [])
        self._announcers: dict[str, Announcer] = {}
        self._look = asyncio.Event()  # for recordings that another process left
        self._succession: Succession | None = None
        self._config = config
        self._launcher_end = launcher
        self._clock = clock
        self._welcome = welcome
        self._tasks = Tasks()
        self._metrics = Metrics()
        logs.add_metrics(self._metrics)
        self._agents: list[TunnelAgent] = []
        self._tracing: Tracing | None = None
        self._stack = AsyncExitStack()
        self._way = WayToAuth(config, clock, self._tasks, self._stack)

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set. Raises `TeleportError` when it cannot start or a service fails."""
        config = self._config
        raise_limit()
        tls_buffers.keep_small()
        async with self._stack:
            inherited = self._inherited
            host = open_host(config.data_dir, inherited.take_lock() if inherited is not None else None)
            self._stack.callback(os.close, host.lock)
            logs.start_shipping()
            self._sockets = Sockets(config, inherited, tunnels=identities.by_tunnel(host, config))
            self._stack.callback(self._sockets.close)
            self._tasks.start(Collecting().run(), "collector")
            self._begin_tracing(host)
            readiness = Readiness([role.value for role in config.roles])
            if "diag" in self._sockets:
                edge = self._doors.diag["diag"] = diagnostics(readiness, self._metrics)
                self._tasks.start(serve_diagnostics(self._sockets["diag"], edge), "diagnostics")
            emitter: Emitter | None = None
            supervisor = Supervisor.of(os.environ, self._first)
            try:
                with _counts_as_started(supervisor, inherited):
                    emitter = await self._started(self._start(host, readiness), stop)
                if emitter is not None:
                    succession = self._succession = Succession(
                        host,
                        self._sockets,
                        self._doors,
                        self._announcers,
                        config.pid_file,
                        inherited,
                        stop,
                        self._facts,
                        self._look.set,
                        supervisor,
                    )
                    succession.begin()
                    self._tasks.start(succession.run(self._requests), "signals")
                    await self._tasks.wait(stop)
            finally:
                if self._succession is not None:
                    self._succession.end()
                if emitter is not None:
                    await telling.say_stopped(emitter, config, self._clock.now())
                await self._tasks.stop()
                if self._succession is not None:
                    self._succession.forget()

    def _begin_tracing(self, host: Host) -> None:
        if self._config.tracing is not None:
            from teleport.daemon.tracing import Tracing

            self._tracing = Tracing(self._config.tracing, host, self._config.nodename, self._metrics)
            self._tracing.begin(self._tasks, self._stack)

    async def _started(self, starting: Coroutine[Any, Any, Emitter], stop: asyncio.Event) -> Emitter | None:
        """Starts, unless `stop` is set meanwhile: a daemon that waits for auth can be stopped, too."""
        start = asyncio.create_task(starting, name="start")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait([start, stopping], return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                return start.result()
            return None
        finally:
            for task in (start, stopping):
                task.cancel()
            await asyncio.gather(start, stopping, return_exceptions=True)

    async def _start(self, host: Host, readiness: Readiness) -> Emitter:
        config = self._config
        service: AuthService | None = None
        emitter: Emitter | None = None

        def open_emitter(cluster: str) -> Emitter:
            spool = host.log_dir / "spool"
            host.log_dir.mkdir(mode=0o750, exist_ok=True)  # as where events are kept; data_dir above it is 0700
            spool.mkdir(mode=0o700, exist_ok=True)
            return Emitter.open(spool, host.host_id, host.epoch, self._clock, cluster=cluster)

        joiner = identities.Joiner(config, host, self._clock)
        held: dict[SystemRole, Credentials] = {}
        self._kept = Followers(config, host, held, self._clock, self._tasks, self._is_newest)
        wanted = [SystemRole(role.value.capitalize()) for role in config.roles]
        if "diag" in self._sockets:
            from teleport.daemon import monitoring

            monitoring.begin(
                self._metrics,
                self._tasks,
                config,
                host,
                readiness,
                self._doors,
                self._way.caches,
                held,
                self._clock,
            )
        if config.auth is not None:
            from teleport.daemon import auth_side

            def remember(cluster: str) -> Emitter:
                nonlocal emitter
                emitter = open_emitter(cluster)
                self._stack.callback(emitter.close)
                return emitter

            service, backend = await auth_side.open_auth(
                config, config.auth, host, self._clock, remember, beside=self._inherited is not None
            )
            self._stack.push_async_callback(backend.close)
            for role in (SystemRole.ADMIN, *wanted):
                held[role] = await auth_side.local_credentials(service, config, host, role, self._clock)
        else:
            for role in wanted:
                held[role] = await joiner.credentials(role)
            emitter = open_emitter(next(iter(held.values())).cluster.cluster)
            self._stack.callback(emitter.close)
        assert emitter is not None
        if self._tracing is not None:
            self._tracing.of_cluster(next(iter(held.values())).cluster.cluster)
        self._sockets.settle(tunnels=identities.by_tunnel(host, config))  # joining showed the way to auth

        servers = await self._way.servers(host, self._sockets)
        clients = {role: self._way.client(held, role, servers) for role in wanted}
        if service is not None:
            from teleport.daemon import auth_side

            serving = asyncio.Event()
            own, admin = [await self._kept.of_auth(service, role) for role in (SystemRole.AUTH, SystemRole.ADMIN)]
            context = await auth_side.api_context(service, held[SystemRole.AUTH])
            self._doors.auth["auth"] = service.edge
            if config.auth is not None:
                refused = auth_side.Refused(emitter, host, config.nodename)
                service.edge.begin_with(refused.headers(config.auth))
                self._tasks.start(refused.run(), "refused connections")
            await self._tasks.start_ready(service.run(self._sockets["auth"], context, serving.set), "auth", serving)
            announcer = await self._announce(
                clients[SystemRole.AUTH], lambda: self._describe_auth(host), "auth", readiness, own
            )
            effects = of_listener(service, context, clients[SystemRole.AUTH], announcer.changed)
            self._kept.run(own, SystemRole.AUTH, effects)
            self._kept.run(admin, SystemRole.ADMIN)
            self._tasks.start(auth_side.tell_of_changes(service, [own.changed, admin.changed]), "authorities")
            for part, problem in service.problems().items():
                readiness.watch(part, problem, serves=True)
            if "diag" in self._sockets:
                from teleport.daemon import service_metrics

                watched = service_metrics.Authorities(service, self._clock)
                await watched.look()
                service_metrics.of_auth(self._metrics, service, watched)
                self._tasks.start(watched.run(), "authorities, for monitors")
            if config.auth is not None and config.auth.key_token is not None:
                self._watch_keys(service, readiness)
            readiness.ready("auth")
        else:
            delivering = next(iter(clients.values()))
            shipper = Shipper(emitter, RemoteDelivery(delivering))
            readiness.watch("audit", lambda: shipper.problem, serves=True)
            if "diag" in self._sockets:
                from teleport.daemon import service_metrics

                service_metrics.of_delivery(self._metrics, shipper)
            self._tasks.start(_deliver(shipper), "audit delivery")
        await telling.say_started(emitter, config, self._clock.now())
        router = node = None
        if SystemRole.PROXY in held:
            router = await self._start_proxy(host, held, clients, emitter, servers, readiness, service)
        if SystemRole.NODE in held:
            node = await self._start_node(host, held, clients, emitter, readiness, service)
        if SystemRole.KUBE in held:
            await self._start_kube_service(host, held, clients, emitter, readiness, service)
        if router is not None and node is not None:
            router.beside = _node_beside(host.host_id, node)
        self._welcome(await self._summary(service, held))
        import_ahead([role.value for role in config.roles])
        return emitter

    def _watch_keys(self, service: AuthService, readiness: Readiness) -> None:
        """Keys of authorities that are elsewhere can be away."""
        from teleport.daemon.key_check import KeyCheck

        check = KeyCheck(service.state.keys)
        self._tasks.start(check.run(), "keys of authorities")
        readiness.watch("keys of authorities", lambda: check.problem, serves=True)

    # what each service needs from auth

    def _is_newest(self) -> bool:
        """Whether no newer process of this host has taken over what only one may do."""
        return self._succession is None or not self._succession.superseded

    async def _announce(
        self,
        client: AuthClient,
        describe: Callable[[], Server],
        service: str,
        readiness: Readiness,
        follower: Follower,
    ) -> Announcer:
        """Makes a service known, now and for as long as the daemon runs."""
        announcer = Announcer(client, lambda: with_rotation(describe(), follower))
        self._announcers[service] = announcer
        await announcer.announce()
        self._tasks.start(announcer.run(), f"{service} presence")
        readiness.watch(f"{service} presence", lambda: announcer.problem)
        return announcer

    # the services

    async def _start_proxy(
        self,
        host: Host,
        held: dict[SystemRole, Credentials],
        clients: dict[SystemRole, AuthClient],
        emitter: Emitter,
        servers: list[tuple[str, int]],
        readiness: Readiness,
        service: AuthService | None,
    ) -> SshRouter:
        from teleport.daemon.proxy_side import ProxySide

        config, role = self._config, SystemRole.PROXY
        assert config.proxy is not None
        view = await self._way.view(host, role, clients[role], held[role].cluster.cluster)
        follower = await self._kept.of_service(role, clients[role], view, service)
        addresses = self._sockets.proxy_addresses()
        side = ProxySide(
            config.proxy,
            host,
            config.nodename,
            view,
            clients[role],
            emitter,
            self._clock,
            held[role],
            addresses,
            servers,
            config.limits,
        )
        self._doors.web["proxy web"], self._doors.ssh["proxy ssh"] = side.web.edge, side.router
        self._doors.ssh["proxy tunnel"] = side.tunnels
        follow_keep_alive(view, side.router)
        recording = await self._start_recording(side.recording, view)
        web_ready, ssh_ready = asyncio.Event(), asyncio.Event()
        await self._tasks.start_ready(
            side.web.run(self._sockets["proxy web"], None, web_ready.set), "proxy web", web_ready
        )
        await self._tasks.start_ready(
            side.router.run([self._sockets[name] for name in ("proxy ssh",) if name in self._sockets], ssh_ready.set),
            "proxy ssh",
            ssh_ready,
        )
        if side.tls is not None:
            self._metrics.add(keypairs.NOT_AFTER, side.tls.ends)
            self._tasks.start(side.tls.follow(), "certificates of the web listener")
        await self._start_tunnels(side)
        await self._start_kube(side, host, view, emitter, clients[role])
        self._doors.ssh["proxy clusters"] = side.clusters.trusted
        self._tasks.start(side.clusters.trusted.run(), "tunnels to other clusters")
        self._tasks.start(side.links.run(), "connections of hosts to auth")
        tunnel_metrics.of_proxy(self._metrics, view, side.tunnels, side.clusters.trusted.counts)
        if "diag" in self._sockets:
            from teleport.daemon import service_metrics

            service_metrics.of_proxy(self._metrics, view, lambda: side.router.open)
        self._tasks.start(clusters_seen.tell(clients[role], side.clusters.online), "other clusters that are here")
        self._tasks.start(
            tunnels_lost.tell(
                clients[role], lambda: side.tunnels.registry.keys(), lambda host: view.node(host) is not None
            ),
            "hosts whose tunnels ended",
        )
        announcer = await self._announce(clients[role], side.describe, "proxy", readiness, follower)
        side.peers.changed = announcer.changed
        if side.acme is not None:
            self._tasks.start(side.acme.run(self._is_newest), "certificates by ACME")
        readiness.watch("proxy peer", lambda: side.peers.problem, serves=True)
        self._kept.run(follower, role, of_client(clients[role], side.renewed, announcer.changed))
        self._tasks.start(recording.recorded.uploader.run(), "recording upload of the proxy")
        self._tasks.start(recording.recorded.recover_again(), "recovery of recordings of the proxy")
        readiness.ready("proxy")
        return side.router

    async def _start_tunnels(self, side: ProxySide) -> None:
        """The proxy's end of reverse tunnels; without a listener of its own it is handed connections by the web's."""
        listeners = [self._sockets["proxy tunnel"]] if "proxy tunnel" in self._sockets else []
        serving = asyncio.Event()
        await self._tasks.start_ready(side.tunnels.run(listeners, serving.set), "proxy tunnel", serving)
        self._doors.peer[PEER] = side.peers.server
        asking = asyncio.Event()
        await self._tasks.start_ready(side.peers.run(self._sockets, asking.set), PEER, asking)

    async def _start_kube(self, side: ProxySide, host: Host, view: View, emitter: Emitter, client: AuthClient) -> None:
        """The listener for Kubernetes clients, where the file asks for one."""
        config = self._config
        if config.proxy is None or ("proxy kube" not in self._sockets and not config.proxy.one_port):
            return
        from teleport.daemon.kube_elsewhere import KubeElsewhere
        from teleport.daemon.kube_reach import KubeReach
        from teleport.daemon.kube_side import KubeSide

        kube = side.kube = KubeSide(
            config.proxy.kube_clusters,
            host,
            config.nodename,
            view,
            emitter,
            self._clock,
            side.held,
            config.limits,
            side.headers,
            KubeReach(view, side.held, side.peers.leading),
            side.recording.recorded,
            KubeElsewhere(view, side.clusters.remotes, side.clusters.tunnels, side.router.identity),
            client,
            side.router,
        )
        side.clusters.trusted.serve_kube(kube.take_from)
        self._doors.web["proxy kube"] = kube.server
        serving = asyncio.Event()
        listeners = [self._sockets["proxy kube"]] if "proxy kube" in self._sockets else []
        await self._tasks.start_ready(kube.run(listeners, serving.set), "proxy kube", serving)

    async def _start_recording(self, side: RecordingSide, view: View) -> RecordingSide:
        """Recording at the proxy: what an earlier run left is ended before the first session."""
        side.recorded.look = self._look
        from teleport.daemon.recording_side import host_of

        self._stack.callback(side.recorded.close)
        self._doors.settle.append(side.recorded.settle)
        for prefix in (*DECIDED_BY, MFA_LEASES):
            view.cache.subscribe(prefix, lambda _: side.service.reconsider())
        view.cache.subscribe(NODES, lambda event: side.service.host_changed(host_of(event)))
        await side.recorded.recover()
        self._tasks.start(LockAge(view, side.service.reconsider).run(), "age of locks at the proxy")
        return side

    async def _start_node(
        self,
        host: Host,
        held: dict[SystemRole, Credentials],
        clients: dict[SystemRole, AuthClient],
        emitter: Emitter,
        readiness: Readiness,
        service: AuthService | None,
    ) -> NodeService:
        from teleport.daemon.node_side import NodeSide
        from teleport.daemon.watching import open_watcher
        from teleport.node.reserved import ClusterPorts

        config, role = self._config, SystemRole.NODE
        assert config.node is not None
        assert self._launcher_end is not None, "the launcher is forked before the loop starts"
        launcher = Launcher(self._launcher_end)
        self._stack.callback(launcher.close)
        watcher = open_watcher(config.node.enhanced_recording)
        if watcher is not None:
            self._stack.callback(watcher.close)
        view = await self._way.view(host, role, clients[role], held[role].cluster.cluster)
        follower = await self._kept.of_service(role, clients[role], view, service)
        announcers: list[Announcer] = []

        def changed() -> None:
            for announcer in announcers:
                announcer.changed()
                side.service.reconsider()

        listeners = [self._sockets["node"]] if "node" in self._sockets else []
        web = self._sockets.proxy_addresses().public_web if config.proxy is not None else ()
        reserved = ClusterPorts(self._sockets.ports)
        side = NodeSide(
            config.node,
            host,
            config.nodename,
            view,
            clients[role],
            emitter,
            self._clock,
            launcher,
            held[role],
            address=str(self._sockets.advertised("node", config.node.public_addrs)) if listeners else "",
            web_proxy=str(web[0]) if web else "",
            connections=config.limits,
            changed=changed,
            watcher=watcher,
            reserved=reserved,
        )
        recorded = side.recorded
        recorded.look = self._look
        self._stack.callback(recorded.close)
        self._doors.ssh["node"] = side.service
        self._doors.settle.append(recorded.settle)
        follow_keep_alive(view, side.service)
        for prefix in DECIDED_BY:
            view.cache.subscribe(prefix, lambda _: side.service.reconsider())
        view.cache.subscribe(MFA_LEASES, side.lease_changed)
        await recorded.recover()
        await side.labels.first()
        serving = asyncio.Event()
        self._tasks.start(recorded.uploader.run(), "recording upload")
        await self._tasks.start_ready(side.serve(listeners, serving.set), "node", serving)
        self._tasks.start(_launcher_lives(launcher), "launcher")
        if "diag" in self._sockets:
            from teleport.daemon import service_metrics

            service_metrics.of_node(self._metrics, side.service)
        if not listeners:
            await self._start_agent(side, host, view, lambda: held[role], clients[role], changed, readiness, emitter)
        announcer = await self._announce(clients[role], side.describe, "node", readiness, follower)
        announcers.append(announcer)
        self._tasks.start(recorded.recover_again(), "recovery of recordings")
        self._tasks.start(side.tell_host_users(), "accounts made for sessions")
        self._tasks.start(_labels(side.labels), "labels")
        self._tasks.start(cluster_ports.keep(reserved, (*config.auth_servers, *web)), "addresses of the cluster")
        self._tasks.start(side.teller.run(), "running sessions")
        self._tasks.start(LockAge(view, side.service.reconsider).run(), "age of locks")
        self._tasks.start(revocations.keep(view, clients[role], host.data_dir), "revocation list")
        self._kept.run(follower, role, of_client(clients[role], side.renewed, announcer.changed))
        readiness.ready("node")
        return side.service

    async def _start_kube_service(
        self,
        host: Host,
        held: dict[SystemRole, Credentials],
        clients: dict[SystemRole, AuthClient],
        emitter: Emitter,
        readiness: Readiness,
        service: AuthService | None,
    ) -> None:
        from teleport.daemon.kube_service_side import KubeServiceSide

        config, role = self._config, SystemRole.KUBE
        assert config.kube is not None
        view = await self._way.view(host, role, clients[role], held[role].cluster.cluster)
        follower = await self._kept.of_service(role, clients[role], view, service)
        announcers: list[Announcer] = []

        def changed() -> None:
            for announcer in announcers:
                announcer.changed()

        listeners = [self._sockets[KUBE]] if KUBE in self._sockets else []
        side = KubeServiceSide(
            config.kube,
            host,
            config.nodename,
            view,
            emitter,
            self._clock,
            lambda: held[role],
            config.limits,
            address=str(self._sockets.advertised(KUBE, config.kube.public_addrs)) if listeners else "",
            changed=changed,
        )
        self._doors.web[KUBE] = side.server
        await side.labels.first()
        serving = asyncio.Event()
        await self._tasks.start_ready(side.serve(listeners, serving.set), KUBE, serving)
        if not listeners:
            if not identities.through_proxy(host, config):
                raise BadRequest(
                    "kubernetes_service has no listen_addr, and auth_servers names no proxy to keep tunnels to",
                    hint="set one of the two",
                )
            held_now = partial(held.__getitem__, role)
            await self._start_agent(side, host, view, held_now, clients[role], changed, readiness, emitter, KUBE)
        announcer = await self._announce(clients[role], side.describe, KUBE, readiness, follower)
        announcers.append(announcer)
        self._tasks.start(_labels(side.labels), "labels of Kubernetes clusters")
        self._kept.run(follower, role, of_client(clients[role], side.renewed, announcer.changed))
        readiness.ready(KUBE)

    async def _start_agent(
        self,
        side: Behind,
        host: Host,
        view: View,
        held: Callable[[], Credentials],
        client: AuthClient,
        changed: Callable[[], None],
        readiness: Readiness,
        emitter: Emitter,
        conn_type: str = "node",
    ) -> None:
        """Keeps tunnels to the proxies, and reaches auth by them. The service is announced once one stands, or cannot
        be made for now."""
        from teleport.daemon.tunnel_side import keep_tunnels

        proxies = [(server.host, server.port) for server in self._config.auth_servers]
        agent = keep_tunnels(side, host, view, held, changed, proxies, emitter, conn_type)
        self._doors.ssh[f"{conn_type} tunnel"] = agent
        self._tasks.start(agent.run(), f"tunnels of the {conn_type} service")
        self._agents.append(agent)
        if len(self._agents) == 1:
            tunnel_metrics.of_node(self._metrics, lambda: sum(one.tunnels for one in self._agents))
        what = "tunnels" if conn_type == "node" else f"{conn_type} tunnels"
        readiness.watch(what, lambda: "" if agent.tunnels else "no proxy is reached by a tunnel")
        if not await agent.wait_first(FIRST_TUNNEL):
            log.warning("no proxy is reached by a tunnel yet; the %s service is announced, and tried again", conn_type)
        if self._way.relay is not None:
            self._way.relay.by_tunnel, client.way = agent.to_auth, agent.way
            agent.turn.heeded_by(client, view.cache)
            if agent.tunnels:
                await client.renewed()  # what was opened before goes by the tunnel from here on

    def _describe_auth(self, host: Host) -> Server:
        assert self._config.auth is not None
        address = self._sockets.advertised("auth", self._config.auth.public_addrs)
        return telling.describe_auth(self._config, host, address, self._clock.now())

    # telling

    def _facts(self) -> dict[str, str]:
        """For diagnostics."""
        return {
            "version": __version__,
            "services": ", ".join(role.value for role in self._config.roles),
            "listeners": ", ".join(self._sockets.names()),
            "caches": ", ".join(f"{cache.name} {cache.size} items" for cache in self._way.caches) or "none",
        }

    async def _summary(self, service: AuthService | None, held: dict[SystemRole, Credentials]) -> Welcome:
        config = self._config
        proxy = self._sockets.proxy_addresses() if config.proxy is not None else None
        pins = await service.cluster_api.pins() if service is not None else []
        users = await service.has_users() if service is not None else True
        return Welcome(
            cluster=next(iter(held.values())).cluster.cluster,
            nodename=config.nodename,
            roles=tuple(role.value for role in config.roles),
            pins=tuple(pins),
            web=str(proxy.public_web[0]) if proxy is not None else "",
            has_users=users,
        )


@contextmanager
def _counts_as_started(supervisor: Supervisor, inherited: Inherited | None) -> Iterator[None]:
    """Within: a daemon that waits for others is told of as started after a while. A child has a parent that tells."""
    if inherited is not None:
        yield
        return
    supervisor.status("starting")
    waits = "not every service takes connections yet: the log says what is waited for"
    later = asyncio.get_running_loop().call_later(READY_ANYWAY, supervisor.ready, waits)
    try:
        yield
    finally:
        later.cancel()


async def _deliver(shipper: Shipper) -> None:
    """Delivers events until cancelled, then once more what the end of the sessions added."""
    try:
        await shipper.run()
    finally:
        try:
            async with asyncio.timeout(LAST_DELIVERY):
                await shipper.deliver_all()
        except (TeleportError, TimeoutError) as error:
            log.warning("audit events wait in the spool for the next start: %s", error)


def _node_beside(host_id: str, node: NodeService) -> Callable[[str], Accept | None]:
    """For the proxy: what takes connections to the node of its own process. While that node is leaving, its listener is
    another process's."""
    return lambda asked: node.accepted if asked == host_id and node.accepting else None


async def _labels(labels: HostLabels) -> None:
    await labels.run()
    await asyncio.Event().wait()


async def _launcher_lives(launcher: Launcher) -> None:
    await launcher.wait_failed()
    raise TeleportError(
        "the launcher ended; no session can be started without it", hint="restart the daemon; the log says why it ended"
    )

"""The daemon put together: starts the services in order, stops them in reverse.

How each of them starts is in `starting`; what a running daemon is asked by signals is `succession`'s.

Order at start: the host and its lock, every listener (a taken port stops the daemon before it did anything), auth,
identities, then the services that ask auth. Every service is another's client over the same API, also within one
process, so that one host and many are one design.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from teleport import __version__
from teleport.audit.emitter import Emitter
from teleport.audit.shipper import Shipper
from teleport.clock import Clock
from teleport.daemon import identities, logs, telling
from teleport.daemon.announce import Announcer
from teleport.daemon.collecting import Collecting
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Credentials
from teleport.daemon.descriptors import raise_limit
from teleport.daemon.followers import Followers
from teleport.daemon.host import Host, open_host
from teleport.daemon.imports import import_ahead
from teleport.daemon.monitoring.diag import Readiness, diagnostics, serve_diagnostics
from teleport.daemon.monitoring.metrics import Metrics
from teleport.daemon.reaching import WayToAuth
from teleport.daemon.remote import RemoteDelivery
from teleport.daemon.restarts.first_process import NONE
from teleport.daemon.restarts.handover import Inherited
from teleport.daemon.restarts.leaving import Doors
from teleport.daemon.restarts.succession import Request, Succession
from teleport.daemon.restarts.supervisor import READY_ANYWAY, Supervisor
from teleport.daemon.sockets import Sockets
from teleport.daemon.starting.ground import Ground
from teleport.daemon.tasks import Tasks
from teleport.daemon.welcome import Welcome
from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.launcher import LauncherEnd
from teleport.transport import tls_buffers

if TYPE_CHECKING:
    from teleport.auth.service import AuthService
    from teleport.daemon.tracing import Tracing
    from teleport.node.service import NodeService
    from teleport.proxy.needs import Accept

log = logging.getLogger(__name__)

LAST_DELIVERY = 5.0  # seconds for what waits in the spools when the daemon stops


def import_services(config: Config) -> None:
    """Imports what the services of this host need, and nothing of those that it does not run (memory, start)."""
    if config.auth is not None or config.proxy is not None:
        import_module("teleport.transport.quick_web")
    for wanted, name in (
        (config.auth, "auth"),
        (config.proxy, "proxy"),
        (config.node, "node"),
        (config.kube, "kube_service"),
    ):
        if wanted is not None:
            import_module(f"teleport.daemon.starting.{name}")


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
        ground = self._ground_of(host, readiness)
        if ground.shown:
            from teleport.daemon.monitoring import measuring

            measuring.begin(
                self._metrics,
                self._tasks,
                config,
                host,
                readiness,
                self._doors,
                self._way.caches,
                ground.held,
                self._clock,
            )
        wanted = [SystemRole(role.value.capitalize()) for role in config.roles]
        emitter, service = await self._identified(ground, wanted)
        if self._tracing is not None:
            self._tracing.of_cluster(next(iter(ground.held.values())).cluster.cluster)
        self._sockets.settle(tunnels=identities.by_tunnel(host, config))  # joining showed the way to auth

        servers = await self._way.servers(host, self._sockets)
        clients = {role: self._way.client(ground.held, role, servers) for role in wanted}
        ground.joined(emitter, clients, service)
        if service is not None:
            from teleport.daemon.starting.auth import start_auth

            await start_auth(ground, service)
        else:
            self._deliver_events(ground)
        await telling.say_started(emitter, config, self._clock.now())
        router = node = None
        if SystemRole.PROXY in ground.held:
            from teleport.daemon.starting.proxy import start_proxy

            router = await start_proxy(ground, servers)
        if SystemRole.NODE in ground.held:
            from teleport.daemon.starting.node import start_node

            assert self._launcher_end is not None, "the launcher is forked before the loop starts"
            node = await start_node(ground, self._launcher_end)
        if SystemRole.KUBE in ground.held:
            from teleport.daemon.starting.kube_service import start_kube_service

            await start_kube_service(ground)
        if router is not None and node is not None:
            router.dialer.beside = node_beside(host.host_id, node)
        self._welcome(await self._summary(service, ground.held))
        import_ahead([role.value for role in config.roles])
        return emitter

    def _ground_of(self, host: Host, readiness: Readiness) -> Ground:
        held: dict[SystemRole, Credentials] = {}
        return Ground(
            config=self._config,
            clock=self._clock,
            host=host,
            sockets=self._sockets,
            readiness=readiness,
            kept=Followers(self._config, host, held, self._clock, self._tasks, self._is_newest),
            held=held,
            tasks=self._tasks,
            stack=self._stack,
            metrics=self._metrics,
            doors=self._doors,
            way=self._way,
            announcers=self._announcers,
            look=self._look,
            is_newest=self._is_newest,
        )

    async def _identified(self, ground: Ground, wanted: Sequence[SystemRole]) -> tuple[Emitter, AuthService | None]:
        """Fills `ground.held`, by this host's own auth, which is opened, else by joining. Events can be told then."""
        config, host = self._config, ground.host
        emitter: Emitter | None = None

        def remember(cluster: str) -> Emitter:
            nonlocal emitter
            spool = host.log_dir / "spool"
            host.log_dir.mkdir(mode=0o750, exist_ok=True)  # as where events are kept; data_dir above it is 0700
            spool.mkdir(mode=0o700, exist_ok=True)
            emitter = Emitter.open(spool, host.host_id, host.epoch, self._clock, cluster=cluster)
            self._stack.callback(emitter.close)
            return emitter

        if config.auth is None:
            joiner = identities.Joiner(config, host, self._clock)
            for role in wanted:
                ground.held[role] = await joiner.credentials(role)
            return remember(next(iter(ground.held.values())).cluster.cluster), None
        from teleport.daemon import auth_side

        service, backend = await auth_side.open_auth(
            config, config.auth, host, self._clock, remember, beside=self._inherited is not None
        )
        self._stack.push_async_callback(backend.close)
        for role in (SystemRole.ADMIN, *wanted):
            ground.held[role] = await auth_side.local_credentials(service, config, host, role, self._clock)
        assert emitter is not None
        return emitter, service

    def _deliver_events(self, ground: Ground) -> None:
        """To auth, where that is of another process."""
        shipper = Shipper(ground.emitter, RemoteDelivery(next(iter(ground.clients.values()))))
        ground.readiness.watch("audit", lambda: shipper.problem, serves=True)
        if ground.shown:
            from teleport.daemon.monitoring import service_metrics

            service_metrics.of_delivery(self._metrics, shipper)
        self._tasks.start(_deliver(shipper), "audit delivery")

    def _is_newest(self) -> bool:
        """Whether no newer process of this host has taken over what only one may do."""
        return self._succession is None or not self._succession.superseded

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


def node_beside(host_id: str, node: NodeService) -> Callable[[str], Accept | None]:
    """For the proxy: what takes connections to the node of its own process. While that node is leaving, its listener is
    another process's."""
    return lambda asked: node.accepted if asked == host_id and node.accepting else None

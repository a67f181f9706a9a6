"""The end of reverse tunnels that dials out: carries out what `pool` decides, and hands clients to the node service.

A proxy is believed by its host certificate alone: role Proxy of this cluster, and asked about again whenever locks,
hosts or authorities change, as long as its tunnel stands. How one is found and proves itself is in `proxy_login`. What
a proxy may ask is one thing, the node service of this very host; whoever comes is judged there, as at its listener.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from teleport.clock import Clock
from teleport.errors import AccessDenied, Busy, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.ssh.client_connection import ClientKey
from teleport.ssh.client_session import RemoteSession
from teleport.ssh.handlers import Channel
from teleport.ssh.relay import NodeLeg
from teleport.transport import memory_pair
from teleport.tunnel import messages as m
from teleport.tunnel.link import Arrival, Link, Serve
from teleport.tunnel.pool import plan
from teleport.tunnel.pool_events import (
    Action,
    Announce,
    Begun,
    Close,
    Dial,
    Distrusted,
    Event,
    Failed,
    Finish,
    Halted,
    Lost,
    Reached,
    Renewed,
    Told,
    Wake,
    Woke,
    proxies_of,
)
from teleport.tunnel.pool_state import SEEDS, SPREAD, State
from teleport.tunnel.proxy_login import ProxyLogin
from teleport.tunnel.reaching import Ways
from teleport.tunnel.turn import Turn

log = logging.getLogger(__name__)

ON_ITS_WAY: Final = 25.0  # seconds for which connections to auth wait for a tunnel that is made anew, and ...
# ... so many times those in which the many hosts of a proxy come back. One that is slower than it said is not helped by
# hosts that ask it for other ways meanwhile: with ten thousand, those who still waited brought the rest to a stand.
LATE: Final = 3
OPEN_SECONDS: Final = 10.0  # for a proxy to reach auth

Seeds = Callable[[], Awaitable[Sequence[str]]]


class Hosts(Protocol):
    """Who belongs to the cluster now."""

    def verify_host(self, certificate: bytes) -> HostIdentity:
        """Raises `AccessDenied`."""
        ...


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What the agent is told once. `epoch` is of this process; `configured` are hosts at which proxies are configured:
    those are dialled wherever their names lead."""

    cluster: str
    host_id: UUID
    epoch: int
    configured: tuple[str, ...] = ()
    conn_type: str = m.NODE  # which service of the host clients are led to


class TunnelAgent:
    """Keeps the tunnels of this process while it runs. A `Door` of the daemon: paused, it makes no new ones."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        hosts: Hosts,
        key: Callable[[], ClientKey],
        seeds: Seeds,
        accept: Callable[[asyncio.Transport], None],
        changed: Callable[[], None],
        clock: Clock,
        connections: Callable[[], int] = lambda: 0,
        ended: Callable[[HostIdentity, tuple[str, int], str], None] = lambda proxy, peer, reason: None,
        serve: Serve | None = None,
    ) -> None:
        """`key` gives the host's key and certificate as they are now; `seeds` the addresses to begin with; `accept`
        takes a client as a listener would; `changed` hears that `proxies` are others now; `connections` gives to how
        many of them the cluster has hosts keep a tunnel, 0: to all; `ended` hears that the tunnel to a proxy which may
        not be here any more was ended, with that proxy, where it was, and why. With `serve`, which connects what
        another cluster's proxy asks for (`proxy.from_clusters`), nobody is handed to `accept`."""
        self.config = config
        self._hosts = hosts
        self._seeds = seeds
        self._accept = accept
        self._changed = changed
        self.clock = clock
        self.login = ProxyLogin(self.server_id, config.epoch, key, self.believed, Ways(config.configured))
        self.serve = serve
        self._connections = connections
        self._ended = ended
        self._check_due = False
        self._state = State()
        self._events: asyncio.Queue[Callable[[float, float], Event]] = asyncio.Queue()
        self._links: dict[int, Link] = {}
        self._wake: asyncio.TimerHandle | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._first = asyncio.Event()
        self._stands = asyncio.Event()  # while there is a tunnel
        self._awaited = 0.0  # loop time until which the next tunnel is waited for
        self.turn = Turn()

    @property
    def proxies(self) -> tuple[str, ...]:
        """The proxies that lead here now."""
        return self._state.announced

    @property
    def tunnels(self) -> int:
        """How many stand."""
        return len(self._state.held)

    @property
    def carried(self) -> int:
        """How many clients are led here."""
        return sum(link.carried for link in self._links.values())

    async def wait_first(self, seconds: float) -> bool:
        """Waits a while for the first tunnel; whether there has been one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._first.wait()
        return self._first.is_set()

    async def way(self, seconds: float) -> bool:
        """Whether auth can be asked: by a tunnel, or because none is waited for. Waits so long for that."""
        left = self._awaited - asyncio.get_running_loop().time()
        if left <= 0 or self._leading():
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left, seconds)):
                await self._stands.wait()
        return left <= seconds or bool(self._leading())

    async def to_auth(
        self, on_output: Callable[[bytes, bool], None], on_eof: Callable[[], None]
    ) -> RemoteSession | None:
        """A connection to auth by a tunnel, the newest first; None when none leads there.

        While tunnels are made anew it waits a while: of connections that strangers ask for, a proxy takes few. Raises
        `ConnectionAbortedError` when one leads there and many hosts come by it just now: by another way, they would be
        more."""
        left = self._awaited - asyncio.get_running_loop().time()
        if left > 0 and not self._leading():
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._stands.wait()
        busy = False
        for link in self._leading():
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    return await link.open_auth(on_output, on_eof)
            except (ConnectionProblem, OSError, TimeoutError) as error:
                busy = busy or isinstance(error, Busy)
                log.debug("no way to auth by the tunnel %d: %s", link.number, error)
        if busy:
            raise ConnectionAbortedError("many hosts ask auth just now")
        return None

    def _leading(self) -> list[Link]:
        """The tunnels that stand and are not about to end."""
        held = sorted(self._state.held.items(), reverse=True)
        standing = [number for number, one in held if not one.finished and number in self._links]
        return [self._links[number] for number in standing]

    # a door

    @property
    def open(self) -> int:
        """Whoever is led here counts at the node service."""
        return 0

    def pause(self) -> None:
        """Another process of this host makes new tunnels; those that stand serve on."""
        self._put(Halted)

    async def resume(self) -> None:
        self._put(Begun)

    def renewed(self) -> None:
        """The host has new certificates."""
        self._put(Renewed)

    def reconsider(self) -> None:
        """Looks at the proxies anew, soon; to be called when locks, hosts or authorities changed."""
        if self._tasks is None or self._check_due:
            return
        self._check_due = True
        asyncio.get_running_loop().call_soon(self._check_all)  # changes come in groups

    def _check_all(self) -> None:
        self._check_due = False
        for link in list(self._links.values()):
            link.reconsider()

    def settings_changed(self) -> None:
        """`connections` may be another now."""
        for link in list(self._links.values()):
            link.repeat()

    # the loop

    async def run(self) -> None:
        """Keeps tunnels until cancelled; then all of them end."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._put(Begun)
                while True:
                    make = await self._events.get()
                    event = make(loop.time(), random.random())  # noqa: S311 - spreads attempts, guards nothing
                    self._state, actions = plan(self._state, event)
                    for action in actions:
                        self._do(action)
        finally:
            if self._wake is not None:
                self._wake.cancel()
            for link in list(self._links.values()):
                link.abort()
            self.turn.now()

    def _put(self, make: Callable[[float, float], Event]) -> None:
        self._events.put_nowait(make)

    def _do(self, action: Action) -> None:
        match action:
            case Dial(number, addresses):
                link = self._links[number] = Link(self, number)
                assert self._tasks is not None, "actions are carried out in `run`"
                self._tasks.create_task(self._keep(link, addresses), name=f"tunnel {number}")
            case Close(number):
                if number in self._links:
                    self._links[number].abort()
            case Finish(number):
                if number in self._links:
                    self._links[number].finish()
            case Announce(proxies):
                if proxies:
                    self._first.set()
                    self._stands.set()
                    self.turn.stands(proxies, random.random())  # noqa: S311 - spreads requests, guards nothing
                else:
                    self._stands.clear()
                log.info("tunnels to %d proxies: %s", len(proxies), ", ".join(proxies) or "none")
                self._changed()
            case Wake(at):
                if self._wake is not None:
                    self._wake.cancel()
                self._wake = asyncio.get_running_loop().call_at(at, self._put, Woke)

    async def _keep(self, link: Link, addresses: Sequence[str]) -> None:
        """One attempt, and the tunnel that comes of it."""
        number, ended_there = link.number, False
        try:
            try:
                host_id, epoch, address = await self.login.reach(link, addresses or await self._seeds())
            except (TeleportError, OSError) as error:
                answered = link.met or isinstance(error, ConnectionError)
                self._put(lambda now, draw: Failed(now, draw, number, answered))
                return
            except Exception:  # what answers is a stranger: a mistake of ours in hearing it must not end the daemon
                log.exception("no tunnel by %s", ", ".join(addresses) or "the addresses that proxies tell")
                self._put(lambda now, draw: Failed(now, draw, number))
                return
            self._put(lambda now, draw: Reached(now, draw, number, host_id, epoch, address))
            link.stands()
            link.reconsider()  # what changed while it was made was told to nobody
            assert link.tunnel is not None
            reason = await link.tunnel.wait_lost()
            log.info("the tunnel to the proxy %s ended: %s", host_id, reason or "closed")
            ended_there = link.tunnel.ended_there
            self._put(lambda now, draw: Lost(now, draw, number, ended_there))
        finally:
            link.over()
            self._links.pop(number, None)
            if link.was_lost and not self._leading():
                # a proxy that may not be here is not waited for: news of a lifted lock comes by auth alone
                self._stands.clear()
                spread = self._state.spread(SEEDS)
                waits = ON_ITS_WAY + spread * (LATE if spread > SPREAD else 1)
                self._awaited = asyncio.get_running_loop().time() + (waits if link.trusted else 0.0)
                if link.trusted and ended_there:  # others have lost theirs, too
                    self.turn.lost(spread, waits, self._state.announced)

    # for the links (`link.Agent`)

    @property
    def server_id(self) -> str:
        return m.server_id(str(self.config.host_id), self.config.cluster)

    @property
    def conn_type(self) -> str:
        return self.config.conn_type

    def believed(self, certificate: bytes, where: str) -> HostIdentity:
        """The proxy that showed this certificate. Raises `CertificateRefused`, or `AccessDenied` for one that may not
        be here."""
        identity = self._hosts.verify_host(certificate)
        if identity.role is not SystemRole.PROXY:
            raise AccessDenied(f"what answers at {where} is a {identity.role} of the cluster, no proxy")
        return identity

    def distrusted(self, number: int, *, at_once: bool) -> None:
        self._put(lambda now, draw: Distrusted(now, draw, number, at_once))

    def put_on_record(self, proxy: HostIdentity, peer: tuple[str, int], reason: str) -> None:
        self._ended(proxy, peer, reason)

    def told(self, number: int, news: m.News) -> None:
        proxies = proxies_of([(one.host_id, one.addresses) for one in news.proxies])
        most = self._connections() if news.connections > 0 else 0  # proxies may ask for more than the cluster does
        spread = max(news.spread, 0) / 1000
        self._put(lambda now, draw: Told(now, draw, number, proxies, news.leaving, most, spread))

    def take(self, channel: Channel, peer: tuple[str, int], arrival: Arrival) -> None:
        """Hands the client behind `channel` to the node service."""
        leg = NodeLeg(channel, b"", channel.close)
        accept = self._accept_later if self.turn.behind else self._accept
        memory_pair.connect(lambda: leg, accept, peername=peer)
        arrival.leg = leg

    def _accept_later(self, transport: asyncio.Transport) -> None:
        """Once the host has heard auth: by what it says the client is judged."""

        async def accept() -> None:
            await self.turn.catch_up()
            if transport.is_closing():
                return
            try:
                transport.resume_reading()
                self._accept(transport)
            except Exception:  # as from a listener: one client's trouble ends nothing else
                log.exception("a client that was led here was not taken")
                transport.abort()

        assert self._tasks is not None, "tunnels stand while it runs"
        transport.set_protocol(asyncio.Protocol())  # until then nobody
        transport.pause_reading()
        self._tasks.create_task(accept(), name="a client waits until auth is heard")

"""Asks other proxies for hosts whose tunnels end there: connections that wait for a client, and those that carry one.

A TLS handshake costs a client some ten milliseconds, so a few connections to each proxy that was asked lately are kept
ready. Each of them is proved: by the name `<uuid>.<cluster>` in the other's host certificate, its role, and that
it is neither locked nor expelled, which is looked at again before it is used.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.pki.refusal import CertificateRefused
from teleport.recording.sanitise import one_line
from teleport.resources.values import HostPort
from teleport.ssh.relay import NodeLeg, RelayHandler
from teleport.transport import memory_pair
from teleport.tunnel.peer_link import HANDSHAKE_SECONDS, SHUTDOWN_SECONDS, Context, Hosts, Link, check_proxy
from teleport.tunnel.reaching import is_loopback, why_not
from teleport.wire import peering
from teleport.wire.peering import Kind

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 3.0  # for TCP and TLS
ANSWER_SECONDS: Final = 12.0  # longer than the other proxy waits for its host
KEPT: Final = 2  # connections to one proxy that wait
KEPT_SECONDS: Final = 40.0  # shorter than the other proxy keeps them
P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class PeerProxy:
    """Another proxy: its UUID, and where it takes questions."""

    host_id: str
    host: str
    port: int


class NotHere(ConnectionProblem):
    """The other proxy answered: it holds no tunnel of the host."""


class Refused(AccessDenied):
    """Another cluster, to which that proxy holds a tunnel, refuses the client; the message has its words."""


class Dialer:
    """Leads clients to hosts by other proxies."""

    def __init__(self, cluster: str, *, hosts: Hosts, context: Context, address: Callable[[], str]) -> None:
        """`context` gives the TLS context of the next connection; it shows this proxy's certificate. `address` is where
        this proxy says that others reach it (`HOST:PORT`), empty while nowhere: others' loopback addresses are dialled
        only where that is one, too."""
        self._cluster = cluster
        self._hosts = hosts
        self._context = context
        self._address = address
        self._waiting: dict[PeerProxy, deque[_Asked]] = {}
        self._warming: set[PeerProxy] = set()
        self._links: set[_Asked] = set()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, started: Callable[[], None]) -> None:
        """Keeps connections ready until cancelled; then all of them end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                started()
                await asyncio.get_running_loop().create_future()
        finally:
            for link in list(self._links):
                link.abort()

    async def connect(self, proxy: PeerProxy, host_id: str, make: Callable[[], P], conn_type: str = peering.NODE) -> P:
        """Connects the protocol that `make` gives with a service of a host, by that proxy's tunnel.

        Raises `NotHere`, and `ConnectionProblem` when the proxy is not reached or not believed.
        """
        return await self.lead(proxy, peering.Ask(server_id=f"{host_id}.{self._cluster}", conn_type=conn_type), make)

    async def lead(self, proxy: PeerProxy, ask: peering.Ask, make: Callable[[], P]) -> P:
        """Connects the protocol that `make` gives with what `ask` names. Raises as `connect`, and `AccessDenied` when
        another cluster refuses the client."""
        while (link := self._ready(proxy)) is not None:
            try:
                made = await self._ask(link, ask, make)
            except NotHere:
                link.abort()  # perhaps of a former process of that proxy: a new connection reaches the present one
                break
            except Refused:
                self._keep(proxy, link)
                raise
            except _Gone:
                continue  # the other end had closed it
            self._warm(proxy)
            return made
        link = await self._dial(proxy)
        try:
            made = await self._ask(link, ask, make)
        except (NotHere, Refused):
            self._keep(proxy, link)
            raise
        self._warm(proxy)
        return made

    def reconsider(self) -> None:
        """Looks at every proxy anew; to be called when locks, hosts or authorities changed."""
        for link in list(self._links):
            try:
                check_proxy(self._hosts, link.certificate)
            except CertificateRefused:
                if not link.leads:
                    link.abort()
            except TeleportError as error:
                log.warning("the connection with a proxy ends: %s", error.message)
                link.abort()

    def renewed(self) -> None:
        """This proxy has new certificates: what waits was made with the former ones."""
        former, self._waiting = self._waiting, {}
        for link in [link for waiting in former.values() for link in waiting]:
            link.abort()

    def kept(self, proxy: PeerProxy) -> int:
        """How many connections to it wait for a client."""
        return len(self._waiting.get(proxy, ()))

    # connections

    def _ready(self, proxy: PeerProxy) -> _Asked | None:
        while waiting := self._waiting.get(proxy):
            link = waiting.pop()
            link.stop_waiting()
            if not waiting:
                del self._waiting[proxy]
            if not link.gone:
                return link
        return None

    def _keep(self, proxy: PeerProxy, link: _Asked) -> None:
        if link.gone or self.kept(proxy) >= KEPT:
            link.close()
            return
        self._waiting.setdefault(proxy, deque()).append(link)
        link.wait(KEPT_SECONDS, lambda: self._forget(proxy, link))

    def _forget(self, proxy: PeerProxy, link: _Asked) -> None:
        waiting = self._waiting.get(proxy)
        if waiting is not None:
            with suppress(ValueError):
                waiting.remove(link)
            if not waiting:
                del self._waiting[proxy]
        link.close()

    def _warm(self, proxy: PeerProxy) -> None:
        """Makes a connection for the client who comes next."""
        if proxy in self._warming or self.kept(proxy) >= KEPT or self._tasks is None:
            return
        self._warming.add(proxy)

        async def make() -> None:
            try:
                self._keep(proxy, await self._dial(proxy))
            except TeleportError:
                pass  # who comes next finds out
            finally:
                self._warming.discard(proxy)

        work = make()
        try:
            self._tasks.create_task(work, name=f"a connection to the proxy {proxy.host_id}")
        except RuntimeError:  # it ends
            work.close()
            self._warming.discard(proxy)

    async def _dial(self, proxy: PeerProxy) -> _Asked:
        what = f"the proxy {proxy.host_id} at {proxy.host}:{proxy.port}"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                link = await self._reach(proxy)
        except TimeoutError:
            raise ConnectionProblem(f"{what} does not answer") from None
        except (OSError, ssl.SSLError, ValueError, TeleportError) as error:
            raise ConnectionProblem(f"{what} is not reached: {error}") from error
        try:
            identity = check_proxy(self._hosts, link.certificate)
            if identity.host_id != proxy.host_id:
                raise AccessDenied(f"it is the proxy {identity.host_id}")
        except TeleportError as error:
            link.abort()
            raise ConnectionProblem(f"{what} is not believed: {error.message}") from error
        return link

    async def _reach(self, proxy: PeerProxy) -> _Asked:
        """TLS with the first of the proxy's addresses that answers. What is checked is what is dialled: a proxy says
        its address itself, and one that was taken over does not have this one knock at what only it reaches."""
        own = bool(self._address()) and is_loopback(HostPort.parse(self._address(), 0).host)  # all on one machine
        loop, problem = asyncio.get_running_loop(), OSError("its name has no address")
        for info in await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM):
            address = str(info[4][0])
            if why := why_not(address, loopback=own, elsewhere="this proxy's own peer address is none"):
                problem = OSError(f"{address} is not dialled: {why}")
                continue
            try:
                _, link = await loop.create_connection(
                    lambda: _Asked(self._links),
                    address,
                    proxy.port,
                    ssl=self._context(),
                    server_hostname=f"{proxy.host_id}.{self._cluster}",
                    ssl_handshake_timeout=HANDSHAKE_SECONDS,
                    ssl_shutdown_timeout=SHUTDOWN_SECONDS,
                )
            except OSError as error:  # TLS errors are such, too
                problem = error
            else:
                return link
        raise problem

    async def _ask(self, link: _Asked, ask: peering.Ask, make: Callable[[], P]) -> P:
        made: list[P] = []

        def begin() -> RelayHandler:
            leg = NodeLeg(link, b"", link.close)

            def accept(far: asyncio.Transport) -> None:
                far.set_protocol(leg)
                leg.connection_made(far)

            made.append(memory_pair.connect(make, accept, peername=link.peername))
            return RelayHandler(leg)

        try:
            check_proxy(self._hosts, link.certificate)
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await link.ask(ask, begin)
        except TimeoutError:
            link.abort()
            raise ConnectionProblem("the other proxy does not answer") from None
        except AccessDenied as error:
            link.abort()
            raise ConnectionProblem(f"the other proxy is not believed any more: {error.message}") from error
        except BaseException:
            link.abort()
            raise
        if made:
            return made[0]
        if answer.refused:
            raise Refused(one_line(answer.error, 1000))
        if not answer.here:
            raise NotHere(answer.error)
        link.abort()
        raise ConnectionProblem(f"the other proxy could not lead there: {answer.error}")


class _Gone(ConnectionProblem):
    """The connection ended before an answer came."""

    def __init__(self) -> None:
        super().__init__("the other proxy ended the connection")


class _Asked(Link):
    """A connection to a proxy."""

    def __init__(self, links: set[_Asked]) -> None:
        super().__init__()
        self._links = links
        self._answer: asyncio.Future[peering.Answer] | None = None
        self._begin: Callable[[], RelayHandler] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over: Callable[[], None] | None = None
        self.peername: object = None

    def began(self) -> None:
        assert self.transport is not None
        self.peername = self.transport.get_extra_info("peername")
        self._links.add(self)

    @property
    def leads(self) -> bool:
        """Whether a client is led, or about to be."""
        return self.handler is not None or self._answer is not None

    def wait(self, seconds: float, over: Callable[[], None]) -> None:
        """Calls `over` after so long, or when the connection ends before."""
        self._over = over
        self._timer = asyncio.get_running_loop().call_later(seconds, over)

    def stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._over = None

    async def ask(self, ask: peering.Ask, begin: Callable[[], RelayHandler]) -> peering.Answer:
        """The answer; when it says yes, `begin` has been called for what follows. Raises `_Gone`."""
        if self.gone:
            raise _Gone
        self._answer = asyncio.get_running_loop().create_future()
        self._begin = begin
        self.send(peering.message(Kind.ASK, ask))
        try:
            return await self._answer
        finally:
            self._answer = self._begin = None

    def said(self, kind: Kind, body: bytes) -> None:
        if kind is not Kind.ANSWER or self._answer is None or self._answer.done():
            super().said(kind, body)
            return
        answer = peering.read(body, peering.Answer)
        if not answer.error:
            assert self._begin is not None
            self.handler = self._begin()
        self._answer.set_result(answer)

    def lost(self) -> None:
        over = self._over
        self.stop_waiting()
        if over is not None:
            over()
        self._links.discard(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_Gone())

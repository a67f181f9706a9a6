"""One tunnel of an agent: who is at its other end, whether that is still believed, and who comes through it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from teleport.clock import Clock
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity
from teleport.pki.refusal import CertificateRefused
from teleport.ssh.client_session import RemoteSession
from teleport.ssh.handlers import Channel, StreamHandler
from teleport.ssh.relay import NodeLeg, RelayHandler
from teleport.ssh.surface import Refusal
from teleport.ssh.tunnel_client import TunnelClient
from teleport.transport.probes import probe
from teleport.tunnel import messages as m
from teleport.tunnel.silence import of_host

log = logging.getLogger(__name__)

NEWS_SECONDS: Final = 0.2  # between two pieces of news of one proxy

Serve = Callable[[bytes, Channel], Awaitable[NodeLeg | Refusal]]


class Agent(Protocol):
    """What a link asks of the agent that made it."""

    @property
    def server_id(self) -> str:
        """The name under which clients are led here."""
        ...

    @property
    def conn_type(self) -> str:
        """Which service of the host clients are led to."""
        ...

    @property
    def clock(self) -> Clock: ...

    @property
    def serve(self) -> Serve | None:
        """Takes the channels of a tunnel that is not a node's."""
        ...

    def believed(self, certificate: bytes, where: str) -> HostIdentity:
        """The proxy that showed this certificate. Raises `CertificateRefused`, or `AccessDenied`."""
        ...

    def distrusted(self, number: int, *, at_once: bool) -> None:
        """The proxy at the other end of a link may not lead anybody new here; `at_once`: nor anybody at all."""
        ...

    def put_on_record(self, proxy: HostIdentity, peer: tuple[str, int], reason: str) -> None: ...

    def told(self, number: int, news: m.News) -> None:
        """What the proxy at the other end of a link says."""
        ...

    def take(self, channel: Channel, peer: tuple[str, int], arrival: Arrival) -> None:
        """Hands the client behind `channel` to the node service."""
        ...


class Noted(asyncio.Protocol):
    """The first protocol of a tunnel: sets the kernel's probes, notes where the proxy is, hands over."""

    def __init__(self, protocol: asyncio.Protocol, link: Link) -> None:
        self._protocol = protocol
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        probe(transport)
        self._link.met = True
        peer = transport.get_extra_info("peername")
        if peer:
            self._link.peer = (str(peer[0]), int(peer[1]))
        transport.set_protocol(self._protocol)
        self._protocol.connection_made(transport)


class Link:
    """One attempt and its tunnel (`ssh.tunnel_client.TunnelHandler`)."""

    def __init__(self, agent: Agent, number: int) -> None:
        self._agent = agent
        self.number = number
        self._apart = secrets.randbelow(1000) / 1000
        self.tunnel: TunnelClient | None = None
        self.peer = ("127.0.0.1", 0)
        self.certificate = b""  # that the far end showed
        self.met = False  # whether somebody took the connection
        self._proxy: HostIdentity | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.trusted = True  # whether the proxy may lead people here
        self.was_lost = False  # whether it stood and ended
        self._stands = False
        self._news: m.News | None = None  # the last that was heeded
        self._came = b""  # and what came since
        self._due: asyncio.TimerHandle | None = None
        self._finishing = False
        self.carried = 0

    def anew(self) -> None:
        """Another address is tried."""
        self.certificate, self.met, self.tunnel = b"", False, None

    def proved(self, proxy: HostIdentity) -> None:
        """The proxy at the other end; its certificate lasts as long as it says."""
        self._proxy = proxy
        left = (proxy.expires - self._agent.clock.now()).total_seconds()
        self._expiry = asyncio.get_running_loop().call_later(max(left, 0) + 1, self.reconsider)

    def reconsider(self) -> None:
        """Ends at once when the proxy may not be here; takes nobody new once its certificate does not count."""
        if self._proxy is None:
            return  # that is checked as it logs in
        try:
            self._agent.believed(self.certificate, str(self.peer[0]))
        except CertificateRefused:
            if self.trusted:
                self.trusted = False
                self._agent.distrusted(self.number, at_once=False)
        except TeleportError as error:
            log.warning("the tunnel to the proxy %s ended: %s", self._proxy.host_id, error.message)
            proxy, self._proxy = self._proxy, None
            self.trusted = False
            self._agent.put_on_record(proxy, self.peer, error.message)
            self._agent.distrusted(self.number, at_once=True)
            self.abort()

    def stands(self) -> None:
        """The pool knows of it."""
        self._stands = True
        self.repeat()

    def news(self, data: bytes) -> None:
        """Heeded at once; of what follows within `NEWS_SECONDS` only the last."""
        self._came = data
        if self._due is None:
            self._heed()

    def _heed(self) -> None:
        self._due = None
        if not self._came:
            return
        data, self._came = self._came, b""
        self._due = asyncio.get_running_loop().call_later(NEWS_SECONDS, self._heed)
        try:
            self._news = m.decode(data, m.News)
        except BadRequest as error:
            log.warning("%s", error)
            return
        self.repeat()

    def repeat(self) -> None:
        """Tells the pool what the proxy said last."""
        if self._stands and self._news is not None:
            self._agent.told(self.number, self._news)
            if self.tunnel is not None:
                self.tunnel.keep_alive(of_host(self._news.silence, self._apart))

    async def arrive(self, data: bytes, channel: Channel) -> StreamHandler | Refusal:
        if self._agent.serve is not None:
            return await self._served(self._agent.serve, data, channel)
        try:
            dial = m.decode(data, m.Dial)
        except BadRequest as error:
            return Refusal(error.message)
        asked = (dial.version, dial.conn_type, dial.server_id)
        if asked != (m.VERSION, self._agent.conn_type, self._agent.server_id):
            return Refusal("This host takes connections to its own service, and no others.")
        if not self.trusted:
            return Refusal("This host does not believe the certificate of this proxy any more.")
        self.carried += 1
        arrival = Arrival(self)
        # only in the next turn is the channel open, and the node service speaks first
        asyncio.get_running_loop().call_soon(arrival.begin, self._agent, channel, self.peer)
        return arrival

    async def _served(self, serve: Serve, data: bytes, channel: Channel) -> StreamHandler | Refusal:
        if not self.trusted:
            return Refusal("The certificate of this proxy is not believed any more.", tried=True)
        self.carried += 1
        leg: NodeLeg | Refusal = Refusal("it broke off", tried=True)
        try:
            leg = await serve(data, channel)
        finally:
            if isinstance(leg, Refusal):
                self.let_go()
        if isinstance(leg, Refusal):
            return leg
        arrival = Arrival(self)
        arrival.leg = leg
        return arrival

    async def open_auth(self, on_output: Callable[[bytes, bool], None], on_eof: Callable[[], None]) -> RemoteSession:
        """A channel to auth. Raises `ConnectionProblem`."""
        if self.tunnel is None:
            raise ConnectionProblem("the tunnel is gone")
        return await self.tunnel.stream(m.AUTH, on_output=on_output, on_eof=on_eof)

    def let_go(self) -> None:
        self.carried -= 1
        if self._finishing and not self.carried:
            self.abort()

    def finish(self) -> None:
        """Ends when it carries nobody."""
        self._finishing = True
        if not self.carried:
            self.abort()

    def abort(self) -> None:
        if self.tunnel is not None:
            self.tunnel.abort()

    def over(self) -> None:
        """It came to nothing, or is gone."""
        for timer in (self._expiry, self._due):
            if timer is not None:
                timer.cancel()
        self.was_lost, self._stands = self._stands, False
        self._proxy = None
        self.abort()


class Arrival(RelayHandler):
    """A client that a proxy leads here."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._gone = False

    def begin(self, agent: Agent, channel: Channel, peer: tuple[str, int]) -> None:
        if not self._gone:
            agent.take(channel, peer, self)

    def closed(self) -> None:
        self._gone = True
        super().closed()
        self._link.let_go()

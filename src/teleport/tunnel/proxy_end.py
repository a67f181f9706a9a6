"""The proxy's end of one tunnel: the connection of a host that was let in, and what is led through it.

Rules it keeps:
- A host may open one thing, a channel to auth, of which it has `AUTH_OF_ONE` at most: no forward, no session. Nothing
  that it says makes the proxy connect anywhere else than to the auth servers of the proxy's own configuration.
- Clients are led to it once it said which process it is (`tunnel.messages`), which it does within `REGISTER_SECONDS`,
  once; what is carried begins with the line of `wire.vouch`, as on a direct connection, and is judged as there.
- Who is led to a host that does not answer waits for `OPEN_SECONDS`.
- One whose host is locked or expelled ends at once; one whose certificate ended takes nobody new, and ends when it
  carries nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from teleport.audit.events import SessionRequestDenied, TunnelEnded
from teleport.authz.channel_table import AskedKind
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity
from teleport.pki.refusal import CertificateRefused
from teleport.ssh.handlers import Channel, Client, SessionChannel, SessionHandler, StreamHandler
from teleport.ssh.relay import NodeLeg, RelayHandler
from teleport.ssh.surface import Peer, Refusal, ToHost
from teleport.transport import memory_pair
from teleport.tunnel import messages as m
from teleport.tunnel.clusters import Gone
from teleport.tunnel.registry import Registry

if TYPE_CHECKING:
    from teleport.tunnel.server import TunnelServer

log = logging.getLogger(__name__)

REGISTER_SECONDS: Final = 10.0  # for a host to say which process it is
WRONG: Final = 8  # registrations that cannot be read, after which a connection ends
OPEN_SECONDS: Final = 10.0  # for a host to take a client
AUTH_OF_ONE: Final = 16  # connections to auth by one tunnel: a daemon of a host has three or four
P = TypeVar("P", bound=asyncio.Protocol)


class Tunnel:
    """One host's connection (`ssh.handlers.ConnectionHandler`)."""

    def __init__(
        self,
        server: TunnelServer,
        identity: HostIdentity,
        certificate: bytes,
        login: str,
        peer: Peer,
        registry: Registry[Tunnel] | None = None,
        verify: Callable[[bytes], HostIdentity] | None = None,
        conn_type: str = m.NODE,
    ) -> None:
        """`registry` is where the tunnel of another cluster's proxy belongs, `verify` says whose certificate it is
        then: the UUIDs of other clusters are never mixed with those of hosts here."""
        self._server = server
        self.registry = registry if registry is not None else server.registries[conn_type]
        self._conn_type = conn_type
        self._verify = verify or server.hosts.verify_host
        self._name = login if registry is not None else identity.host_id
        self._role = identity.role
        self._certificate = certificate
        self._login = login
        self._peer = peer
        self._client: Client | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._retired = False
        self._expires = identity.expires
        self.host_id = identity.host_id
        self.epoch = 0
        self.carried = 0  # clients
        self.asking = 0  # connections of the host to auth
        self.opening = 0  # clients whom the host has not taken yet
        self._wrong = 0  # registrations
        self._counted = True
        server.unregistered[self._name] += 1

    @property
    def in_use(self) -> bool:
        """Whether somebody is led through, or about to be."""
        return bool(self.carried or self.opening)

    def _known(self) -> None:
        """It counts no more for those that have said nothing."""
        if self._counted:
            self._counted = False
            unregistered = self._server.unregistered
            unregistered[self._name] -= 1
            if not unregistered[self._name]:
                del unregistered[self._name]

    def began(self, client: Client) -> None:
        self._client = client
        self._server.entered(self)
        self._timer = asyncio.get_running_loop().call_later(REGISTER_SECONDS, self._abort, "nothing was registered")

    def register(self, data: bytes) -> bytes | None:
        """The process at the other end says which one it is: from here on clients are led to it."""
        loop, server = asyncio.get_running_loop(), self._server
        if self.epoch or self._retired:
            self._refuse("a tunnel is registered once")
            loop.call_soon(self._abort, "a tunnel is registered once")
            return None
        try:
            said = m.decode(data, m.Register)
            if not 0 < said.epoch < 2**53:
                raise BadRequest("a process has an epoch above 0")
        except BadRequest as error:
            self._wrong += 1
            self._refuse(error.message)
            if self._wrong >= WRONG:
                loop.call_soon(self._abort, "what it registers cannot be read")
            return None
        self.epoch = said.epoch
        if not self.registry.add(self):
            self._refuse("the host has too many tunnels")
            loop.call_soon(self._abort, "too many tunnels")
            return None
        self._known()
        self._stop_timer()
        left = (self._expires - server.clock.now()).total_seconds()
        self._timer = loop.call_later(max(left, 0), self.retire)
        loop.call_soon(lambda: self.tell(server.news()))
        log.info("tunnel of the host %s (process %d) from %s", self.host_id, self.epoch, self._peer)
        return m.encode(m.Registered(epoch=server.config.epoch))

    def tell(self, news: bytes) -> None:
        if self._client is not None and self.epoch:
            self._client.tell("tunnel-news@teleport", news)

    async def connect(self, make: Callable[[], P]) -> P:
        """As `TunnelServer.connect`, by this tunnel."""
        server_id = m.server_id(self.host_id, self._server.config.cluster)
        dial = m.Dial(server_id=server_id, conn_type=self._conn_type)
        made = await self.open(m.encode(dial), make)
        if isinstance(made, Refusal):
            raise ConnectionProblem(f"the host {self.host_id} did not take the client: {made.message}")
        return made

    async def open(self, dial: bytes, make: Callable[[], P]) -> P | Refusal:
        """Connects the protocol that `make` gives with what the message asks the other end for; a refusal that was not
        `tried` is the other end's own. Raises `Gone`."""
        made: list[P] = []
        client = self._client
        if client is None:
            raise Gone(f"the tunnel of the host {self.host_id} has ended")

        def begin(channel: Channel) -> StreamHandler:
            leg = NodeLeg(channel, b"", channel.close)

            def accept(transport: asyncio.Transport) -> None:
                transport.set_protocol(leg)
                leg.connection_made(transport)

            made.append(memory_pair.connect(make, accept, peername=(self._peer.host, self._peer.port)))
            self.carried += 1
            return _Carried(self, leg)

        self.opening += 1
        try:
            refused = await client.open(ToHost(dial), begin, seconds=OPEN_SECONDS)
        finally:
            self.opening -= 1
            self._end_if_unused()
        if refused is not None or not made:
            if self._client is None:
                raise Gone(f"the tunnel of the host {self.host_id} ended before it took the client")
            return refused or Refusal("it is gone", tried=True)
        return made[0]

    def let_go(self) -> None:
        """A client is gone."""
        self.carried -= 1
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._retired and not self.in_use:
            self._abort("its certificate does not count any more")

    def reconsider(self) -> None:
        """Ends at once for a host that may not be here; takes nobody new once its certificate does not count."""
        try:
            self._verify(self._certificate)
        except CertificateRefused:
            self.retire()
        except TeleportError as error:
            log.warning("tunnel of the host %s ended: %s", self.host_id, error.message)
            self._server.put_on_record(
                TunnelEnded, self._login, self._peer, host=self.host_id, role=str(self._role), reason=error.message
            )
            self._abort(error.message)

    def retire(self) -> None:
        """Takes nobody new; ends when it carries nobody."""
        self._retired = True
        self.registry.remove(self)
        self._end_if_unused()

    def _abort(self, reason: str) -> None:
        self.registry.remove(self)
        if self._client is not None:
            self._client.abort(reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # as every connection: nothing is offered

    async def open_session(self, channel: SessionChannel) -> SessionHandler | Refusal:
        return Refusal("A tunnel takes nothing from its host.")

    async def open_stream(
        self, channel: Channel, host: str, port: int, origin: tuple[str, int]
    ) -> StreamHandler | Refusal:
        """The way to auth, for a host that said which process it is. The proxy reads nothing of what passes."""
        ours = any(self.registry is one for one in self._server.registries.values())  # no other cluster's
        connect = self._server.to_auth if ours else None
        if (host, port) != (m.AUTH, 0) or connect is None:
            self.refused(AskedKind.CHANNEL, "direct-tcpip", "a tunnel leads its host to auth, and nowhere else")
            return Refusal("A tunnel leads its host to auth, and nowhere else.")
        if not self.epoch or self._retired:
            return Refusal("This tunnel takes nothing new.")
        if self.asking >= AUTH_OF_ONE:
            self.refused(AskedKind.CHANNEL, "direct-tcpip", "the host has too many connections to auth")
            return Refusal(f"A host has at most {AUTH_OF_ONE} connections to auth by one tunnel.")
        self.asking += 1
        asking = _Asking(self)
        try:
            admitted = await self._server.admission.enter(self.host_id)
            if admitted is None:
                asking.closed()
                return Refusal("Many hosts ask auth by this proxy at once: try again in a moment.", busy=True)
            asking.answered = admitted
            await connect(self._peer, lambda line: asking.leg_to(channel, line))
        except BaseException as error:
            asking.closed()
            if isinstance(error, TeleportError):
                return Refusal(error.message)
            raise
        return asking

    def _refuse(self, reason: str) -> None:
        self.refused(AskedKind.GLOBAL_REQUEST, "tunnel-register@teleport", reason)

    def refused(self, kind: AskedKind, name: str, reason: str) -> None:
        told = self._server.denied.told(f"{kind}: {reason}", asyncio.get_running_loop().time())
        if told is not None:
            self._server.put_on_record(SessionRequestDenied, self._login, self._peer, request=name, reason=told)

    def ended(self, reason: str) -> None:
        self._known()
        self._stop_timer()
        self._client = None
        self._server.left(self)
        if self.epoch:
            log.info("tunnel of the host %s (process %d) ended: %s", self.host_id, self.epoch, reason)


class _Carried(RelayHandler):
    """A client's channel."""

    def __init__(self, tunnel: Tunnel, leg: NodeLeg) -> None:
        super().__init__(leg)
        self._tunnel = tunnel

    def closed(self) -> None:
        super().closed()
        self._tunnel.let_go()


class _AuthLeg(NodeLeg):
    """The connection to auth: `answered` once the handshake is over, which auth's second answer is the end of."""

    def __init__(self, channel: Channel, first: bytes, ended: Callable[[], None], answered: Callable[[], None]) -> None:
        super().__init__(channel, first, ended)
        self._answered = answered
        self._spoken, self._answers = False, 0

    def data_received(self, data: bytes) -> None:
        if self._spoken and self._answers < 2:
            self._spoken = False
            self._answers += 1
            if self._answers == 2:
                self._answered()
        super().data_received(data)

    def from_client(self, data: bytes) -> None:
        self._spoken = True
        super().from_client(data)


class _Asking(RelayHandler):
    """A connection of the host to auth."""

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__()
        self._tunnel: Tunnel | None = tunnel
        self.answered: Callable[[], None] = lambda: None

    def leg_to(self, channel: Channel, line: bytes) -> NodeLeg:
        self.leg = _AuthLeg(channel, line, channel.close, self.answered)
        return self.leg

    def closed(self) -> None:
        super().closed()
        self.answered()
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.asking -= 1

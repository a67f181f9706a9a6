"""The forwards of one connection through a recording proxy: decided, on record, relayed, and ended with it.

The host connects and listens; the proxy decides before it asks for that. A host without a daemon of ours is told
addresses, never names: a name is resolved here, once, and each address is asked about (threat T26); of a place to
listen at it is told the one that was decided about. That a forward begins is on record before a byte moves (T40), its
end tells what it carried (T39), and when the permit changes everything open is judged anew. A node service decides and
tells by itself, and gets what the client said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from teleport.audit.events import AgentForward, Event, Port, X11Forward
from teleport.audit.forwards import Forward, Still, readable, why_denied, why_failed
from teleport.authz.channels import ChannelTerms, why_no_agent, why_no_x11
from teleport.authz.decision import AccessDenial
from teleport.authz.forwarding import (
    Destination,
    listening_address,
    names_loopback,
    why_no_forward,
    why_no_listener,
    why_no_unseen_socket,
)
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.proxy.recording.streams import RecordedStream, allowed
from teleport.ssh.brought import Came, Listened
from teleport.ssh.handlers import Channel, StreamHandler
from teleport.ssh.surface import (
    FromAgentSocket,
    FromSocket,
    FromTcp,
    FromX11,
    Incoming,
    Place,
    Refusal,
    SocketPlace,
    TcpPlace,
)
from teleport.wire.forward_spec import End, SocketEnd, TcpEnd

if TYPE_CHECKING:
    from teleport.proxy.recording.connection import RecordedConnection

log = logging.getLogger(__name__)

MOST_LISTENERS: Final = 32  # of a connection
_NO_LOG = Refusal("The proxy cannot write its audit log now, so nothing is forwarded.")
_NOT_ANY_MORE: Final = "it is not allowed any more"
_LENT: Final[dict[str, type[AgentForward] | type[X11Forward]]] = {"agent": AgentForward, "x11": X11Forward}


@dataclass(slots=True)
class Listener:
    """What listens at the host for the client."""

    record: Forward
    ready: asyncio.Future[bool]  # whether it is on record, and connections may come
    listened: Listened | None = None
    sent: int = 0  # by its connections that are over
    received: int = 0


class Forwards:
    """Owns everything that a connection has open besides its sessions."""

    def __init__(self, connection: RecordedConnection) -> None:
        self._connection = connection
        self._tools = connection.tools
        self._told = connection.facts.told_here
        self._streams: dict[RecordedStream, Forward] = {}
        self._places: dict[Place, Listener] = {}
        self._asked: set[Place] = set()  # to listen at, and not answered yet
        self._coming = 0  # channels that wait for the client to take them
        self._lent: dict[object, set[str]] = {}  # what sessions were given of the client's
        self._ended = False

    # towards hosts and sockets

    async def open_tcp(
        self, channel: Channel, host: str, port: int, origin: tuple[str, int]
    ) -> StreamHandler | Refusal:
        """Has the host connect to a host."""
        record = Forward("direct-tcpip", str(TcpEnd(host, port)), _anything, str(TcpEnd(*origin)))
        if (refused := self._connection.admit(record.kind)) is not None:
            return refused
        end = TcpEnd(host, port)
        if self._told:
            reserved = partial(self._tools.view.reserved, self._connection.facts.node)
            try:
                to = await allowed(self._connection.permit.channels, host, port, reserved)
            except TeleportError as error:
                return self._failed(record, error)
            if isinstance(to, AccessDenial):
                return self._refuse(record, to)
            end = TcpEnd(str(to.address), port)
            record = Forward(record.kind, str(to), partial(_to, to), record.origin, str(end))
        return await self._connect(channel, record, end)

    async def open_socket(self, channel: Channel, path: str) -> StreamHandler | Refusal:
        """Has the host connect to a Unix socket."""
        record = Forward("direct-streamlocal@openssh.com", readable(path), _anything)
        if (refused := self._connection.admit(record.kind)) is not None:
            return refused
        if self._told:
            record.still = lambda terms: why_no_unseen_socket(terms, path, local=True)
            if (denied := record.still(self._connection.permit.channels)) is not None:
                return self._refuse(record, denied)
        if readable(path) != path:
            return self._failed(record, BadRequest("the path of the socket is not UTF-8"))
        return await self._connect(channel, record, SocketEnd(path))

    async def _connect(self, channel: Channel, record: Forward, end: End) -> StreamHandler | Refusal:
        stream = RecordedStream(channel, active=self._connection.active)
        try:
            await self._open(record)  # on record before the host connects
        except TeleportError as error:
            log.error("a forward cannot be put on record error=%s", error)
            return _NO_LOG
        if (why := self._why_not(record)) is not None:
            self._emit_closed(record, 0, 0, why)
            return Refusal("It is not allowed any more.")
        try:
            await stream.connect(self._connection.origin, end)
        except TeleportError as error:
            return self._failed(record, error)
        self._keep(stream, record, None)
        if self._why_not(record) is not None:  # changed while the host connected
            stream.why = _NOT_ANY_MORE
            stream.closed()
            return Refusal("It is not allowed any more.")
        return stream

    # listening

    async def listen(self, place: Place) -> int | Refusal:
        """Has the host listen for the client; the port, 0 of a socket."""
        tcp = isinstance(place, TcpPlace)
        record = Forward(
            "tcpip-forward" if tcp else "streamlocal-forward@openssh.com",
            str(TcpEnd(place.address or "*", place.port)) if isinstance(place, TcpPlace) else readable(place.path),
            _anything,
        )
        if (refused := self._connection.admit(record.kind)) is not None:
            return refused
        record.still = _listening(place) if self._told else _anything
        if (denied := record.still(self._connection.permit.channels)) is not None:
            return self._refuse(record, denied)
        if place in self._asked:
            return self._failed(record, ConnectionProblem("this connection listens there already"))
        self._asked.add(place)
        try:
            return await self._listen(place, record)
        finally:
            self._asked.discard(place)

    async def _listen(self, place: Place, record: Forward) -> int | Refusal:
        listener = Listener(record, asyncio.get_running_loop().create_future())
        known = place  # with the port that the host chose
        try:
            if place in self._places:
                raise ConnectionProblem("this connection listens there already")
            if len(self._places) + len(self._asked) > MOST_LISTENERS:
                raise ConnectionProblem(f"a connection listens at {MOST_LISTENERS} places at most")
            if isinstance(place, SocketPlace) and readable(place.path) != place.path:
                raise BadRequest("the path of the socket is not UTF-8")

            async def came(origin: tuple[str, int]) -> RecordedStream | None:
                if not await listener.ready or self._places.get(known) is not listener:
                    return None
                what = FromTcp(known, origin) if isinstance(known, TcpPlace) else FromSocket(known)
                kind = "forwarded-tcpip" if isinstance(known, TcpPlace) else "forwarded-streamlocal@openssh.com"
                at = str(TcpEnd(*origin)) if isinstance(known, TcpPlace) else ""
                return await self._bring(Forward(kind, record.addr, record.still, at), what, listener)

            where = _plainly(place) if self._told else place
            listener.listened = listened = await self._connection.origin.listen(where, came)
        except TeleportError as error:
            listener.ready.set_result(False)
            return self._failed(record, error)
        if isinstance(place, TcpPlace):
            known = TcpPlace(place.address, listened.port)
            record.addr = str(TcpEnd(place.address or "*", listened.port))
        why: str | None = _NOT_ANY_MORE
        try:
            await self._open(record)
            why = self._why_not(record)
            if why is None and known in self._places:
                why = "it was asked for twice"
            if why is not None:
                self._emit_closed(record, 0, 0, why)
        except TeleportError as error:
            log.error("a forward cannot be put on record error=%s", error)
            return _NO_LOG
        finally:
            listener.ready.set_result(why is None)
            if why is not None:
                self._in_background(listened.close(), "end a listener")
        if why is not None:
            return Refusal("It is not allowed any more.")
        self._places[known] = listener
        return listened.port

    async def cancel(self, place: Place) -> bool:
        """Ends a listener of this connection; its connections go on, as under sshd."""
        found = self._places.pop(place, None)
        if found is None:
            return False
        assert found.listened is not None, "it listens"
        self._emit_closed(found.record, found.sent, found.received, "")
        await found.listened.close()
        return True

    async def _bring(self, record: Forward, what: Incoming, listener: Listener | None) -> RecordedStream | None:
        """Brings a channel that the host wants to open to the client; None: it is refused."""
        client, made = self._connection.client, list[RecordedStream]()

        def make(channel: Channel) -> RecordedStream:
            stream = RecordedStream(channel, active=self._connection.active)
            made.append(stream)
            self._keep(stream, record, listener)
            return stream

        why = self._why_not(record)
        if why is not None or client is None:
            return None
        if len(self._streams) + self._coming >= self._tools.config.limits.channels:
            return None
        self._coming += 1
        try:
            await self._open(record)
            why = self._why_not(record)
            if why is None:
                refused = await client.open(what, make)
                why = refused.message if refused is not None else None
        except TeleportError as error:
            log.error("a forward cannot be put on record error=%s", error)
            return None
        finally:
            self._coming -= 1
        if not made:
            self._emit_closed(record, 0, 0, why or "the client is gone")
            return None
        if (why := self._why_not(record)) is not None:
            made[0].end(why)
            return None
        return made[0]

    # agents and displays

    async def lend(self, session: object, kind: str) -> bool:
        """Whether a session may have the client's agent (`agent`) or display (`x11`); a refusal is on record."""
        reason = self._why_not(_lent(kind))
        if reason is None and kind in self._lent.get(session, ()):
            reason = "the session has it already"
        if reason is None:
            self._lent.setdefault(session, set()).add(kind)
            return True
        await self._told_of(kind, reason)
        return False

    async def lending(self, session: object, kind: str) -> bool:
        """The session starts: whether it still may have it. That it gets it is on record when this returns."""
        if kind not in self._lent.get(session, ()):
            return False
        reason = self._why_not(_lent(kind)) or ""
        given = not reason
        if reason or self._told:
            given = await self._told_of(kind, reason) and given
        if not given and session in self._lent:
            self._lent[session].discard(kind)
        return given

    async def _told_of(self, kind: str, reason: str) -> bool:
        event = self._connection.facts.event(
            _LENT[kind],
            self._tools.clock.now(),
            success=not reason,
            error=reason,
            connection=self._connection.id,
        )
        try:
            await self._tools.emitter.emit(event)
        except TeleportError as error:
            log.error("an offer of the client cannot be put on record error=%s", error)
            return False
        return True

    def not_lent(self, session: object, kind: str, reason: str) -> None:
        """The host did not take it."""
        self._lent.get(session, set()).discard(kind)

        async def tell() -> None:
            await self._told_of(kind, reason)

        if self._told:
            self._in_background(tell(), "audit a refused offer")

    def agent_came(self) -> Came:
        """Takes what asks the client's agent."""

        async def came(origin: tuple[str, int]) -> RecordedStream | None:
            return await self._borrowed("agent", Forward("auth-agent@openssh.com", "", why_no_agent), FromAgentSocket())

        return came

    def display_came(self) -> Came:
        """Takes what comes to the client's display. Whoever comes shows the client's own cookie, which it checks."""

        async def came(origin: tuple[str, int]) -> RecordedStream | None:
            return await self._borrowed("x11", Forward("x11", "", why_no_x11, str(TcpEnd(*origin))), FromX11(origin))

        return came

    async def _borrowed(self, kind: str, record: Forward, what: Incoming) -> RecordedStream | None:
        if not any(kind in lent for lent in self._lent.values()):
            return None
        return await self._bring(record, what, None)

    def release(self, session: object) -> None:
        """A session is over: what it was lent is its own no more, and with the last one's ends what uses it."""
        self._lent.pop(session, None)
        for kind, name in (("agent", "auth-agent@openssh.com"), ("x11", "x11")):
            if not any(kind in lent for lent in self._lent.values()):
                for stream in [one for one, record in self._streams.items() if record.kind == name]:
                    stream.end("the session is over")

    # what all have in common

    def _why_not(self, record: Forward) -> str | None:
        """What forbids a forward now."""
        if self._ended or self._connection.over:
            return "the connection has ended"
        user = self._connection.facts.user
        if user is not None and user.force_command:
            return "the certificate forces a command"
        denied = record.still(self._connection.permit.channels)
        return "; ".join(denied.reasons) if denied is not None else None

    def _keep(self, stream: RecordedStream, record: Forward, listener: Listener | None) -> None:
        self._streams[stream] = record
        stream.over = partial(self._over, listener)

    def _over(self, listener: Listener | None, stream: RecordedStream) -> None:
        record = self._streams.pop(stream)
        if listener is not None:
            listener.sent += stream.sent
            listener.received += stream.received
        self._emit_closed(record, stream.sent, stream.received, stream.why)

    def reconsider(self) -> None:
        """Judges everything that is open by the permit of now."""
        for stream, record in list(self._streams.items()):
            if (why := self._why_not(record)) is not None:
                stream.end(why)
        for place, listener in list(self._places.items()):
            if (why := self._why_not(listener.record)) is not None:
                del self._places[place]
                self._emit_closed(listener.record, listener.sent, listener.received, why)
                assert listener.listened is not None, "it listens"
                self._in_background(listener.listened.close(), "end a listener")

    def end(self, why: str) -> None:
        """The connection is over, and so is everything here. Idempotent."""
        self._ended = True
        for stream in list(self._streams):
            stream.end(why)
        for listener in self._places.values():
            self._emit_closed(listener.record, listener.sent, listener.received, why)
        self._places.clear()
        self._lent.clear()

    # on record; of a node's forwards it tells itself

    async def _open(self, record: Forward) -> None:
        if self._told:
            await self._tools.emitter.emit(self._port(record))

    def _port(self, record: Forward, error: str = "") -> Port:
        return record.opened(self._connection.facts, self._tools.clock.now(), self._connection.id, error)

    def _refuse(self, record: Forward, denied: AccessDenial) -> Refusal:
        self._emit(self._port(record, why_denied(denied)), "audit a refused forward")
        return Refusal.told(denied.public, denied.hint)

    def _failed(self, record: Forward, error: TeleportError) -> Refusal:
        if self._told:
            self._emit(self._port(record, why_failed(error)), "audit a failed forward")
        return Refusal.told(error.message, error.hint)

    def _emit_closed(self, record: Forward, sent: int, received: int, why: str) -> None:
        if not self._told:
            return
        connection = self._connection
        event = record.closed(connection.facts, self._tools.clock.now(), connection.id, sent, received, why)
        self._emit(event, "audit the end of a forward")

    def _emit(self, event: Event, what: str) -> None:
        self._in_background(self._connection.emit(event), what)

    def _in_background(self, work: Awaitable[None], what: str) -> None:
        async def do() -> None:
            await work

        self._tools.in_background(do(), what)


def _anything(terms: ChannelTerms) -> AccessDenial | None:
    """Of what a node decides about."""
    return None


def _to(to: Destination, terms: ChannelTerms) -> AccessDenial | None:
    return why_no_forward(terms, to)


def _lent(kind: str) -> Forward:
    return Forward(kind, "", why_no_agent if kind == "agent" else why_no_x11)


def _listening(place: Place) -> Still:
    if isinstance(place, TcpPlace):
        return lambda terms: why_no_listener(terms, place.address, place.port)
    return lambda terms: why_no_unseen_socket(terms, place.path, local=False)


def _plainly(place: Place) -> Place:
    """The place as it was decided about: an sshd may read more spellings of an address than we do."""
    if isinstance(place, SocketPlace):
        return place
    where = listening_address(place.address)
    if where is None:
        return TcpPlace("", place.port)
    return TcpPlace("localhost" if names_loopback(place.address) else str(where), place.port)

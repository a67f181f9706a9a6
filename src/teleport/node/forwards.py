"""The forwards of one connection: decided, put on record, carried, and ended with it.

Each is judged by the permit of the moment (`authz.forwarding`) and by the node's own switch; a name is resolved once,
and only an address that was judged is dialled (threat T26). `launcher.errands` opens what is opened, as the login.
That a forward begins is on record before a byte moves (T40); its end tells what it carried (T39). A listener belongs to
the connection that asked for it: nobody else can cancel it (T27). When the permit changes, everything open is judged
anew. Users who need others in their sessions get no forwards: nobody could watch those.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from teleport.audit.forwards import Still, readable
from teleport.authz.channels import ChannelTerms, refusal
from teleport.authz.decision import AccessDenial
from teleport.authz.forwarding import (
    Destination,
    why_no_forward,
    why_no_listener,
    why_no_socket,
    why_no_socket_listener,
)
from teleport.errors import ConnectionProblem, TeleportError
from teleport.launcher.values import HostUserRequest, Kind, SpawnRequest
from teleport.node.dialling import addresses, dialled, resolved
from teleport.node.forward_story import Connection, ForwardStory, Record, shown
from teleport.node.listening import Listening
from teleport.node.needs import Errands
from teleport.node.pam import pam_request
from teleport.node.relay import Relay
from teleport.node.tools import Tools
from teleport.ssh.handlers import Channel, StreamHandler
from teleport.ssh.surface import FromSocket, FromTcp, Incoming, Place, Refusal, TcpPlace

log = logging.getLogger(__name__)

_START_SECONDS = 20.0  # for the process that connects and listens: its account may be looked up far away
MOST_LISTENERS: Final = 32  # of a connection
_NO_LOG = Refusal("This node cannot write its audit log now, so nothing is forwarded.")


@dataclass(slots=True)
class Listener:
    """A listener of the client's."""

    record: Record
    listening: Listening | None
    token: int = 0  # of the errands, when there is something to take away
    owner: object = None  # the session that it belongs to, if it is one's
    relays: set[Relay] = field(default_factory=set)


class Forwards:
    """Owns everything that a connection has open besides its sessions."""

    def __init__(self, tools: Tools, connection: Connection) -> None:
        self._tools = tools
        self._connection = connection
        self.story = ForwardStory(tools, connection)
        self._errands: Errands | None = None
        self._starting = asyncio.Lock()
        self._relays: dict[Relay, Record] = {}
        self._places: dict[Place, Listener] = {}
        self._owned: list[Listener] = []  # of sessions
        self._incoming = 0  # connections that wait for the client to take them
        self._ended = False

    # towards hosts and sockets

    async def open_tcp(
        self, channel: Channel, host: str, port: int, origin: tuple[str, int]
    ) -> StreamHandler | Refusal:
        """Connects to a host for the client."""
        record = Record("direct-tcpip", shown(host, port), _any_forward, origin=shown(*origin))
        if (refused := self._connection.admit(record.kind)) is not None:
            return refused
        if (denied := self.why_not(_any_forward)) is not None:
            return await self.story.refused(record, denied)
        try:
            errands = await self.errands()
            allowed: list[Destination] = []
            addresses, also = await resolved(errands, host, port)
            for address in addresses:
                to = Destination(host, address, port, self._tools.reserved(host, address, port), also)
                found = self.why_not(partial(_to, to))
                if found is None:
                    allowed.append(to)
                denied = found or denied
            if not allowed:
                assert denied is not None, "a name has an address, or cannot be resolved"
                return await self.story.refused(record, denied)
            sock, to = await dialled(errands, allowed)
        except TeleportError as error:
            return await self.story.failed(record, error)
        record.still = partial(_to, to)
        record.resolved = shown(str(to.address), port)
        return await self._begin(record, sock, channel)

    async def open_socket(self, channel: Channel, path: str) -> StreamHandler | Refusal:
        """Connects to a Unix socket for the client."""
        record = Record("direct-streamlocal@openssh.com", readable(path), _any_forward)
        if (refused := self._connection.admit(record.kind)) is not None:
            return refused
        if (denied := self.why_not(_any_forward)) is not None:
            return await self.story.refused(record, denied)
        try:
            errands = await self.errands()
            found = await errands.find(path)
            try:
                record.still = lambda terms: why_no_socket(terms, found.path, home=found.home)
                record.resolved = readable(found.path)
                if (denied := self.why_not(record.still)) is not None:
                    return await self.story.refused(record, denied)
                sock = socket.socket(fileno=await errands.connect_found(found))
            finally:
                errands.forget(found.token)
        except TeleportError as error:
            return await self.story.failed(record, error)
        return await self._begin(record, sock, channel)

    async def _begin(self, record: Record, sock: socket.socket, channel: Channel) -> StreamHandler | Refusal:
        """Puts it on record, and joins socket and channel. The caller's last step."""
        try:
            await self.story.opened(record)
        except TeleportError as error:
            sock.close()
            log.error("a forward cannot be put on record error=%s", error)
            return _NO_LOG
        except BaseException:
            sock.close()
            raise
        if (denied := self.why_not(record.still)) is not None:
            sock.close()
            self.story.closed(record, 0, 0, "; ".join(denied.reasons))
            return Refusal.told(denied.public, denied.hint)
        return self.relay(record, sock, channel)

    # listening

    async def listen(self, place: Place) -> int | Refusal:
        """Listens for the client; the port, 0 of a socket."""
        tcp = isinstance(place, TcpPlace)
        record = Record(
            "tcpip-forward" if isinstance(place, TcpPlace) else "streamlocal-forward@openssh.com",
            shown(place.address or "*", place.port) if isinstance(place, TcpPlace) else readable(place.path),
            _any_forward,
        )
        if (refused := self._connection.admit(record.kind)) is not None:
            return refused
        if isinstance(place, TcpPlace):
            address, port = place.address, place.port
            record.still = lambda terms: why_no_listener(terms, address, port)
        if (denied := self.why_not(record.still)) is not None:
            return await self.story.refused(record, denied)
        token = 0
        try:
            if place in self._places:
                raise ConnectionProblem("this connection listens there already")
            if len(self._places) >= MOST_LISTENERS:
                raise ConnectionProblem(f"a connection listens at {MOST_LISTENERS} places at most")
            errands = await self.errands()
            if isinstance(place, TcpPlace):
                descriptors, port = await errands.listen(addresses(place.address), place.port)
                place = TcpPlace(place.address, port)
                record.addr = shown(place.address or "*", port)
            else:
                found = await errands.place(place.path)
                token = found.token
                record.still = lambda terms: why_no_socket_listener(terms, found.path, home=found.home)
                record.resolved = readable(found.path)
                if (denied := self.why_not(record.still)) is not None:
                    errands.forget(token)
                    return await self.story.refused(record, denied)
                try:
                    descriptors = (await errands.listen_at(found),)
                except TeleportError:
                    errands.forget(token)
                    raise
        except TeleportError as error:
            return await self.story.failed(record, error)
        sockets = Listener(record, None, token)
        try:
            await self.story.opened(record)
        except BaseException as error:
            self.drop(descriptors, token)
            if not isinstance(error, TeleportError):
                raise
            log.error("a forward cannot be put on record error=%s", error)
            return _NO_LOG
        sockets.listening = Listening(descriptors, partial(self._came, sockets, place))
        if (denied := self.why_not(record.still)) is not None or place in self._places:
            self._close(sockets, "; ".join(denied.reasons) if denied is not None else "it was asked for twice")
            return Refusal("It is not allowed any more.")
        self._places[place] = sockets
        return place.port if tcp and isinstance(place, TcpPlace) else 0

    async def cancel(self, place: Place) -> bool:
        """Ends a listener of this connection; its connections go on, as under sshd."""
        found = self._places.pop(place, None)
        if found is not None:
            self._close(found, "")
        return found is not None

    def _came(self, listener: Listener, place: Place, sock: socket.socket, origin: tuple[str, int]) -> None:
        tcp = isinstance(place, TcpPlace)
        record = Record(
            "forwarded-tcpip" if tcp else "forwarded-streamlocal@openssh.com",
            listener.record.addr,
            listener.record.still,
            origin=shown(*origin) if tcp else "",
        )
        what = FromTcp(place, origin) if isinstance(place, TcpPlace) else FromSocket(place)
        self.bring(listener, record, sock, what)

    def bring(
        self,
        listener: Listener,
        record: Record,
        sock: socket.socket,
        what: Incoming,
        *,
        prepare: Callable[[socket.socket], Awaitable[bytes]] | None = None,
    ) -> None:
        """Brings a connection to the client, in the background. `prepare` has a look first: what it read already goes
        to the client, too; a `ConnectionProblem` of it says why nothing does."""
        self._incoming += 1
        self._throttle()
        self._tools.in_background(self._bring(listener, record, sock, what, prepare), f"bring a {record.kind}")

    async def _bring(
        self,
        listener: Listener,
        record: Record,
        sock: socket.socket,
        what: Incoming,
        prepare: Callable[[socket.socket], Awaitable[bytes]] | None,
    ) -> None:
        joined = False
        first = b""

        def make(channel: Channel) -> StreamHandler:
            nonlocal joined
            joined = True
            made = self.relay(record, sock, channel, listener=listener, first=first)
            if self.why_not(record) is not None or (listener.owner is not None and listener not in self._owned):
                made.end("it is not allowed any more")
            return made

        why = "it is not allowed any more"
        try:
            if prepare is not None:
                first = await prepare(sock)
            if self._connection.client is not None and self.why_not(record) is None:
                await self.story.opened(record)
                refused = await self._connection.client.open(what, make)
                why = refused.message if refused is not None else ""
        except ConnectionProblem as problem:
            why = problem.message
        except TeleportError as error:
            log.error("a forward cannot be put on record error=%s", error)
        finally:
            self._incoming -= 1
            if not joined:
                sock.close()
                self.story.closed(record, 0, 0, why)
            self._throttle()

    def _throttle(self) -> None:
        """Takes connections only while the client could have them: others wait in the kernel."""
        full = len(self._relays) + self._incoming >= self._tools.config.limits.channels
        for listener in (*self._places.values(), *self._owned):
            if listener.listening is not None:
                (listener.listening.pause if full else listener.listening.resume)()

    def own(self, listener: Listener) -> None:
        """A session has a listener: it ends with it."""
        self._owned.append(listener)

    def has(self, owner: object, kind: str) -> bool:
        """Whether a session has a listener of that kind already."""
        return any(one.owner is owner and one.record.kind == kind for one in self._owned)

    def drop(self, descriptors: Sequence[int], token: int) -> None:
        """Takes back what was made and is not used."""
        Listening(descriptors, _nothing).close()
        self._forget(token)

    def release(self, owner: object) -> None:
        """A session is over: what was its own ends."""
        for listener in [one for one in self._owned if one.owner is owner]:
            self._owned.remove(listener)
            self._close(listener, "the session is over")

    def _close(self, listener: Listener, why: str) -> None:
        if listener.listening is not None:
            listener.listening.close()
        self._forget(listener.token)
        record = listener.record
        if listener.owner is None:
            self.story.closed(record, record.sent, record.received, why)
        else:
            for relay in list(listener.relays):
                relay.end(why)

    def _forget(self, token: int) -> None:
        if token and self._errands is not None:
            self._errands.forget(token)

    # what all have in common

    async def errands(self) -> Errands:
        """The process that connects and listens as the login; started by the first who asks. `TeleportError` says why
        there is none."""
        async with self._starting:
            if self._errands is None or self._errands.gone:
                facts, config = self._connection.facts, self._tools.config
                assert facts.user is not None, "a forward belongs to a user"
                groups = self._connection.permit.host_groups
                request = SpawnRequest(
                    login=facts.login,
                    kind=Kind.ERRANDS,
                    pam=pam_request(config.pam, facts.user, facts.login) if config.pam is not None else None,
                    client=facts.client.host,
                    host_user=HostUserRequest(groups, config.host_users) if groups is not None else None,
                    session_env=(("SSH_SESSION_ID", str(self._connection.id)),),
                )
                try:
                    async with asyncio.timeout(_START_SECONDS):
                        self._errands = await self._tools.launcher.errands(request)
                except TimeoutError:
                    raise ConnectionProblem("the login's account could not be looked up in time") from None
                if self._ended:
                    self._errands.close()
            return self._errands

    def why_not(self, what: Still | Record) -> AccessDenial | None:
        """What forbids a forward now."""
        still, ports = (what.still, what.ports) if isinstance(what, Record) else (what, True)
        permit = self._connection.permit
        if self._ended:
            return refusal("anything on a connection that has ended", "the connection has ended")
        user = self._connection.facts.user
        if user is not None and user.force_command:
            return refusal("anything but the command of your certificate", "the certificate forces a command")
        if not ports:
            return still(permit.channels)
        if not self._tools.config.port_forwarding:
            return refusal("port forwarding on this host", "the node has ssh_service.port_forwarding: no")
        if permit.required_joins:
            return refusal("port forwarding", "the user's sessions need others in them, and nobody could watch this")
        return still(permit.channels)

    def relay(
        self,
        record: Record,
        sock: socket.socket,
        channel: Channel,
        *,
        listener: Listener | None = None,
        first: bytes = b"",
    ) -> Relay:
        """Joins a socket and a channel, until both or the connection end."""
        made = Relay(sock, channel, active=self._connection.active, over=partial(self._over, listener), first=first)
        self._relays[made] = record
        if listener is not None:
            listener.relays.add(made)
        return made

    def _over(self, listener: Listener | None, relay: Relay) -> None:
        record = self._relays.pop(relay)
        if listener is not None:
            listener.relays.discard(relay)
            listener.record.sent += relay.sent
            listener.record.received += relay.received
        self.story.closed(record, relay.sent, relay.received, relay.why)
        self._throttle()

    def reconsider(self) -> None:
        """Judges everything that is open by the permit of now."""
        for relay, record in list(self._relays.items()):
            if (denied := self.why_not(record)) is not None:
                relay.end("; ".join(denied.reasons))
        for place, listener in list(self._places.items()):
            if (denied := self.why_not(listener.record.still)) is not None:
                del self._places[place]
                self._close(listener, "; ".join(denied.reasons))
        for listener in list(self._owned):
            if (denied := self.why_not(listener.record)) is not None:
                self._owned.remove(listener)
                self._close(listener, "; ".join(denied.reasons))

    def end(self, why: str) -> None:
        """The connection is over: so is everything here, now. Idempotent."""
        self._ended = True
        for relay in list(self._relays):
            relay.end(why)
        for place in list(self._places):
            self._close(self._places.pop(place), why)
        while self._owned:
            self._close(self._owned.pop(), why)
        if self._errands is not None:
            self._errands.close()


def _any_forward(terms: ChannelTerms) -> AccessDenial | None:
    """What forbids every forward: before anything is looked up for one."""
    return None if terms.port_forwarding else refusal("port forwarding", "no role allows port forwarding")


def _to(to: Destination, terms: ChannelTerms) -> AccessDenial | None:
    return why_no_forward(terms, to)


def _nothing(sock: socket.socket, origin: tuple[str, int]) -> None:
    sock.close()

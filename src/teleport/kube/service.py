"""The listener for Kubernetes clients: mutual TLS only, one certificate of the cluster's own users.

Rules it keeps:
- Connections are bounded before anybody proved anything: slots, rates and times are the listener's (threats T17, T19).
- The certificate that TLS proved is read again (trap T-3): the authority that signed says whose it is, and hosts are
  refused. Who was let in is judged anew for each call, and while one is open whenever `reconsider` is called.
- A refused person gets one Status, so that kubectl says why, and then the end of the connection.
- What ends a permit ends the connection, within the call: a stream is cut, so that nobody takes it for complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from asyncio import sslproto
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from socket import socket
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import h11

from teleport.audit.emits import Emits
from teleport.audit.events import AuthFailed, ClientDisconnect, KubeRequest, ServerEvent, SessionRejected, new_event
from teleport.clock import Clock
from teleport.errors import AccessDenied, BadRequest, NotFound, TeleportError
from teleport.identity import UserIdentity
from teleport.kube.entrance import Entered, Entrance, People, Unspoken
from teleport.kube.exec_session import SAY_SECONDS
from teleport.kube.forwarder import Forwarder, Outcome, refuse
from teleport.kube.heads import BadHead
from teleport.kube.http import READ, Client, Request, Server
from teleport.kube.needs import Context, Elsewhere, Rules, Sessions
from teleport.kube.services import Services, ServicesOfOne
from teleport.kube.status import Refusal
from teleport.kube.streams import relay
from teleport.kube.upstream import Upstream
from teleport.ssh.listener import Before, Listener, NoSlot, Slot
from teleport.ssh.surface import Peer
from teleport.transport.entrance import ConnectionLimits, Users
from teleport.transport.feeding import feed
from teleport.transport.limits import Heard
from teleport.transport.places import Control, Places
from teleport.transport.probes import probe
from teleport.transport.slots import Slots

log = logging.getLogger(__name__)

HANDSHAKE: Final = 10  # seconds
FIRST: Final = 15.0  # seconds from TLS to the end of the first request's head
KEPT_ALIVE: Final = 75.0  # seconds between two requests
BUFFER: Final = 16 * 1024  # bytes that TLS reads at once
UNPROVED: Final = 500  # connections that have not authenticated yet
CUT: Final = "a call was cut: its permit has ended"
ENDED: Final = "access has ended"
EXPIRED: Final = "the certificate has expired"
STOPPED: Final = "the service stopped"
E = TypeVar("E", bound=ServerEvent)


@dataclass(frozen=True, slots=True)
class KubeConfig:
    """What the service is told once."""

    cluster: str  # of ours
    host_id: UUID
    hostname: str
    unproved: int = UNPROVED
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


class KubeServer:
    """Serves the listener. A door of the daemon."""

    def __init__(
        self,
        config: KubeConfig,
        clusters: Mapping[str, Upstream],
        *,
        rules: Rules,
        context: Context,
        emitter: Emits,
        clock: Clock,
        services: Services | None = None,
        entrance: Entrance | None = None,
        sessions: Sessions | None = None,
        recorded_before: bool = False,
        elsewhere: Elsewhere | None = None,
        control: Control | None = None,
    ) -> None:
        """`context` gives the TLS context of the next connection; it must require a client certificate. `services` are
        those that lead to further clusters; `entrance` says whose a connection is, where people do not come
        themselves. `sessions` is what those in pods are recorded with, `recorded_before` says that who comes here has
        them recorded; without either, none is let in where they have to be. `elsewhere` leads to other clusters of
        ours. `control` counts streams into pods; without it their limits are those who come here see to."""
        self.config = config
        self.clusters = clusters
        self.rules = rules
        self.services = services
        self.entrance = entrance or People(rules)
        self.elsewhere = elsewhere
        self.clock = clock
        self.sessions = sessions
        self.recorded_before = recorded_before
        self.users = Users(config.connections)
        self.counts = Places(control, self._count) if control is not None else None
        self.leaving = False
        self._emitter = emitter
        self._context = context
        self._heard = Heard()
        self._owed: list[KubeRequest] = []  # of calls that were made, and could not be put on record
        self._connections: set[_Connection] = set()
        self._tasks: asyncio.TaskGroup | None = None
        slots = Slots(config.unproved, "kube", limits=config.connections, rated=entrance is None)
        self._listener = Listener(self._protocol, slots=slots)

    def accepted(self, transport: asyncio.Transport, client: tuple[str, int] | None = None, data: bytes = b"") -> None:
        """Takes a connection over that was accepted elsewhere, or came by a tunnel; `client` is who comes, where that
        is not the other end, `data` what was read already."""
        if self._tasks is None:
            transport.abort()
            return
        self._listener.accepted(transport, client, data)

    def introduced(self, transport: asyncio.Transport, peer: Peer, entrance: Entrance) -> None:
        """Serves somebody who proved a certificate elsewhere, as `entrance` knows, and whose HTTP comes by this
        transport."""
        connection = _Connection(self, peer, NoSlot(), entrance)
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def begin_with(self, before: Before) -> None:
        """What balancers say before everything else."""
        self._listener.before = before

    async def run(self, sockets: Sequence[socket], started: Callable[[], None]) -> None:
        """Serves until cancelled; then every connection is closed. `started` is called once clients are taken."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                try:
                    await self._listener.serve(sockets, started)
                finally:
                    for connection in self._connections:
                        connection.ends_by(STOPPED)
        finally:
            for upstream in self.clusters.values():
                upstream.close()

    def _protocol(self, peer: Peer, slot: Slot) -> asyncio.Protocol | None:
        if self._tasks is None or not slot.arrived(peer.host):
            return None
        try:
            context = self._context()
        except (OSError, TeleportError) as error:
            log.error("Kubernetes clients are not let in: %s", error)
            return None
        return _end_of_tls(context, _Connection(self, peer, slot))

    # a door of the web's kind: clients keep connections without need, and watches never end

    @property
    def open(self) -> int:
        """How many connections there are."""
        return self._listener.open

    def pause(self) -> None:
        """Accepts nothing more."""
        self._listener.pause()

    async def resume(self) -> None:
        """Accepts (again)."""
        self.leaving = False
        if self._tasks is not None:
            await self._listener.resume()

    def leave(self) -> None:
        """Lets clients go elsewhere: idle connections are closed, the others after their answer."""
        self.leaving = True
        for connection in list(self._connections):
            connection.leave()

    def end_endless(self) -> None:
        """Ends what is still open; the clients of watches come again."""
        for connection in list(self._connections):
            connection.abort(STOPPED)

    # who may be here

    def reconsider(self) -> None:
        """Looks at every open call anew; to be called when anything changed that decides about access."""
        for connection in list(self._connections):
            connection.reconsider()

    # for the connections

    def entered(self, connection: _Connection) -> None:
        self._connections.add(connection)

    def gone(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    def start(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> asyncio.Task[None] | None:
        """The task that serves a connection, owned by `run`; None when nothing is served any more."""
        work = connection.serve(reader, writer)
        try:
            if self._tasks is None:
                raise RuntimeError("not running")
            return self._tasks.create_task(work, name=f"Kubernetes client {connection.peer}")
        except RuntimeError:
            work.close()
            return None

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work`, owned by `run`."""
        logged = _logged(work)
        try:
            if self._tasks is None:
                raise RuntimeError("not running")
            self._tasks.create_task(logged, name="audit")
        except RuntimeError:  # before or after `run`
            logged.close()
            work.close()

    async def tell(self, outcome: Outcome, identity: UserIdentity, client: Peer) -> None:
        """Puts a call on record (`kube.forwarder.Tells`)."""
        event = self._about(KubeRequest, identity, client, **outcome.fields)
        try:
            await self._emitter.emit(event)
        except BadRequest:  # this one can never be written: it must not keep the others out
            log.exception("a call is not on record user=%s path=%r", event.user, event.request_path)
            raise
        except (TeleportError, OSError) as error:
            if outcome.made:
                log.error("a call is not on record yet user=%s path=%r: %s", event.user, event.request_path, error)
                self._owed.append(event)
            raise

    async def rejected(self, identity: UserIdentity, client: Peer, most: int) -> None:
        """Puts on record that somebody has as many connections as they may (`kube.forwarder.Tells`)."""
        await self._emitter.emit(self._about(SessionRejected, identity, client, reason="max_connections", max=most))

    def disconnected(self, identity: UserIdentity, client: Peer, reason: str) -> None:
        """Puts on record that we ended a call, and why (`kube.forwarder.Tells`)."""
        self.in_background(self._emit(self._about(ClientDisconnect, identity, client, reason=reason)))

    async def _emit(self, event: ServerEvent) -> None:
        await self._emitter.emit(event)

    def _count(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self.in_background(work)

    def _about(self, cls: type[E], identity: UserIdentity, client: Peer, **fields: Any) -> E:
        """An event about somebody who was let in."""
        return new_event(
            cls,
            self.clock.now(),
            str(uuid4()),
            cluster_name=self.config.cluster,
            user=identity.name,
            impersonator=identity.impersonator,
            server_id=str(self.config.host_id),
            server_hostname=self.config.hostname,
            addr_remote=str(client),
            proto="kube",
            **fields,
        )

    async def settle(self) -> None:
        """Puts on record what is owed (`kube.forwarder.Tells`): no call is made before."""
        while self._owed:
            event = self._owed.pop()
            try:
                await self._emitter.emit(event)
            except (TeleportError, OSError):
                self._owed.append(event)
                raise

    async def failed(self, peer: Peer, user: str, reason: str) -> None:
        """Puts on record that somebody was not let in; so many in a second, the others are counted."""
        told = self._heard.told(reason, asyncio.get_running_loop().time())
        if told is None:
            return
        log.warning("a Kubernetes client was refused peer=%s user=%s: %s", peer, user or "not proved", told)
        await self._emitter.emit(
            new_event(
                AuthFailed,
                self.clock.now(),
                str(uuid4()),
                cluster_name=self.config.cluster,
                user=user,
                server_id=str(self.config.host_id),
                server_hostname=self.config.hostname,
                addr_remote=str(peer),
                proto="kube",
                error=told,
            )
        )


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("not on record")


class _TLS(sslproto.SSLProtocol):
    """TLS that tells its inside also of a connection that ended in the handshake."""

    max_size = BUFFER
    inside: _Connection

    def data_received(self, data: bytes) -> None:
        """What was read before this protocol had the connection."""
        feed(self, data)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.inside.lost()


def _end_of_tls(context: ssl.SSLContext, inside: _Connection) -> asyncio.Protocol:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    waiter.add_done_callback(inside.shook_hands)
    made = _TLS(
        loop, inside, context, waiter, server_side=True, ssl_handshake_timeout=HANDSHAKE, ssl_shutdown_timeout=1
    )
    made.inside = inside
    return made  # type: ignore[return-value]  # a buffered protocol, which a listener treats as any


class _Connection(asyncio.StreamReaderProtocol):
    """One client."""

    def __init__(self, server: KubeServer, peer: Peer, slot: Slot, entrance: Entrance | None = None) -> None:
        self._client_reader = asyncio.StreamReader(limit=READ)
        super().__init__(self._client_reader)
        self.peer = peer
        self._server = server
        self._slot = slot
        self._client_transport: asyncio.Transport | None = None
        self._serving: asyncio.Task[None] | None = None
        self._forwarder: Forwarder | None = None
        self._proved = b""  # certificate, by TLS
        self._entrance = entrance or server.entrance
        self._over_tls = entrance is None
        self._led: Entered | None = None  # whoever is led to another cluster
        self._client: Client | None = None
        self._idle = True  # between requests
        self._ends: asyncio.TimerHandle | None = None
        self._last_words: asyncio.TimerHandle | None = None  # access has ended, which the client may read until then
        self._is_cut = False

    # TLS

    def shook_hands(self, done: asyncio.Future[None]) -> None:
        """The handshake is over, one way or the other."""
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, ssl.SSLError):
            why = str(getattr(error, "verify_message", "") or error.reason or error)[:200]
            self._server.in_background(self._server.failed(self.peer, "", f"TLS: {why}"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._client_transport = transport
        writer = asyncio.StreamWriter(transport, self, self._client_reader, asyncio.get_running_loop())
        self._server.entered(self)
        self._serving = self._server.start(self, self._client_reader, writer)
        if self._serving is None:
            transport.abort()

    def eof_received(self) -> bool:
        """Whoever sends no more has left: so it is over TLS, and so it is to be by other ways."""
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._serving is not None:
            self._serving.cancel()
        self.lost()

    def lost(self) -> None:
        """The connection is over, whether or not TLS came to stand."""
        self._disarm()
        self._slot.over()
        self._server.gone(self)

    # from outside

    def ends_by(self, why: str) -> None:
        """What is open is about to end, for this reason."""
        if self._forwarder is not None:
            self._forwarder.cut_by = self._forwarder.cut_by or why

    def abort(self, why: str) -> None:
        self.ends_by(why)
        if self._client_transport is not None:
            self._client_transport.abort()

    def leave(self) -> None:
        if self._client is not None:
            self._client.last = True
        if self._idle and self._forwarder is not None:
            self.abort(STOPPED)

    def reconsider(self) -> None:
        """Decides anew. A decision that fails is none that lets anybody stay, and must not keep others from theirs."""
        try:
            self._reconsider()
        except Exception:
            log.exception("a decision about an open call failed peer=%s", self.peer)
            self._cut()

    def _reconsider(self) -> None:
        stays = self._entrance.stays(self._proved) if self._forwarder is not None else True
        if stays is None:
            self.leave()
        if stays is False or (self._forwarder is not None and not self._forwarder.still()):
            self._cut()
        led, elsewhere = self._led, self._server.elsewhere
        if led is not None and elsewhere is not None and not elsewhere.still(led.certificate, led.peer.host):
            self._cut()

    def _cut(self, why: str = ENDED) -> None:
        if self._is_cut:
            return
        self._is_cut = True
        log.info("%s peer=%s: %s", CUT, self.peer, why)
        forwarder, led = self._forwarder, self._led
        if forwarder is not None:
            self._server.disconnected(forwarder.identity, forwarder.peer, why)
        elif led is not None:
            self._server.disconnected(led.identity, led.peer, why)
        self.ends_by(why)
        if forwarder is not None and forwarder.tells_end(why):
            self._last_words = asyncio.get_running_loop().call_later(SAY_SECONDS, self.abort, why)
        else:
            self.abort(why)

    # the calls

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers requests until the client leaves, is refused, or breaks the rules."""
        try:
            await self._serve(Client(reader, writer), writer)
        except (h11.ProtocolError, ConnectionError, ssl.SSLError) as error:
            log.debug("a Kubernetes client's connection ended peer=%s: %s", self.peer, error)
        except Exception:
            log.exception("a Kubernetes client's connection failed peer=%s", self.peer)
        finally:
            writer.transport.abort()

    async def _serve(self, client: Client, writer: asyncio.StreamWriter) -> None:
        self._client = client
        try:
            if self._over_tls:
                self._proved = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
            entered = await self._entrance.enter(self._proved, self.peer, client.reader)
        except AccessDenied as error:
            why = " ".join(filter(None, (error.message, getattr(error, "detail", ""))))
            await self._server.failed(self.peer, "", why)
            if not isinstance(error, Unspoken):
                await self._refuse_first(client, Refusal(403, error.message, error.hint))
            return
        identity = entered.identity
        if not self._server.users.enter(identity.name):
            await self._server.failed(self.peer, identity.name, "more users than may be here")
            await self._refuse_first(
                client, Refusal(429, "The proxy serves as many people as it may.", "try again later")
            )
            return
        try:
            self._slot.proved()
            probe(writer.transport)
            elsewhere = self._server.elsewhere
            if elsewhere is not None and self._over_tls and elsewhere.meant(identity):
                await self._lead(client, entered, elsewhere)
            else:
                await self._calls(client, entered)
        finally:
            self._server.users.leave(identity.name)

    async def _refuse_first(self, client: Client, refusal: Refusal) -> None:
        client.last = True
        request = await self._next(client, FIRST)
        if request is not None:
            await refuse(client, request, refusal)
            await _close(client)

    async def _lead(self, client: Client, entered: Entered, elsewhere: Elsewhere) -> None:
        """To another cluster of ours, whose proxy reads what follows."""
        self._led = entered
        try:
            peer = entered.peer
            reader, writer = await elsewhere.connect(entered.certificate, entered.identity, peer.host, peer.port)
        except TeleportError as error:
            why = " ".join(filter(None, (error.message, getattr(error, "detail", ""))))
            await self._server.failed(self.peer, entered.identity.name, why)
            code = 403 if isinstance(error, AccessDenied | NotFound) else 502
            await self._refuse_first(client, Refusal(code, error.message, error.hint))
            return
        self._idle = False
        seconds = (entered.identity.expires - self._server.clock.now()).total_seconds()
        self._ends = asyncio.get_running_loop().call_later(max(seconds, 0), self._cut, EXPIRED)
        server = Server(reader, writer)
        try:
            await relay(client, server)
        finally:
            server.close()

    async def _calls(self, client: Client, entered: Entered) -> None:
        server = self._server
        services = ServicesOfOne(server.services, entered.certificate, entered.peer) if server.services else None
        self._forwarder = forwarder = Forwarder(
            entered.certificate,
            entered.identity,
            entered.peer,
            clusters=server.clusters,
            rules=entered.rules or server.rules,
            own_name=server.config.cluster,
            tells=server,
            named=entered.kube_cluster,
            services=services,
            sessions=server.sessions,
            recorded_before=server.recorded_before,
            counts=server.counts,
            cut=self.abort,
        )
        try:
            await self._each(client, forwarder, entered.identity.name)
        finally:
            if services is not None:
                services.close()

    async def _each(self, client: Client, forwarder: Forwarder, user: str) -> None:
        server = self._server
        patience = FIRST
        while (request := await self._next(client, patience, user)) is not None:
            self._idle = False
            client.last = client.last or server.leaving
            try:
                await forwarder.answer(client, request, self._arm)
            finally:
                self._disarm()
            self._idle, patience = True, KEPT_ALIVE
            if not client.next():
                await _close(client)
                return

    async def _next(self, client: Client, seconds: float, user: str = "") -> Request | None:
        """The next request; None when there is none any more. What cannot be read is refused, and is the last."""
        try:
            async with asyncio.timeout(seconds):
                return await client.request()
        except TimeoutError:
            return None
        except BadHead as error:
            await self._server.failed(self.peer, user, error.message)
            client.writer.write(_bad(Refusal(400, error.message, error.hint)))
            await _close(client)
            return None

    def _arm(self) -> None:
        """The permit of the open call ends some time."""
        ends = self._forwarder.ends if self._forwarder is not None else None
        if ends is not None:
            seconds = (ends - self._server.clock.now()).total_seconds()
            self._ends = asyncio.get_running_loop().call_later(max(seconds, 0), self._cut, EXPIRED)

    def _disarm(self) -> None:
        for timer in (self._ends, self._last_words):
            if timer is not None:
                timer.cancel()
        self._ends = self._last_words = None


def _bad(refusal: Refusal) -> bytes:
    """An answer to a head that cannot be read: no state of a conversation allows one, and it is the last word."""
    body = refusal.body
    return (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


async def _close(client: Client) -> None:
    """Ends the connection once what was written has gone out."""
    client.writer.close()
    with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
        async with asyncio.timeout(2):
            await client.writer.wait_closed()

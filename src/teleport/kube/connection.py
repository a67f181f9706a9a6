"""One client's connection to the listener, from TLS to its last call.

The certificate that TLS proved is read again (trap T-3): the authority that signed says whose it is, and hosts are
refused. Who was let in is judged anew for each call, and while one is open whenever `reconsider` is called. What ends a
permit ends the connection, within the call: a stream is cut, so that nobody takes it for complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from asyncio import sslproto
from typing import TYPE_CHECKING, Final

import h11

from teleport.errors import AccessDenied, NotFound, TeleportError
from teleport.kube.answering import refuse
from teleport.kube.entrance import Entered, Entrance, Unspoken
from teleport.kube.exec_session import SAY_SECONDS
from teleport.kube.forwarder import Forwarder
from teleport.kube.heads import BadHead
from teleport.kube.http import READ, Client, Request, Server
from teleport.kube.needs import Elsewhere
from teleport.kube.services import ServicesOfOne
from teleport.kube.status import Refusal
from teleport.kube.streams import relay
from teleport.ssh.listener import Slot
from teleport.ssh.surface import Peer
from teleport.transport.feeding import feed
from teleport.transport.probes import probe

if TYPE_CHECKING:
    from teleport.kube.service import KubeServer

log = logging.getLogger(__name__)

HANDSHAKE: Final = 10  # seconds
FIRST: Final = 15.0  # seconds from TLS to the end of the first request's head
KEPT_ALIVE: Final = 75.0  # seconds between two requests
BUFFER: Final = 16 * 1024  # bytes that TLS reads at once
CUT: Final = "a call was cut: its permit has ended"
ENDED: Final = "access has ended"
EXPIRED: Final = "the certificate has expired"
STOPPED: Final = "the service stopped"


class _TLS(sslproto.SSLProtocol):
    """TLS that tells its inside also of a connection that ended in the handshake."""

    max_size = BUFFER
    inside: Connection

    def data_received(self, data: bytes) -> None:
        """What was read before this protocol had the connection."""
        feed(self, data)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.inside.lost()


def end_of_tls(context: ssl.SSLContext, inside: Connection) -> asyncio.Protocol:
    """The protocol of a connection on which TLS begins, with `inside` within it."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    waiter.add_done_callback(inside.shook_hands)
    made = _TLS(
        loop, inside, context, waiter, server_side=True, ssl_handshake_timeout=HANDSHAKE, ssl_shutdown_timeout=1
    )
    made.inside = inside
    return made  # type: ignore[return-value]  # a buffered protocol, which a listener treats as any


class Connection(asyncio.StreamReaderProtocol):
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

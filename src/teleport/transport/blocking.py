"""Blocking streams for commands and for joining: TCP, TLS, websocket, and TLS inside of those.

The commands use these instead of an event loop because starting one costs more than the call. A proxy relays a
websocket to the auth service's own port; the TLS session inside ends at auth, so a proxy between never sees what is
said (decision 18 of the design).

A stream that breaks raises `OSError`, as a socket does; a far end that proves nothing or breaks its protocol raises
`ConnectionProblem`. A constructor that raises has closed the stream it was given.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from teleport.errors import ConnectionProblem

if TYPE_CHECKING:
    from wsproto.events import Event

AGAIN = "try again; if it stays so, the log of the far end says why"
AGAIN_OR_LOGIN = f"after a rotation of the cluster's authorities: tsh login; else {AGAIN}"
CHUNK = 65536  # bytes asked for at once
MAX_REFUSAL = 4096  # bytes of why a websocket was refused


class NotBegun(ConnectionResetError):
    """The far end hung up before it proved who it is: so does a proxy that auth does not let in, for a moment after its
    authority was replaced."""


class ByteStream(Protocol):
    """What a connection offers, whatever it runs over. All but `close` raise `OSError` and `ConnectionProblem`."""

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes, empty at the end."""
        ...

    def sendall(self, data: bytes) -> None: ...

    def close(self) -> None: ...


def shown_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def dial_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection; `ConnectionProblem` names the address and the reason."""
    try:
        connection = socket.create_connection((host, port), timeout)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ConnectionProblem(
            f"cannot connect to {shown_address(host, port)}: {reason}",
            hint="check the address, and that the service runs there",
        ) from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class TLSStream:
    """A TLS client session over any stream."""

    def __init__(self, inner: ByteStream, context: ssl.SSLContext, server_name: str) -> None:
        self._inner = inner
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._name = server_name
        try:
            self._tls = context.wrap_bio(self._in, self._out, server_hostname=server_name)
            self._shake_hands()
        except BaseException:
            self._inner.close()
            raise

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLEOFError:
                raise NotBegun(errno.ECONNRESET, "it closed the connection before TLS was set up") from None
            except ssl.SSLError as error:
                with contextlib.suppress(OSError, ConnectionProblem):
                    self._flush()  # the far end learns why
                raise ConnectionProblem(
                    f"{self._name} did not prove who it is: {_reason(error)}",
                    hint="check the address; after a rotation of the authority: tsh login",
                ) from None
        self._flush()

    def protocol(self) -> str:
        """The protocol that both ends agreed on (ALPN); empty when none."""
        return self._tls.selected_alpn_protocol() or ""

    def peer_certificate(self) -> bytes:
        """The far end's certificate, DER."""
        return self._tls.getpeercert(True) or b""

    def _flush(self) -> None:
        data = self._out.read()
        if data:
            self._inner.sendall(data)

    def _fill(self) -> None:
        data = self._inner.recv(CHUNK)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def recv(self, size: int) -> bytes:
        """Empty only where the far end said that it ends: somebody between could cut the connection anywhere."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLEOFError:
                raise ConnectionResetError(errno.ECONNRESET, "the connection was cut off") from None
            except ssl.SSLError as error:
                raise ConnectionProblem(f"the TLS session failed: {_reason(error)}", hint=AGAIN) from None

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._tls.write(view) :]
            except ssl.SSLError as error:
                raise ConnectionProblem(f"the TLS session failed: {_reason(error)}", hint=AGAIN) from None
            self._flush()

    def close(self) -> None:
        self._inner.close()


class WebSocketStream:
    """Bytes as binary messages of a websocket, client side (RFC 6455 through wsproto).

    The far end is not believed: what it sends wrong is a `ConnectionProblem`, and its text is not repeated.
    """

    def __init__(
        self,
        inner: ByteStream,
        host: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        refused: Callable[[int, bytes], Exception | None] = lambda status, body: None,
    ) -> None:
        """`refused` makes the error of a handshake that was refused, from status and body (as far as it came)."""
        from wsproto import ConnectionType, WSConnection

        self._inner = inner
        self._host = host
        self._headers = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self._refused = refused
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._buffer = bytearray()
        self._ended = False
        try:
            self._open(target)
        except BaseException:
            inner.close()
            raise

    def _open(self, target: str) -> None:
        from wsproto.events import AcceptConnection, RejectConnection, RejectData
        from wsproto.events import Request as Handshake

        self._inner.sendall(
            self._connection.send(Handshake(host=self._host, target=target, extra_headers=self._headers))
        )
        status, body = 0, bytearray()
        while True:
            data = self._inner.recv(CHUNK)
            if not data:
                raise ConnectionProblem(
                    f"{self._host} closed the connection instead of opening a tunnel at {target}",
                    hint="check that the address is a proxy's web address, and that auth runs",
                )
            events = self._events(data)
            for position, event in enumerate(events):
                if isinstance(event, AcceptConnection):
                    self._take(events[position + 1 :])
                    return
                if isinstance(event, RejectConnection):
                    status = event.status_code
                if isinstance(event, RejectData):
                    body += event.data
                if isinstance(event, (RejectConnection, RejectData)):
                    more = event.has_body if isinstance(event, RejectConnection) else not event.body_finished
                    if more and len(body) < MAX_REFUSAL:
                        continue
                    if error := self._refused(status, bytes(body[:MAX_REFUSAL])):
                        raise error
                    raise ConnectionProblem(
                        f"{self._host} opened no tunnel at {target}: HTTP status {status}",
                        hint="check that the address is a proxy's web address, and that auth runs",
                    )

    def _events(self, data: bytes) -> list[Event]:
        from wsproto.utilities import ProtocolError

        try:
            self._connection.receive_data(data)
            return list(self._connection.events())
        except ProtocolError:
            raise ConnectionProblem(
                f"{self._host} does not speak the websocket protocol",
                hint="check that the address is a proxy's web address",
            ) from None

    def _take(self, events: Sequence[Event]) -> None:
        from wsproto.events import BytesMessage, CloseConnection, Ping

        for event in events:
            if isinstance(event, BytesMessage):
                self._buffer += event.data
            elif isinstance(event, Ping):
                self._inner.sendall(self._connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                self._ended = True

    def recv(self, size: int) -> bytes:
        while not self._buffer and not self._ended:
            data = self._inner.recv(CHUNK)
            if not data:
                self._ended = True
                break
            self._take(self._events(data))
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        return part

    def sendall(self, data: bytes) -> None:
        from wsproto.events import BytesMessage
        from wsproto.utilities import LocalProtocolError

        view = memoryview(data)
        while view:
            try:
                frame = self._connection.send(BytesMessage(data=bytes(view[:CHUNK])))
            except LocalProtocolError:
                raise BrokenPipeError(errno.EPIPE, "the tunnel is closed") from None
            self._inner.sendall(frame)
            view = view[CHUNK:]

    def close(self) -> None:
        self._inner.close()


class _Reader(io.RawIOBase):
    """What `http.client` reads a reply from."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._stream.recv(len(view))
        view[: len(data)] = data
        return len(data)


class _SocketLike:
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def makefile(self, mode: str, *_: object, **__: object) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Reader(self._stream), CHUNK)

    def sendall(self, data: bytes) -> None:
        self._stream.sendall(data)

    def close(self) -> None:
        """The stream outlives one reply; whoever opened it closes it."""


class HTTPOver(http.client.HTTPConnection):
    """HTTP/1.1 over a stream that is open already. `close` closes the stream too."""

    def __init__(self, stream: ByteStream, host: str) -> None:
        super().__init__(host)
        self.stream = stream
        self.sock = _SocketLike(stream)
        self._answering = False

    def connect(self) -> None:
        raise ConnectionProblem(f"{self.host} closed the connection", hint=AGAIN)

    def getresponse(self) -> http.client.HTTPResponse:
        # For a last answer, `http.client` closes the connection before the body was read from it.
        self._answering = True
        try:
            return super().getresponse()
        finally:
            self._answering = False

    def close(self) -> None:
        super().close()
        if not self._answering:
            self.stream.close()


def read_body(response: http.client.HTTPResponse, limit: int, what: str) -> bytes:
    """The whole body. Raises `ConnectionProblem` naming `what` when it breaks off or is larger than `limit` bytes."""
    try:
        body = response.read(limit + 1)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionProblem(f"{what} broke off: {said(error)}", hint=AGAIN) from None
    if len(body) > limit:
        raise ConnectionProblem(f"{what} is larger than {limit} bytes", hint=AGAIN)
    check_whole(response, what)
    return body


def check_whole(response: http.client.HTTPResponse, what: str) -> None:
    """Raises `ConnectionProblem` when less came than was announced, which `http.client` does not tell of itself."""
    if response.length:
        raise ConnectionProblem(f"{what} broke off: {response.length} bytes are missing", hint=AGAIN)


def said(error: Exception) -> str:
    """What a broken stream or a wrong answer says of itself, for a message."""
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _reason(error: ssl.SSLError) -> str:
    message = getattr(error, "verify_message", "") or error.reason or str(error)
    return str(message).replace("_", " ").lower()

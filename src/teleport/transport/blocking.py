"""Blocking streams for commands and for joining: TCP, TLS, websocket, and TLS inside of those.

The commands use these instead of an event loop because starting one costs more than the call. A proxy relays a
websocket to the auth service's own port; the TLS session inside ends at auth, so a proxy between never sees what is
said (decision 18 of the design).
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from typing import Protocol

from teleport.errors import ConnectionProblem

CHUNK = 65536  # bytes asked for at once


class ByteStream(Protocol):
    """What a connection offers, whatever it runs over."""

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes, empty at the end."""
        ...

    def sendall(self, data: bytes) -> None: ...

    def close(self) -> None: ...


def dial_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection; `ConnectionProblem` names the address and the reason."""
    try:
        connection = socket.create_connection((host, port), timeout)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ConnectionProblem(f"cannot connect to {host}:{port}: {reason}") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class TLSStream:
    """A TLS client session over any stream."""

    def __init__(self, inner: ByteStream, context: ssl.SSLContext, server_name: str) -> None:
        self._inner = inner
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=server_name)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError as error:
                self._inner.close()
                raise ConnectionProblem(f"{server_name} did not prove who it is: {_reason(error)}") from None
        self._flush()

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
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise ConnectionProblem(f"the TLS session failed: {_reason(error)}") from None

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
            self._flush()

    def close(self) -> None:
        self._inner.close()


class WebSocketStream:
    """Bytes as binary messages of a websocket, client side (RFC 6455 through wsproto)."""

    def __init__(self, inner: ByteStream, host: str, target: str) -> None:
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import AcceptConnection, RejectConnection, RejectData
        from wsproto.events import Request as Handshake

        self._inner = inner
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._buffer = bytearray()
        self._ended = False
        inner.sendall(self._connection.send(Handshake(host=host, target=target)))
        while True:
            data = inner.recv(CHUNK)
            if not data:
                raise ConnectionProblem(f"{host} closed the connection instead of opening a tunnel at {target}")
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, AcceptConnection):
                    self._take_events()
                    return
                if isinstance(event, (RejectConnection, RejectData)):
                    status = getattr(event, "status_code", "")
                    raise ConnectionProblem(f"{host} opened no tunnel at {target}: HTTP status {status}")

    def _take_events(self) -> None:
        from wsproto.events import BytesMessage, CloseConnection, Ping

        for event in self._connection.events():
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
            self._connection.receive_data(data)
            self._take_events()
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        return part

    def sendall(self, data: bytes) -> None:
        from wsproto.events import BytesMessage

        self._inner.sendall(self._connection.send(BytesMessage(data=data)))

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
    """HTTP/1.1 over a stream that is open already."""

    def __init__(self, stream: ByteStream, host: str) -> None:
        super().__init__(host)
        self.stream = stream
        self.sock = _SocketLike(stream)

    def connect(self) -> None:
        raise ConnectionProblem(f"{self.host} closed the connection")

    def close(self) -> None:
        super().close()
        self.stream.close()


def _reason(error: ssl.SSLError) -> str:
    message = getattr(error, "verify_message", "") or error.reason or str(error)
    return str(message).replace("_", " ").lower()

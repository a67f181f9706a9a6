"""Blocking streams: TLS over a socket and over a websocket, large bodies, and far ends that stop or lie."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.transport.transport_peers import peer, read_request, reply, server_context, tls_pair, trusting, websocket_to

from teleport.api import routes
from teleport.api.messages import Empty
from teleport.api.sync_client import SyncAuthClient
from teleport.errors import ConnectionProblem
from teleport.transport.blocking import (
    ByteStream,
    HTTPOver,
    TLSStream,
    WebSocketStream,
    check_whole,
    dial_tcp,
    read_body,
    shown_address,
)
from teleport.transport.tls import unproved_client_context

NAME = "peer.example.com"
LARGE = 5 * 1024 * 1024 + 7  # bytes; more than any buffer on the way


class Watched:
    """A stream that knows whether it was closed."""

    def __init__(self, inner: ByteStream) -> None:
        self._inner = inner
        self.closed = False

    def recv(self, size: int) -> bytes:
        return self._inner.recv(size)

    def sendall(self, data: bytes) -> None:
        self._inner.sendall(data)

    def close(self) -> None:
        self.closed = True
        self._inner.close()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tls_pair(tmp_path, NAME)


def read_all(stream: ByteStream, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = stream.recv(65536)
        assert part, f"ended after {len(found)} of {size} bytes"
        found += part
    return bytes(found)


def echo(size: int) -> Callable[[socket.socket], None]:
    """Takes `size` bytes, then sends them back and ends."""

    def serve(connection: socket.socket) -> None:
        data = bytearray()
        while len(data) < size:
            part = connection.recv(65536)
            if not part:
                return
            data += part
        connection.sendall(data)
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()

    return serve


# dialing


def test_an_address_that_refuses_is_named_with_the_reason() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionProblem, match=rf"cannot connect to 127\.0\.0\.1:{port}: Connection refused"):
        dial_tcp("127.0.0.1", port, 2)


def test_ipv6_addresses_are_shown_in_brackets() -> None:
    assert shown_address("::1", 3025) == "[::1]:3025"
    assert shown_address("auth.example.com", 3025) == "auth.example.com:3025"
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionProblem, match=rf"cannot connect to \[::1\]:{port}: "):
        dial_tcp("::1", port, 2)


# TLS


def test_large_bodies_pass_tls_both_ways(pair: tuple[Path, Path]) -> None:
    data = os.urandom(LARGE)
    with peer(echo(LARGE), server_context(pair)) as address:
        stream = TLSStream(dial_tcp(*address, 10), trusting(pair), NAME)
        stream.sendall(data)
        assert read_all(stream, LARGE) == data
        assert stream.recv(1) == b"", "the far end said that it ends"
        stream.close()


async def test_large_bodies_pass_tls_inside_a_websocket_both_ways(pair: tuple[Path, Path]) -> None:
    data = os.urandom(LARGE)

    def work(address: tuple[str, int]) -> None:
        outer = WebSocketStream(dial_tcp(*address, 10), "proxy", "/tunnel")
        stream = TLSStream(outer, trusting(pair), NAME)
        try:
            stream.sendall(data)
            assert read_all(stream, LARGE) == data
            assert stream.recv(1) == b""
        finally:
            stream.close()

    with peer(echo(LARGE), server_context(pair)) as target:
        async with websocket_to(target) as address:
            await asyncio.to_thread(work, address)


def test_a_far_end_without_the_right_name_is_refused_and_the_connection_closed(pair: tuple[Path, Path]) -> None:
    with peer(echo(1), server_context(pair)) as address:
        raw = Watched(dial_tcp(*address, 10))
        with pytest.raises(ConnectionProblem, match=r"other\.example\.com did not prove who it is: .*match"):
            TLSStream(raw, trusting(pair), "other.example.com")
        assert raw.closed


def test_a_far_end_with_another_authority_is_refused_and_learns_why(pair: tuple[Path, Path], tmp_path: Path) -> None:
    told: list[BaseException] = []

    def serve(connection: socket.socket) -> None:
        try:
            server_context(pair).wrap_socket(connection, server_side=True)
        except ssl.SSLError as error:
            told.append(error)

    with peer(serve) as address, pytest.raises(ConnectionProblem, match="did not prove who it is"):
        TLSStream(dial_tcp(*address, 10), trusting(tls_pair(tmp_path / "other", NAME)), NAME)
    assert "alert unknown ca" in str(told[0]).replace("_", " ").lower()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x03"], ids=["nothing", "half a record"])
def test_a_far_end_that_closes_during_the_handshake_is_a_broken_connection(
    pair: tuple[Path, Path], said: bytes
) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)

    with peer(serve) as address:
        raw = Watched(dial_tcp(*address, 10))
        with pytest.raises(OSError, match="before TLS was set up"):
            TLSStream(raw, trusting(pair), NAME)
        assert raw.closed


def test_a_call_whose_far_end_hangs_up_at_once_names_the_login_as_well(pair: tuple[Path, Path]) -> None:
    """A proxy whose own certificate a rotation ended a moment ago can tell nothing more."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)

    with peer(serve) as address:
        client = SyncAuthClient(lambda: TLSStream(dial_tcp(*address, 10), trusting(pair), NAME), NAME)
        with pytest.raises(ConnectionProblem, match="before TLS was set up") as refused:
            client.call(routes.WHO_AM_I, Empty())
    assert "after a rotation of the cluster's authorities: tsh login" in refused.value.hint


def test_a_far_end_that_speaks_something_else_proves_nothing(pair: tuple[Path, Path]) -> None:
    with peer(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 20)) as address:
        raw = Watched(dial_tcp(*address, 10))
        with pytest.raises(ConnectionProblem, match="did not prove who it is"):
            TLSStream(raw, trusting(pair), NAME)
        assert raw.closed


def test_a_silent_far_end_is_given_up_in_the_handshake(pair: tuple[Path, Path]) -> None:
    release = threading.Event()

    def serve(_: socket.socket) -> None:
        release.wait(10)

    with peer(serve) as address:
        raw = Watched(dial_tcp(*address, 0.2))
        with pytest.raises(TimeoutError):
            TLSStream(raw, trusting(pair), NAME)
        assert raw.closed
        release.set()


def test_a_cut_tls_connection_is_never_taken_for_an_end(pair: tuple[Path, Path]) -> None:
    """Who stands between can cut a connection anywhere: without the far end's own word that is an error."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"the first half")
        connection.shutdown(socket.SHUT_RDWR)

    with peer(serve, server_context(pair)) as address:
        stream = TLSStream(dial_tcp(*address, 10), trusting(pair), NAME)
        assert read_all(stream, 14) == b"the first half"
        with pytest.raises(ConnectionResetError, match="cut off"):
            stream.recv(100)
        stream.close()


def test_garbage_inside_a_tls_session_is_a_connection_problem(pair: tuple[Path, Path]) -> None:
    def serve(connection: socket.socket) -> None:
        with server_context(pair).wrap_socket(connection, server_side=True) as secure:
            os.write(secure.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
            secure.settimeout(5)
            secure.recv(1)

    with peer(serve) as address:
        stream = TLSStream(dial_tcp(*address, 10), trusting(pair), NAME)
        with pytest.raises(ConnectionProblem, match="the TLS session failed"):
            stream.recv(100)
        stream.close()


# websocket


def serve_bytes(*parts: bytes) -> Callable[[socket.socket], None]:
    """Reads a request, then says `parts`, then ends."""

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        for part in parts:
            connection.sendall(part)

    return serve


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "opened no tunnel at /t: HTTP status 404"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", "opened no tunnel at /t: HTTP status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "opened no tunnel at /t: HTTP status 200"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak the websocket protocol"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "websocket protocol"),
        (b"\x00" * 100_000, "does not speak the websocket protocol"),
        (b"HTTP/1.1 ", "closed the connection instead of opening a tunnel"),
        (b"", "closed the connection instead of opening a tunnel"),
    ],
    ids=["404", "503", "200", "ssh", "no accept key", "zeros", "half a line", "nothing"],
)
def test_what_is_not_a_websocket_is_a_connection_problem_and_is_closed(answer: bytes, said: str) -> None:
    with peer(serve_bytes(answer)) as address:
        raw = Watched(dial_tcp(*address, 10))
        with pytest.raises(ConnectionProblem, match=said):
            WebSocketStream(raw, "proxy.example.com:3080", "/t")
        assert raw.closed


def accepting(then: bytes) -> Callable[[socket.socket], None]:
    """Opens a websocket and says `then` in the same packet."""
    import base64
    import hashlib

    def serve(connection: socket.socket) -> None:
        head, _ = read_request(connection)
        key = next(
            line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + then
        )
        connection.settimeout(5)
        while connection.recv(65536):
            continue

    return serve


def test_what_comes_with_the_acceptance_is_not_lost() -> None:
    with peer(accepting(b"\x82\x05hello" + b"\x82\x06 world")) as address:
        stream = WebSocketStream(dial_tcp(*address, 10), "proxy", "/t")
        assert read_all(stream, 11) == b"hello world"
        stream.close()


def test_a_closed_websocket_is_the_end_and_takes_nothing_more() -> None:
    with peer(accepting(b"\x82\x03end" + b"\x88\x02\x03\xe8")) as address:
        stream = WebSocketStream(dial_tcp(*address, 10), "proxy", "/t")
        assert stream.recv(100) == b"end"
        assert stream.recv(100) == b""
        with pytest.raises(BrokenPipeError):
            stream.sendall(b"more")
        stream.close()


def test_a_broken_frame_ends_the_stream() -> None:
    """Whether that end was meant is for the TLS session inside to say."""
    with peer(accepting(b"\x82\x03end" + b"\xff" * 64)) as address:
        stream = WebSocketStream(dial_tcp(*address, 10), "proxy", "/t")
        assert stream.recv(10) == b"end"
        assert stream.recv(10) == b""
        stream.close()


# HTTP over a stream


def answer_of(connection: HTTPOver, method: str = "GET", body: bytes | None = None) -> http.client.HTTPResponse:
    connection.request(method, "/", body=body)
    return connection.getresponse()


def test_one_connection_serves_several_requests() -> None:
    def serve(connection: socket.socket) -> None:
        for _ in range(2):
            _, body = read_request(connection)
            connection.sendall(reply(body[::-1]))

    with peer(serve) as address:
        connection = HTTPOver(dial_tcp(*address, 10), "auth")
        for sent in (b"abc", b"x" * LARGE):
            assert read_body(answer_of(connection, "POST", sent), LARGE, "the answer") == sent[::-1]
        connection.close()


def test_the_body_of_a_last_answer_is_read_before_the_stream_is_closed() -> None:
    with peer(serve_bytes(reply(b"goodbye", more="Connection: close\r\n"))) as address:
        raw = Watched(dial_tcp(*address, 10))
        connection = HTTPOver(raw, "auth")
        response = answer_of(connection)
        assert not raw.closed
        assert read_body(response, 100, "the answer") == b"goodbye"
        connection.close()
        assert raw.closed


def test_a_connection_that_is_over_is_not_dialled_again() -> None:
    with peer(serve_bytes(reply(b"goodbye", more="Connection: close\r\n"))) as address:
        connection = HTTPOver(dial_tcp(*address, 10), "auth")
        read_body(answer_of(connection), 100, "the answer")
        with pytest.raises(ConnectionProblem, match="auth closed the connection"):
            connection.request("GET", "/")
        connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"half", length=8),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["length", "in a chunk", "between chunks", "not a chunk"],
)
def test_a_body_that_breaks_off_is_a_connection_problem(answer: bytes) -> None:
    with peer(serve_bytes(answer)) as address:
        connection = HTTPOver(dial_tcp(*address, 10), "auth")
        with pytest.raises(ConnectionProblem, match="the answer broke off"):
            read_body(answer_of(connection), 100, "the answer")
        connection.close()


def test_a_streamed_body_that_breaks_off_is_told_from_a_whole_one() -> None:
    with peer(serve_bytes(reply(b"half", length=8))) as address:
        connection = HTTPOver(dial_tcp(*address, 10), "auth")
        response = answer_of(connection)
        while response.read1(100):
            continue
        with pytest.raises(ConnectionProblem, match="4 bytes are missing"):
            check_whole(response, "the recording")
        connection.close()


def test_a_body_without_end_is_cut_at_the_limit() -> None:
    with peer(serve_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000)) as address:
        connection = HTTPOver(dial_tcp(*address, 10), "auth")
        with pytest.raises(ConnectionProblem, match="larger than 1000 bytes"):
            read_body(answer_of(connection), 1000, "the answer")
        connection.close()


def test_a_far_end_that_stops_in_a_body_is_given_up() -> None:
    release = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(reply(b"half", length=8))
        release.wait(10)

    with peer(serve) as address:
        connection = HTTPOver(dial_tcp(*address, 0.2), "auth")
        with pytest.raises(ConnectionProblem, match="nothing came for too long"):
            read_body(answer_of(connection), 100, "the answer")
        connection.close()
        release.set()


def test_an_unproved_context_reaches_any_far_end(pair: tuple[Path, Path]) -> None:
    with peer(echo(2), server_context(pair)) as address:
        stream = TLSStream(dial_tcp(*address, 10), unproved_client_context(), "whatever.example.com")
        stream.sendall(b"hi")
        assert read_all(stream, 2) == b"hi"
        assert stream.peer_certificate() == ssl.PEM_cert_to_DER_cert(pair[0].read_text())
        stream.close()

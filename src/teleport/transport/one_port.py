"""One port for everything: the first bytes say what a connection is, and only then it begins.

`SSH-` is SSH as it stands. A TLS ClientHello is read here before TLS sees it: the protocol that it asks for (ALPN) says
who takes what is inside, and with the server's name it chooses the context. Some names are of listeners that end TLS
by themselves: to those it goes as it came. So nothing about a handshake depends on a
callback within it (trap T-3), and each choice has a context of its own that issues no tickets: a session of one name
and protocol cannot be resumed under another. Everything else is nobody's and ends; where a balancer in front ends TLS
for the web, it is the web's.

Bounds: 16 KiB of first bytes; the time and the slot are the listener's, as for every connection that has asked for
nothing yet.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from teleport.transport.balancers import Address
from teleport.transport.feeding import feed
from teleport.wire import client_hello, proxy_protocol
from teleport.wire.alpn import HTTP

SSH: Final = b"SSH-"
MAX_LINE: Final = 255  # bytes of the line that SSH begins with (RFC 4253 section 4.2)
_TLS: Final = b"\x16"
BUFFER: Final = 16 * 1024  # bytes that TLS reads at once


class Accept(Protocol):
    """Takes a connection over; `client` is who comes, `data` what was read of it already."""

    def __call__(self, transport: asyncio.Transport, client: Address, data: bytes = b"") -> None: ...


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of one protocol: for the public name, and for who asks for the cluster by a name of its own."""

    public: ssl.SSLContext
    named: Mapping[str, ssl.SSLContext] = field(default_factory=dict)

    def of(self, name: str) -> ssl.SSLContext:
        return self.named.get(name, self.public)


class Choice(Protocol):
    """The contexts of one protocol."""

    def of(self, name: str) -> ssl.SSLContext | None:
        """The context for who asks for this name, empty when none was; None: nobody is served by it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A protocol whose TLS ends here: by which contexts, and who takes what is inside."""

    contexts: Choice
    accept: Accept
    alone: bool = False  # only for who offers nothing else


@dataclass(slots=True)
class Port:
    """Who is reached by one port. `within` are ALPN names; without one of them it is the web's. With `web` None the web
    comes without TLS, and TLS is refused. With `ssh` None no SSH is taken."""

    ssh: Accept | None
    web: Choice | None
    within: dict[str, Ending] = field(default_factory=dict)
    software: dict[bytes, Accept] = field(default_factory=dict)  # SSH of clients that begin so, after `SSH-2.0-`
    named: dict[str, Accept] = field(default_factory=dict)  # who takes TLS as it comes, by the server's name

    def ssh_of(self, line: bytes) -> Accept | None:
        """Who takes SSH that begins with this line, which proves nothing: each asks for certificates of its own."""
        for name, accept in self.software.items():
            if line.startswith(SSH + b"2.0-" + name):
                return accept
        return self.ssh

    def chosen(self, hello: client_hello.ClientHello) -> tuple[ssl.SSLContext | None, Accept | None]:
        """The context for a ClientHello, None when there is none; and who takes what is inside, None: the web."""
        assert self.web is not None, "the port takes TLS"
        for name in hello.protocols:
            if name == HTTP:
                break
            ending = self.within.get(name)
            if ending is not None and not (ending.alone and len(hello.protocols) > 1):
                return ending.contexts.of(hello.server_name), ending.accept
        return self.web.of(hello.server_name), None


@dataclass(frozen=True, slots=True)
class Turns:
    """What becomes of a connection: exactly one of these is called, once."""

    web: Callable[[asyncio.Transport, ssl.SSLContext | None, bytes], None]
    handed: Callable[[], None]  # somebody else has it and counts it
    lost: Callable[[], None]
    # beside `lost`:
    forged: Callable[[], None] = lambda: None  # it began with a PROXY header
    no_tls: Callable[[], None] = lambda: None  # it began with TLS, which is not taken here


class Sorter(asyncio.Protocol):
    """The protocol of a connection until it is known what it is."""

    def __init__(self, port: Port, client: Address, turns: Turns, *, tls: bool = True) -> None:
        """`tls`: whether TLS may begin here, if the port takes it at all."""
        self._tls = tls and port.web is not None
        self._port = port
        self._client = client
        self._turns = turns
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._turns.lost()

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._buffer += data
        if self._buffer.startswith(SSH):
            if b"\n" not in self._buffer and len(self._buffer) < MAX_LINE:
                return
            accept = self._port.ssh_of(self._buffer)
            if accept is None:
                self._end()
                return
            transport = self._forget()
            self._turns.handed()
            accept(transport, self._client, self._buffer)
        elif self._buffer.startswith(_TLS):
            if self._tls:
                self._hello()
            else:
                self._turns.no_tls()
                self._end()
        elif not SSH.startswith(self._buffer) and (header := proxy_protocol.begins(self._buffer)) is not None:
            if self._port.web is None and not header:
                self._turns.web(self._forget(), None, self._buffer)
                return
            if header:
                self._turns.forged()
            self._end()

    def _hello(self) -> None:
        try:
            hello = client_hello.parse(self._buffer)
        except client_hello.Malformed:
            self._end()
            return
        if hello is None:
            return
        named = self._port.named.get(hello.server_name)
        if named is not None:
            transport = self._forget()
            self._turns.handed()
            named(transport, self._client, self._buffer)
            return
        context, accept = self._port.chosen(hello)
        if context is None:
            self._end()
            return
        transport = self._forget()
        if accept is None:
            self._turns.web(transport, context, self._buffer)
            return
        waiter = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
        tls = _TLSEnd(waiter, context, _Inside(accept, self._client, self._turns), self._client)
        transport.set_protocol(tls)
        tls.connection_made(transport)
        feed(tls, self._buffer)

    def _forget(self) -> asyncio.Transport:
        transport, self._transport = self._transport, None
        assert transport is not None
        return transport

    def _end(self) -> None:
        self._forget().abort()
        self._turns.lost()


class _TLSEnd(sslproto.SSLProtocol):
    """TLS that ends here for somebody else than the web."""

    max_size = BUFFER
    _extra: dict[str, Any]

    def __init__(self, waiter: asyncio.Future[None], context: ssl.SSLContext, inside: _Inside, client: Address) -> None:
        super().__init__(asyncio.get_running_loop(), inside, context, waiter, server_side=True)
        self._inside = inside
        self._extra["peername"] = client

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)  # which tells nobody of a connection that ended in the handshake
        self._inside.gone()


class _Inside(asyncio.Protocol):
    """Hands over what is inside TLS as soon as the handshake is done."""

    def __init__(self, accept: Accept, client: Address, turns: Turns) -> None:
        self._accept = accept
        self._client = client
        self._turns: Turns | None = turns

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.handed()
            self._accept(transport, self._client)

    def gone(self) -> None:
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.lost()

"""One connection between two proxies, as either end has it: frames of `wire.peering` inside TLS, as a channel.

Who is at the other end is proved by its host certificate, in the handshake and then by whoever knows the cluster as it
is now: role Proxy, not locked, not expelled.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final, Protocol

from teleport.errors import AccessDenied, BadRequest
from teleport.identity import HostIdentity, SystemRole
from teleport.ssh.handlers import StreamHandler
from teleport.ssh.surface import KeepAlive
from teleport.transport.probes import probe
from teleport.wire import peering
from teleport.wire.alpn import PROXY_PEER
from teleport.wire.peering import Kind

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 10
SHUTDOWN_SECONDS: Final = 5  # for the other end to agree that TLS is over


class Hosts(Protocol):
    """Who belongs to the cluster now."""

    def verify_host_tls(self, certificate: bytes) -> HostIdentity:
        """Whose TLS certificate (DER) it is. Raises `CertificateRefused`, or `AccessDenied` for a host that is locked
        or was expelled."""
        ...

    def identify_host_tls(self, certificate: bytes) -> HostIdentity:
        """The same, also of a host that may not be here."""
        ...


def check_proxy(hosts: Hosts, certificate: bytes) -> HostIdentity:
    """The proxy that showed this certificate. Raises `AccessDenied` (`CertificateRefused` among it)."""
    identity = hosts.verify_host_tls(certificate)
    if identity.role is not SystemRole.PROXY:
        raise AccessDenied(f"the host {identity.host_id} shows a certificate of the role {identity.role}, no proxy's")
    return identity


class Link(asyncio.Protocol):
    """The protocol inside TLS; also the `ssh.handlers.Channel` by which a relay writes."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.certificate = b""  # of the other end, DER; empty until the handshake is done
        self.handler: StreamHandler | None = None  # takes what comes once a client is led
        self._frames = peering.Frames()
        self._ended = False  # this side sends no more
        self._their_end = False
        self.gone = False

    # what the two ends do differently

    def began(self) -> None:
        """The handshake is done."""

    def said(self, kind: Kind, body: bytes) -> None:
        """A question or an answer came. Raises `BadRequest` where none may."""
        raise BadRequest(f"{kind.name} was not expected")

    def lost(self) -> None:
        """The connection is gone."""

    # the protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        probe(transport)
        made: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if made is None or made.selected_alpn_protocol() != PROXY_PEER:
            self.abort()
            return
        self.certificate = made.getpeercert(binary_form=True) or b""
        self.began()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._frames.feed(data):
                if self.gone:
                    return
                self._took(kind, body)
        except BadRequest as error:
            log.warning("the connection with a proxy ends: %s", error.message)
            self.abort()

    def _took(self, kind: Kind, body: bytes) -> None:
        if kind in (Kind.ASK, Kind.ANSWER):
            self.said(kind, body)
            return
        if self.handler is None or self._their_end:
            raise BadRequest(f"{kind.name} before a client was led, or after its end")
        if kind is Kind.DATA:
            self.handler.data_received(body)
        else:
            self._their_end = True
            self.handler.eof_received()

    def pause_writing(self) -> None:
        if self.handler is not None:
            self.handler.pause_writing()

    def resume_writing(self) -> None:
        if self.handler is not None:
            self.handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.gone:
            return
        self.gone = True
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.closed()
        self.lost()

    # a channel

    def send(self, data: bytes) -> None:
        """Frames that were made already."""
        if self.transport is not None:
            self.transport.write(data)

    def write(self, data: bytes | memoryview, *, stderr: bool = False) -> None:
        if self.transport is not None and not self._ended:
            self.transport.write(peering.frame(Kind.DATA, data))

    def write_eof(self) -> None:
        if not self._ended:
            self._ended = True
            self.send(peering.frame(Kind.END))

    def pause_reading(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_abort(self, message: str) -> None:
        self.abort()

    def keep_alive(self, every: KeepAlive) -> None:
        """The kernel probes both ends; whoever is led through is asked by the node."""


Context = Callable[[], ssl.SSLContext]

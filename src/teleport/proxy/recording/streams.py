"""Forwards through the proxy (`ssh -L`, `-W`, `-D`): decided, made by the host, relayed, on record.

The host makes the connection, but not by the name that the client gave: that is resolved here, once, each address is
asked about, and the host is told the address that was allowed (threat T26). A node service decides by itself, and gets
the name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from teleport.authz.channels import ChannelTerms
from teleport.authz.decision import AccessDenial
from teleport.authz.forwarding import Destination, plain_address, why_no_forward
from teleport.errors import ConnectionProblem
from teleport.resources.destinations import Address
from teleport.ssh.client import RemoteSession, SshClient
from teleport.ssh.handlers import Channel
from teleport.wire.forward_spec import TcpEnd

RESOLVE_SECONDS: Final = 5.0


Reserved = Callable[[str, Address, int], str]
"""What of the cluster stands at an address and a port (with the name that led there); empty for nothing."""


async def allowed(terms: ChannelTerms, host: str, port: int, reserved: Reserved) -> Destination | AccessDenial:
    """Where the host may connect to for `host`, or why to none of its addresses. Raises `ConnectionProblem`."""
    denied: AccessDenial | None = None
    for text in await _addresses(host, port):
        address = plain_address(text)
        to = Destination(host, address, port, reserved(host, address, port))
        denied = why_no_forward(terms, to)
        if denied is None:
            return to
    assert denied is not None, "a name has an address"
    return denied


async def _addresses(host: str, port: int) -> list[str]:
    try:
        return [str(plain_address(host))]
    except ValueError:
        pass
    if host.lower().rstrip(".") in ("localhost", "ip6-localhost"):
        return ["127.0.0.1", "::1"]  # of the host, whatever this one calls so
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise ConnectionProblem(
            f"the proxy does not know the host {host[:200]}", hint="name it by its address"
        ) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found)) or [host]


class RecordedStream:
    """One forward (`ssh.handlers.StreamHandler`)."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.to: Destination | None = None  # that was decided here
        self.over: Callable[[RecordedStream], None] = lambda stream: None
        self._remote: RemoteSession | None = None
        self._waiting: asyncio.Task[None] | None = None
        self.sent = 0  # bytes to the client
        self.received = 0  # bytes from the client

    async def connect(self, origin: SshClient, end: TcpEnd) -> None:
        """Has the host connect. Raises `ConnectionProblem`."""
        self._remote = await origin.stream(
            end, on_output=self._output, on_writable=self._input_taken, on_eof=self._channel.write_eof
        )
        self._waiting = asyncio.ensure_future(self._until_over(self._remote))

    def obey(self, terms: ChannelTerms) -> None:
        """Goes on under newer terms, or does not."""
        if not self.allowed(terms):
            self._channel.abort()

    def allowed(self, terms: ChannelTerms) -> bool:
        """Whether it may be; what a node decides about is not asked here."""
        return self.to is None or why_no_forward(terms, self.to) is None

    async def _until_over(self, remote: RemoteSession) -> None:
        await remote.wait()
        self._channel.close()

    def _output(self, data: bytes, is_stderr: bool) -> None:
        self.sent += len(data)
        self._channel.write(data)

    def _input_taken(self, writable: bool) -> None:
        if writable:
            self._channel.resume_reading()
        else:
            self._channel.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._remote is not None:
            self._remote.write(data)

    def eof_received(self) -> None:
        if self._remote is not None:
            self._remote.write_eof()

    def pause_writing(self) -> None:
        if self._remote is not None:
            self._remote.pause_output()

    def resume_writing(self) -> None:
        if self._remote is not None:
            self._remote.resume_output()

    def closed(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        if self._remote is not None:
            self._remote.close()
            self.over(self)

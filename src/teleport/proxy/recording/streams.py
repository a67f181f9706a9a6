"""Where forwards through the proxy (`ssh -L`, `-W`, `-D`) may lead, and the bytes of all of them.

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
from teleport.ssh.client import SshClient
from teleport.ssh.client_session import RemoteSession
from teleport.ssh.handlers import Channel
from teleport.transport.search_domains import other_names
from teleport.wire.forward_spec import End

RESOLVE_SECONDS: Final = 5.0


Reserved = Callable[[str, Address, int], str]
"""What of the cluster stands at an address and a port (with the name that led there); empty for nothing."""


async def allowed(terms: ChannelTerms, host: str, port: int, reserved: Reserved) -> Destination | AccessDenial:
    """Where the host may connect to for `host`, or why to none of its addresses. Raises `ConnectionProblem`."""
    denied: AccessDenial | None = None
    addresses, also = await _addresses(host, port)
    for text in addresses:
        address = plain_address(text)
        to = Destination(host, address, port, reserved(host, address, port), also)
        denied = why_no_forward(terms, to)
        if denied is None:
            return to
    assert denied is not None, "a name has an address"
    return denied


async def _addresses(host: str, port: int) -> tuple[list[str], tuple[str, ...]]:
    """The addresses, and which other names the host may have stood for."""
    try:
        return [str(plain_address(host))], ()
    except ValueError:
        pass
    if host.lower().rstrip(".") in ("localhost", "ip6-localhost"):
        return ["127.0.0.1", "::1"], ()  # of the host, whatever this one calls so
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found, canonical = await _look_up(host, port)

            async def look_up(name: str) -> tuple[list[str], str]:
                return await _look_up(name, port)

            also = await other_names(host, found, canonical, look_up)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise ConnectionProblem(
            f"the proxy does not know the host {host[:200]}", hint="name it by its address"
        ) from error
    return found or [host], also


async def _look_up(host: str, port: int) -> tuple[list[str], str]:
    """The addresses of a name, and the name that it led to. Raises `OSError` and `UnicodeError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    canonical = next((entry[3] for entry in found if entry[3]), "")
    return list(dict.fromkeys(str(address[0]) for *_, address in found)), canonical


class RecordedStream:
    """One forward: the client's channel (`ssh.handlers.StreamHandler`) and the host's (`ssh.brought.Taker`)."""

    def __init__(self, channel: Channel, *, active: Callable[[], None] = lambda: None) -> None:
        """`active` is called whenever bytes move."""
        self._channel = channel
        self._active = active
        self.over: Callable[[RecordedStream], None] = lambda stream: None  # called once, at the end
        self._remote: RemoteSession | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._early: list[bytes] = []  # from the client, while the host's channel is not open yet
        self._early_eof = self._gone = False
        self.sent = 0  # bytes to the client
        self.received = 0  # bytes from the client
        self.why = ""  # it was ended, when neither side did it

    async def connect(self, origin: SshClient, end: End) -> None:
        """Has the host connect. Raises `ConnectionProblem`."""
        self.joined(
            await origin.stream(
                end, on_output=self.output, on_writable=self.input_taken, on_eof=self._channel.write_eof
            )
        )

    def joined(self, remote: RemoteSession) -> None:
        """The host's side is there."""
        if self._gone:
            remote.close()
            return
        self._remote = remote
        self._waiting = asyncio.ensure_future(self._until_over(remote))
        for data in self._early:
            remote.write(data)
        self._early.clear()
        if self._early_eof:
            remote.write_eof()

    async def _until_over(self, remote: RemoteSession) -> None:
        await remote.wait()
        self._channel.close()

    def end(self, why: str) -> None:
        """Ends it now: what was not sent is dropped."""
        self.why = self.why or why
        self._channel.abort()
        if self._remote is not None:
            self._remote.close()

    def output(self, data: bytes, is_stderr: bool) -> None:
        self._active()
        self.sent += len(data)
        self._channel.write(data)

    def no_more_output(self) -> None:
        self._channel.write_eof()

    def input_taken(self, writable: bool) -> None:
        if writable:
            self._channel.resume_reading()
        else:
            self._channel.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._active()
        self.received += len(data)
        if self._remote is not None:
            self._remote.write(data)
        else:
            self._early.append(data)  # no more than the window that the client has

    def eof_received(self) -> None:
        self._early_eof = True
        if self._remote is not None:
            self._remote.write_eof()

    def pause_writing(self) -> None:
        if self._remote is not None:
            self._remote.pause_output()

    def resume_writing(self) -> None:
        if self._remote is not None:
            self._remote.resume_output()

    def closed(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self._remote is not None:
            self._remote.close()
        self.over(self)

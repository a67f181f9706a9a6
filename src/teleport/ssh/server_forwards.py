"""Forwards on a server's connection: what clients ask for besides `direct-tcpip`, and the channels we open to them.

asyncssh's own ways to listen, connect and serve agents act as the daemon's user and ask nobody: each is replaced here,
takes the request apart and asks the connection's handler. The answers come later, in the order of the requests, and
what is opened after a request waits for its answer: `ssh -R 8080:... host COMMAND` counts on the port being there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from asyncssh import ChannelOpenError
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED
from asyncssh.misc import MaybeAwait
from asyncssh.packet import SSHPacket, String, UInt32

from teleport.ssh.channels import ChannelView, StreamChannel, deliveries, serve_stream
from teleport.ssh.guard import Guarded
from teleport.ssh.handlers import Channel, ForwardsConnection, StreamHandler
from teleport.ssh.surface import (
    FromAgentSocket,
    FromSocket,
    FromTcp,
    FromX11,
    Incoming,
    Refusal,
    SocketPlace,
    TcpPlace,
    ToHost,
)

if TYPE_CHECKING:
    from teleport.ssh.server_connection import ServerConnection

T = TypeVar("T")
_MAX_PATH = 4096  # bytes
_BY_APPLICATION = 11  # RFC 4253 section 11.1


class ForwardRequests(Guarded):
    """The part of a server's connection that is about forwards."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._answered = asyncio.Event()  # no global request waits for its answer
        self._answered.set()
        self.unanswered: set[StreamChannel] = set()  # that the client was asked to open

    def after_requests(self, opening: MaybeAwait[T]) -> MaybeAwait[T]:
        """What is opened, once every global request that came before it has its answer."""
        return opening if self._answered.is_set() else self._after(opening)

    async def _after(self, opening: MaybeAwait[T]) -> T:
        await self._answered.wait()
        return cast(T, await opening if asyncio.iscoroutine(opening) else opening)

    def _report_global_response(self, result: bool | bytes) -> None:
        super()._report_global_response(result)
        if not self._global_request_queue:
            self._answered.set()

    def _cleanup(self, exc: Exception | None) -> None:
        self._answered.set()
        super()._cleanup(exc)

    def stream_channel(self) -> StreamChannel:
        """A channel for a stream, not open yet."""
        channel = StreamChannel(
            cast("ServerConnection", self), self._loop, None, "strict", self.limits.window, self.limits.packet
        )
        channel.start_serving()
        return channel

    @property
    def _forwards(self) -> ForwardsConnection:
        return cast(ForwardsConnection, cast("ServerConnection", self).handler)

    def _process_direct_streamlocal_at_openssh_dot_com_open(self, packet: SSHPacket) -> Any:
        path = packet.get_string()
        packet.get_string()  # reserved
        packet.get_uint32()
        packet.check_end()
        if len(path) > _MAX_PATH:
            raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "the path cannot be meant")
        channel = self.stream_channel()
        opened = self._forwards.open_socket(ChannelView(channel), path.decode("utf-8", "surrogateescape"))
        return channel, serve_stream(channel, self.after_requests(opened))

    def _process_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        self._listen(_tcp_place(packet))

    def _process_cancel_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        self._cancel(_tcp_place(packet))

    def _process_streamlocal_forward_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        self._listen(_socket_place(packet))

    def _process_cancel_streamlocal_forward_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        self._cancel(_socket_place(packet))

    def _listen(self, place: TcpPlace | SocketPlace | None) -> None:
        if place is None:
            self._report_global_response(False)
            return

        async def answer() -> bool | bytes:
            port = await self._forwards.listen(place)
            if isinstance(port, Refusal):
                return False
            return UInt32(port) if isinstance(place, TcpPlace) and place.port == 0 else True

        self._answer_later(answer())

    def _cancel(self, place: TcpPlace | SocketPlace | None) -> None:
        if place is None:
            self._report_global_response(False)
        else:
            self._answer_later(self._forwards.cancel(place))

    def _answer_later(self, deciding: Coroutine[Any, Any, bool | bytes]) -> None:
        self._answered.clear()

        async def answer() -> None:
            result = await deciding
            if self._transport is not None:
                self._report_global_response(result)

        self.create_task(answer())


def _tcp_place(packet: SSHPacket) -> TcpPlace | None:
    address, port = packet.get_string(), packet.get_uint32()
    packet.check_end()
    if len(address) > 255 or port > 65535:
        return None
    return TcpPlace(address.decode("utf-8", "replace"), port)


def _socket_place(packet: SSHPacket) -> SocketPlace | None:
    path = packet.get_string()
    packet.check_end()
    return SocketPlace(path.decode("utf-8", "surrogateescape")) if len(path) <= _MAX_PATH else None


class ClientView:
    """What a handler gets of its client (`handlers.Client`)."""

    __slots__ = ("_connection",)

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    def abort(self, message: str) -> None:
        if self._connection._transport is not None:
            self._connection.disconnect(_BY_APPLICATION, message)

    def tell(self, name: str, data: bytes) -> None:
        """Sends a global request of ours with one string, to which no answer is wanted."""
        if self._connection._transport is not None:
            self._connection._send_global_request(name.encode(), String(data))

    async def open(
        self, what: Incoming, make: Callable[[Channel], StreamHandler], *, seconds: float | None = None
    ) -> Refusal | None:
        connection = self._connection
        limits, unanswered = connection.limits, connection.unanswered
        if len(connection._channels) >= limits.channels:
            return Refusal(f"there are {limits.channels} channels on the connection already", tried=True)
        if len(unanswered) >= limits.unanswered:
            return Refusal(f"{limits.unanswered} channels wait for an answer of it already", tried=True)
        kind, arguments = _open_request(what)
        try:
            channel = connection.stream_channel()
        except ChannelOpenError as error:  # its connection has just ended; whoever asks is on another one
            return Refusal(f"the client does not take it: {error.reason}", tried=True)
        unanswered.add(channel)
        channel.answered = lambda: unanswered.discard(channel)
        try:
            async with asyncio.timeout(seconds):
                await channel._open_forward(lambda: deliveries(channel, make), kind, *arguments)
        except (ChannelOpenError, ConnectionError) as error:
            if isinstance(what, ToHost) and isinstance(error, ChannelOpenError):
                return Refusal(error.reason, tried=error.code != OPEN_ADMINISTRATIVELY_PROHIBITED)
            return Refusal(f"the client does not take it: {error}", tried=True)
        except TimeoutError:
            channel.give_up()
            return Refusal(f"it said nothing for {seconds:g} s", tried=True)
        except OSError as error:
            channel.give_up()
            return Refusal(f"the client does not take it: {error}", tried=True)
        except asyncio.CancelledError:
            channel.give_up()
            raise
        return None


def _open_request(what: Incoming) -> tuple[bytes, tuple[bytes, ...]]:
    """Type and further fields of the channel-open message (RFC 4254 sections 6.3.2, 7.2; PROTOCOL 2.4)."""
    match what:
        case FromTcp(place=place, origin=(host, port)):
            return b"forwarded-tcpip", (String(place.address), UInt32(place.port), String(host), UInt32(port))
        case FromSocket(place=place):
            path = place.path.encode("utf-8", "surrogateescape")
            return b"forwarded-streamlocal@openssh.com", (String(path), String(b""))
        case FromX11(origin=(host, port)):
            return b"x11", (String(host), UInt32(port))
        case FromAgentSocket():
            return b"auth-agent@openssh.com", ()
        case ToHost(data=data):
            return b"teleport-transport", (String(data),)


__all__ = ["ClientView", "ForwardRequests"]

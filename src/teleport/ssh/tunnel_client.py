"""The end of a reverse tunnel that dials out: an SSH client by which the server opens channels (`tunnel.messages`).

A server may open `teleport-transport` channels and tell its news; every other channel and request is refused as on any
connection of `ssh.client`. What the channels lead to is the handler's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol, cast

from asyncssh import ChannelOpenError, SSHClientConnectionOptions
from asyncssh.constants import MSG_REQUEST_SUCCESS, OPEN_RESOURCE_SHORTAGE
from asyncssh.packet import SSHPacket, String

from teleport import __version__
from teleport.errors import AccessDenied, ConnectionProblem
from teleport.ssh.channels import ChannelView, StreamChannel, serve_stream
from teleport.ssh.client import SshClient, authenticate
from teleport.ssh.client_connection import ClientConnection, ClientKey, HostCheck
from teleport.ssh.client_session import RemoteSession
from teleport.ssh.handlers import Channel, StreamHandler
from teleport.ssh.surface import KeepAlive, Refusal
from teleport.wire.forward_spec import TcpEnd

_WINDOW = 2 * 1024 * 1024  # bytes
_PACKET = 32 * 1024
MOST = 4096  # channels of one tunnel, one for each client


class TunnelHandler(Protocol):
    """Serves what comes through a tunnel."""

    def arrive(self, data: bytes, channel: Channel) -> Coroutine[Any, Any, StreamHandler | Refusal]:
        """The server leads somebody here; `data` says to what. Nothing may be written before the next turn of the
        loop, when the channel is open."""
        ...

    def news(self, data: bytes) -> None:
        """The server tells something."""
        ...


class _Tunnel(ClientConnection):
    _of_hosts = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: SSHClientConnectionOptions,
        check: HostCheck | None,
        handler: TunnelHandler,
        software: bytes,
    ) -> None:
        super().__init__(loop, options, check)
        self._tunnel_handler = handler
        self._version = software + b"_" + __version__.encode()

    def _process_teleport_transport_open(self, packet: SSHPacket) -> Any:
        data = packet.get_string()
        packet.check_end()
        if len(self._channels) >= MOST:
            raise ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "the tunnel carries as much as it may")
        channel = StreamChannel(cast(Any, self), self._loop, None, "strict", _WINDOW, _PACKET)
        channel.start_serving()
        return channel, serve_stream(channel, self._tunnel_handler.arrive(data, ChannelView(channel)))

    def _process_tunnel_news_at_teleport_global_request(self, packet: SSHPacket) -> None:
        data = packet.get_string()
        packet.check_end()
        self._report_global_response(True)
        self._tunnel_handler.news(data)


class TunnelClient:
    """A tunnel that stands."""

    def __init__(self, client: SshClient) -> None:
        self._client = client

    async def ask(self, name: str, data: bytes) -> bytes:
        """The server's answer to a global request of ours. Raises `AccessDenied`, `ConnectionProblem`."""
        connection = self._client._connection
        try:
            kind, packet = await connection._make_global_request(name.encode(), String(data))
        except OSError as error:
            raise ConnectionProblem(f"the tunnel was lost: {error}") from error
        if self._client.lost:
            raise ConnectionProblem("the tunnel was lost")
        if kind != MSG_REQUEST_SUCCESS:
            raise AccessDenied(f"the proxy does not take {name}")
        return packet.get_remaining_payload()

    async def stream(
        self,
        host: str,
        *,
        on_output: Callable[[bytes, bool], None],
        on_writable: Callable[[bool], None] | None = None,
        on_eof: Callable[[], None] | None = None,
    ) -> RemoteSession:
        """A channel to what the server knows by a name. Raises `ConnectionProblem`."""
        if self._client.lost:
            raise ConnectionProblem("the tunnel was lost")
        return await self._client.stream(TcpEnd(host, 0), on_output=on_output, on_writable=on_writable, on_eof=on_eof)

    def keep_alive(self, every: KeepAlive) -> None:
        """Asks the server so often whether it is there, from the next time on."""
        self._client._connection.ask_after(every)

    @property
    def idle(self) -> bool:
        """Whether it carries nobody."""
        return not self._client._connection._channels

    async def wait_lost(self) -> str:
        """Until it is gone; gives the reason, empty when it was closed here."""
        return await self._client.wait_lost()

    @property
    def ended_there(self) -> bool:
        """Whether the other end ended it, rather than the network or this end."""
        return self._client.ended_there

    def abort(self) -> None:
        """Ends it now."""
        self._client.abort()


async def connect_tunnel(
    reach: Callable[[asyncio.Protocol], Awaitable[None]],
    name: str,
    *,
    login: str,
    key: ClientKey,
    check: HostCheck,
    handler: TunnelHandler,
    keepalive: KeepAlive,
    software: bytes,
) -> TunnelClient:
    """Logs in over a connection that `reach` gives the protocol to; `name` is for messages. The caller bounds the time.
    `software` is what the client calls itself: on a port that is shared it says whose the connection is.

    Raises `ConnectionProblem`, `AccessDenied`, or what `check` raised about the server's host certificate.
    """
    make = partial(_Tunnel, handler=handler, software=software)
    return TunnelClient(await authenticate(reach, name, login, key, check, None, keepalive, make))


__all__ = ["TunnelClient", "TunnelHandler", "connect_tunnel"]

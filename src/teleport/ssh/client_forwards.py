"""Forwards of a client's connection: byte streams between sockets of this machine and channels to the server.

Rules: a channel that the server opens is accepted only where it was asked for (an own `-R`, an own agent); a side that
does not take its bytes stops the other side's producer; each direction ends by itself; a refusal is told with the
server's own words, and the local side is reset, so that a program sees a failure and no empty answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, cast

import asyncssh
from asyncssh import ChannelOpenError
from asyncssh.channel import SSHTCPChannel, SSHUNIXChannel
from asyncssh.connection import SSHClientConnection
from asyncssh.constants import OPEN_CONNECT_FAILED
from asyncssh.session import SSHTCPSession

from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.ssh.brought import Came, brought
from teleport.ssh.packets import DataPath
from teleport.wire.forward_spec import Direction, End, Forward, SocketEnd, TcpEnd
from teleport.wire.socks import NotSocks, SocksRequest, Wanted

Tell = Callable[[str], None]

_WINDOW = 2 * 1024 * 1024  # bytes
_PACKET = 32 * 1024
_HIGH_WATER = 1024 * 1024  # bytes waiting for a local socket before the server is stopped
_DIAL_SECONDS = 20.0
_SOCKS_SECONDS = 20.0


class TcpStream(DataPath, SSHTCPChannel[bytes]):
    """A channel that carries a TCP connection."""


class SocketStream(DataPath, SSHUNIXChannel[bytes]):
    """A channel that carries a connection to a Unix socket."""


class ForwardPath(SSHClientConnection):
    """Which channels a server may open: those of own listeners, and of an agent that is offered to it."""

    agent: End | None = None  # the socket of this machine's agent, while it is offered
    tell: Tell | None = None
    agent_came: Came | None = None  # who takes what comes for an agent, or a display, that somebody else has
    display_came: Came | None = None

    def create_tcp_channel(self, *_: Any, **__: Any) -> SSHTCPChannel[bytes]:
        return TcpStream(self, self._loop, None, "strict", _WINDOW, _PACKET)

    def create_unix_channel(self, *_: Any, **__: Any) -> SSHUNIXChannel[bytes]:
        return SocketStream(self, self._loop, None, "strict", _WINDOW, _PACKET)

    def _process_auth_agent_at_openssh_dot_com_open(self, packet: Any) -> Any:
        packet.check_end()
        if self.agent_came is not None:
            return self.create_unix_channel(), brought(self.agent_came, ("", 0))
        if self.agent is None:
            raise ChannelOpenError(OPEN_CONNECT_FAILED, "no agent is offered")
        return self.create_unix_channel(), _dial(self.agent, self.tell)

    def _process_x11_open(self, packet: Any) -> Any:
        if self.display_came is None:
            return super()._process_x11_open(packet)
        host, port = packet.get_string(), packet.get_uint32()
        packet.check_end()
        return self.create_tcp_channel(), brought(self.display_came, (host.decode("utf-8", "replace"), port))


class _Channel(SSHTCPSession[bytes]):
    """The channel's side of a joint."""

    def __init__(self, joint: Joint) -> None:
        self._joint = joint

    def connection_made(self, chan: Any) -> None:
        self._joint.channel = chan

    def session_started(self) -> None:
        self._joint.opened()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._joint.to_local(data)

    def eof_received(self) -> bool:
        self._joint.no_more_to_local()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._joint.channel_gone()

    def pause_writing(self) -> None:
        self._joint.stop_local(True)

    def resume_writing(self) -> None:
        self._joint.stop_local(False)


class Joint(asyncio.Protocol):
    """A local socket and a channel, joined. It is the socket's protocol; `session` is the channel's."""

    def __init__(self) -> None:
        self.session = _Channel(self)
        self.channel: Any = None
        self.transport: asyncio.Transport | None = None
        self._local_done = self._channel_done = False
        self._early = bytearray()  # from the local side, before there is a channel

    # from the local socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self.channel is None:
            self._early += data
        elif self.channel._send_state == "open":
            self.channel.write(data)

    def eof_received(self) -> bool:
        self._local_done = True
        if self.channel is not None:
            self.channel.write_eof()
        self._close_when_done()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.channel is not None:
            self.channel.close()

    def pause_writing(self) -> None:
        if self.channel is not None:
            self.channel.pause_reading()

    def resume_writing(self) -> None:
        if self.channel is not None:
            self.channel.resume_reading()

    # from the channel

    def opened(self) -> None:
        """The channel is there: what came early goes through."""
        if self.transport is None:
            self.channel.close()
            return
        if self._early:
            self.channel.write(bytes(self._early))
            self._early.clear()
        if self._local_done:
            self.channel.write_eof()

    def to_local(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def no_more_to_local(self) -> None:
        self._channel_done = True
        if self.transport is not None and self.transport.can_write_eof():
            with contextlib.suppress(OSError):
                self.transport.write_eof()
        self._close_when_done()

    def _close_when_done(self) -> None:
        if self._local_done and self._channel_done:
            if self.channel is not None:
                self.channel.close()
            if self.transport is not None:
                self.transport.close()

    def channel_gone(self) -> None:
        self.channel = None
        if self.transport is not None:
            self.transport.close()

    def stop_local(self, stop: bool) -> None:
        if self.transport is not None and not self.transport.is_closing():
            (self.transport.pause_reading if stop else self.transport.resume_reading)()

    def abort(self) -> None:
        """Resets the local side: nothing was reached."""
        if self.transport is not None:
            self.transport.abort()


async def _dial(end: End, tell: Tell | None) -> SSHTCPSession[bytes]:
    """The session of a channel that the server has opened, once the local side is reached."""
    loop = asyncio.get_running_loop()
    joint = Joint()
    try:
        async with asyncio.timeout(_DIAL_SECONDS):
            match end:
                case TcpEnd(host, port):
                    await loop.create_connection(lambda: joint, host, port)
                case SocketEnd(path):
                    await loop.create_unix_connection(lambda: joint, path)
    except (OSError, TimeoutError, AttributeError, NotImplementedError) as error:
        if tell is not None:
            tell(f"{end} on this machine cannot be reached: {error or 'no answer'}")
        raise ChannelOpenError(OPEN_CONNECT_FAILED, "the other end cannot be reached") from None
    return joint.session


class _Accepted(Joint):
    """A connection that came to a listener of this machine."""

    def __init__(self, forwards: Forwards, forward: Forward) -> None:
        super().__init__()
        self._forwards = forwards
        self._forward = forward

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._forward.to is not None:
            cast(asyncio.Transport, transport).pause_reading()
            self._forwards.spawn(self.open(self._forward.to))

    async def open(self, end: End, *, granted: bytes = b"", refused: bytes = b"") -> None:
        """Has the server connect to `end`, and joins."""
        try:
            await self._forwards.open(self, end)
        except TeleportError as error:
            self._forwards.tell(error.message)
            if refused and self.transport is not None:
                self.transport.write(refused)
                self.transport.close()
            else:
                self.abort()
            return
        if granted and self.transport is not None:
            self.transport.write(granted)
        if self.channel is not None and not self.channel._send_paused:
            self.stop_local(False)


class _Socks(_Accepted):
    """A connection to a dynamic listener: it says where to."""

    def __init__(self, forwards: Forwards, forward: Forward) -> None:
        super().__init__(forwards, forward)
        self._request: SocksRequest | None = SocksRequest()
        self._late = asyncio.get_running_loop().call_later(_SOCKS_SECONDS, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._request is None:
            super().data_received(data)
            return
        assert self.transport is not None
        try:
            answer, wanted = self._request.feed(data)
        except NotSocks as error:
            self._forwards.tell(f"{self._forward}: {error}")
            self.transport.write(error.answer)
            self.transport.close()
            return
        self.transport.write(answer)
        if wanted is not None:
            self._begin(wanted, self._request.rest)

    def _begin(self, wanted: Wanted, rest: bytes) -> None:
        assert self.transport is not None
        self._request = None
        self._late.cancel()
        self._early += rest
        self.transport.pause_reading()
        end = TcpEnd(wanted.host, wanted.port)
        self._forwards.spawn(self.open(end, granted=wanted.granted, refused=wanted.refused))

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)


class Forwards:
    """The listeners of one connection. `tell` gets what a person should know of a refused one."""

    def __init__(self, connection: ForwardPath, tell: Tell) -> None:
        self._connection = connection
        self.tell = tell
        connection.tell = tell
        self._listeners: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name="tsh forward")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def open(self, joint: Joint, end: End) -> None:
        """Joins `joint` with a channel to `end`. Raises `ConnectionProblem`."""
        connection = self._connection
        try:
            match end:
                case TcpEnd(host, port):
                    origin = joint.transport.get_extra_info("peername") if joint.transport is not None else None
                    peer = origin[:2] if isinstance(origin, tuple) and len(origin) >= 2 else ("127.0.0.1", 0)
                    stream = cast(TcpStream, connection.create_tcp_channel())
                    await stream.connect(lambda: joint.session, host, port, *peer)
                case SocketEnd(path):
                    socket_stream = cast(SocketStream, connection.create_unix_channel())
                    await socket_stream.connect(lambda: cast(Any, joint.session), path)
        except ChannelOpenError as error:
            what, _, then = error.reason.partition(" Next: ")
            why = what or "refused"
            raise ConnectionProblem(f"the host does not lead to {end}: {why}", hint=then.rstrip(".")) from error

    async def add(self, forward: Forward) -> int:
        """Listens; gives the port, 0 for a socket. Raises `TeleportError` when that fails."""
        if forward.direction is Direction.REMOTE:
            return await self._remote(forward)
        loop = asyncio.get_running_loop()
        make = _Socks if forward.direction is Direction.DYNAMIC else _Accepted

        def accepted() -> asyncio.Protocol:
            return make(self, forward)

        try:
            match forward.listen:
                case TcpEnd(host, port):
                    server = await _listen(loop, accepted, host, port)
                case SocketEnd(path):
                    if not hasattr(loop, "create_unix_server") or not hasattr(socket, "AF_UNIX"):
                        raise BadRequest(f"{forward}: this system has no Unix sockets", hint="forward a TCP port")
                    server = await loop.create_unix_server(accepted, path)
        except (OSError, OverflowError) as error:
            raise ConnectionProblem(
                f"cannot listen on {forward.listen}: {error}", hint="use another port, or 0 for any"
            ) from error
        self._listeners.append(server)
        if isinstance(forward.listen, SocketEnd):
            return 0
        return cast(int, server.sockets[0].getsockname()[1])

    async def _remote(self, forward: Forward) -> int:
        connection, to = self._connection, forward.to
        assert to is not None

        def reached(*_: object) -> Any:
            return _dial(to, self.tell)

        try:
            match forward.listen:
                case TcpEnd(host, port):
                    listener: Any = await connection.create_server(reached, host, port)
                    got = listener.get_port() if listener is not None else 0
                case SocketEnd(path):
                    listener = await connection.create_unix_server(reached, path)
                    got = 0
        except (asyncssh.Error, asyncssh.ChannelListenError, OSError) as error:
            raise ConnectionProblem(
                f"the host does not listen on {forward.listen} for {forward.direction}",
                hint="your roles or the host's own settings do not allow it, or the port is taken",
            ) from error
        self._listeners.append(listener)
        return int(got)

    async def close(self) -> None:
        """Ends the listeners; what they accepted ends with the connection."""
        for listener in self._listeners:
            listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _listen(
    loop: asyncio.AbstractEventLoop, accepted: Callable[[], asyncio.Protocol], host: str, port: int
) -> asyncio.Server:
    if host == "localhost" and not port:
        host = "127.0.0.1"  # one free port, not one for each family
    return await loop.create_server(accepted, host or None, port)


def described(channel: Any) -> str:
    """One line of an open channel, for `~#`."""
    kind = {
        "TcpStream": "TCP connection",
        "SocketStream": "socket connection",
        "SSHX11Channel": "X11 connection",
    }.get(type(channel).__name__, "session")
    end = channel.get_extra_info("remote_peername")
    where = f" {TcpEnd(*end[:2])}" if isinstance(end, tuple) and len(end) >= 2 and end[1] else f" {end}" if end else ""
    return f"{kind}{where if kind != 'session' else ''}"

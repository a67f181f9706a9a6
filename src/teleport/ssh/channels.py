"""The channels our servers open: sessions and streams, each answering only the requests its surface names.

Covers three sharp edges of asyncssh (`tests/ssh/test_ssh_contract.py`): a callback that returns a coroutine counts as
a permit, so everything that takes time is decided in a task and answered afterwards, with a real bool; its agent and
X11 requests act as the daemon's user, so both are replaced; variables are taken without a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from asyncssh import ChannelOpenError, ProtocolError
from asyncssh.channel import SSHForwardChannel, SSHServerChannel
from asyncssh.constants import (
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
)
from asyncssh.misc import MaybeAwait
from asyncssh.packet import SSHPacket, String, UInt32
from asyncssh.session import SSHServerSession, SSHSession, SSHTCPSession

from teleport.authz.channel_table import AskedKind
from teleport.ssh.handlers import Channel, ForwardsSession, SessionHandler, StreamHandler
from teleport.ssh.packets import STDERR, DataPath
from teleport.ssh.surface import (
    Exec,
    KeepAlive,
    Refusal,
    Shell,
    Start,
    Subsystem,
    TerminalRequest,
    TerminalSize,
    X11Request,
)
from teleport.wire.returning import TOLD

if TYPE_CHECKING:
    from teleport.ssh.server_connection import ServerConnection

_WRITE_HIGH_WATER = 512 * 1024  # bytes kept for a peer that does not take them, before the producer is stopped
_WRITE_LOW_WATER = 128 * 1024
_MAX_COMMAND = 128 * 1024  # bytes; longer cannot be executed as one argument on Linux
_MAX_VARIABLE = 32 * 1024  # bytes of name and value together


class _Deliveries(SSHServerSession[bytes], SSHTCPSession[bytes]):  # type: ignore[misc]  # one of asyncssh's two calls
    """What asyncssh delivers to, passing it on to the service's handler."""

    def __init__(self, handler: StreamHandler) -> None:
        self._handler = handler

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._handler.data_received(data)

    def eof_received(self) -> bool:
        self._handler.eof_received()
        return True  # the other direction stays open

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._handler.closed()


class _Writer(DataPath):
    """The calls of `handlers.Channel`, safe at any time: on a channel that is gone they do nothing."""

    def _set_up(self) -> None:
        self.set_write_buffer_limits(_WRITE_HIGH_WATER, _WRITE_LOW_WATER)

    def _write(self, data: bytes | memoryview, *, stderr: bool = False) -> None:
        if self._send_state == "open":
            DataPath.write(self, data, STDERR if stderr else None)

    def _process_window_adjust(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        if SSHPacket(packet.get_remaining_payload()).get_uint32() > 0xFFFFFFFF - self._send_window:
            raise ProtocolError("the window was opened beyond its end")
        super()._process_window_adjust(pkttype, pktid, packet)

    def connection_abort(self, message: str) -> None:
        connection = self._conn
        if connection is not None:
            connection.disconnect(11, message)  # 11: by application (RFC 4253 section 11.1)


class StreamChannel(_Writer, SSHForwardChannel[bytes]):
    """A channel that carries bytes and nothing else: a forward, whoever opened it."""

    _given_up = False
    answered: Callable[[], None] = staticmethod(lambda: None)  # called once the peer has nothing more to say of an open

    def start_serving(self) -> None:
        """Set limits; called once when the channel is made."""
        self._set_up()

    def give_up(self) -> None:
        """Nobody waits for the peer to open it any more. Until the peer has answered its number is not free; a channel
        that it opens then is closed at once, and nothing that comes by it is kept."""
        self._given_up = True
        if self._conn is not None and self._send_state == "open":
            self.abort()

    def process_open_confirmation(self, send_chan: int, send_window: int, send_pktsize: int, packet: SSHPacket) -> None:
        super().process_open_confirmation(send_chan, send_window, send_pktsize, packet)
        if self._given_up:
            self.abort()
        else:
            self._told()

    def _cleanup(self, exc: Exception | None = None) -> None:
        super()._cleanup(exc)
        self._told()

    def _told(self) -> None:
        answered, self.answered = self.answered, lambda: None
        answered()

    _packet_handlers = {  # noqa: RUF012  # as asyncssh declares it
        **SSHForwardChannel._packet_handlers,
        MSG_CHANNEL_WINDOW_ADJUST: _Writer._process_window_adjust,
    }


class ChannelView:
    """What a handler gets: the calls of `handlers.SessionChannel` and nothing else of asyncssh."""

    __slots__ = ("_channel",)

    def __init__(self, channel: StreamChannel | ServerSessionChannel) -> None:
        self._channel = channel

    def write(self, data: bytes | memoryview, *, stderr: bool = False) -> None:
        self._channel._write(data, stderr=stderr)

    def write_eof(self) -> None:
        self._channel.write_eof()

    def pause_reading(self) -> None:
        self._channel.pause_reading()

    def resume_reading(self) -> None:
        if self._channel._conn is not None:
            self._channel.resume_reading()

    def close(self) -> None:
        self._channel.close()

    def abort(self) -> None:
        self._channel.abort()

    def connection_abort(self, message: str) -> None:
        self._channel.connection_abort(message)

    def keep_alive(self, every: KeepAlive) -> None:
        connection = self._channel._conn
        if connection is not None:
            cast("ServerConnection", connection).keep_alive(every)

    def exit(self, status: int) -> None:
        cast("ServerSessionChannel", self._channel).exit(status)

    def exit_with_signal(self, name: str, *, core_dumped: bool = False, message: str = "") -> None:
        cast("ServerSessionChannel", self._channel).exit_with_signal(name, core_dumped, message)

    def tell_session(self, sid: str, waits: int, mode: str) -> None:
        cast("ServerSessionChannel", self._channel).tell_session(sid, waits, mode)


class ServerSessionChannel(_Writer, SSHServerChannel[bytes]):
    """A `session` channel whose requests go through the connection's surface to a `SessionHandler`."""

    def __init__(self, connection: ServerConnection, loop: asyncio.AbstractEventLoop) -> None:
        limits = connection.limits
        super().__init__(connection, loop, False, False, False, 0, 0, None, "strict", limits.window, limits.packet)
        self._server = connection
        self._handler: SessionHandler | None = None
        self._variables = 0
        self._set_up()

    async def serve(self, handler: MaybeAwait[SessionHandler | Refusal]) -> SSHSession[bytes]:
        """Waits for the handler; raises `ChannelOpenError` with the refusal's sentence."""
        decided = await handler if asyncio.iscoroutine(handler) else handler
        if isinstance(decided, Refusal):
            raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, decided.message)
        self._handler = cast(SessionHandler, decided)
        return _Deliveries(self._handler)

    def tell_session(self, sid: str, waits: int, mode: str) -> None:
        """Names the session to the client."""
        if self._conn is not None and self._send_state == "open":
            self._send_request(TOLD.encode(), String(sid), UInt32(waits), String(mode))

    # requests

    def _process_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        if self._server.exchanging:
            raise ProtocolError("a channel request during a key exchange")
        if len(self._request_queue) >= self._server.limits.queued_requests:
            raise self._server.gone_too_far("too many channel requests at once")
        super()._process_request(pkttype, pktid, packet)

    def _service_next_request(self) -> None:
        name = self._request_queue[0][0]
        if self._handler is not None and self._server.surface.offers(AskedKind.SESSION_REQUEST, name):
            super()._service_next_request()
            return
        self._server.report(AskedKind.SESSION_REQUEST, name, "not offered here")
        if self._conn is not None:
            self._report_response(False)

    def _process_pty_req_request(self, packet: SSHPacket) -> bool:
        term = packet.get_string()
        size = TerminalSize(*(packet.get_uint32() for _ in range(4)))
        modes = packet.get_string()
        packet.check_end()
        if self._term_type is not None or self._session_started or len(term) > 256 or len(modes) > 4096:
            return False
        request = TerminalRequest(term.decode("ascii", "replace"), size, modes)
        taken = self._served.terminal(request) is True
        if taken:
            self._term_type = request.term
        return taken

    def _process_env_request(self, packet: SSHPacket) -> bool:
        name, value = packet.get_string(), packet.get_string()
        packet.check_end()
        self._variables += 1
        if self._session_started or self._variables > self._server.limits.environment:
            return False
        if len(name) + len(value) > _MAX_VARIABLE:
            return False
        try:
            return self._served.environment(name.decode(), value.decode()) is True
        except UnicodeDecodeError:
            return False

    def _process_shell_request(self, packet: SSHPacket) -> Any:
        packet.check_end()
        return self._begin(Shell())

    def _process_exec_request(self, packet: SSHPacket) -> Any:
        command = packet.get_string()
        packet.check_end()
        try:
            return len(command) <= _MAX_COMMAND and self._begin(Exec(command.decode()))
        except UnicodeDecodeError:
            return False

    def _process_subsystem_request(self, packet: SSHPacket) -> Any:
        name = packet.get_string()
        packet.check_end()
        try:
            return len(name) <= 1024 and self._begin(Subsystem(name.decode()))
        except UnicodeDecodeError:
            return False

    def _process_auth_agent_req_at_openssh_dot_com_request(self, packet: SSHPacket) -> Any:
        # Replaces asyncssh's, whose socket is one for the connection, and the daemon's own.
        packet.check_end()
        return self._offered(cast(ForwardsSession, self._served).agent())

    def _process_x11_req_request(self, packet: SSHPacket) -> Any:
        # Replaces asyncssh's, which writes the daemon's own ~/.Xauthority.
        single, protocol, cookie = packet.get_boolean(), packet.get_string(), packet.get_string()
        screen = packet.get_uint32()
        packet.check_end()
        try:
            request = X11Request(single, protocol.decode("ascii"), bytes.fromhex(cookie.decode("ascii")), screen)
        except ValueError:
            return False
        if not 0 < len(request.protocol) <= 64 or not 0 < len(request.cookie) <= 256 or screen > 255:
            return False
        return self._offered(cast(ForwardsSession, self._served).x11(request))

    def _offered(self, deciding: Coroutine[Any, Any, bool]) -> bool | None:
        """None: the answer follows from a task. What the client offers counts for what it starts afterwards only."""
        if self._session_started:
            deciding.close()
            return False
        self._server.create_task(self._answer_offer(deciding))
        return None

    async def _answer_offer(self, deciding: Coroutine[Any, Any, bool]) -> None:
        taken = await deciding
        if self._conn is not None:
            self._report_response(taken is True)

    def _begin(self, what: Start) -> bool | None:
        """None: the answer follows from a task (a coroutine returned here would count as a permit)."""
        if self._session_started:
            return False
        self._session_started = True
        self._server.create_task(self._decide(what))
        return None

    async def _decide(self, what: Start) -> None:
        refusal = await self._served.start(what)
        if self._conn is None:
            return
        if refusal is None:
            self._report_response(True)
            return
        # A request that fails shows a person nothing; a session that says why and ends with 255 does.
        self._report_response(True)
        self._write(f"{refusal.message}\r\n".encode(), stderr=True)
        self.exit(255)

    def _process_window_change_request(self, packet: SSHPacket) -> bool:
        size = TerminalSize(*(packet.get_uint32() for _ in range(4)))
        packet.check_end()
        if self._term_type is not None:
            self._served.resized(size)
        return True

    def _process_signal_request(self, packet: SSHPacket) -> bool:
        name = packet.get_string()
        packet.check_end()
        return self._served.signalled(name.decode("ascii", "replace")) is True

    def _process_break_request(self, packet: SSHPacket) -> bool:
        milliseconds = packet.get_uint32()
        packet.check_end()
        return self._served.broke(milliseconds) is True

    # asyncssh dispatches by this table of functions, so a method that is only overridden is never called.
    _packet_handlers = {  # noqa: RUF012  # as asyncssh declares it
        **SSHServerChannel._packet_handlers,
        MSG_CHANNEL_REQUEST: _process_request,
        MSG_CHANNEL_WINDOW_ADJUST: _Writer._process_window_adjust,
    }

    @property
    def _served(self) -> SessionHandler:
        if self._handler is None:
            raise ProtocolError("a request came before the session was open")
        return self._handler


async def serve_stream(channel: StreamChannel, handler: MaybeAwait[StreamHandler | Refusal]) -> SSHTCPSession[bytes]:
    """The asyncssh session of a stream; raises `ChannelOpenError` with the refusal's sentence."""
    decided = await handler if asyncio.iscoroutine(handler) else handler
    if isinstance(decided, Refusal):
        code = OPEN_CONNECT_FAILED if decided.tried else OPEN_ADMINISTRATIVELY_PROHIBITED
        raise ChannelOpenError(OPEN_RESOURCE_SHORTAGE if decided.busy else code, decided.message)
    stream = cast(StreamHandler, decided)
    if channel._conn is None:
        stream.closed()  # the client went meanwhile: nobody else would tell
    return _Deliveries(stream)


def deliveries(channel: StreamChannel, make: Callable[[Channel], StreamHandler]) -> SSHTCPSession[bytes]:
    """The asyncssh session of a stream that the server opened."""
    return _Deliveries(make(ChannelView(channel)))

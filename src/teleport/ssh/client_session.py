"""The client's end of one session: a command or shell on a node, or what a server brings over a channel of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from asyncssh.channel import SSHClientChannel
from asyncssh.packet import SSHPacket
from asyncssh.session import SSHClientSession

from teleport.ssh.packets import DataPath
from teleport.ssh.surface import TerminalSize, X11Request

if TYPE_CHECKING:
    from teleport.ssh.brought import Taker


@dataclass(frozen=True, slots=True)
class RemoteExit:
    """How a remote session ended: a status, or a signal's name without SIG; neither when the connection was lost."""

    status: int | None
    signal: str = ""
    core_dumped: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class ToldSession:
    """What the host says of the session that a terminal is in (`wire.returning`)."""

    sid: str
    waits: int  # seconds for which it lives on when the connection breaks
    mode: str  # how one is in it


class SessionChannel(DataPath, SSHClientChannel[bytes]):
    """A session channel of ours. `agent_answer` tells whether the server takes the agent that it was offered."""

    agent_answer: asyncio.Future[bool] | None = None
    display: X11Request | None = None  # of somebody else, that is handed on
    display_taken = False
    told: ToldSession | None = None

    def _process_session_id_at_teleport_request(self, packet: SSHPacket) -> bool:
        sid, waits, mode = packet.get_string(), packet.get_uint32(), packet.get_string()
        packet.check_end()
        self.told = ToldSession(sid[:64].decode("ascii", "replace"), waits, mode[:64].decode("ascii", "replace"))
        return True

    async def _make_request(self, request: bytes, *args: bytes) -> bool | None:
        answer = await super()._make_request(request, *args)
        if request == b"x11-req":
            self.display_taken = bool(answer)
        return answer

    def _send_request(self, request: bytes, *args: bytes, want_reply: bool = False) -> None:
        if request == b"auth-agent-req@openssh.com" and not want_reply:
            # asyncssh does not ask for an answer, and whoever offers an agent should hear that nobody takes it
            self.agent_answer = self._loop.create_future()
            self._request_waiters.append(self.agent_answer)
            want_reply = True
        super()._send_request(request, *args, want_reply=want_reply)


class _Deliveries(SSHClientSession[bytes]):
    """What asyncssh tells about a session."""

    def __init__(self, session: RemoteSession) -> None:
        self._session = session

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._session._on_output(data, datatype is not None)

    def eof_received(self) -> bool:
        self._session._on_eof()
        return True  # our own direction stays open until the channel is closed

    def exit_status_received(self, status: int) -> None:
        self._session._exit = RemoteExit(status)

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._session._exit = RemoteExit(None, signal, core_dumped, msg)

    def pause_writing(self) -> None:
        self._session._writable.clear()
        self._session._on_writable(False)

    def resume_writing(self) -> None:
        self._session._writable.set()
        self._session._on_writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._session._ended(exc)


class RemoteSession:
    """A command or shell on a node."""

    def __init__(
        self,
        channel: SessionChannel,
        on_output: Callable[[bytes, bool], None],
        on_writable: Callable[[bool], None] | None = None,
        on_eof: Callable[[], None] | None = None,
    ) -> None:
        self._channel = channel
        self._on_output = on_output
        self._on_writable = on_writable or (lambda writable: None)
        self._on_eof = on_eof or (lambda: None)
        self._exit: RemoteExit | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._done: asyncio.Future[RemoteExit] = asyncio.get_running_loop().create_future()
        self._deliveries = _Deliveries(self)

    def write(self, data: bytes) -> None:
        """Sends input; dropped when the session is over. Call `drain` between large pieces."""
        if self._channel._send_state == "open":
            self._channel.write(data)

    async def drain(self) -> None:
        """Waits while the node does not take what was written."""
        await self._writable.wait()

    def write_eof(self) -> None:
        """No more input follows."""
        self._channel.write_eof()

    def resize(self, size: TerminalSize) -> None:
        """The terminal here has a new size."""
        if not self._done.done():
            self._channel.change_terminal_size(size.columns, size.rows, size.width, size.height)

    def send_break(self, milliseconds: int = 1000) -> None:
        """Sends a break (RFC 4335), which serial consoles know."""
        if not self._done.done():
            self._channel.send_break(milliseconds)

    def signal(self, name: str) -> None:
        """Sends a signal (`INT`, `TERM`, ...) to the remote process group."""
        if not self._done.done():
            self._channel.send_signal(name)

    def pause_output(self) -> None:
        """Stops calls of `on_output`; the node stops when the window is used up."""
        self._channel.pause_reading()

    def resume_output(self) -> None:
        """Output goes on."""
        self._channel.resume_reading()

    async def wait(self) -> RemoteExit:
        """Until the session is over and all its output was delivered."""
        return await asyncio.shield(self._done)

    @property
    def agent_refused(self) -> bool:
        """Whether the host does not take the agent that it was offered; it has answered when the session has begun."""
        answer = getattr(self._channel, "agent_answer", None)  # a stream has no agent
        return answer is not None and answer.done() and not answer.cancelled() and not answer.result()

    @property
    def display_taken(self) -> bool:
        """Whether the host took the display that was handed on to it."""
        return bool(getattr(self._channel, "display_taken", False))

    @property
    def told(self) -> ToldSession | None:
        """In which session it is; the host has said so when the session has begun, if it was asked."""
        return getattr(self._channel, "told", None)

    def close(self) -> None:
        """Ends the session from this side."""
        self._channel.close()

    def _ended(self, exc: Exception | None) -> None:
        self._writable.set()
        if not self._done.done():
            lost = RemoteExit(None, message=str(exc) if exc else "the connection was closed without an exit status")
            self._done.set_result(self._exit or lost)


class _Brought(_Deliveries):
    """What asyncssh tells about a channel that the server opened."""

    def __init__(self, session: RemoteSession, taker: Taker) -> None:
        super().__init__(session)
        self._taker = taker

    def connection_made(self, chan: Any) -> None:
        self._session._channel = chan
        self._taker.joined(self._session)


def brought_session(taker: Taker) -> SSHClientSession[bytes]:
    """The session of a channel that the server opens, for whoever takes it."""
    nothing_yet = cast(SessionChannel, None)  # `connection_made` brings it, before anything else happens
    session = RemoteSession(nothing_yet, taker.output, taker.input_taken, taker.no_more_output)
    session._deliveries = _Brought(session, taker)
    return session._deliveries


def encoded_modes(encoded: bytes) -> dict[int, int]:
    """Terminal modes of RFC 4254 section 8 as asyncssh wants them."""
    modes: dict[int, int] = {}
    at = 0
    while at + 5 <= len(encoded) and 0 < encoded[at] < 160:
        modes[encoded[at]] = int.from_bytes(encoded[at + 1 : at + 5], "big")
        at += 5
    return modes

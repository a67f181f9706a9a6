"""What a service implements to serve SSH connections, and what it gets to work with.

A connection begins with a `Gate`, which can only say whether a *proved* certificate may come in. It answers with a
`ConnectionHandler`, so nothing that acts for a user exists before the proof. A handler opens sessions and streams.
The server calls these methods from the event loop; those that are not coroutines must return at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from teleport.authz.channel_table import AskedKind
from teleport.pki.live_proof import Evidence
from teleport.ssh.surface import (
    Incoming,
    KeepAlive,
    Place,
    Refusal,
    Start,
    TerminalRequest,
    TerminalSize,
    X11Request,
)


@dataclass(frozen=True, slots=True)
class Question:
    """What a peer is asked by keyboard-interactive (RFC 4256): a text, and prompts with whether the answer is shown."""

    instruction: str
    prompts: tuple[tuple[str, bool], ...] = ()


class SecondStep(Protocol):
    """What a gate still asks of a peer that has proved its key. The key, and who holds it, are settled."""

    notice: str
    """A banner that everybody reads, also those who cannot be asked."""

    def skip(self, client_version: str) -> ConnectionHandler | None:
        """The way in for a client that is not to be asked."""
        ...

    async def begin(self) -> Question | ConnectionHandler | Refusal:
        """The first question; asked again when the peer begins anew."""
        ...

    async def answer(self, answers: Sequence[str]) -> Question | ConnectionHandler | Refusal:
        """Takes the answers to the last question, as many as it had prompts."""
        ...

    def abandoned(self, reason: str) -> None:
        """The connection ended before the peer was let in."""
        ...


class Gate(Protocol):
    """Decides who comes in, for one connection. Made before anything is known about the peer."""

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | SecondStep | Refusal:
        """Decides about the raw certificate whose private key the peer has just proved to hold."""
        ...

    def failed(self, login: str, reason: str) -> None:
        """The peer failed to authenticate in a way that never reached `admit` (wrong method, key or signature)."""
        ...


class WantsEvidence(Protocol):
    """A gate that also has to prove to somebody else who is connected."""

    def proved(self, evidence: Evidence) -> None:
        """What proves the connection of whoever is asked about next by `admit`."""
        ...


class Channel(Protocol):
    """One SSH channel, as its handler sees it."""

    def write(self, data: bytes | memoryview, *, stderr: bool = False) -> None:
        """Sends `data`; buffers what the peer's window does not take. Silently drops it when the channel is gone."""
        ...

    def write_eof(self) -> None:
        """No more data follows; the other direction stays open."""
        ...

    def pause_reading(self) -> None:
        """Stops deliveries; the peer stops when its window is used up."""
        ...

    def resume_reading(self) -> None:
        """Deliveries go on, beginning with what was kept meanwhile."""
        ...

    def close(self) -> None:
        """Closes after what was written has been sent."""
        ...

    def abort(self) -> None:
        """Closes now; what was not sent is dropped."""
        ...

    def connection_abort(self, message: str) -> None:
        """Ends the whole SSH connection with a disconnect message."""
        ...

    def keep_alive(self, every: KeepAlive) -> None:
        """Asks the client of the whole connection so often whether it is there, from now on."""
        ...


class SessionChannel(Channel, Protocol):
    """A channel of type `session`, which can also carry the end of a process."""

    def exit(self, status: int) -> None:
        """Sends the exit status (0 to 255) and closes after what was written has been sent."""
        ...

    def exit_with_signal(self, name: str, *, core_dumped: bool = False, message: str = "") -> None:
        """Sends that a signal ended the process (`name` without SIG, as RFC 4254 section 6.10), and closes."""
        ...

    def tell_session(self, sid: str, waits: int, mode: str) -> None:
        """Tells the client, which asked for it, in which session it is (`wire.returning`)."""
        ...


class StreamHandler(Protocol):
    """Takes what arrives on a channel."""

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None:
        """The peer sends no more; the other direction stays open."""
        ...

    def pause_writing(self) -> None:
        """The peer does not take what was written: stop producing."""
        ...

    def resume_writing(self) -> None: ...

    def closed(self) -> None:
        """The channel is gone. Called once, also when the connection broke."""
        ...


class SessionHandler(StreamHandler, Protocol):
    """Serves one session channel."""

    def environment(self, name: str, value: str) -> bool:
        """The client offers a variable; True when it is taken."""
        ...

    def terminal(self, request: TerminalRequest) -> bool:
        """The client asks for a terminal, before it starts something."""
        ...

    async def start(self, what: Start) -> Refusal | None:
        """Starts what was asked, once. Deliveries begin after it returned None."""
        ...

    def resized(self, size: TerminalSize) -> None: ...

    def signalled(self, name: str) -> bool:
        """The client sends a signal (`INT`, `TERM`, ...); True when it was delivered."""
        ...

    def broke(self, milliseconds: int) -> bool:
        """The client sends a break (RFC 4335)."""
        ...


class ConnectionHandler(Protocol):
    """Serves one authenticated connection."""

    async def open_session(self, channel: SessionChannel) -> SessionHandler | Refusal:
        """A client opens a session channel."""
        ...

    async def open_stream(
        self, channel: Channel, host: str, port: int, origin: tuple[str, int]
    ) -> StreamHandler | Refusal:
        """A client opens a `direct-tcpip` channel to `host` and `port`."""
        ...

    def refused(self, kind: AskedKind, name: str, reason: str) -> None:
        """Something was asked that is not offered, or a limit was reached. To be audited."""
        ...

    def ended(self, reason: str) -> None:
        """The connection is gone. Called once; every channel was closed before."""
        ...


class Client(Protocol):
    """The client of a connection, as far as the server's side begins something."""

    async def open(
        self, what: Incoming, make: Callable[[Channel], StreamHandler], *, seconds: float | None = None
    ) -> Refusal | None:
        """Opens a channel to it; its handler is made once the client took it. Else why there is none.

        A client that does not answer within `seconds` is not waited for; of those only so many (`ServerLimits`) may
        be outstanding, also when whoever waits is cancelled.
        """
        ...

    def tell(self, name: str, data: bytes) -> None:
        """Sends it a global request of ours, which it does not answer."""
        ...

    def abort(self, message: str) -> None:
        """Ends the whole connection with a disconnect message."""
        ...


class TakesTunnels(Protocol):
    """What a connection's handler has besides where the surface offers tunnels."""

    def register(self, data: bytes) -> bytes | None:
        """The host at the other end says what its tunnel is for; the reply, None when it is refused."""
        ...


class LeadsOn(Protocol):
    """What a connection's handler has besides that leads what is asked on to a host, in a connection of its own."""

    async def answers_beyond(self) -> bool:
        """Whether the host still says something when asked; comes back in any case."""
        ...


class Traced(Protocol):
    """What a connection's handler has besides where the surface offers `trace@teleport`."""

    def traced(self, header: str) -> None:
        """To which trace what the client asks for from now on belongs; nothing else rests on it."""
        ...


class WantsClient(Protocol):
    """A connection's handler that begins something by itself."""

    def began(self, client: Client) -> None:
        """The client is in."""
        ...


class ForwardsConnection(Protocol):
    """What a connection's handler has besides where the surface offers more forwards than `direct-tcpip`."""

    async def open_socket(self, channel: Channel, path: str) -> StreamHandler | Refusal:
        """A client opens a `direct-streamlocal@openssh.com` channel to a Unix socket."""
        ...

    async def listen(self, place: Place) -> int | Refusal:
        """A client wants something listened for; the port (0 of a Unix socket)."""
        ...

    async def cancel(self, place: Place) -> bool:
        """A client wants a listener of its own to end; False when it has none there."""
        ...


class ForwardsSession(Protocol):
    """What a session's handler has besides where the surface offers agent and X11. Both are asked before a start."""

    async def agent(self) -> bool:
        """The client offers its agent."""
        ...

    async def x11(self, request: X11Request) -> bool:
        """The client offers its display."""
        ...


__all__ = [
    "Channel",
    "Client",
    "ConnectionHandler",
    "ForwardsConnection",
    "ForwardsSession",
    "Gate",
    "LeadsOn",
    "Question",
    "SecondStep",
    "SessionChannel",
    "SessionHandler",
    "StreamHandler",
    "TakesTunnels",
    "Traced",
    "WantsClient",
    "WantsEvidence",
]

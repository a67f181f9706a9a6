"""Events of forwards: over a connection, with or without a session on it."""

from __future__ import annotations

from teleport.audit.events.base import ServerEvent


class PortClosed(ServerEvent, frozen=True, kw_only=True, tag="port.closed"):
    """A forward is over, with what it carried; for a listener, what all its connections carried."""

    kind: str = ""  # type of its channel: direct-tcpip, tcpip-forward (the listener), forwarded-tcpip, x11, ...
    addr: str = ""  # where it led to, or where it listened
    tx: int = 0  # bytes to the client
    rx: int = 0  # bytes from the client
    error: str = ""  # why it ended, when neither side simply closed it
    connection: str = ""  # id of the client's connection, the same in all events of its forwards


class X11Forward(ServerEvent, frozen=True, kw_only=True, tag="x11-forward"):
    """A client offered its display to a session."""

    success: bool = True  # whether the session got it
    error: str = ""  # why not
    display: str = ""  # the session's DISPLAY
    connection: str = ""  # id of the client's connection

    def failed(self) -> bool:
        return not self.success


class AgentForward(ServerEvent, frozen=True, kw_only=True, tag="agent.forward"):
    """A client offered its SSH agent to a session."""

    success: bool = True  # whether the session got it
    error: str = ""  # why not
    path: str = ""  # the session's SSH_AUTH_SOCK
    connection: str = ""  # id of the client's connection

    def failed(self) -> bool:
        return not self.success

"""What of a forward goes on record: that it began, was refused or failed, and what it had carried at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from teleport.audit.events import Port, PortClosed, ServerEvent
from teleport.authz.channels import ChannelTerms
from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import SSHAccessPermit
from teleport.errors import TeleportError
from teleport.launcher.values import LauncherRefused
from teleport.node.facts import Facts
from teleport.node.tools import Tools
from teleport.ssh.handlers import Client
from teleport.ssh.surface import Refusal

Still = Callable[[ChannelTerms], AccessDenial | None]


class Connection(Protocol):
    """What forwards need of their connection."""

    facts: Facts
    id: UUID
    client: Client | None

    @property
    def permit(self) -> SSHAccessPermit: ...
    def active(self) -> None: ...
    def admit(self, what: str) -> Refusal | None:
        """Decides anew whether the connection may begin something, and goes on under the new permit."""
        ...


@dataclass(slots=True)
class Record:
    """A forward as events name it, and what keeps it allowed."""

    kind: str
    addr: str
    still: Still
    origin: str = ""
    resolved: str = ""
    sent: int = 0  # of a listener: by its connections that are over
    received: int = 0
    ports: bool = True  # whether the switches for port forwarding are about it


class ForwardStory:
    """The forwards of one connection, as the audit log tells them."""

    def __init__(self, tools: Tools, connection: Connection) -> None:
        self._tools = tools
        self._connection = connection

    async def opened(self, record: Record) -> None:
        """That a forward begins; durable when this returns, `TeleportError` when it cannot be."""
        await self._tools.emitter.emit(self._port(record))

    async def tell(self, cls: type[ServerEvent], **fields: Any) -> None:
        """Puts something about this connection on record."""
        now, connection = self._tools.clock.now(), str(self._connection.id)
        await self._tools.emitter.emit(self._connection.facts.event(cls, now, connection=connection, **fields))

    def _port(self, record: Record, error: str = "") -> Port:
        return self._connection.facts.event(
            Port,
            self._tools.clock.now(),
            addr=record.addr,
            success=not error,
            error=error,
            kind=record.kind,
            resolved=record.resolved,
            origin=record.origin,
            connection=str(self._connection.id),
        )

    async def refused(self, record: Record, denied: AccessDenial) -> Refusal:
        """That somebody may not have it, and what the client is told."""
        self._in_background(self._tools.emitter.emit(self._port(record, f"{denied.code}: {'; '.join(denied.reasons)}")))
        return Refusal.told(denied.public, denied.hint)

    async def failed(self, record: Record, error: TeleportError) -> Refusal:
        """That it was tried and did not work, and what the client is told."""
        self._in_background(self._tools.emitter.emit(self._port(record, error.message or type(error).__name__)))
        if isinstance(error, LauncherRefused):
            return Refusal.told(error.message, error.hint)
        return Refusal(error.message, tried=True)

    def closed(self, record: Record, sent: int, received: int, why: str) -> None:
        """That it ended, with the bytes that it carried each way and why; in the background."""
        event = self._connection.facts.event(
            PortClosed,
            self._tools.clock.now(),
            kind=record.kind,
            addr=record.addr,
            tx=sent,
            rx=received,
            error=why,
            connection=str(self._connection.id),
        )
        self._in_background(self._tools.emitter.emit(event))

    def _in_background(self, emitting: Awaitable[object]) -> None:
        async def emit() -> None:
            await emitting

        self._tools.in_background(emit(), "audit a forward")


def shown(host: str, port: int) -> str:
    """Host and port as events have them."""
    host = readable(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def readable(text: str) -> str:
    """A client's words as text that every reader of the log can show."""
    return text.encode("utf-8", "backslashreplace").decode()

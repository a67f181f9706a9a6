"""What of a forward goes on record: that it began, was refused or failed, and what it had carried at its end."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from teleport.audit.events import Port, ServerEvent
from teleport.audit.forwards import Forward, readable, why_denied, why_failed
from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import SSHAccessPermit
from teleport.errors import TeleportError
from teleport.launcher.values import LauncherRefused
from teleport.node.facts import Facts
from teleport.node.tools import Tools
from teleport.ssh.handlers import Client
from teleport.ssh.surface import Refusal


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
class Record(Forward):
    """A forward of a node."""

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
        connection = self._connection
        return record.opened(connection.facts, self._tools.clock.now(), str(connection.id), error)

    async def refused(self, record: Record, denied: AccessDenial) -> Refusal:
        """That somebody may not have it, and what the client is told."""
        self._in_background(self._tools.emitter.emit(self._port(record, why_denied(denied))))
        return Refusal.told(denied.public, denied.hint)

    async def failed(self, record: Record, error: TeleportError) -> Refusal:
        """That it was tried and did not work, and what the client is told."""
        self._in_background(self._tools.emitter.emit(self._port(record, why_failed(error))))
        if isinstance(error, LauncherRefused):
            return Refusal.told(error.message, error.hint)
        return Refusal(error.message, tried=True)

    def closed(self, record: Record, sent: int, received: int, why: str) -> None:
        """That it ended, with the bytes that it carried each way and why; in the background."""
        connection = self._connection
        event = record.closed(connection.facts, self._tools.clock.now(), str(connection.id), sent, received, why)
        self._in_background(self._tools.emitter.emit(event))

    def _in_background(self, emitting: Awaitable[object]) -> None:
        async def emit() -> None:
            await emitting

        self._tools.in_background(emit(), "audit a forward")


def shown(host: str, port: int) -> str:
    """Host and port as events have them."""
    host = readable(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

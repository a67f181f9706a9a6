"""A forward as the audit log tells it, whoever carries it: nodes and recording proxies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from teleport.audit.events import Port, PortClosed, ServerEvent
from teleport.authz.channels import ChannelTerms
from teleport.authz.decision import AccessDenial
from teleport.errors import TeleportError

Still = Callable[[ChannelTerms], AccessDenial | None]
E_ = TypeVar("E_", bound=ServerEvent)


class Facts(Protocol):
    """What a connection's events have in common."""

    def event(self, cls: type[E_], now: datetime, **fields: Any) -> E_: ...


@dataclass(slots=True)
class Forward:
    """A forward as events name it, and what keeps it allowed."""

    kind: str
    addr: str
    still: Still
    origin: str = ""
    resolved: str = ""

    def opened(self, facts: Facts, now: datetime, connection: str, error: str = "") -> Port:
        """That it begins or, with `error`, that it does not."""
        return facts.event(
            Port,
            now,
            addr=self.addr,
            success=not error,
            error=error,
            kind=self.kind,
            resolved=self.resolved,
            origin=self.origin,
            connection=connection,
        )

    def closed(self, facts: Facts, now: datetime, connection: str, sent: int, received: int, why: str) -> PortClosed:
        """That it ended: the bytes that it carried each way, and why."""
        return facts.event(
            PortClosed,
            now,
            kind=self.kind,
            addr=self.addr,
            tx=sent,
            rx=received,
            error=why,
            connection=connection,
        )


def why_denied(denied: AccessDenial) -> str:
    """The `error` of a forward that nobody may have."""
    return f"{denied.code}: {'; '.join(denied.reasons)}"


def why_failed(error: TeleportError) -> str:
    """The `error` of a forward that was tried and did not work."""
    return error.message or type(error).__name__


def readable(text: str) -> str:
    """A client's words as text that every reader of the log can show."""
    return text.encode("utf-8", "backslashreplace").decode()

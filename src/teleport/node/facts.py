"""What every event of a session says alike: who, where, over which connection, in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from teleport.audit.emits import Emits
from teleport.audit.events import Event, ServerEvent, new_event
from teleport.identity import UserIdentity
from teleport.node.needs import Labels, NodeConfig
from teleport.resources.mfa_lease import MfaLease
from teleport.ssh.surface import Peer

E_ = TypeVar("E_", bound=ServerEvent)


@dataclass(frozen=True, slots=True)
class Facts:
    """A client's connection to this node, once its user is known (or as far as it is)."""

    config: NodeConfig
    labels: Labels
    user: UserIdentity | None
    login: str
    client: Peer
    signer: bytes = b""  # the key (SSH blob) of the authority that signed the user's certificate
    key: str = ""  # fingerprint of the key that the client proved
    vouched: bool = False  # whether a proxy vouched for the client's address

    def end(self, lease: MfaLease | None) -> datetime:
        """When what let the user in is over: the login, or the lease that stood for a second factor."""
        assert self.user is not None, "only a known user is let in"
        end = self.user.login_expires or self.user.expires
        return end if lease is None else min(end, lease.spec.expires)

    def event(self, cls: type[E_], now: datetime, *, sid: UUID | None = None, **fields: Any) -> E_:
        """An event of `cls` about this connection."""
        return new_event(
            cls,
            now,
            str(uuid4()),
            cluster_name=self.config.cluster,
            user=self.user.name if self.user else "",
            impersonator=self.user.impersonator if self.user else "",
            login=self.login,
            sid=str(sid) if sid else "",
            server_id=str(self.config.host_id),
            server_hostname=self.config.hostname,
            server_addr=self.config.address,
            server_labels=dict(self.labels.current()),
            namespace="default",
            addr_local=self.config.address,
            addr_remote=str(self.client),
            proto="ssh",
            **fields,
        )


class SessionEvents:
    """The stream of one session's events: numbered and put on record in the order in which they were made."""

    def __init__(self, facts: Facts, sid: UUID, emitter: Emits) -> None:
        self.facts = facts
        self.sid = sid
        self._emitter = emitter
        self._turn = asyncio.Lock()
        self._next = 0

    async def emit(
        self, cls: type[E_], now: datetime, *, numbered: bool = True, facts: Facts | None = None, **fields: Any
    ) -> None:
        """Makes the event and waits until it is durable. `numbered` false: its class has an index of its own. `facts`
        are those of who did it, if that is not who began the session."""
        event: Event
        facts = facts or self.facts
        async with self._turn:
            if numbered:
                event = facts.event(cls, now, sid=self.sid, ei=self._next, **fields)
                self._next += 1
            else:
                event = facts.event(cls, now, sid=self.sid, **fields)
            await self._emitter.emit(event)

    async def emit_all(self, events: Sequence[tuple[type[ServerEvent], datetime, Mapping[str, Any]]]) -> None:
        """As `emit` for each (class, time, fields), in this order, made durable together; raises the first failure."""
        async with self._turn:
            made: list[Event] = []
            for cls, now, fields in events:
                made.append(self.facts.event(cls, now, sid=self.sid, ei=self._next, **fields))
                self._next += 1
            # Each is handed over when its task first runs, and tasks run in the order in which they were made.
            results = await asyncio.gather(*(self._emitter.emit(event) for event in made), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

"""One authenticated connection to the node: its permit, its sessions, and when it must end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol
from uuid import uuid4

from teleport.audit.events import ClientDisconnect, SessionRejected, SessionRequestDenied
from teleport.authz.channel_table import AskedKind
from teleport.authz.decision import AccessDenial
from teleport.authz.joining import JoinPermit, RunningSession
from teleport.authz.ssh import SSHAccessPermit
from teleport.identity import UserIdentity
from teleport.node.facts import Facts
from teleport.node.forwards import Forwards
from teleport.node.session_channel import SessionChannelHandler
from teleport.node.tools import Tools
from teleport.resources.joining import JoinMode
from teleport.spans import TraceContext
from teleport.ssh.handlers import Channel, Client, SessionChannel, SessionHandler, StreamHandler
from teleport.ssh.surface import Place, Refusal

log = logging.getLogger(__name__)

_BY_CLIENT = "closed by the client"
_LAST_WORDS_SECONDS = 1.0  # for the sessions of a connection to end and say why, before it is cut


class Decisions(Protocol):
    """Decides anew, by the rules of the moment: a connection may live longer than the certificate it began with."""

    def decide(self, facts: Facts) -> SSHAccessPermit | AccessDenial:
        """May this connection be?"""
        ...

    def identity(self, facts: Facts) -> UserIdentity:
        """What the cluster knows of its user now."""
        ...

    def decide_join(
        self, facts: Facts, permit: SSHAccessPermit, session: RunningSession, mode: JoinMode | None
    ) -> JoinPermit | AccessDenial:
        """May it, having this permit, take part in a session that runs here?"""
        ...


class NodeConnection:
    """Serves one user's connection (`ssh.handlers.ConnectionHandler`). It obeys the permit and looks at no role."""

    def __init__(
        self,
        tools: Tools,
        facts: Facts,
        permit: SSHAccessPermit,
        ended: Callable[[NodeConnection], None],
        *,
        decisions: Decisions,
        trace: TraceContext | None = None,
    ) -> None:
        """`trace`: to which its sessions belong."""
        self._decisions = decisions
        self.trace = trace
        self._tools = tools
        self.facts = facts
        self.permit = permit
        self._ended = ended
        self._sessions: set[SessionChannelHandler] = set()
        self.id = uuid4()  # for events of its forwards
        self.client: Client | None = None
        self.forwards = Forwards(tools, self)
        self._loop = asyncio.get_running_loop()
        self._last_active = self._loop.time()
        self._disconnected = False
        self._gone = False  # the client is
        self._timers: list[asyncio.TimerHandle] = []
        self._watch()

    def active(self) -> None:
        """The client did something: the idle time begins anew."""
        self._last_active = self._loop.time()

    def obey(self, permit: SSHAccessPermit) -> None:
        """Goes on under a newer permit: what was decided anew holds for what is open, too.

        A session that is being recorded, or is not, stays so until it ends.
        """
        former, self.permit = self.permit, permit
        if (former.client_idle_timeout, former.disconnect_expired_cert) != (
            permit.client_idle_timeout,
            permit.disconnect_expired_cert,
        ):
            self._watch()
        for session in list(self._sessions):
            session.reconsider()
        self.forwards.reconsider()

    @property
    def identity(self) -> UserIdentity:
        """Who it is, as the cluster knows them now."""
        return self._decisions.identity(self.facts)

    def may_join(self, session: RunningSession, mode: JoinMode | None) -> JoinPermit | AccessDenial:
        """Decides, as rules are now, about joining a session."""
        return self._decisions.decide_join(self.facts, self.permit, session, mode)

    def _watch(self) -> None:
        """Sets the timers that the permit asks for."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._disconnected:
            return
        if self.permit.disconnect_expired_cert is not None:
            left = (self.permit.disconnect_expired_cert - self._tools.clock.now()).total_seconds()
            self._timers.append(self._loop.call_later(max(left, 0), self.disconnect, "the certificate has expired"))
        if self.permit.client_idle_timeout and not self._gone:
            self._idle_check(self.permit.client_idle_timeout.total_seconds())

    def _idle_check(self, limit: float) -> None:
        left = self._last_active + limit - self._loop.time()
        if left <= 0:
            self.disconnect(f"idle for more than {limit:g} s", self.permit.client_idle_timeout_message)
        else:
            self._timers.append(self._loop.call_later(left, self._idle_check, limit))
            del self._timers[:-2]

    @property
    def second_factor(self) -> tuple[str, str]:
        """The device and the lease on which the permit rests, each empty when there is none."""
        return _second_factor(self.facts, self.permit)

    def began(self, client: Client) -> None:
        self.client = client

    def admit(self, what: str) -> Refusal | None:
        """Decides anew before something begins, whatever the connection was let in with; a refusal is on record."""
        if self._disconnected:
            return Refusal("This connection is over.")
        decision = self._decisions.decide(self.facts)
        if isinstance(decision, AccessDenial):
            self.denied(what, f"{decision.code}: {'; '.join(decision.reasons)}")
            return Refusal.told(decision.public, decision.hint)
        self.obey(decision)
        return None

    async def open_session(self, channel: SessionChannel) -> SessionHandler | Refusal:
        refused = self.admit("session")
        if refused is not None:
            return refused
        limit = self.permit.max_sessions
        if limit and len(self._sessions) >= limit:
            now = self._tools.clock.now()
            event = self.facts.event(SessionRejected, now, reason="max_sessions", max=limit)
            await self._tools.emitter.emit(event)
            return Refusal(f"Your roles allow {limit} sessions on one connection.")
        session = SessionChannelHandler(self._tools, self, channel)
        self._sessions.add(session)
        return session

    async def open_stream(
        self, channel: Channel, host: str, port: int, origin: tuple[str, int]
    ) -> StreamHandler | Refusal:
        return await self.forwards.open_tcp(channel, host, port, origin)

    async def open_socket(self, channel: Channel, path: str) -> StreamHandler | Refusal:
        return await self.forwards.open_socket(channel, path)

    async def listen(self, place: Place) -> int | Refusal:
        return await self.forwards.listen(place)

    async def cancel(self, place: Place) -> bool:
        return await self.forwards.cancel(place)

    def left(self, session: SessionChannelHandler) -> None:
        """A session is over."""
        self._sessions.discard(session)
        self.forwards.release(session)
        self._perhaps_over()

    def denied(self, what: str, reason: str) -> None:
        """Puts a refusal on record."""
        event = self.facts.event(SessionRequestDenied, self._tools.clock.now(), request=what, reason=reason)
        self._tools.in_background(self._emit(event), "audit a refusal")

    async def _emit(self, event: SessionRequestDenied | ClientDisconnect) -> None:
        await self._tools.emitter.emit(event)

    def refused(self, kind: AskedKind, name: str, reason: str) -> None:
        self.denied(name, f"{kind}: {reason}")

    def disconnect(self, reason: str, told: str = "") -> None:
        """Ends the connection and everything in it: expiry, idleness, a lock, a permit that no longer holds.

        The audit log gets `reason`, the user `told` (or the reason, when it reveals nothing).
        """
        if self._disconnected:
            for session in list(self._sessions):
                session.end(told or reason)
            return
        self._disconnected = True
        event = self.facts.event(ClientDisconnect, self._tools.clock.now(), reason=reason)
        self._tools.in_background(self._emit(event), "audit a disconnect")
        for session in list(self._sessions):
            session.end(told or reason)
        self.forwards.end(reason)
        self._loop.call_later(_LAST_WORDS_SECONDS, self._abort, told or reason)

    def _abort(self, told: str) -> None:
        if self.client is not None:
            self.client.abort(f"disconnected: {told}")

    def ended(self, reason: str) -> None:
        self._gone = True
        for session in list(self._sessions):
            session.closed()
        self.forwards.end("" if reason == _BY_CLIENT else reason)
        self._watch()
        self._perhaps_over()

    def _perhaps_over(self) -> None:
        """A connection whose client is gone counts on while sessions live on that it began: they are its user's, under
        its permit, and end with that."""
        if self._gone and not any(session.lives_on for session in self._sessions):
            for timer in self._timers:
                timer.cancel()
            ended, self._ended = self._ended, lambda _: None
            ended(self)


def _second_factor(facts: Facts, permit: SSHAccessPermit) -> tuple[str, str]:
    """The device and the lease that a session rests on, each empty when there is none."""
    if permit.lease is not None:
        return permit.lease.spec.device, permit.lease.name
    return (facts.user.mfa_device if permit.mfa_verified and facts.user is not None else ""), ""

"""One client's connection for a host behind the proxy: its permit, its sessions, and when it must end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from teleport.audit.events import ClientDisconnect, Event, SessionRejected, SessionRequestDenied
from teleport.authz.channel_table import AskedKind
from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import SSHAccessPermit
from teleport.proxy.recording.facts import Facts
from teleport.proxy.recording.forwards import Forwards
from teleport.proxy.recording.needs import Tools
from teleport.proxy.recording.session import RecordedSession
from teleport.ssh.client import SshClient
from teleport.ssh.handlers import Channel, Client, SessionChannel, SessionHandler, StreamHandler
from teleport.ssh.surface import Place, Refusal

_LAST_WORDS_SECONDS = 1.0  # for the sessions of a connection to end and say why, before it is cut


class RecordedConnection:
    """Serves one user's connection (`ssh.handlers.ConnectionHandler`). It obeys the permit and looks at no role."""

    def __init__(
        self,
        tools: Tools,
        facts: Facts,
        permit: SSHAccessPermit,
        origin: SshClient,
        ended: Callable[[RecordedConnection], None],
    ) -> None:
        """`origin` is the proxy's own connection to the host, for this client alone."""
        self.tools = tools
        self.facts = facts
        self.permit = permit
        self.origin = origin
        self._ended = ended
        self.id = str(tools.new_id())
        self._sessions: set[RecordedSession] = set()
        self.client: Client | None = None
        self.forwards = Forwards(self)
        self._loop = asyncio.get_running_loop()
        self._last_active = self._loop.time()
        self._disconnected = False
        self._expiry: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._watch()
        self._losing = asyncio.ensure_future(origin.wait_lost())
        self._losing.add_done_callback(self._lost)

    @property
    def over(self) -> bool:
        """Whether the connection was told to end, or has."""
        return self._disconnected

    @property
    def records(self) -> bool:
        """What a client asks for by `recording-proxy@teleport.com`."""
        return True

    async def answers_beyond(self) -> bool:
        """Whether the host still says something when asked."""
        return await self.origin.answers()

    def began(self, client: Client) -> None:
        """The client is in (`ssh.handlers.WantsClient`)."""
        self.client = client

    def active(self) -> None:
        """The client did something: the idle time begins anew."""
        self._last_active = self._loop.time()

    def obey(self, permit: SSHAccessPermit) -> None:
        """Goes on under a newer permit. A session that is being recorded, or is not, stays so until it ends."""
        self.permit = permit
        self.forwards.reconsider()
        self._watch()

    def _watch(self) -> None:
        """Sets the timers that the permit asks for."""
        self._cancel_timers()
        if self._disconnected:
            return
        if self.permit.disconnect_expired_cert is not None:
            left = (self.permit.disconnect_expired_cert - self.tools.clock.now()).total_seconds()
            self._expiry = self._loop.call_later(max(left, 0), self.disconnect, "the certificate has expired")
        self._look_idle()

    def _look_idle(self) -> None:
        limit = self.permit.client_idle_timeout.total_seconds()
        if not limit:
            return
        left = self._last_active + limit - self._loop.time()
        if left <= 0:
            self.disconnect(f"idle for more than {limit:g} s", self.permit.client_idle_timeout_message)
        else:
            self._idle = self._loop.call_later(left, self._look_idle)

    def _cancel_timers(self) -> None:
        for timer in (self._expiry, self._idle):
            if timer is not None:
                timer.cancel()
        self._expiry = self._idle = None

    async def open_session(self, channel: SessionChannel) -> SessionHandler | Refusal:
        decision = self.facts.decide(self.tools)
        if isinstance(decision, AccessDenial):
            self.denied("session", f"{decision.code}: {'; '.join(decision.reasons)}")
            return Refusal.told(decision.public, decision.hint)
        self.obey(decision)
        limit = self.permit.max_sessions
        if limit and len(self._sessions) >= limit:
            await self.emit(self.facts.event(SessionRejected, self.tools.clock.now(), reason="max_sessions", max=limit))
            return Refusal(f"Your roles allow {limit} sessions on one connection.")
        session = RecordedSession(self, channel, decision)
        self._sessions.add(session)
        return session

    def admit(self, what: str) -> Refusal | None:
        """Decides anew whether the connection may begin something, and goes on under the new permit."""
        if self._disconnected:
            return Refusal("The connection has ended.")
        user = self.facts.user
        if user is not None and user.force_command:
            self.denied(what, "the certificate forces a command")
            return Refusal("Your certificate is good for one command, and for no forwards.")
        decision = self.facts.decide(self.tools)
        if isinstance(decision, AccessDenial):
            self.denied(what, f"{decision.code}: {'; '.join(decision.reasons)}")
            return Refusal.told(decision.public, decision.hint)
        self.obey(decision)
        return None

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

    def left(self, session: RecordedSession) -> None:
        """A session is over."""
        self._sessions.discard(session)
        self.forwards.release(session)

    def denied(self, what: str, reason: str) -> None:
        """Puts a refusal on record."""
        event = self.facts.event(SessionRequestDenied, self.tools.clock.now(), request=what, reason=reason)
        self.tools.in_background(self.emit(event), "audit a refusal")

    async def emit(self, event: Event) -> None:
        """Returns when the event is durable."""
        await self.tools.emitter.emit(event)

    def refused(self, kind: AskedKind, name: str, reason: str) -> None:
        self.denied(name, f"{kind}: {reason}")

    def disconnect(self, reason: str, told: str = "") -> None:
        """Ends the connection and everything in it: expiry, idleness, a lock, a permit that no longer holds.

        The audit log gets `reason`, the user `told` (or the reason, when it reveals nothing).
        """
        if self._disconnected:
            return
        self._disconnected = True
        self._cancel_timers()
        event = self.facts.event(ClientDisconnect, self.tools.clock.now(), reason=reason)
        self.tools.in_background(self.emit(event), "audit a disconnect")
        self.forwards.end(reason)
        for session in list(self._sessions):
            session.end(told or reason)
        self._loop.call_later(_LAST_WORDS_SECONDS, self._abort, told or reason)

    def _abort(self, told: str) -> None:
        if self.client is not None:
            self.client.abort(f"disconnected: {told}")
        self.origin.abort()

    def _lost(self, _: object) -> None:
        """The host is gone, or its sshd ended the connection."""
        if not self._disconnected and not self._losing.cancelled():
            self._disconnected = True
            self._cancel_timers()
            self.forwards.end("the host ended the connection")
            for session in list(self._sessions):
                session.end("the host ended the connection")
            self._loop.call_later(_LAST_WORDS_SECONDS, self._abort, "the host ended the connection")

    def ended(self, reason: str) -> None:
        self._disconnected = True
        self._cancel_timers()
        self._losing.cancel()
        self.forwards.end("")
        for session in list(self._sessions):
            session.closed()
        # What the sessions still tell the host goes first.
        self._loop.call_later(_LAST_WORDS_SECONDS, self.origin.abort)
        self._ended(self)

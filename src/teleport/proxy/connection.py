"""One client's SSH connection to the proxy: who is let in, and the two things that it may then ask for.

Rules:

- A certificate is verified when it is shown, when its owner is let in, and anew for each thing that is asked for.
- Who may have no session anywhere does not come in, unless sessions in pods are open to them.
- Every refusal is on record, those of whoever showed no good certificate as often as `transport.limits.Heard` lets
  them be. What the client hears does not tell what exists.
- Where a connection may lead is decided by `SshRouter.lead`; nothing is opened in any other way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from teleport.audit.events import AuthFailed, SessionRequestDenied
from teleport.authz.channel_table import AskedKind
from teleport.errors import AccessDenied, NotFound, TeleportError
from teleport.identity import UserIdentity
from teleport.pki.sshformat import parse_certificate
from teleport.proxy.lease_step import LeaseStep
from teleport.proxy.refusals import Forbidden, on_record
from teleport.spans import Kind, TraceContext, current, moment, span
from teleport.ssh.handlers import (
    Channel,
    ConnectionHandler,
    SecondStep,
    SessionChannel,
    SessionHandler,
    StreamHandler,
)
from teleport.ssh.relay import NodeLeg, RelayHandler
from teleport.ssh.surface import Exec, Peer, Refusal, Shell, Start, Subsystem, TerminalRequest, TerminalSize
from teleport.store.resolve import Destination

if TYPE_CHECKING:
    from teleport.proxy.ssh_router import SshRouter

log = logging.getLogger(__name__)


class Gate:
    """Lets user certificates in."""

    def __init__(self, router: SshRouter, peer: Peer) -> None:
        self._router = router
        self._peer = peer
        self._since = moment()

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | SecondStep | Refusal:
        identity = self._verified(login, certificate)
        if isinstance(identity, Refusal):
            return identity
        key = parse_certificate(certificate).body.public_key.fingerprint()
        lifetime = self._router.leases.lifetime(identity, key, self._peer.host)
        if not lifetime:
            return self.enter(login, certificate)
        return LeaseStep(self._router, self, identity, key, certificate, login, self._peer, lifetime)

    def enter(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        """Lets in whoever proved the certificate, if it still counts."""
        identity = self._verified(login, certificate)
        if isinstance(identity, Refusal):
            return identity
        if not self._router.users.enter(identity.name):
            reason = f"more than {self._router.users.most} users at the same time"
            self._router.put_on_record(AuthFailed, identity, login, self._peer, error=reason)
            return Refusal.told("The proxy serves as many people as it may.", "try again later")
        return _Connection(self._router, identity, certificate, login, self._peer, Entered(self._since, moment()))

    def _verified(self, login: str, certificate: bytes) -> UserIdentity | Refusal:
        """Who comes, or why not, which is on record then."""
        identity = None
        try:
            identity = self._router.certificates.verify_user(certificate)
            refused = self._router.directory.why_no_session(identity, self._peer.host)
            if refused is not None and self._router.pods is not None:  # pods need no login; hosts are refused later
                refused = self._router.pods.why_nothing(identity, self._peer.host)
            if refused is not None:
                raise Forbidden(refused)
        except AccessDenied as error:
            reason = on_record(error)
            if identity is None:
                self.failed(login, reason)
            else:
                self._router.put_on_record(AuthFailed, identity, login, self._peer, error=reason)
            return Refusal.told(error.message, error.hint)
        return identity

    def failed(self, login: str, reason: str) -> None:
        told = self._router.strangers.told(reason, asyncio.get_running_loop().time())
        if told is not None:
            self._router.put_on_record(AuthFailed, None, login, self._peer, error=told)


@dataclass(frozen=True, slots=True)
class Entered:
    """When a connection came, and when its client was let in (`spans.moment`)."""

    since: int
    admitted: int


class _Connection:
    """Serves one user's connection."""

    def __init__(
        self,
        router: SshRouter,
        identity: UserIdentity,
        certificate: bytes,
        login: str,
        peer: Peer,
        entered: Entered | None = None,
    ) -> None:
        self._entered = entered
        self._trace: TraceContext | None = None  # in which its client began
        self._router = router
        self._identity = identity
        self._certificate = certificate
        self._key = parse_certificate(certificate).body.public_key.fingerprint()
        self._login = login
        self._peer = peer

    @property
    def records(self) -> bool:
        """Whether sessions of every host end and are recorded here."""
        return self._router.recording is not None and self._router.recording.everything

    async def open_session(self, channel: SessionChannel) -> SessionHandler | Refusal:
        return _SubsystemSession(self, channel)

    async def open_stream(
        self, channel: Channel, host: str, port: int, origin: tuple[str, int]
    ) -> StreamHandler | Refusal:
        # Our own client names a cluster in the host, as the subsystem's form does; no host name contains an @.
        name, _, cluster = host.partition("@")
        try:
            leg = await self.lead(channel, Destination(name, port, cluster), channel.close)
        except TeleportError as error:
            return Refusal.told(error.message, error.hint)
        return RelayHandler(leg)

    def traced(self, header: str) -> None:
        """The client says to which trace what it asks for from now on belongs: `tsh --trace`."""
        self._trace = TraceContext.parse(header)

    async def lead(self, channel: Channel, destination: Destination, ended: Callable[[], None]) -> NodeLeg:
        """As `SshRouter.lead`, with refusals put on record."""
        entered, self._entered = self._entered, None  # the first one has the login in its span
        since = entered.since if entered is not None else 0
        with span("proxy.ssh.connect", Kind.SERVER, parent=self._trace, first=True, since=since):
            if entered is not None:
                span("proxy.ssh.login", since=since, parent=current(), begins=False).end(entered.admitted)
            return await self._lead(channel, destination, ended)

    async def _lead(self, channel: Channel, destination: Destination, ended: Callable[[], None]) -> NodeLeg:
        try:
            self._router.certificates.verify_user(self._certificate)  # it counted when the connection began
            return await self._router.lead(
                channel, self._identity, self._key, self._peer, destination, ended, self._certificate
            )
        except TeleportError as error:
            hidden = self._router.why_not_found(self._identity, destination) if isinstance(error, NotFound) else ""
            self.denied(f"proxy:{destination}", on_record(error) + hidden)
            raise

    def denied(self, what: str, reason: str) -> None:
        """Puts a refusal on record."""
        self._router.put_on_record(
            SessionRequestDenied, self._identity, self._login, self._peer, request=what, reason=reason
        )

    def refused(self, kind: AskedKind, name: str, reason: str) -> None:
        self.denied(f"{kind} {name}", reason)

    def ended(self, reason: str) -> None:
        self._router.users.leave(self._identity.name)
        log.debug("connection ended user=%s peer=%s reason=%s", self._identity.name, self._peer, reason)


class _SubsystemSession(RelayHandler):
    """A session channel: waits for the one subsystem there is."""

    def __init__(self, connection: _Connection, channel: SessionChannel) -> None:
        super().__init__()
        self._connection = connection
        self._channel = channel

    async def start(self, what: Start) -> Refusal | None:
        match what:
            case Shell() | Exec():
                message = "The proxy runs no commands."
                self._connection.denied("exec" if isinstance(what, Exec) else "shell", message)
                return Refusal.told(
                    message, "name a host: ssh -J, the configuration that tsh config prints, or tsh ssh"
                )
            case Subsystem(name=name):
                try:
                    destination = Destination.of_subsystem(name)
                except TeleportError as error:
                    self._connection.denied(f"subsystem {name[:200]}", error.message)
                    return Refusal.told(error.message, error.hint)
                try:
                    self.leg = await self._connection.lead(self._channel, destination, lambda: self._channel.exit(0))
                except TeleportError as error:
                    return Refusal.told(error.message, error.hint)
                return None

    def environment(self, name: str, value: str) -> bool:
        return False

    def terminal(self, request: TerminalRequest) -> bool:
        return False

    def resized(self, size: TerminalSize) -> None:
        """There is no terminal."""

    def signalled(self, name: str) -> bool:
        return False

    def broke(self, milliseconds: int) -> bool:
        return False

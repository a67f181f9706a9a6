"""The node's SSH service: who may come in, and as whom.

A connection begins, perhaps, with a proxy's vouch (`first_line`); then SSH with a user certificate. The certificate
gives the identity, the decision of `authz` gives a permit or a denial, and a denial is told to the user in a banner
and to the audit log with its reasons.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from uuid import UUID, uuid4

from teleport.audit.events import AuthFailed
from teleport.clock import Clock
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import UserIdentity
from teleport.node.channel_table import SURFACE
from teleport.node.connection import NodeConnection
from teleport.node.facts import Facts
from teleport.node.first_line import FirstLine
from teleport.node.needs import (
    Access,
    Certificates,
    Denied,
    Emitter,
    Labels,
    Launcher,
    NodeConfig,
    Recordings,
)
from teleport.node.tools import Registry, Tools
from teleport.pki import sshsig
from teleport.pki.sshformat import parse_certificate
from teleport.ssh.handlers import ConnectionHandler
from teleport.ssh.listener import Listener, Slots
from teleport.ssh.server import HostKey, SshServer
from teleport.ssh.surface import Peer, Refusal
from teleport.wire import vouch

log = logging.getLogger(__name__)


class NodeService:
    """Serves SSH sessions on this host."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        certificates: Certificates,
        access: Access,
        labels: Labels,
        launcher: Launcher,
        recordings: Recordings,
        emitter: Emitter,
        clock: Clock,
        host_keys: Sequence[HostKey],
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self.config = config
        self.certificates = certificates
        self.access = access
        self.labels = labels
        self.clock = clock
        self.emitter = emitter
        self.tools = Tools(config, launcher, recordings, emitter, clock, Registry(new_id), self.in_background)
        self._host_keys = host_keys
        self._seen = vouch.Seen()
        self._server: SshServer | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._listener = Listener(self._protocol, slots=Slots(config.max_connections))

    async def run(self, sockets: Sequence[socket.socket], started: Callable[[], None]) -> None:
        """Serves until cancelled; then every connection is closed and every session ended, recorded and audited."""
        self._server = await SshServer.create(self._host_keys, SURFACE, limits=self.config.limits)
        # Sessions outlive the accepting for as long as their end takes; `_finish` bounds that.
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self._listener.serve(sockets, started)

    async def reload(self, host_keys: Sequence[HostKey]) -> None:
        """New connections see these host keys."""
        self._host_keys = host_keys
        if self._server is not None:
            await self._server.reload(host_keys)

    def accepted(self, transport: asyncio.Transport) -> None:
        """Takes over a connection accepted elsewhere (through a tunnel, say)."""
        self._listener.accepted(transport)

    def in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs `work`, owned by `run`; its failure is logged and ends nothing else."""
        if self._tasks is None:
            work.close()
            return
        self._tasks.create_task(_logged(work, name), name=name)

    def _protocol(self, peer: Peer, settled: Callable[[], None]) -> asyncio.Protocol:
        server = self._server
        assert server is not None, "run() makes the server before it listens"
        return FirstLine(
            peer,
            greeting=server.greeting,
            believe=self._believe,
            make=lambda client: server.connection(lambda _: _Gate(self, client), settled, greeted=True),
            refused=self._vouch_refused,
            settled=settled,
        )

    def _believe(self, line: bytes) -> vouch.Vouch:
        return vouch.check(
            vouch.parse(line),
            cluster=self.config.cluster,
            target=self.config.host_id,
            now=self.clock.now(),
            verify_certificate=self.certificates.verify_host,
            verify_signature=_verify_signature,
            seen=self._seen,
        )

    def _vouch_refused(self, peer: Peer, reason: str) -> None:
        log.warning("connection refused peer=%s reason=%s", peer, reason)
        self.failed(Facts(self.config, self.labels, None, "", peer), reason)

    def failed(self, facts: Facts, reason: str) -> None:
        """Puts a failed authentication or a denied access on record."""
        event = facts.event(AuthFailed, self.clock.now(), error=reason)
        self.in_background(self._emit(event), "audit a failed authentication")

    async def _emit(self, event: AuthFailed) -> None:
        await self.emitter.emit(event)


def _verify_signature(certificate: bytes, message: bytes, signature: bytes) -> None:
    sshsig.verify(parse_certificate(certificate).body.public_key, message, signature)


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except Exception:
        log.exception("failed: %s", name)


class _Gate:
    """Decides about one client (`ssh.handlers.Gate`)."""

    def __init__(self, service: NodeService, client: Peer) -> None:
        self._service = service
        self._client = client

    def _facts(self, user: UserIdentity | None, login: str) -> Facts:
        return Facts(self._service.config, self._service.labels, user, login, self._client)

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        service = self._service
        identity: UserIdentity | None = None
        try:
            identity = service.certificates.verify_user(certificate)
            if identity.source_ip and identity.source_ip != self._client.host:
                raise AccessDenied(f"Your certificate holds only from {identity.source_ip}.", hint="tsh login")
        except AccessDenied as error:
            detail = getattr(error, "detail", "")
            service.failed(self._facts(identity, login), f"{error.message} {detail}".strip())
            return Refusal(_sentence(error))
        decision = service.access.decide(identity, login, self._client)
        facts = self._facts(identity, login)
        if isinstance(decision, Denied):
            service.failed(facts, decision.reasons)
            return Refusal(decision.message)
        return NodeConnection(service.tools, facts, decision)

    def failed(self, login: str, reason: str) -> None:
        self._service.failed(self._facts(None, login), reason)


def _sentence(error: TeleportError) -> str:
    return f"{error.message} Next: {error.hint}" if error.hint else error.message

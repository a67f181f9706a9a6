"""The listener for Kubernetes clients: mutual TLS only, one certificate of the cluster's own users.

Rules it keeps:
- Connections are bounded before anybody proved anything: slots, rates and times are the listener's (threats T17, T19).
- Who was let in is judged anew for each call, and while one is open whenever `reconsider` is called (`connection`).
- A refused person gets one Status, so that kubectl says why, and then the end of the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from socket import socket
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from teleport.audit.emits import Emits
from teleport.audit.events import AuthFailed, ClientDisconnect, KubeRequest, ServerEvent, SessionRejected, new_event
from teleport.clock import Clock
from teleport.errors import BadRequest, TeleportError
from teleport.identity import UserIdentity
from teleport.kube.connection import STOPPED, Connection, end_of_tls
from teleport.kube.entrance import Entrance, People
from teleport.kube.needs import Context, Elsewhere, Rules, Sessions
from teleport.kube.services import Services
from teleport.kube.telling import Outcome
from teleport.kube.upstream import Upstream
from teleport.ssh.listener import Before, Listener, NoSlot, Slot
from teleport.ssh.surface import Peer
from teleport.transport.entrance import ConnectionLimits, Users
from teleport.transport.limits import Heard
from teleport.transport.places import Control, Places
from teleport.transport.slots import Slots

log = logging.getLogger(__name__)

UNPROVED: Final = 500  # connections that have not authenticated yet
E = TypeVar("E", bound=ServerEvent)


@dataclass(frozen=True, slots=True)
class KubeConfig:
    """What the service is told once."""

    cluster: str  # of ours
    host_id: UUID
    hostname: str
    unproved: int = UNPROVED
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


class KubeServer:
    """Serves the listener. A door of the daemon."""

    def __init__(
        self,
        config: KubeConfig,
        clusters: Mapping[str, Upstream],
        *,
        rules: Rules,
        context: Context,
        emitter: Emits,
        clock: Clock,
        services: Services | None = None,
        entrance: Entrance | None = None,
        sessions: Sessions | None = None,
        recorded_before: bool = False,
        elsewhere: Elsewhere | None = None,
        control: Control | None = None,
    ) -> None:
        """`context` gives the TLS context of the next connection; it must require a client certificate. `services` are
        those that lead to further clusters; `entrance` says whose a connection is, where people do not come
        themselves. `sessions` is what those in pods are recorded with, `recorded_before` says that who comes here has
        them recorded; without either, none is let in where they have to be. `elsewhere` leads to other clusters of
        ours. `control` counts streams into pods; without it their limits are those who come here see to."""
        self.config = config
        self.clusters = clusters
        self.rules = rules
        self.services = services
        self.entrance = entrance or People(rules)
        self.elsewhere = elsewhere
        self.clock = clock
        self.sessions = sessions
        self.recorded_before = recorded_before
        self.users = Users(config.connections)
        self.counts = Places(control, self._count) if control is not None else None
        self.leaving = False
        self._emitter = emitter
        self._context = context
        self._heard = Heard()
        self._owed: list[KubeRequest] = []  # of calls that were made, and could not be put on record
        self._connections: set[Connection] = set()
        self._tasks: asyncio.TaskGroup | None = None
        slots = Slots(config.unproved, "kube", limits=config.connections, rated=entrance is None)
        self._listener = Listener(self._protocol, slots=slots)

    def accepted(self, transport: asyncio.Transport, client: tuple[str, int] | None = None, data: bytes = b"") -> None:
        """Takes a connection over that was accepted elsewhere, or came by a tunnel; `client` is who comes, where that
        is not the other end, `data` what was read already."""
        if self._tasks is None:
            transport.abort()
            return
        self._listener.accepted(transport, client, data)

    def introduced(self, transport: asyncio.Transport, peer: Peer, entrance: Entrance) -> None:
        """Serves somebody who proved a certificate elsewhere, as `entrance` knows, and whose HTTP comes by this
        transport."""
        connection = Connection(self, peer, NoSlot(), entrance)
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def begin_with(self, before: Before) -> None:
        """What balancers say before everything else."""
        self._listener.before = before

    async def run(self, sockets: Sequence[socket], started: Callable[[], None]) -> None:
        """Serves until cancelled; then every connection is closed. `started` is called once clients are taken."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                try:
                    await self._listener.serve(sockets, started)
                finally:
                    for connection in self._connections:
                        connection.ends_by(STOPPED)
        finally:
            for upstream in self.clusters.values():
                upstream.close()

    def _protocol(self, peer: Peer, slot: Slot) -> asyncio.Protocol | None:
        if self._tasks is None or not slot.arrived(peer.host):
            return None
        try:
            context = self._context()
        except (OSError, TeleportError) as error:
            log.error("Kubernetes clients are not let in: %s", error)
            return None
        return end_of_tls(context, Connection(self, peer, slot))

    # a door of the web's kind: clients keep connections without need, and watches never end

    @property
    def open(self) -> int:
        """How many connections there are."""
        return self._listener.open

    def pause(self) -> None:
        """Accepts nothing more."""
        self._listener.pause()

    async def resume(self) -> None:
        """Accepts (again)."""
        self.leaving = False
        if self._tasks is not None:
            await self._listener.resume()

    def leave(self) -> None:
        """Lets clients go elsewhere: idle connections are closed, the others after their answer."""
        self.leaving = True
        for connection in list(self._connections):
            connection.leave()

    def end_endless(self) -> None:
        """Ends what is still open; the clients of watches come again."""
        for connection in list(self._connections):
            connection.abort(STOPPED)

    # who may be here

    def reconsider(self) -> None:
        """Looks at every open call anew; to be called when anything changed that decides about access."""
        for connection in list(self._connections):
            connection.reconsider()

    # for the connections

    def entered(self, connection: Connection) -> None:
        self._connections.add(connection)

    def gone(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def start(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> asyncio.Task[None] | None:
        """The task that serves a connection, owned by `run`; None when nothing is served any more."""
        work = connection.serve(reader, writer)
        try:
            if self._tasks is None:
                raise RuntimeError("not running")
            return self._tasks.create_task(work, name=f"Kubernetes client {connection.peer}")
        except RuntimeError:
            work.close()
            return None

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work`, owned by `run`."""
        logged = _logged(work)
        try:
            if self._tasks is None:
                raise RuntimeError("not running")
            self._tasks.create_task(logged, name="audit")
        except RuntimeError:  # before or after `run`
            logged.close()
            work.close()

    async def tell(self, outcome: Outcome, identity: UserIdentity, client: Peer) -> None:
        """Puts a call on record (`kube.telling.Tells`)."""
        event = self._about(KubeRequest, identity, client, **outcome.fields)
        try:
            await self._emitter.emit(event)
        except BadRequest:  # this one can never be written: it must not keep the others out
            log.exception("a call is not on record user=%s path=%r", event.user, event.request_path)
            raise
        except (TeleportError, OSError) as error:
            if outcome.made:
                log.error("a call is not on record yet user=%s path=%r: %s", event.user, event.request_path, error)
                self._owed.append(event)
            raise

    async def rejected(self, identity: UserIdentity, client: Peer, most: int) -> None:
        """Puts on record that somebody has as many connections as they may (`kube.telling.Tells`)."""
        await self._emitter.emit(self._about(SessionRejected, identity, client, reason="max_connections", max=most))

    def disconnected(self, identity: UserIdentity, client: Peer, reason: str) -> None:
        """Puts on record that we ended a call, and why (`kube.telling.Tells`)."""
        self.in_background(self._emit(self._about(ClientDisconnect, identity, client, reason=reason)))

    async def _emit(self, event: ServerEvent) -> None:
        await self._emitter.emit(event)

    def _count(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self.in_background(work)

    def _about(self, cls: type[E], identity: UserIdentity, client: Peer, **fields: Any) -> E:
        """An event about somebody who was let in."""
        return new_event(
            cls,
            self.clock.now(),
            str(uuid4()),
            cluster_name=self.config.cluster,
            user=identity.name,
            impersonator=identity.impersonator,
            server_id=str(self.config.host_id),
            server_hostname=self.config.hostname,
            addr_remote=str(client),
            proto="kube",
            **fields,
        )

    async def settle(self) -> None:
        """Puts on record what is owed (`kube.telling.Tells`): no call is made before."""
        while self._owed:
            event = self._owed.pop()
            try:
                await self._emitter.emit(event)
            except (TeleportError, OSError):
                self._owed.append(event)
                raise

    async def failed(self, peer: Peer, user: str, reason: str) -> None:
        """Puts on record that somebody was not let in; so many in a second, the others are counted."""
        told = self._heard.told(reason, asyncio.get_running_loop().time())
        if told is None:
            return
        log.warning("a Kubernetes client was refused peer=%s user=%s: %s", peer, user or "not proved", told)
        await self._emitter.emit(
            new_event(
                AuthFailed,
                self.clock.now(),
                str(uuid4()),
                cluster_name=self.config.cluster,
                user=user,
                server_id=str(self.config.host_id),
                server_hostname=self.config.hostname,
                addr_remote=str(peer),
                proto="kube",
                error=told,
            )
        )


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("not on record")

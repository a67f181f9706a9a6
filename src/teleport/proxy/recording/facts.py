"""Who is connected to which host, and what every event of that says alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from msgspec.structs import replace as replace_fields

from teleport.audit.emits import Emits
from teleport.audit.events import Event, ServerEvent, new_event
from teleport.authz.decision import AccessDenial, DenialCode
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access
from teleport.identity import UserIdentity
from teleport.proxy.recording.needs import RecordingConfig, Tools
from teleport.resources.mfa_lease import MfaLease
from teleport.resources.server import Server
from teleport.ssh.surface import Peer

E_ = TypeVar("E_", bound=ServerEvent)
CLOCK_SLACK: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Facts:
    """A client's connection for a host, once its user is known (or as far as it is)."""

    proxy: RecordingConfig
    node: Server
    client: Peer
    user: UserIdentity | None = None
    login: str = ""
    signer: bytes = b""  # the key (SSH blob) of the authority that signed the user's certificate
    key: str = ""  # fingerprint of the key that the client proved
    certificate: bytes = field(default=b"", repr=False)

    def end(self, lease: MfaLease | None) -> datetime:
        """When what let the user in is over: the login, or the lease that stood for a second factor."""
        assert self.user is not None, "only a known user is let in"
        end = self.user.login_expires or self.user.expires
        return end if lease is None else min(end, lease.spec.expires)

    @property
    def cluster(self) -> str:
        return self.proxy.cluster

    @property
    def told_here(self) -> bool:
        """Whether nobody but the proxy tells of the host's sessions."""
        return self.node.agentless

    def event(self, cls: type[E_], now: datetime, *, sid: UUID | None = None, **fields: Any) -> E_:
        """An event of `cls` about this connection: of a host without a daemon as if it told of it."""
        node = self.node
        if not self.told_here:
            return new_event(
                cls,
                now,
                str(uuid4()),
                cluster_name=self.cluster,
                user=self.user.name if self.user else "",
                login=self.login,
                server_id=str(self.proxy.proxy_id),
                server_hostname=self.proxy.hostname,
                addr_remote=str(self.client),
                proto="ssh",
                **fields,
            )
        return new_event(
            cls,
            now,
            str(uuid4()),
            cluster_name=self.cluster,
            user=self.user.name if self.user else "",
            impersonator=self.user.impersonator if self.user else "",
            login=self.login,
            sid=str(sid) if sid else "",
            server_id=node.host_id,
            server_hostname=node.hostname,
            server_addr=node.spec.addr,
            server_labels=dict(node.all_labels),
            namespace=node.metadata.namespace,
            addr_remote=str(self.client),
            proto="ssh",
            **fields,
        )

    def decide(
        self, tools: Tools, *, opened: bool = False, lapsed: MfaLease | None = None
    ) -> SSHAccessPermit | AccessDenial:
        """The decision about the connection, by rules and labels of this moment; `opened` and `lapsed` as at a node:
        about what is open already, and a lease whose time is over and that let it in."""
        assert self.user is not None, "only a known user is decided about"
        view, now = tools.view, tools.clock.now()
        node = view.node(self.node.host_id)
        if node is None:
            return _gone("the host is not registered any more", "This host is not registered any more.", "tsh ls")
        if not opened and not view.records(node):
            return _gone("the proxy does not record any more", "The cluster's settings have changed.", "connect again")
        if not view.trusts_user_authority(self.signer) and not (opened and view.let_go(self.signer)):
            reason = "the authority that signed the certificate is not trusted any more"
            return _gone(reason, "Your certificate does not count any more.", "tsh login")
        identity = view.present(self.user)
        if identity is None:
            reason = f"the user {self.user.name!r} was removed or has expired"
            return _gone(reason, "Your user does not exist any more.", "tsh login")
        if opened:
            identity = replace(identity, expires=max(identity.expires, now + timedelta(seconds=1)))
        leases = (*view.leases(identity.name, self.key, self.client.host), *((lapsed,) if lapsed is not None else ()))
        request = SSHAccessRequest(
            identity=identity,
            login=self.login,
            cluster=self.cluster,
            now=now,
            node_id=node.host_id,
            node_hostname=node.hostname,
            node_labels=node.all_labels,
            namespace=node.metadata.namespace,
            client_address=self.client.host,
            locks=view.locks(),
            key=self.key,
            vouched=True,  # the client is connected to this very proxy
            leases=leases,
            joinable=False,
        )
        return evaluate_ssh_access(request, view.policy())


def held_on(lease: MfaLease | None, now: datetime) -> MfaLease | None:
    """The lease as if it were fresh, once its time is over; None while it has to be in view to count."""
    if lease is None or now < lease.spec.expires - CLOCK_SLACK:
        return None
    fresh = replace_fields(lease.spec, granted=now, expires=now + timedelta(minutes=1))
    return replace_fields(lease, spec=fresh, metadata=replace_fields(lease.metadata, expires=None))


def _gone(reason: str, public: str, hint: str) -> AccessDenial:
    return AccessDenial(DenialCode.NOT_GRANTED, public, (reason,), hint)


class SessionEvents:
    """The stream of one session's events: numbered and put on record in the order in which they were made."""

    def __init__(self, facts: Facts, sid: UUID, emitter: Emits) -> None:
        self._facts = facts
        self._sid = sid
        self._emitter = emitter
        self._turn = asyncio.Lock()
        self._next = 0

    async def emit(self, cls: type[E_], now: datetime, *, numbered: bool = True, **fields: Any) -> None:
        """Makes the event and waits until it is durable. `numbered` false: its class has an index of its own."""
        async with self._turn:
            if numbered:
                fields["ei"], self._next = self._next, self._next + 1
            event: Event = self._facts.event(cls, now, sid=self._sid, **fields)
            await self._emitter.emit(event)

    async def emit_all(self, events: Sequence[tuple[type[ServerEvent], datetime, Mapping[str, Any]]]) -> None:
        """As `emit` for each (class, time, fields), in this order, made durable together; raises the first failure."""
        async with self._turn:
            made: list[Event] = []
            for cls, now, fields in events:
                made.append(self._facts.event(cls, now, sid=self._sid, ei=self._next, **fields))
                self._next += 1
            # Each is handed over when its task first runs, and tasks run in the order in which they were made.
            results = await asyncio.gather(*(self._emitter.emit(event) for event in made), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

"""The node's SSH service: who may come in, and as whom.

A connection begins, perhaps, with a proxy's vouch (`first_line`); then SSH with a user certificate. The certificate
gives the identity, the decision of `authz` gives a permit or a denial, and a denial is told to the user in a banner
and to the audit log with its reasons.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

from msgspec.structs import replace as replace_fields

from teleport.audit.emits import Emits
from teleport.audit.events import AuthFailed, SessionRejected
from teleport.authz.decision import AccessDenial, DenialCode
from teleport.authz.joining import JoinPermit, LetIn, RunningSession, evaluate_join
from teleport.authz.locks import Locked, find_lock
from teleport.authz.session_mfa import may_come
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access
from teleport.clock import Clock
from teleport.errors import AccessDenied, LimitExceeded, TeleportError
from teleport.identity import UserIdentity
from teleport.kernel.watcher import Watcher
from teleport.node.channel_table import SURFACE
from teleport.node.connection import NodeConnection
from teleport.node.enhanced import Enhanced
from teleport.node.facts import Facts
from teleport.node.first_line import FirstLine
from teleport.node.needs import (
    Certificates,
    Labels,
    Launcher,
    NodeConfig,
    Recordings,
    Rules,
)
from teleport.node.reserved import ClusterPorts, Reserved
from teleport.node.tools import Registry, Tools
from teleport.pki import sshsig
from teleport.pki.sshformat import parse_certificate
from teleport.resources.joining import JoinMode
from teleport.resources.mfa_lease import MfaLease
from teleport.spans import Kind, TraceContext, current, moment, span
from teleport.ssh.handlers import ConnectionHandler
from teleport.ssh.listener import Slot
from teleport.ssh.server import HostKey
from teleport.ssh.service import SshService
from teleport.ssh.surface import Peer, Refusal
from teleport.transport.entrance import Users
from teleport.transport.limits import Heard
from teleport.transport.places import Control, NoControl, Place, Places
from teleport.transport.slots import Slots
from teleport.wire import vouch

log = logging.getLogger(__name__)

LEASE_ON_ITS_WAY = 2.0  # seconds
CLOCK_SLACK = timedelta(seconds=5)


class NodeService(SshService):
    """Serves SSH sessions on this host."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        certificates: Certificates,
        rules: Rules,
        labels: Labels,
        launcher: Launcher,
        recordings: Recordings,
        emitter: Emits,
        clock: Clock,
        host_keys: Sequence[HostKey],
        new_id: Callable[[], UUID] = uuid4,
        watcher: Watcher | None = None,
        present: Callable[[UserIdentity], UserIdentity | None] = lambda identity: identity,
        control: Control | None = None,
        reserved: Reserved | None = None,
    ) -> None:
        """`present` gives what of an identity still holds (its user may have lost roles since); None: nothing.
        `watcher` sees what sessions do, for enhanced recording; None: it is off.
        `control` counts the connections of users whose roles limit them; without it those users do not get in.
        `reserved` knows the cluster's ports; without it, the one that this node is reached at."""
        super().__init__(
            SURFACE, config.limits, host_keys, Slots(config.unproved, "node ssh", limits=config.connections)
        )
        self.config = config
        self._present = present
        self.certificates = certificates
        self.rules = rules
        self.labels = labels
        self.clock = clock
        self.emitter = emitter
        self.tools = Tools(
            config,
            launcher,
            recordings,
            emitter,
            clock,
            Registry(new_id),
            Enhanced(watcher, clock, self.in_background),
            self.in_background,
            reserved or ClusterPorts(lambda: _port_of(config.address)),
        )
        self._seen = vouch.Seen()
        self._strangers = Heard()
        self.users = Users(config.connections)
        self._connections: set[NodeConnection] = set()
        self._places = Places(control or NoControl(), self.in_background)
        self._news = asyncio.Event()  # what decisions rest on has changed

    def _protocol(self, peer: Peer, slot: Slot) -> asyncio.Protocol:
        server = self._server
        return FirstLine(
            peer,
            greeting=server.greeting,
            believe=self._believe,
            make=lambda client, vouched, trace: server.connection(
                lambda _: _Gate(self, client, vouched, trace), slot, greeted=True
            ),
            refused=self._vouch_refused,
            slot=slot,
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
        self.failed(Facts(self.config, self.labels, None, "", peer), reason)

    def decide(
        self, facts: Facts, *, opened: bool = False, lapsed: MfaLease | None = None
    ) -> SSHAccessPermit | AccessDenial:
        """The decision about a connection, by the rules and labels of this moment.

        `opened`: about what is open already. The certificate's end is left out then, since what else forbids must not
        hide behind it, and so is the end of a rotation of the authority. `lapsed` is a lease whose time is over and
        that counts all the same, for what it let in while it held.
        """
        assert facts.user is not None, "only a known user is decided about"
        trusted = self.certificates.trusts_user_authority(facts.signer)
        if not trusted and not (opened and self.certificates.let_go(facts.signer)):
            reason = "the authority that signed the certificate is not trusted any more"
            return AccessDenial(
                DenialCode.NOT_GRANTED, "Your certificate does not count any more.", (reason,), "tsh login"
            )
        identity = self._present(facts.user)
        if identity is None:
            reason = f"the user {facts.user.name!r} was removed or has expired"
            return AccessDenial(DenialCode.NOT_GRANTED, "Your user does not exist any more.", (reason,), "tsh login")
        if opened:
            identity = replace(identity, expires=max(identity.expires, self.clock.now() + timedelta(seconds=1)))
        request = SSHAccessRequest(
            identity=identity,
            login=facts.login,
            cluster=self.config.cluster,
            now=self.clock.now(),
            node_id=str(self.config.host_id),
            node_hostname=self.config.hostname,
            node_labels=self.labels.current(),
            client_address=facts.client.host,
            locks=self.rules.locks(),
            key=facts.key,
            vouched=facts.vouched,
            leases=(
                *self.rules.leases(identity.name, facts.key, facts.client.host),
                *((lapsed,) if lapsed is not None else ()),
            ),
        )
        return evaluate_ssh_access(request, self.rules.policy())

    def identity(self, facts: Facts) -> UserIdentity:
        """What the cluster knows of the connection's user now; without roles once it knows nothing."""
        assert facts.user is not None, "only a known user is decided about"
        return self._present(facts.user) or replace(facts.user, roles=(), denying=())

    def decide_join(
        self, facts: Facts, permit: SSHAccessPermit, session: RunningSession, mode: JoinMode | None
    ) -> JoinPermit | AccessDenial:
        """The decision about taking part in a session that runs here, by the rules of this moment."""
        who = LetIn(self.identity(facts), facts.login, permit.channels, bool(permit.required_joins))
        return evaluate_join(who, session, mode, self.rules.policy())

    async def decide_with_news(self, facts: Facts) -> SSHAccessPermit | AccessDenial:
        """As `decide`; when a proxy led somebody here whose lease it has seen and this node has not, it waits for it.

        No lease in view in the end: refused.
        """
        decision = self.decide(facts)
        with suppress(TimeoutError):
            async with asyncio.timeout(LEASE_ON_ITS_WAY):
                while facts.vouched and isinstance(decision, AccessDenial) and may_come(decision):
                    await self._news.wait()
                    decision = self.decide(facts)
        return decision

    def connected(self, facts: Facts, permit: SSHAccessPermit, place: Place | None = None) -> NodeConnection:
        """A connection with a permit; it is listed until it ends, and holds `place` for so long."""
        left = partial(self._left, place)
        connection = NodeConnection(self.tools, facts, permit, left, decisions=self, trace=current())
        self._connections.add(connection)
        if place is not None:
            place.gone = connection.disconnect
        return connection

    async def count(self, facts: Facts, permit: SSHAccessPermit) -> Place | Refusal | None:
        """A place for one more connection of the user, None where there is no limit; else why not, which is on record.

        Where nobody can count, nobody with a limit is let in.
        """
        if not permit.max_connections:
            return None
        try:
            return await self._places.enter(permit.user, permit.max_connections)
        except LimitExceeded:
            now, most = self.clock.now(), permit.max_connections
            await self.emitter.emit(facts.event(SessionRejected, now, reason="max_connections", max=most))
            return Refusal(f"Your roles allow {most} connections at the same time. Next: end one of them.")
        except TeleportError as error:
            self.failed(facts, f"connections cannot be counted: {error.message}")
            return Refusal("Your connections are limited, and cannot be counted now. Next: try again later.")

    def uncount(self, place: Place | None) -> None:
        """A connection that holds a place is over, or did not come to be."""
        if place is not None:
            self._places.leave(place)

    def _left(self, place: Place | None, connection: NodeConnection) -> None:
        assert connection.facts.user is not None, "only a known user gets a connection"
        self._connections.discard(connection)
        self.uncount(place)
        self.users.leave(connection.facts.user.name)

    def reconsider(self) -> None:
        """Decides anew about every open connection; to be called when roles, locks, labels or settings changed.

        Those that would be refused now end at once, with the reason on record. An expired certificate ends a
        connection only where the permit says so, and so does a lease that is over; one that was taken away ends it.
        The others go on under the terms of the new permit.
        """
        self._tell_who_waits()
        locks, now = self.rules.locks(), self.clock.now()
        for session in self.tools.registry:
            if find_lock(locks, Locked(session=str(session.sid)), now) is not None:
                session.end("an administrator ended it")
        for connection in list(self._connections):
            self._reconsider(connection)

    def lease_came(self) -> None:
        """A lease has come into view: somebody may wait for it."""
        self._tell_who_waits()

    def lease_gone(self) -> None:
        """A lease is over or was taken away: what rests on one is decided anew."""
        for connection in [one for one in self._connections if one.permit.lease is not None]:
            self._reconsider(connection)

    def _tell_who_waits(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _reconsider(self, connection: NodeConnection) -> None:
        lapsed = held_on(connection.permit.lease, self.clock.now())
        decision = self.decide(connection.facts, opened=True, lapsed=lapsed)
        if isinstance(decision, AccessDenial):
            connection.disconnect(f"no longer allowed: {'; '.join(decision.reasons)}", decision.public)
            return
        if lapsed is not None and decision.lease is lapsed:
            decision = replace(decision, lease=connection.permit.lease)  # it counts as over when asked again, too
        if decision.disconnect_expired_cert is not None:
            decision = replace(decision, disconnect_expired_cert=connection.facts.end(decision.lease))
        connection.obey(decision)

    @property
    def connections(self) -> int:
        """How many connections are open and authenticated."""
        return len(self._connections)

    @property
    def busy(self) -> bool:
        """Whether a connection is open, or a session goes on without one."""
        return bool(self._connections) or next(iter(self.tools.registry), None) is not None

    def failed(self, facts: Facts, reason: str) -> None:
        """Puts a failed authentication or a denied access on record; of strangers only so many in a second."""
        if facts.user is None:
            told = self._strangers.told(reason, asyncio.get_running_loop().time())
            if told is None:
                return
            reason = told
        event = facts.event(AuthFailed, self.clock.now(), error=reason)
        self.in_background(self._emit(event), "audit a failed authentication")

    async def _emit(self, event: AuthFailed) -> None:
        try:
            await self.emitter.emit(event)
        except TeleportError as error:
            log.error("a failed authentication could not be put on record: %s", error)


def _port_of(address: str) -> tuple[int, ...]:
    _, _, port = address.rpartition(":")
    return (int(port),) if port.isdigit() else ()


def held_on(lease: MfaLease | None, now: datetime) -> MfaLease | None:
    """The lease as if it were fresh, once its time is over; None while it has to be in view to count.

    It goes out of view when auth says so, whose clock may be a little ahead.
    """
    if lease is None or now < lease.spec.expires - CLOCK_SLACK:
        return None
    fresh = replace_fields(lease.spec, granted=now, expires=now + timedelta(minutes=1))
    return replace_fields(lease, spec=fresh, metadata=replace_fields(lease.metadata, expires=None))


def _verify_signature(certificate: bytes, message: bytes, signature: bytes) -> None:
    sshsig.verify(parse_certificate(certificate).body.public_key, message, signature)


class _Gate:
    """Decides about one client (`ssh.handlers.Gate`)."""

    def __init__(self, service: NodeService, client: Peer, vouched: bool, trace: str) -> None:
        self._trace = trace
        self._since = moment()
        self._service = service
        self._client = client
        self._vouched = vouched

    def _facts(self, user: UserIdentity | None, login: str, certificate: bytes = b"") -> Facts:
        signer, key = b"", ""
        if certificate:
            parsed = parse_certificate(certificate)
            signer, key = parsed.signer, parsed.body.public_key.fingerprint()
        return Facts(self._service.config, self._service.labels, user, login, self._client, signer, key, self._vouched)

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        parent, since = TraceContext.parse(self._trace), self._since
        with span("node.ssh.connect", Kind.SERVER, parent=parent, since=since) as entering:
            found = await self._admitted(login, certificate)
            if isinstance(found, Refusal):
                entering.fail("refused")
            return found

    async def _admitted(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        service = self._service
        try:
            identity = service.certificates.verify_user(certificate)
        except AccessDenied as error:
            detail = getattr(error, "detail", "")
            service.failed(self._facts(None, login), f"{error.message} {detail}".strip())
            return Refusal.told(error.message, error.hint)
        facts = self._facts(identity, login, certificate)
        through = self._client.through
        if through and (identity.origin is None or identity.origin.cluster != through):
            # that proxy says what address it likes, and source pins and leases of others hold by theirs
            service.failed(facts, f"the proxy of {through} leads its own users only")
            return Refusal.told(f"Through {through} come its own users only.", "tsh login at the cluster of the host")
        with span("node.decide") as deciding:
            decision = await service.decide_with_news(facts)
            deciding.set("teleport.outcome", decision.code if isinstance(decision, AccessDenial) else "permit")
        if isinstance(decision, AccessDenial):
            service.failed(facts, f"{decision.code}: {'; '.join(decision.reasons)}")
            return Refusal.told(decision.public, decision.hint)
        with span("node.count_connections"):
            place = await service.count(facts, decision)
        if isinstance(place, Refusal):
            return place
        if place is not None:  # that took time: what has changed meanwhile counts
            decision = service.decide(facts)
            if isinstance(decision, AccessDenial):
                service.uncount(place)
                service.failed(facts, f"{decision.code}: {'; '.join(decision.reasons)}")
                return Refusal.told(decision.public, decision.hint)
        if not service.users.enter(identity.name):
            service.uncount(place)
            service.failed(facts, f"more than {service.users.most} users at the same time")
            return Refusal.told("This node serves as many people as it may.", "try again later")
        return service.connected(facts, decision, place)

    def failed(self, login: str, reason: str) -> None:
        self._service.failed(self._facts(None, login), reason)

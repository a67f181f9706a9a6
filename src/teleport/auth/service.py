"""The auth service put together: state, handlers, audit, and the listener on 3025.

Order at start: the audit store is read on, the cluster is made or found, then connections are taken. Order at the
end: no new connections, what waits in the outbox is moved, intake finishes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.routes import Route
from teleport.audit.checkpoints import Checkpointer
from teleport.audit.emitter import Emitter
from teleport.audit.events import ApiDenied, AuditPrune
from teleport.audit.intake import Intake, LocalDelivery
from teleport.audit.outbox import OutboxPump
from teleport.audit.retention import Retention
from teleport.audit.shipper import Shipper
from teleport.audit.sinks import FileSink, MultiSink, Sink
from teleport.auth.access.diff import AccessDiffs
from teleport.auth.access.explain import Explaining
from teleport.auth.authorities.driver import RotationDriver
from teleport.auth.authorities.keys import AuthorityKeys
from teleport.auth.authorities.plan import RotationPlans
from teleport.auth.authorities.rotation import Rotations
from teleport.auth.authorities.trusting import LivingTrust
from teleport.auth.authorizer import Authorizer, Denied
from teleport.auth.certificates.live import Certificates
from teleport.auth.certificates.renewal import Renewals
from teleport.auth.certificates.revocations import Revocations
from teleport.auth.cluster.api import ClusterAPI
from teleport.auth.cluster.backups import Backups
from teleport.auth.cluster.bootstrap import MadeElsewhere, bootstrap
from teleport.auth.cluster.settings import Settings
from teleport.auth.cluster.web_certificates import WebCertificates
from teleport.auth.clusters.assembled import Clusters
from teleport.auth.evidence.api import Evidence
from teleport.auth.evidence.places import RecordingPlace
from teleport.auth.evidence.recorded import Recorded
from teleport.auth.evidence.shared import one_place
from teleport.auth.evidence.store import EvidenceStore, Lease, signer
from teleport.auth.evidence.tailing import Tailing
from teleport.auth.evidence.waiting import Waiting
from teleport.auth.factors.checking import Factors
from teleport.auth.factors.leases import MfaLeases
from teleport.auth.factors.one_use import SessionFactor
from teleport.auth.factors.session import SessionSecondFactors
from teleport.auth.hosts.agentless import Agentless
from teleport.auth.hosts.joining import Joining
from teleport.auth.hosts.presence import Presence
from teleport.auth.hosts.tokens import Tokens
from teleport.auth.hosts.tunnels_lost import TunnelsLost
from teleport.auth.people.browser import BrowserLogins
from teleport.auth.people.devices import Devices
from teleport.auth.people.invitations import UserTokens
from teleport.auth.people.logins import Logins
from teleport.auth.people.own_password import OwnPasswords
from teleport.auth.people.web_sessions import WebSessions
from teleport.auth.resources.inventory import Inventory
from teleport.auth.resources.kube_pages import KubeClusterPages
from teleport.auth.resources.node_pages import NodePages
from teleport.auth.resources.user_pages import UserPages
from teleport.auth.retention.holds import Holds
from teleport.auth.retention.pruner import Pruner, Said
from teleport.auth.retention.recordings import RecordingPruner
from teleport.auth.server import Caller, build_app
from teleport.auth.sessions.claims import Claims
from teleport.auth.sessions.control import SessionControl
from teleport.auth.sessions.opened import LostHosts, SessionTracker
from teleport.auth.sessions.trackers import SessionTrackers
from teleport.auth.state import ClusterState, stored_cluster_name
from teleport.auth.vouched import Vouched
from teleport.authz.locks import Locked, find_lock
from teleport.backend.interface import Backend
from teleport.clock import Clock
from teleport.copies.copier import Source
from teleport.copies.places import Copies
from teleport.copies.settings import CopySettings
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import Anonymous, HostIdentity, SystemRole
from teleport.recording.trust import signature_check
from teleport.resources.cluster import Singleton
from teleport.resources.codec import Resource
from teleport.resources.kinds import Kind, Verb
from teleport.resources.token import Token
from teleport.store.records import HOSTS, USERS, HostRecord
from teleport.transport.http_listener import HTTPListener
from teleport.transport.tls import MutualServer

if TYPE_CHECKING:
    from teleport.auth.cluster.from_file import Given
    from teleport.recording.s3.settings import S3Settings

log = logging.getLogger(__name__)


SILENT = 1000  # connections without a request: a proxy speaks for many hosts, which may all come at once


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """What the auth service is told by the configuration file."""

    cluster_name: str  # empty: the stored one, else `node_name`
    host_id: str
    node_name: str
    audit_directory: Path
    recordings_directory: Path
    recordings_s3: S3Settings | None = None  # where they are brought from that folder
    static_tokens: tuple[Token, ...] = ()
    settings: tuple[Singleton, ...] = ()  # the cluster's settings that the file decides
    retention: Retention = field(default_factory=Retention)  # of audit events
    recordings_retention: Retention = field(default_factory=Retention)
    copies: tuple[CopySettings, ...] = ()  # of audit events, to other places
    searched: CopySettings | None = None  # the one of these that searches go to; None: the log of this server
    bootstrap: Callable[[], Sequence[Resource]] | None = None  # reads what a new cluster is made with
    shared_storage: bool = False  # other auth servers may use the storage, too, and the folders above with it


class AuthService:
    """One auth server. `open` makes or finds the cluster, `run` serves it."""

    def __init__(
        self,
        config: AuthConfig,
        backend: Backend,
        clock: Clock,
        emitter: Emitter,
        state: ClusterState,
        sink: FileSink,
    ) -> None:
        """Use `open`."""
        self.state = state
        self._config = config
        self._clock = clock
        self._emitter = emitter
        records = EvidenceStore(backend, clock)
        self._records = records
        claims = Claims(backend, state.clock)
        shared = config.shared_storage
        self._sink = sink
        self._trust = LivingTrust(state)
        check = signature_check(self._trust.host_authorities, self._trust.former_host_authorities)
        self._place = RecordingPlace(config.recordings_directory, config.recordings_s3, backend, check)
        self._recordings, self._indexer = self._place.store, self._place.indexer
        copies: list[Sink] = [SessionTracker(backend, state.uses, claims, auth=config.host_id)]
        self._intake = Intake(
            self._sink,
            records,
            state.clock,
            cluster=state.cluster,
            sink=MultiSink(self._sink, copies),
            gaps=records,
            shared=records if shared else None,
        )
        self._tokens = Tokens(state, config.static_tokens)
        self._joining = Joining(state, self._tokens)
        self.authorizer = Authorizer(state, self._joining, lambda: str(uuid.uuid4()))
        vouched = Vouched(state, self._trust.host_authorities, self.authorizer.counts, self.authorizer.locks)
        self.edge = HTTPListener("auth API", silent=SILENT, believe=vouched.believe)
        self.cluster_api = ClusterAPI(state, self.authorizer)
        self.factors = Factors(state, self.cluster_api, self.authorizer.locks)
        logins = Logins(state, self.authorizer, self.factors)
        browser_logins = BrowserLogins(state, logins)
        devices = Devices(state, self.factors, logins, self.authorizer)
        web_sessions = WebSessions(state, self.authorizer, logins, devices)
        renewals = Renewals(state, self.authorizer)
        self.rotations = Rotations(state, self.authorizer, self._trust.look)
        user_tokens = UserTokens(state, logins, self.cluster_api, self.authorizer, devices, web_sessions)
        session_factor = SessionFactor(state, self.factors)
        session_certs = SessionSecondFactors(state, self.authorizer, session_factor)
        mfa_leases = MfaLeases(state, self.authorizer, session_factor, self.cluster_api)
        tunnels = TunnelsLost(state.clock)
        inventory = Inventory(state, self.authorizer, self._tokens, user_tokens, tunnels)
        presence = self._presence = Presence(state, self.authorizer, self._joining, tunnels)
        recorded = Recorded(state, self.authorizer, self._recordings, self._indexer)
        self.waiting = Waiting(records, self._sink.lock, self._intake, lambda: self._pump.problem, state.clock)
        source = Source(config.audit_directory, self._durable, config.host_id, emitter.key.epoch)
        self._lease = Lease(backend, clock, f"{config.host_id}/{emitter.key.epoch}")
        self.copies = Copies(config.copies, source, backend, self._lease, config.node_name)
        first = config.searched
        first_searched = partial(self.copies.first_searched, first) if first is not None else None
        self._evidence = Evidence(
            state,
            self.authorizer,
            self._intake,
            records,
            self._recordings,
            config.audit_directory,
            recorded,
            self._indexer,
            self.waiting,
            claims,
            self._place.arrived,
            first_searched,
        )
        self._pump = OutboxPump(
            records, emitter, self._in_store, self._sink.lock, step=self._sink.lock if shared else None
        )
        if not shared:
            self._sink.lock.after_others(self._pump.look_again)
        records.on_event, records.cluster = self._pump.kick, state.cluster
        claims.on_event, claims.cluster = self._pump.kick, state.cluster
        self._checkpointer: Checkpointer | None = None
        self.shipper = Shipper(emitter, LocalDelivery(self._intake, config.host_id))
        self._holds = Holds(state, self._sink.lock)
        self._pruner = Pruner(
            config.audit_directory,
            config.retention,
            clock=state.clock,
            lease=self._lease,
            exclusive=self._sink.lock,
            holds=self._holds.all,
            durable=self._durable,
            copied=self.copies.cursors,
            prove=partial(self._evidence.proof, fetch=False),
            say=self._say_pruned,
            restored=records.load_restored,
        )
        self._recording_pruner = RecordingPruner(
            state,
            self._recordings,
            config.recordings_retention,
            lease=self._lease,
            exclusive=self._sink.lock,
            holds=self._holds.all,
            prove=self._evidence.proof,
            restored=records.load_restored,
        )
        self.rotation_driver = RotationDriver(state, self.rotations, self._lease)
        self.clusters = Clusters(state, self.authorizer, self._tokens, self._lease, self._trust.look)
        self._lost_hosts = LostHosts(backend, clock, state.cluster, state.tell, self._lease)
        certificates = Certificates(state, self.authorizer)
        trackers, control = SessionTrackers(state, self.authorizer, claims), SessionControl(state)
        agentless = Agentless(state, self.authorizer)
        self._handlers: Mapping[str, Any] = {
            routes.CLUSTER_CA.name: self.cluster_api.ca,
            routes.JOIN.name: self._joining.join,
            routes.STATUS.name: self.cluster_api.status,
            routes.WHO_AM_I.name: self.cluster_api.who_am_i,
            routes.WATCH.name: presence.watch,
            routes.HEARTBEAT.name: presence.heartbeat,
            routes.WITHDRAW.name: presence.withdraw,
            routes.RENEW_HOST.name: renewals.limited(self._joining.renew),
            routes.RENEW_USER.name: renewals.renew,
            routes.LIST_CERTS.name: certificates.page,
            routes.REVOKE_CERT.name: certificates.revoke,
            routes.REVOCATION_LIST.name: Revocations(state, self.authorizer).revocation_list,
            routes.SESSION_CHALLENGE.name: session_certs.challenge,
            routes.SESSION_CERT.name: session_certs.session_cert,
            routes.LEASE_CHALLENGE.name: mfa_leases.challenge,
            routes.LEASE_APPROVAL.name: mfa_leases.approval,
            routes.APPROVE_LEASE.name: mfa_leases.approve,
            routes.MFA_LEASE.name: mfa_leases.lease,
            routes.SIGN_USER.name: self.cluster_api.sign_user,
            routes.SIGN_HOST.name: self.cluster_api.sign_host,
            routes.SIGN_SERVER.name: self.cluster_api.sign_server,
            routes.REGISTER_OPENSSH.name: agentless.register,
            routes.OPENSSH_NAME.name: agentless.name,
            routes.SIGN_OPENSSH.name: agentless.sign,
            routes.ROTATE.name: self.rotations.rotate,
            routes.ROTATION_PROGRESS.name: self.rotations.progress,
            routes.ROTATION_PLAN.name: RotationPlans(state, self.rotations).plan,
            routes.LOGIN.name: logins.login,
            routes.LOGIN_CHALLENGE.name: logins.challenge,
            routes.PASSKEY_CHALLENGE.name: logins.passkey_challenge,
            routes.BEGIN_BROWSER_LOGIN.name: browser_logins.begin,
            routes.BROWSER_LOGIN.name: browser_logins.show,
            routes.FINISH_BROWSER_LOGIN.name: browser_logins.finish,
            routes.COLLECT_BROWSER_LOGIN.name: browser_logins.collect,
            routes.USER_TOKEN.name: user_tokens.info,
            routes.FINISH_USER_TOKEN.name: user_tokens.finish,
            routes.USER_TOKEN_CHALLENGE.name: user_tokens.challenge,
            routes.FACTOR_CHALLENGE.name: devices.challenge,
            routes.OWN_FACTORS.name: devices.ls,
            routes.BEGIN_FACTOR.name: devices.begin,
            routes.FINISH_FACTOR.name: devices.finish,
            routes.REMOVE_FACTOR.name: devices.remove,
            routes.BEGIN_WEB_SESSION.name: web_sessions.begin,
            routes.USE_WEB_SESSION.name: web_sessions.use,
            routes.END_WEB_SESSION.name: web_sessions.end,
            routes.OWN_WEB_SESSIONS.name: web_sessions.own,
            routes.END_OWN_WEB_SESSIONS.name: web_sessions.end_own,
            routes.CHANGE_PASSWORD.name: OwnPasswords(state, devices, logins).change,
            routes.FIND_NODES.name: NodePages(state, self.authorizer, tunnels).find,
            routes.FIND_KUBE_CLUSTERS.name: KubeClusterPages(state, self.authorizer).find,
            routes.LOST_TUNNELS.name: tunnels.say,
            routes.FIND_USERS.name: UserPages(state, self.authorizer).find,
            routes.ADD_USER.name: user_tokens.add_user,
            routes.CHECK_REMOVAL.name: inventory.check_removal,
            routes.UPDATE_USER.name: inventory.update_user,
            routes.RESET_USER.name: user_tokens.reset_user,
            routes.UNLOCK_USER.name: user_tokens.unlock_user,
            routes.ADD_TOKEN.name: self._add_token,
            routes.DIFF_ACCESS.name: AccessDiffs(state, self.authorizer).diff,
            routes.EXPLAIN_ACCESS.name: Explaining(state, self.authorizer).explain,
            routes.INTAKE.name: self._evidence.intake,
            routes.SEARCH_EVENTS.name: self._evidence.search,
            routes.TAIL_EVENTS.name: Tailing(config.audit_directory, self._durable, self.waiting).tail,
            routes.COUNT_EVENTS.name: self._evidence.count,
            routes.VERIFY_EVENTS.name: self._evidence.verify,
            routes.LIST_RECORDINGS.name: self._evidence.page,
            routes.READ_RECORDING.name: self._evidence.read,
            routes.SEARCH_RECORDINGS.name: recorded.search,
            routes.VERIFY_RECORDINGS.name: recorded.verify,
            routes.RECORDING_OFFSET.name: self._evidence.offset,
            routes.APPEND_RECORDING.name: self._evidence.append,
            routes.COMPLETE_RECORDING.name: self._evidence.complete,
            routes.TRACK_SESSIONS.name: trackers.track,
            routes.RUNNING_SESSIONS.name: trackers.running,
            routes.HOLD_CONNECTION.name: control.hold,
            routes.RENEW_CONNECTIONS.name: control.renew,
            routes.RELEASE_CONNECTIONS.name: control.release,
            routes.CREATE_BACKUP.name: Backups(
                state, self._intake, emitter, self._recordings, config.audit_directory, config.node_name
            ).create,
            **inventory.handlers(),
            **self.clusters.handlers(),
            **self._holds.handlers(),
            **WebCertificates(state).handlers(),
            **Settings(state, self.authorizer).handlers(),
        }

    @classmethod
    async def open(
        cls,
        config: AuthConfig,
        backend: Backend,
        clock: Clock,
        open_emitter: Callable[[str], Emitter],
        *,
        keys: AuthorityKeys | None = None,
    ) -> AuthService:
        """Makes the cluster on the first start, finds it on later ones.

        `open_emitter` gets the cluster's name; `keys` says where private keys of authorities are, unless they are in
        the storage. Raises `TeleportError` when the file names another cluster than the one that the storage holds.
        """
        pumps: list[OutboxPump] = []

        def on_events() -> None:
            for pump in pumps:
                pump.kick()

        try:
            state = await _found_or_made(config, backend, clock, on_events, keys)
        except MadeElsewhere:
            state = await _found_or_made(config, backend, clock, on_events, keys)
        if config.shared_storage:
            shared = config.recordings_directory if config.recordings_s3 is None else None
            await one_place(backend, config.audit_directory, shared)
        sink = await asyncio.to_thread(  # it may have to wait for another process that writes
            FileSink, config.audit_directory, config.host_id, clock, shared=config.shared_storage
        )
        try:
            service = cls(config, backend, clock, open_emitter(state.cluster), state, sink)
        except BaseException:
            sink.close()
            raise
        pumps.append(service._pump)
        try:
            await service._trust.look()
            await service._intake.start()
            await service.copies.begin()
            await service.rotations.followers.start()
        except BaseException:
            service.abandon()
            raise
        return service

    @property
    def recordings_problem(self) -> str:
        """Why recordings are not where the configuration wants them; empty when they are."""
        return self._place.problem

    @property
    def brings_to_s3(self) -> bool:
        """Whether recordings go to S3."""
        return self._config.recordings_s3 is not None

    def problems(self) -> Mapping[str, Callable[[], str]]:
        """Parts that can have trouble while the API is served, each with what says why; empty when it has none."""
        return {
            "recordings": lambda: self._place.problem,
            "audit intake": lambda: self._pump.problem or self.shipper.problem or self._held_up(),
            "audit checkpoints": lambda: self._checkpointer.problem if self._checkpointer is not None else "",
            "copies of audit events": lambda: self.copies.problem,
        }

    def _held_up(self) -> str:
        held = self.waiting.lock.held_up()
        return str(held) if held is not None else ""

    def abandon(self) -> None:
        """Closes what a service that will not run, or runs no more, has opened."""
        self._recordings.close()
        self._sink.close()

    async def run(self, listener: socket.socket, context: MutualServer, started: Callable[[], None]) -> None:
        """Serves the API until cancelled; calls `started` once connections are taken."""
        edge = self.edge
        app = build_app(self._handlers, self.authorizer.identify, self.authorizer.authorize, self._denied, edge.endless)
        runner = edge.runner(app, handler_cancellation=True, shutdown_timeout=2)
        await runner.setup()
        checkpointer = self._checkpointer = Checkpointer(
            self._intake,
            self._emitter,
            self._records,
            signer(await self._records.checkpoint_key()),
            self._lease,
            self._clock,
            cluster=self.state.cluster,
            exclusive=self._sink.lock,
        )
        try:
            async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump.run(), name="audit outbox")
                tasks.create_task(self.shipper.run(), name="audit delivery")
                tasks.create_task(self.copies.run(), name="copies of audit events")
                tasks.create_task(self._pruner.run(), name="pruning of audit events")
                tasks.create_task(self._recording_pruner.run(), name="pruning of recordings")
                tasks.create_task(checkpointer.run(), name="audit checkpoints")
                tasks.create_task(self._lost_hosts.run(), name="lost hosts")
                tasks.create_task(self._presence.run(), name="presence")
                tasks.create_task(self._indexer.run(), name="searchable recordings")
                tasks.create_task(self._place.run(), name="recordings to S3")
                tasks.create_task(self.state.uses.run(), name="last use of certificates")
                tasks.create_task(self._trust.run(context), name="authorities")
                tasks.create_task(self.rotation_driver.run(), name="rotation")
                tasks.create_task(self.clusters.driver.run(), name="other clusters")
                await stack.enter_async_context(edge.serve(runner, listener, context))
                started()
        finally:
            await runner.cleanup()
            await self._settle()

    async def believe_now(self) -> None:
        """The listener and the check of recordings believe what the authorities say now."""
        await self._trust.look()

    async def _settle(self) -> None:
        """What is told of must reach the store while this process can still bring it there."""
        try:
            await self._pump.pump()
            await self.shipper.deliver_all()
            await self._intake.close()
            await self.copies.finish()
            await self._evidence.close()
            await self._lease.release()
            await self.state.uses.write()
        except (TeleportError, OSError) as error:
            log.warning("audit events wait for the next start: %s", error)
        await self._place.close()
        self.abandon()

    async def _say_pruned(self, said: Said) -> None:
        await self.state.tell(self.state.event(AuditPrune, **said.fields))

    async def _durable(self) -> Mapping[str, str]:
        return await self._records.durable(self._config.host_id, shared=self._config.shared_storage)

    async def _in_store(self, uids: set[str]) -> set[str]:
        from datetime import timedelta

        return await self._evidence.searcher.find_uids(uids, self._clock.now() - timedelta(days=2))

    async def _add_token(self, caller: Caller, request: m.AddTokenRequest) -> m.JoinToken:
        roles = [role.strip().lower() for role in request.roles]
        facts = {"resource": {"metadata": {"labels": dict(request.labels)}, "spec": {"roles": roles}}}
        await self.authorizer.require(caller, Verb.CREATE, Kind.TOKEN, facts, reveals=True)
        return await self._tokens.add(
            caller,
            request,
            await self.cluster_api.pins(),
            await self.cluster_api.auth_addresses(),
            await self.cluster_api.web_addresses(),
        )

    async def _denied(self, caller: Caller, route: Route[Any, Any], denied: AccessDenied) -> None:
        """A refusal is on record before it is answered; what is only noise is left out."""
        told = route.name in _AUDITED_BY_HANDLER and not isinstance(denied, Denied)  # refused before its handler: not
        if isinstance(caller.identity, Anonymous) or told:
            return
        reasons = "; ".join(denied.denial.reasons) if isinstance(denied, Denied) else denied.message
        host = caller.identity.host_id if isinstance(caller.identity, HostIdentity) else ""
        await self.state.tell(
            self.state.event(
                ApiDenied,
                caller,
                host_id=host,
                verb=str(route.verb),
                kind=route.kind,
                route=route.name,
                addr=caller.address,
                error=reasons,
            )
        )

    # what the daemon asks when it holds auth itself

    async def local_host(
        self, host_id: str, node_name: str, role: SystemRole, names: Sequence[str], ssh_key: str, tls_key: str
    ) -> m.HostCredentials:
        """Certificates for a service in the same daemon."""
        return await self._joining.local_host(host_id, node_name, role, names, ssh_key, tls_key)

    async def has_role(self, host_id: str, role: SystemRole) -> bool:
        """Whether a host has not been expelled in `role` since it got its certificates."""
        found = await self.state.record(HOSTS + host_id, HostRecord)
        return found is not None and str(role) in found[0].roles

    async def revoked(self, serial: str) -> bool:
        """Whether a lock ended the certificate with this serial number."""
        locks = await self.authorizer.locks()
        return find_lock(locks, Locked(serial=serial), self._clock.now()) is not None

    async def signs_for_hosts(self, signer: bytes) -> bool:
        """Whether certificates that this SSH key (blob) signed are those of a host."""
        return any(signer == key.blob for one in self._trust.host_authorities() for key in one.keys)

    async def has_users(self) -> bool:
        """Whether anybody could log in: on the very first start nobody can."""
        return bool(await self.state.backend.range(USERS, limit=1))

    async def client_authorities(self) -> list[str]:
        """PEM of every authority whose client certificates get through the API's handshake (`trusting`)."""
        return await self._trust.client_authorities()


async def _found_or_made(
    config: AuthConfig, backend: Backend, clock: Clock, on_events: Callable[[], None], keys: AuthorityKeys | None
) -> ClusterState:
    """The cluster that the storage holds, made when it holds none. Raises `MadeElsewhere` when another auth server
    made it meanwhile."""
    stored = await stored_cluster_name(backend)
    given = _given(config, stored)
    wanted = config.cluster_name or stored or (given.cluster if given is not None else "") or config.node_name
    if stored is not None and stored != wanted:
        raise TeleportError(
            f"the storage holds the cluster {stored!r}, the configuration names {wanted!r}: certificates carry the "
            "name, so it cannot change",
            hint=f"set auth_service.cluster_name to {stored!r}, or start with an empty data_dir",
        )
    state = ClusterState(backend, clock, wanted, on_events=on_events, keys=keys)
    await bootstrap(state, config.settings, given)
    return state


def _given(config: AuthConfig, stored: str | None) -> Given | None:
    """What `--bootstrap` gives to a new cluster. Raises `TeleportError` when that is another cluster's."""
    if config.bootstrap is None:
        return None
    from teleport.auth.cluster.from_file import given

    if stored is not None:
        log.warning("--bootstrap is ignored: the storage holds the cluster %s already", stored)
        return None
    found = given(config.bootstrap())
    if config.cluster_name and found.cluster and found.cluster != config.cluster_name:
        raise TeleportError(
            f"the file is of the cluster {found.cluster!r}, the configuration names {config.cluster_name!r}: "
            "certificates carry the name, so it cannot change",
            hint=f"set auth_service.cluster_name to {found.cluster!r}, or leave the authorities out of the file",
        )
    return found


# These write their own event of a refusal, with more to say, or would tell of every wrong password twice.
_AUDITED_BY_HANDLER = frozenset(
    {
        routes.JOIN.name,
        routes.VALIDATE_CLUSTER.name,
        routes.EXCHANGE_AUTHORITIES.name,
        routes.LOGIN.name,
        routes.FINISH_BROWSER_LOGIN.name,
        routes.FINISH_USER_TOKEN.name,
    }
)

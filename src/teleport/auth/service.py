"""The auth service put together: state, handlers, evidence (`evidence.assembled`), and the listener on 3025.

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
from typing import Any

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.emitter import Emitter
from teleport.audit.outbox import OutboxPump
from teleport.audit.sinks import FileSink
from teleport.auth.access.diff import AccessDiffs
from teleport.auth.access.explain import Explaining
from teleport.auth.authorities.driver import RotationDriver
from teleport.auth.authorities.keys import AuthorityKeys
from teleport.auth.authorities.plan import RotationPlans
from teleport.auth.authorities.rotation import Rotations
from teleport.auth.authorities.trusting import LivingTrust
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.certificates.live import Certificates
from teleport.auth.certificates.renewal import Renewals
from teleport.auth.certificates.revocations import Revocations
from teleport.auth.cluster.api import ClusterAPI
from teleport.auth.cluster.backups import Backups
from teleport.auth.cluster.finding import found_or_made
from teleport.auth.cluster.settings import Settings
from teleport.auth.cluster.web_certificates import WebCertificates
from teleport.auth.clusters.assembled import Clusters
from teleport.auth.config import AuthConfig
from teleport.auth.evidence.assembled import AssembledEvidence
from teleport.auth.evidence.shared import one_place
from teleport.auth.evidence.store import Lease
from teleport.auth.factors.checking import Factors
from teleport.auth.factors.leases import MfaLeases
from teleport.auth.factors.one_use import SessionFactor
from teleport.auth.factors.session import SessionSecondFactors
from teleport.auth.hosts.agentless import Agentless
from teleport.auth.hosts.announcing import Announcing
from teleport.auth.hosts.joining import Joining
from teleport.auth.hosts.naming import Names
from teleport.auth.hosts.presence import Presence
from teleport.auth.hosts.tokens import Tokens
from teleport.auth.hosts.tunnels_lost import TunnelsLost
from teleport.auth.people.browser import BrowserLogins
from teleport.auth.people.devices import Devices
from teleport.auth.people.invitations import UserTokens
from teleport.auth.people.logins import Logins
from teleport.auth.people.own_password import OwnPasswords
from teleport.auth.people.web_sessions import WebSessions
from teleport.auth.refusals import Refusals
from teleport.auth.resources.inventory import Inventory
from teleport.auth.resources.kube_pages import KubeClusterPages
from teleport.auth.resources.node_pages import NodePages
from teleport.auth.resources.user_pages import UserPages
from teleport.auth.server import build_app
from teleport.auth.sessions.claims import Claims
from teleport.auth.sessions.control import SessionControl
from teleport.auth.sessions.opened import LostHosts
from teleport.auth.sessions.trackers import SessionTrackers
from teleport.auth.state import ClusterState
from teleport.auth.vouched import Vouched
from teleport.authz.locks import Locked, find_lock
from teleport.backend.interface import Backend
from teleport.clock import Clock
from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.recording.trust import signature_check
from teleport.resources.kinds import Kind, Verb
from teleport.store.records import HOSTS, USERS, HostRecord
from teleport.transport.http_listener import HTTPListener
from teleport.transport.tls import MutualServer

log = logging.getLogger(__name__)


SILENT = 1000  # connections without a request: a proxy speaks for many hosts, which may all come at once


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
        claims = Claims(backend, state.clock)
        self._trust = LivingTrust(state)
        check = signature_check(self._trust.host_authorities, self._trust.former_host_authorities)
        self._tokens = Tokens(state, config.static_tokens)
        names = Names(state)
        self._joining = Joining(state, self._tokens, names)
        self.authorizer = Authorizer(state, self._joining, lambda: str(uuid.uuid4()))
        self._lease = Lease(backend, clock, f"{config.host_id}/{emitter.key.epoch}")
        self.evidence = AssembledEvidence(
            config, backend, clock, emitter, state, sink, self.authorizer, claims, check, self._lease
        )
        evidence = self.evidence.api
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
        presence = self._presence = Presence(state, self.authorizer)
        announcing = Announcing(state, self.authorizer, self._joining, names, tunnels, presence.tidy_soon)
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
            routes.HEARTBEAT.name: announcing.heartbeat,
            routes.WITHDRAW.name: announcing.withdraw,
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
            routes.INTAKE.name: evidence.intake,
            routes.SEARCH_EVENTS.name: evidence.search,
            routes.TAIL_EVENTS.name: self.evidence.tailing.tail,
            routes.COUNT_EVENTS.name: evidence.count,
            routes.VERIFY_EVENTS.name: evidence.verify,
            routes.LIST_RECORDINGS.name: evidence.page,
            routes.READ_RECORDING.name: evidence.read,
            routes.SEARCH_RECORDINGS.name: self.evidence.recorded.search,
            routes.VERIFY_RECORDINGS.name: self.evidence.recorded.verify,
            routes.RECORDING_OFFSET.name: evidence.offset,
            routes.APPEND_RECORDING.name: evidence.append,
            routes.COMPLETE_RECORDING.name: evidence.complete,
            routes.TRACK_SESSIONS.name: trackers.track,
            routes.RUNNING_SESSIONS.name: trackers.running,
            routes.HOLD_CONNECTION.name: control.hold,
            routes.RENEW_CONNECTIONS.name: control.renew,
            routes.RELEASE_CONNECTIONS.name: control.release,
            routes.CREATE_BACKUP.name: Backups(
                state, self.evidence.intake, emitter, self.evidence.recordings, config.audit_directory, config.node_name
            ).create,
            **inventory.handlers(),
            **self.clusters.handlers(),
            **self.evidence.holds.handlers(),
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

        state = await found_or_made(config, backend, clock, on_events, keys)
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
        pumps.append(service.evidence.pump)
        try:
            await service._trust.look()
            await service.evidence.begin()
            await service.rotations.followers.start()
        except BaseException:
            service.abandon()
            raise
        return service

    @property
    def recordings_problem(self) -> str:
        """Why recordings are not where the configuration wants them; empty when they are."""
        return self.evidence.place.problem

    @property
    def brings_to_s3(self) -> bool:
        """Whether recordings go to S3."""
        return self._config.recordings_s3 is not None

    def problems(self) -> Mapping[str, Callable[[], str]]:
        """Parts that can have trouble while the API is served, each with what says why; empty when it has none."""
        return self.evidence.problems()

    def abandon(self) -> None:
        """Closes what a service that will not run, or runs no more, has opened."""
        self.evidence.abandon()

    async def run(self, listener: socket.socket, context: MutualServer, started: Callable[[], None]) -> None:
        """Serves the API until cancelled; calls `started` once connections are taken."""
        edge, refused = self.edge, Refusals(self.state)
        app = build_app(self._handlers, self.authorizer.identify, self.authorizer.authorize, refused.tell, edge.endless)
        runner = edge.runner(app, handler_cancellation=True, shutdown_timeout=2)
        await runner.setup()
        checkpointer = await self.evidence.make_checkpointer()
        try:
            async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
                self.evidence.start(tasks, checkpointer)
                tasks.create_task(self._lost_hosts.run(), name="lost hosts")
                tasks.create_task(self._presence.run(), name="presence")
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
            await self.evidence.settle()
            await self._lease.release()
            await self.state.uses.write()
        except (TeleportError, OSError) as error:
            log.warning("audit events wait for the next start: %s", error)
        await self.evidence.place.close()
        self.abandon()

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

"""Which sessions run now, and what callers may know of them.

Nodes tell of their sessions in terminals: all of one process at once, under its host and epoch, every half minute and
when something changes; what is not renewed is forgotten. Sessions of other sorts are known from their events
(`opened`). A caller sees sessions of their own, those that they may join (`authz.joining`), and those that a
rule on `session` lets them list; of the rest nothing, not even how many there are (threat T34). Ids open nothing: the
node decides about joining itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer
from teleport.auth.server import Caller
from teleport.auth.sessions.claims import Claims
from teleport.auth.sessions.opened import OpenSession, hosts_of, open_sessions
from teleport.auth.state import ClusterState
from teleport.authz import joining
from teleport.authz.decision import Policy
from teleport.authz.joining import is_own, join_rights
from teleport.backend.interface import DeleteOp, PutOp, Write
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.recording.format import canonical_uuid
from teleport.resources.codec import from_json
from teleport.resources.joining import JoinMode
from teleport.resources.kinds import Kind, Verb
from teleport.resources.server import Server
from teleport.store import records
from teleport.store.records import SESSION_TRACKERS, TrackerRecord

log = logging.getLogger(__name__)

KEPT: Final = timedelta(seconds=100)
MOST: Final = 2000  # sessions of one process
_LONGEST: Final = 512  # characters of any text


class SessionTrackers:
    """The handlers of the routes about running sessions."""

    def __init__(self, state: ClusterState, authorizer: Authorizer, claims: Claims | None = None) -> None:
        self._state = state
        self._authorizer = authorizer
        self._claims = claims or Claims(state.backend, state.clock)

    async def track(self, caller: Caller, request: m.TrackSessionsRequest) -> m.Done:
        """Takes what a node tells of its own sessions."""
        identity = caller.identity
        if not isinstance(identity, HostIdentity) or identity.role is not SystemRole.NODE:
            raise AccessDenied("only nodes tell of their sessions")
        _check(request)
        key = f"{SESSION_TRACKERS}{identity.host_id}/{request.epoch}"
        write: Write = DeleteOp(key, missing_ok=True)
        if request.sessions:
            record = TrackerRecord(host_id=identity.host_id, sessions=list(request.sessions))
            write = PutOp(key, record.encode(), self._state.clock.now() + KEPT)
        async with self._claims.lock:
            disputed = await self._claims.disputed(identity.host_id, [told.sid for told in request.sessions])
            await self._state.commit([write, *disputed], events=[])
        if disputed:
            self._claims.on_event()
        return m.Done()

    async def running(self, caller: Caller, request: m.Empty) -> m.RunningSessions:
        """The sessions that the caller may join or see."""
        if not isinstance(caller.identity, UserIdentity):
            await self._authorizer.require(caller, Verb.LIST, Kind.SESSION)
        found = await self._all()
        nodes = await self._nodes({one.host_id for one, _ in found})
        seen = await self._seen(caller, found)
        modes = await self._modes(caller, found, nodes)
        identity = caller.identity
        shown = []
        for (one, about), may, given in zip(found, seen, modes, strict=True):
            own = isinstance(identity, UserIdentity) and is_own(identity, about)
            if may or own or given:
                node = nodes.get(one.host_id)
                name = node.hostname if node is not None else one.hostname
                shown.append(msgspec.structs.replace(one, hostname=name, modes=sorted(given)))
        return m.RunningSessions(sessions=sorted(shown, key=lambda one: (one.started, one.sid)))

    async def _all(self) -> list[tuple[m.RunningSession, joining.RunningSession]]:
        """Those that began on record, and those that one host tells of before its events have arrived.

        A session is the host's that told of its start, also after its end; of each host's, when several told of one.
        Of an id without a start that several hosts claim none is believed: it is told again when the start has come.
        """
        now = self._state.clock.now()
        found: dict[tuple[str, str], tuple[m.RunningSession, joining.RunningSession]] = {}
        for opened in await open_sessions(self._state):
            found[opened.sid, opened.host_id] = (
                _of_event(opened),
                self._about(opened.sid, opened.user, opened.login, (), opened.interactive),
            )
        claims: dict[str, list[tuple[str, m.TrackedSession]]] = {}
        for item in await self._state.backend.range(SESSION_TRACKERS):
            if item.expires is not None and item.expires <= now:
                continue
            record = msgspec.json.decode(item.value, type=TrackerRecord)
            for told in record.sessions:
                claims.setdefault(told.sid, []).append((record.host_id, told))
        for sid, claimed in claims.items():
            hosts = {host_id for host_id, _ in claimed}
            owners = await hosts_of(self._state.backend, sid)
            if not owners and len(hosts) > 1:
                log.warning("hosts %s all claim session %s", " and ".join(sorted(hosts)), sid)
                continue
            for host_id, told in claimed:
                if not owners or host_id in owners:  # ids are known to more than the session's own host
                    about = self._about(told.sid, told.user, told.login, tuple(told.roles), True)
                    found[sid, host_id] = (_of_tracker(told, host_id), about)
        return list(found.values())

    def _about(
        self, sid: str, user: str, login: str, roles: tuple[str, ...], interactive: bool
    ) -> joining.RunningSession:
        cluster = self._state.cluster
        return joining.RunningSession(
            sid=sid, cluster=cluster, user=user, user_cluster=cluster, login=login, roles=roles, interactive=interactive
        )

    async def _nodes(self, wanted: set[str]) -> Mapping[str, Server]:
        found = {}
        for host_id in wanted:
            item = await self._state.backend.get(records.NODES + host_id)
            server = from_json(item.value) if item is not None else None
            if isinstance(server, Server):
                found[host_id] = server
        return found

    async def _seen(
        self, caller: Caller, found: Sequence[tuple[m.RunningSession, joining.RunningSession]]
    ) -> list[bool]:
        """Which of them a rule on `session` lets the caller list."""
        facts = []
        for one, _ in found:
            there = list(dict.fromkeys([one.user, *(party.user for party in one.parties)]))
            facts.append({"session": {"participants": there, "sid": one.sid, "login": one.login}})
        return await self._authorizer.decide_each(caller, Verb.LIST, Kind.SESSION, facts)

    async def _modes(
        self,
        caller: Caller,
        found: Sequence[tuple[m.RunningSession, joining.RunningSession]],
        nodes: Mapping[str, Server],
    ) -> list[set[JoinMode]]:
        """How the caller may join each: what its rules say, on nodes that it may enter with the session's login.

        Whether a second factor is due, and whether it may have a shell there, the node decides.
        """
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return [set() for _ in found]
        policy: Policy = await self._authorizer.policy(identity)
        servers = list(nodes.values())
        logins = dict(zip(nodes, await self._authorizer.logins_on(caller, servers), strict=True))
        modes: list[set[JoinMode]] = []
        for one, about in found:
            may = one.login in logins.get(one.host_id, ())
            modes.append(set(join_rights(identity, about, policy).modes) if may else set())
        return modes


def _of_event(opened: OpenSession) -> m.RunningSession:
    return m.RunningSession(
        sid=opened.sid,
        user=opened.user,
        login=opened.login,
        host_id=opened.host_id,
        hostname=opened.hostname,
        started=opened.started,
        state="running",
        interactive=opened.interactive,
        command=" ".join(opened.command),
        parties=[m.SessionPartyInfo(user=opened.user, mode=str(JoinMode.PEER))],
    )


def _of_tracker(told: m.TrackedSession, host_id: str) -> m.RunningSession:
    return m.RunningSession(
        sid=told.sid,
        user=told.user,
        login=told.login,
        host_id=host_id,
        hostname="",
        started=told.started,
        state=told.state,
        command=told.command,
        parties=list(told.parties),
        missing=told.missing,
    )


def _check(request: m.TrackSessionsRequest) -> None:
    """Raises `BadRequest` for what no node of ours tells."""
    if not request.epoch.isascii() or not request.epoch.isdecimal() or len(request.epoch) > 20:
        raise BadRequest("an epoch is a number")
    if len(request.sessions) > MOST:
        raise BadRequest(f"one process tells of {MOST} sessions at most")
    for told in request.sessions:
        canonical_uuid(told.sid)
        texts = [told.user, told.login, told.state, told.missing, told.command, *told.roles]
        texts += [text for party in told.parties for text in (party.user, party.mode)]
        if len(texts) > 500 or any(len(text) > _LONGEST for text in texts):
            raise BadRequest("what is told of a session is too long")

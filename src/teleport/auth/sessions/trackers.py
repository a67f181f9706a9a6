"""Which sessions run now, and what callers may know of them.

Nodes tell of their sessions in terminals, proxies of those in pods that they lead into: all of one process at once,
under its host and epoch, every half minute and when something changes; what is not renewed is forgotten. Sessions of
other sorts are known from their events (`opened`). A caller sees sessions of their own, those that they may join
(`authz.joining`), and those that a rule on `session` lets them list; of the rest nothing, not even how many there are
(threat T34). Ids open nothing: the node, or the proxy, decides about joining itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import msgspec

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.hosts.succession import server_of
from teleport.auth.sessions.claims import Claims, claimants_of
from teleport.auth.sessions.opened import OpenSession, open_sessions
from teleport.auth.state import ClusterState
from teleport.authz import joining
from teleport.authz.decision import AccessDenial, Policy
from teleport.authz.joining import is_own, join_rights
from teleport.authz.kube import KubeAccessPermit, KubeAccessRequest, evaluate_kube_access, is_due, is_open
from teleport.authz.kube_resources import KubeCall
from teleport.backend.interface import DeleteOp, PutOp
from teleport.errors import AccessDenied, BadRequest, LimitExceeded
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.recording.format import canonical_uuid
from teleport.resources.joining import KUBERNETES, SSH, JoinMode
from teleport.resources.kinds import Kind, Verb
from teleport.resources.lock import Lock
from teleport.resources.server import Server
from teleport.store import records
from teleport.store.records import SESSION_TRACKERS, TrackerRecord
from teleport.wire.pod_sessions import name_of

KEPT: Final = timedelta(seconds=100)
MOST: Final = 2000  # sessions of one process
EPOCHS: Final = 4  # processes of one host that tell at a time: two while one takes over from the other, seldom three
LOOK_EVERY: Final = 25.0  # seconds after which it is looked anew who else told of sessions that are known
_LONGEST: Final = 512  # characters of any text
_IN_PODS: Final = "pods-"  # before the epoch of a proxy, whose host may run a node, too
_YEARS: Final = (1980, 9000)  # in which sessions can begin: others have no place in every zone


@dataclass(slots=True)
class _Turn:
    """The reports of one host, one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0  # with the one that is being taken
    looked: dict[str, float] = field(default_factory=dict)  # key: monotonic seconds


@dataclass(frozen=True, slots=True)
class _Known:
    """A session, as it is told of, and as joining it is decided."""

    told: m.RunningSession
    about: joining.RunningSession
    place: m.PodPlace | None = None  # of one that somebody tells of now


class SessionTrackers:
    """The handlers of the routes about running sessions."""

    def __init__(self, state: ClusterState, authorizer: Authorizer, claims: Claims | None = None) -> None:
        self._state = state
        self._authorizer = authorizer
        self._claims = claims or Claims(state.backend, state.clock)
        self._turns: dict[str, _Turn] = {}  # by where it is kept

    async def track(self, caller: Caller, request: m.TrackSessionsRequest) -> m.Done:
        """Takes what a node tells of its own sessions, a proxy of those in pods."""
        identity = caller.identity
        if not isinstance(identity, HostIdentity) or identity.role not in (SystemRole.NODE, SystemRole.PROXY):
            raise AccessDenied("only nodes and proxies tell of their sessions")
        in_pods, host = identity.role is SystemRole.PROXY, identity.host_id
        if any((told.place is not None) is not in_pods for told in request.sessions):
            raise BadRequest("nodes tell of sessions on themselves, proxies of those in pods")
        kept = f"{SESSION_TRACKERS}{host}/{_IN_PODS if in_pods else ''}"
        turn = self._turns.setdefault(kept, _Turn())
        if turn.waiting >= EPOCHS:
            raise LimitExceeded(
                f"{turn.waiting} reports of the sessions of host {host} are being taken already",
                hint="tell of them again when these are answered",
                retry_after=1.0,
            )
        turn.waiting += 1
        try:
            async with turn.lock:  # what one host tells costs the others no more than one report at a time
                await self._take(host, kept, request, turn)
        finally:
            turn.waiting -= 1
            if not turn.waiting and not turn.looked:
                self._turns.pop(kept, None)
        return m.Done()

    async def _take(self, host: str, own: str, request: m.TrackSessionsRequest, turn: _Turn) -> None:
        _check(request)
        now = self._state.clock.now()
        known = {
            item.key: item
            for item in await self._state.backend.range(own)
            if item.live(now) and item.key.removeprefix(own).isdecimal()
        }
        turn.looked = {key: at for key, at in turn.looked.items() if key in known}
        key = own + request.epoch
        if not request.sessions:
            turn.looked.pop(key, None)
            await self._state.commit([DeleteOp(key, missing_ok=True)], events=[])
            return
        if key not in known and len(known) >= EPOCHS:
            raise LimitExceeded(
                f"{len(known)} processes of host {host} tell of running sessions already",
                hint=f"what is not told again is forgotten after {KEPT.total_seconds():.0f} s; then try again",
                retry_after=KEPT.total_seconds(),
            )
        record = TrackerRecord(host_id=host, sessions=list(request.sessions))
        await self._state.commit([PutOp(key, record.encode(), now + KEPT)], events=[])
        sids = {told.sid for told in request.sessions}
        looked, at = turn.looked.get(key), self._state.clock.monotonic()
        if looked is not None and key in known and at - looked < LOOK_EVERY:
            former = msgspec.json.decode(known[key].value, type=TrackerRecord)
            sids -= {told.sid for told in former.sessions}
        else:  # of ids that are known for longer others may have told since
            turn.looked[key] = at
        await self._claims.note_running(host, sids)

    async def running(self, caller: Caller, request: m.Empty) -> m.RunningSessions:
        """The sessions that the caller may join or see."""
        if not isinstance(caller.identity, UserIdentity):
            await self._authorizer.require(caller, Verb.LIST, Kind.SESSION)
        found = await self._all()
        nodes = await self._nodes({known.told.host_id for known in found})
        seen = await self._seen(caller, found)
        modes = await self._modes(caller, found, nodes)
        identity = caller.identity
        shown = []
        for known, may, (given, due) in zip(found, seen, modes, strict=True):
            one = known.told
            own = isinstance(identity, UserIdentity) and is_own(identity, known.about)
            if may or own or given:
                node = nodes.get(one.host_id)
                # the host of a session in a pod is a proxy, whatever else runs there
                name = node.hostname if node is not None and one.kind == SSH else one.hostname
                shown.append(msgspec.structs.replace(one, hostname=name, modes=sorted(given), needs_factor=due))
        claimed = await claimants_of(self._state.backend, {one.sid for one in shown})
        shown = [
            msgspec.structs.replace(one, disputed=True) if set(claimed.get(one.sid, ())) - {one.host_id} else one
            for one in shown
        ]
        return m.RunningSessions(sessions=sorted(shown, key=lambda one: (one.started, one.sid)))

    async def _all(self) -> list[_Known]:
        """Those that began on record, and those that hosts tell of: each host's, when several told of one id.

        Whose an id is nobody can know: a host in strange hands tells what it likes, and earlier. So no host's word
        takes another's off the list.
        """
        now = self._state.clock.now()
        found: dict[tuple[str, str], _Known] = {}
        for opened in await open_sessions(self._state):
            pod = opened.pod is not None
            about = self._about(opened.sid, opened.user, opened.login, (), opened.interactive, pod=pod)
            found[opened.sid, opened.host_id] = _Known(_of_event(opened), about)
        for item in await self._state.backend.range(SESSION_TRACKERS):
            if not item.live(now):
                continue
            record = msgspec.json.decode(item.value, type=TrackerRecord)
            for told in record.sessions:
                pod = told.place is not None
                about = self._about(told.sid, told.user, told.login, tuple(told.roles), True, pod=pod)
                found[told.sid, record.host_id] = _Known(_of_tracker(told, record.host_id), about, told.place)
        return list(found.values())

    def _about(
        self, sid: str, user: str, login: str, roles: tuple[str, ...], interactive: bool, *, pod: bool
    ) -> joining.RunningSession:
        cluster = self._state.cluster
        return joining.RunningSession(
            sid=sid,
            cluster=cluster,
            user=user,
            user_cluster=cluster,
            login=login,
            roles=roles,
            interactive=interactive,
            kind=KUBERNETES if pod else SSH,
        )

    async def _nodes(self, wanted: set[str]) -> Mapping[str, Server]:
        found = {}
        for host_id in wanted:
            server = server_of(await self._state.backend.get(records.NODES + host_id))
            if server is not None:
                found[host_id] = server
        return found

    async def _seen(self, caller: Caller, found: Sequence[_Known]) -> list[bool]:
        """Which of them a rule on `session` lets the caller list."""
        facts = []
        for one in (known.told for known in found):
            there = list(dict.fromkeys([one.user, *(party.user for party in one.parties)]))
            facts.append({"session": {"participants": there, "sid": one.sid, "login": one.login}})
        return await self._authorizer.decide_each(caller, Verb.LIST, Kind.SESSION, facts)

    async def _modes(
        self, caller: Caller, found: Sequence[_Known], nodes: Mapping[str, Server]
    ) -> list[tuple[set[JoinMode], bool]]:
        """How the caller may join each, and whether a second factor is due for that in a pod: what its rules say, on
        nodes that it may enter with the session's login, and in pods where the session's call is one that it may make.

        Whether a second factor is due on a node, and whether it may have a shell there, the node decides.
        """
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return [(set(), False) for _ in found]
        policy: Policy = await self._authorizer.policy(identity)
        servers = list(nodes.values())
        logins = dict(zip(nodes, await self._authorizer.logins_on(caller, servers), strict=True))
        modes: list[tuple[set[JoinMode], bool]] = []
        locks = await self._authorizer.locks()
        for known in found:
            one, about = known.told, known.about
            due = False
            if about.kind == KUBERNETES:
                decision = self._call(identity, caller.host, known.place, policy, locks) if known.place else None
                may, due = decision is not None and is_open(decision), decision is not None and is_due(decision)
            else:
                may = one.login in logins.get(one.host_id, ())
            given = set(join_rights(identity, about, policy).modes) if may else set()
            modes.append((given, due and bool(given)))
        return modes

    def _call(
        self, identity: UserIdentity, address: str, place: m.PodPlace, policy: Policy, locks: Sequence[Lock]
    ) -> KubeAccessPermit | AccessDenial:
        """Whether they may make the call by which a session was begun, leaving out what only its proxy knows."""
        call = KubeCall(place.verb, "", "pods", place.subresource, place.namespace, place.pod)
        request = KubeAccessRequest(
            identity=identity,
            cluster=self._state.cluster,
            now=self._state.clock.now(),
            kube_cluster=place.kube_cluster,
            labels=place.labels,
            client_address=address,
            locks=locks,
            call=call,
            joins=True,
        )
        return evaluate_kube_access(request, policy)


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
        **_in_pod(opened.pod),
        parties=[m.SessionPartyInfo(user=opened.user, mode=str(JoinMode.PEER))],
    )


def _of_tracker(told: m.TrackedSession, host_id: str) -> m.RunningSession:
    place = told.place
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
        **_in_pod((place.kube_cluster, place.namespace, place.pod, place.container) if place is not None else None),
        join_at=name_of(host_id) if place is not None else "",
    )


def _in_pod(pod: tuple[str, str, str, str] | None) -> dict[str, Any]:
    """What is said of a session in a pod besides."""
    if pod is None:
        return {}
    cluster, namespace, name, container = pod
    return {
        "kind": KUBERNETES,
        "kube_cluster": cluster,
        "pod_namespace": namespace,
        "pod": name,
        "container": container,
    }


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
        place = told.place
        if place is not None:
            texts += [place.kube_cluster, place.namespace, place.pod, place.container, place.verb, place.subresource]
            texts += [text for pair in place.labels.items() for text in pair]
        if len(texts) > 500 or any(len(text) > _LONGEST for text in texts):
            raise BadRequest("what is told of a session is too long")
        if not _YEARS[0] <= told.started.year <= _YEARS[1]:
            raise BadRequest(f"a session cannot have begun at {told.started.isoformat()}")

"""One call after another on a client's connection: read, decided, on record, and relayed to the API server.

Rules it keeps:
- Nothing reaches the API server before the decision, and no answer reaches the client before the event is durable.
- While a call that was made is not on record, because events cannot be written, no other one is made.
- Whatever was sent to the API server is on record, also when the client leaves, or is cut off, before the answer.
- The decision is taken for each call, and again while it is open: whatever ends the permit ends the stream.
- What is relayed at all says `admitting`; how a call goes on its way, `relaying`.
- A refusal is a Status that kubectl prints; why exactly is for the record.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from teleport.authz.decision import AccessDenial, DenialCode
from teleport.authz.kube import ActAs, KubeAccessPermit, is_open
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import UserIdentity
from teleport.kube import exec_request, filtering, streams
from teleport.kube.admitting import asked, denied, read, why_not
from teleport.kube.answering import answer, refuse
from teleport.kube.calls import Call
from teleport.kube.exec_session import ExecSession
from teleport.kube.exec_story import Who
from teleport.kube.http import Client, Request
from teleport.kube.needs import Rules, Sessions
from teleport.kube.pings import only_pings
from teleport.kube.refusals import Refused
from teleport.kube.relaying import EndedBefore, Relayed, Way, headers_of
from teleport.kube.services import ServicesOfOne, ServiceWay
from teleport.kube.status import Refusal
from teleport.kube.staying import Counts, Stay
from teleport.kube.telling import Outcome, Tells, to_its_end
from teleport.kube.upstream import Upstream
from teleport.spans import NOTHING, Kind, Span, span
from teleport.ssh.surface import Peer

CLUSTERS: Final = "/v1/teleport/clusters"
"""Answered here, to GET: the Kubernetes clusters that the person may use. No API server has such a path."""
UNRECORDED: Final = Refusal(503, "The call cannot be put on record now, so it is not made.", "try again")
WITHHELD: Final = Refusal(
    503, "The call was made and cannot be put on record now, so its answer is withheld.", "look before you try again"
)
NOT_RECORDED: Final = Refusal(503, "Sessions have to be recorded here, and this one cannot be now.", "try again later")
LOCKED: Final = "an administrator ended it"
NOT_ANY_MORE: Final = Refusal(403, "Your roles do not allow this any more.", "try again")


@dataclass(frozen=True, slots=True)
class _Open:
    """The call that goes on, and what it rests on."""

    upstream: Way
    name: str  # of the cluster, as it was chosen
    act_as: ActAs
    permit: KubeAccessPermit
    call: Call
    request: Request
    recorded: bool  # as a session in a pod
    stay: Stay | None  # of a stream into a pod, where its limits are seen to


class Forwarder:
    """The calls of one connection, whose client proved `certificate` (DER) and is `identity`. That the certificate
    counts is asked anew for each call, so that no connection outlives an authority that is not believed any more."""

    def __init__(
        self,
        certificate: bytes,
        identity: UserIdentity,
        peer: Peer,
        *,
        clusters: Mapping[str, Upstream],
        rules: Rules,
        own_name: str,
        tells: Tells,
        named: str = "",
        services: ServicesOfOne | None = None,
        sessions: Sessions | None = None,
        recorded_before: bool = False,
        counts: Counts | None = None,
        cut: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`named` is the cluster that was chosen, `own_name` the one that is meant first when none was. `services` lead
        to clusters that are not reached from here. `sessions` records those in pods, unless who comes here has them
        recorded (`recorded_before`); without either there are none where they have to be. `counts` sees to the
        limits of streams, unless who comes here does; `cut` ends the connection."""
        self._certificate = certificate
        self._identity = identity
        self._peer = peer
        self._clusters = clusters
        self._rules = rules
        self._own_name = own_name
        self._tells = tells
        self._named = named
        self._services = services
        self._sessions = sessions
        self._recorded_before = recorded_before
        self._counts = counts
        self._cut = cut
        self._session: ExecSession | None = None  # that is recorded here and goes on
        self.cut_by = ""  # why the connection is ended, when it is not the client's doing
        self._open: _Open | None = None
        self._answering = NOTHING

    @property
    def identity(self) -> UserIdentity:
        """Whose calls they are."""
        return self._identity

    @property
    def peer(self) -> Peer:
        """Where that person is."""
        return self._peer

    @property
    def ends(self) -> datetime | None:
        """When the open call ends in any case; None: none is open."""
        return self._open.permit.ends if self._open is not None else None

    def still(self) -> bool:
        """Whether the open call may go on as it is: it is decided anew, and comes to the same."""
        if self._open is None:
            return True
        known = self._open
        try:
            identity = self._rules.verify_user_tls(self._certificate, opened=True)
        except AccessDenied:
            return False
        cluster = known.upstream.now()
        if cluster is None:
            return False
        now = self._rules.permit_kube(identity, cluster, known.name, self._peer.host, known.act_as, known.call.decided)
        if not isinstance(now, KubeAccessPermit) or why_not(known.call, known.request, now, known.recorded):
            return False
        before = known.permit
        if known.stay is not None:
            known.stay.obey(now)
        if self._session is not None and self._rules.session_locked(str(self._session.sid)):
            self._session.stop(LOCKED)
            return self._session.runs  # one that nothing runs in yet is cut
        return (now.kube_user, now.kube_groups, now.shown) == (before.kube_user, before.kube_groups, before.shown)

    async def answer(self, client: Client, request: Request, began: Callable[[], None]) -> None:
        """Answers one request. `began` is called once a permit is in force, for the time of the call. Raises
        `h11.ProtocolError` or `OSError` when a connection ends within it."""
        with span("kube.call", Kind.SERVER, parent=None) as answering:
            await self._answer(client, request, began, answering)

    async def _answer(self, client: Client, request: Request, began: Callable[[], None], answering: Span) -> None:
        call: Call | None = None
        permit: KubeAccessPermit | None = None
        name = self._named
        try:
            await self._settled()
            self._identify()  # from here to the call nothing is waited for
            if (request.method, request.target, request.has_body) == ("GET", CLUSTERS, False):
                await self._list(client)
                return
            call = read(request)
            answering.set("teleport.kube.verb", call.verb)
            act_as = asked(request)
            upstream, permit = self._permitted(name, act_as, call)
            name = upstream.cluster.name
            before = self._recorded_before and exec_request.says_recorded(request.headers)
            recorded = permit.record and exec_request.is_recorded(call) and (before or self._sessions is not None)
            refusal = why_not(call, request, permit, recorded)
            if refusal is not None:
                raise Refused(refusal)
            stay = Stay(self._counts, self._over) if self._counts is not None and call.into_pod else None
            self._open = _Open(upstream, self._named, act_as, permit, call, request, recorded, stay)
            began()
            self._answering = answering
            if stay is not None:
                await self._enter(stay, permit)
            await (self._record if recorded and not before else self._relay)(client, request, call, upstream, permit)
        except Refused as refused:
            told = refused.refusal
            answering.fail("refused")
            try:
                await self._on_record(Outcome(request, call, name, permit, told.code, refused.reason))
            except (TeleportError, OSError):
                told = told if told is WITHHELD else UNRECORDED
            await refuse(client, request, told)
        finally:
            if self._open is not None and self._open.stay is not None:
                self._open.stay.leave()
            self._open = None

    async def _enter(self, stay: Stay, permit: KubeAccessPermit) -> None:
        """A place for the stream, where its person may have so many only."""
        refusal = await stay.enter(permit)
        if refusal is not None:
            if refusal.code == 429:
                try:
                    await self._tells.rejected(self._identity, self._peer, permit.max_connections)
                except (TeleportError, OSError) as error:
                    raise Refused(UNRECORDED, str(error)) from None
            raise Refused(refusal)
        if not self.still():  # that took time: what has changed meanwhile counts
            raise Refused(NOT_ANY_MORE)

    def _over(self, reason: str, told: str) -> None:
        """The open stream has to end by its limits."""
        self._tells.disconnected(self._identity, self._peer, reason)
        if self._session is not None and self._session.runs:
            self._session.stop(reason, told)
        else:
            self._cut(reason)

    def tells_end(self, why: str) -> bool:
        """Ends the open stream by a last word that its client reads, where there is a place for one; whether it does.
        Nothing goes through it from now on."""
        if self._session is None or not self._session.runs:
            return False
        self._session.stop(why)
        return True

    def _active(self) -> None:
        """Something was done in the open stream."""
        if self._open is not None and self._open.stay is not None:
            self._open.stay.active()

    def _identify(self) -> None:
        try:
            self._identity = self._rules.verify_user_tls(self._certificate)
        except AccessDenied as error:
            raise Refused(Refusal(403, error.message, error.hint)) from None

    async def _list(self, client: Client) -> None:
        found: dict[str, dict[str, str]] = {}
        for upstream in self._meant(""):
            cluster = upstream.cluster
            if cluster.name not in found and is_open(
                self._rules.permit_kube(self._identity, cluster, cluster.name, self._peer.host, ActAs())
            ):
                found[cluster.name] = dict(cluster.labels)
        nothing = self._rules.permit_kube(self._identity, None, "", self._peer.host, ActAs())
        if isinstance(nothing, AccessDenial) and nothing.code is not DenialCode.NOT_GRANTED:
            raise denied(nothing)  # locked, say
        await answer(
            client,
            200,
            json.dumps({"clusters": [{"name": name, "labels": labels} for name, labels in found.items()]}).encode(),
        )
        async for _ in client.body():
            raise AssertionError("a request without a body has none")

    async def _settled(self) -> None:
        """Nothing is made while what was made before is not on record."""
        try:
            await to_its_end(self._tells.settle())
        except (TeleportError, OSError) as failed:
            raise Refused(UNRECORDED, str(failed)) from None

    def _permitted(self, name: str, act_as: ActAs, call: Call) -> tuple[Way, KubeAccessPermit]:
        """The cluster that is meant, and the permit for it."""
        first: AccessDenial | None = None
        peer = self._peer.host
        for upstream in self._meant(name):
            chosen = name or self._rules.permit_kube(self._identity, upstream.cluster, name, peer, act_as)
            if isinstance(chosen, AccessDenial) and not is_open(chosen):
                first = first or chosen
                continue
            found = self._rules.permit_kube(self._identity, upstream.cluster, name, peer, act_as, call.decided)
            if isinstance(found, KubeAccessPermit):
                return upstream, found
            if isinstance(chosen, KubeAccessPermit):  # what this cluster refuses is not asked of another one
                raise denied(found)
            first = first or found
        denial = first or self._rules.permit_kube(self._identity, None, name, peer, act_as)
        assert isinstance(denial, AccessDenial), "there is no permit for a cluster that there is not"
        raise denied(denial)

    def _meant(self, name: str) -> list[Way]:
        """The ways to the cluster of that name, to all of them where none is named: those from here come first."""
        if name:
            own: list[Way] = [self._clusters[name]] if name in self._clusters else []
            return [*own, *(self._services.meant(name) if self._services is not None else ())]
        names = {*self._clusters, *(self._services.names() if self._services is not None else ())}
        return [way for one in sorted(names, key=lambda one: (one != self._own_name, one)) for way in self._meant(one)]

    async def _record(
        self, client: Client, request: Request, call: Call, upstream: Way, permit: KubeAccessPermit
    ) -> None:
        """As `_relay`, of a session in a pod."""
        assert self._sessions is not None, "nothing is recorded without"
        who = Who(self._identity, self._peer, permit, upstream.cluster.name, call, self._named, upstream.now)
        session = ExecSession(self._sessions, who, streams.wanted(request.headers), self._active)
        why = ""
        try:
            try:
                await to_its_end(session.begin())  # cut within, nobody would know whether it has to be ended
            except (TeleportError, OSError) as error:
                raise Refused(NOT_RECORDED, f"it cannot be recorded: {error}") from None
            if not self.still():  # that took time: what has changed meanwhile counts
                raise Refused(NOT_ANY_MORE)
            self._session = session
            await self._relay(client, request, call, upstream, permit, session)
        except Refused as refused:
            why = f"not started: {refused.reason}"
            raise
        except BaseException:
            why = self.cut_by
            raise
        finally:
            self._session = None
            await to_its_end(session.end(why))

    async def _relay(
        self,
        client: Client,
        request: Request,
        call: Call,
        upstream: Way,
        permit: KubeAccessPermit,
        session: ExecSession | None = None,
    ) -> None:
        asked, target = request, call.target
        if permit.shown is not None:
            try:
                target = filtering.asked(request.method, target)
                asked = replace(request, headers=filtering.headers(request.headers))
            except filtering.CannotFilter as error:
                raise Refused(error.refusal) from None
        headers = headers_of(asked, upstream, permit, self._peer.host, recorded=session is not None)
        part = (permit.shown, call.verb == "watch") if permit.shown is not None else None
        wanted = streams.wanted(request.headers)
        terminal = call.subresource != "portforward" and exec_request.read_command(call).terminal

        def moved(data: bytes, by_client: bool) -> None:
            if (by_client or not terminal) and not only_pings(wanted, data):
                self._active()

        relayed = Relayed(
            client, asked, upstream, upstream.cluster.path + target, headers, part, session, moved, call.proxied
        )

        recorded = False

        async def on_record(status: int, error: str = "") -> None:
            nonlocal recorded
            recorded = True
            self._answering.set("http.response.status_code", status)
            self._answering.end()  # what is streamed from here on may last for hours
            if isinstance(upstream, ServiceWay):
                return  # the service puts on record what it was asked, before it answers
            try:
                await self._on_record(Outcome(request, call, upstream.cluster.name, permit, status, error, made=True))
            except (TeleportError, OSError) as failed:
                raise Refused(WITHHELD, str(failed)) from None

        try:
            if not request.has_body:
                async for _ in client.body():
                    raise AssertionError("a request without a body has none")
                if request.method in ("GET", "HEAD") and not call.into_pod:
                    with contextlib.suppress(EndedBefore):
                        await relayed.once(on_record, again=True)
                        return
            await relayed.once(on_record, again=False)
        except Refused:
            raise
        except BaseException:
            if not recorded:
                with contextlib.suppress(Refused):  # nobody is there to read it, and what ended the call goes on
                    await on_record(0, "the connection ended before the API server's answer")
            raise

    async def _on_record(self, outcome: Outcome) -> None:
        await to_its_end(self._tells.tell(outcome, self._identity, self._peer))

"""One call after another on a client's connection: read, decided, on record, and relayed to the API server.

Rules it keeps:
- Nothing reaches the API server before the decision, and no answer reaches the client before the event is durable.
- While a call that was made is not on record, because events cannot be written, no other one is made.
- Whatever was sent to the API server is on record, also when the client leaves, or is cut off, before the answer.
- The decision is taken for each call, and again while it is open: whatever ends the permit ends the stream.
- Commands in pods are recorded where sessions have to be (`exec_session`), or refused. The services of nodes, which run
  commands too and tell nobody, are refused then. Ports of pods are as roles say. Other protocols on a connection
  (SPDY, websockets) lead into pods only.
- A refusal is a Status that kubectl prints; why exactly is for the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

import h11

from teleport.authz.decision import AccessDenial, DenialCode
from teleport.authz.kube import ActAs, KubeAccessPermit, is_open
from teleport.authz.kube_resources import Shown
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem, TeleportError
from teleport.identity import UserIdentity
from teleport.kube import exec_request, filtered, filtering, impersonate, refusals, streams
from teleport.kube.calls import Call, classify, makes
from teleport.kube.credentials import authorization
from teleport.kube.exec_session import ExecSession
from teleport.kube.exec_story import Who
from teleport.kube.heads import asks_upgrade, forwarded, plain_name, values
from teleport.kube.http import Client, Request, Server
from teleport.kube.list_filter import ListFilter, UnreadableList, WatchFilter
from teleport.kube.needs import Rules, Sessions
from teleport.kube.pings import only_pings
from teleport.kube.services import ServicesOfOne, ServiceWay
from teleport.kube.status import Refusal
from teleport.kube.staying import Counts, Stay
from teleport.kube.upstream import Upstream
from teleport.ssh.surface import Peer

CLUSTERS: Final = "/v1/teleport/clusters"
"""Answered here, to GET: the Kubernetes clusters that the person may use. No API server has such a path."""
MOST_THROWN_AWAY: Final = 1 << 20  # bytes of the body of a refused request
THROWN_AWAY_WITHIN: Final = 2.0  # seconds
MOST_TOLD: Final = 8000  # characters of a command's path and query: events hold that much of a text
UNRECORDED: Final = Refusal(503, "The call cannot be put on record now, so it is not made.", "try again")


WITHHELD: Final = Refusal(
    503, "The call was made and cannot be put on record now, so its answer is withheld.", "look before you try again"
)
NOT_RECORDED: Final = Refusal(503, "Sessions have to be recorded here, and this one cannot be now.", "try again later")
LOCKED: Final = "an administrator ended it"
NOT_ANY_MORE: Final = Refusal(403, "Your roles do not allow this any more.", "try again")
UNREADABLE: Final = Refusal(502, "The API server answered in a way that cannot be recorded.", "tell an administrator")


class Refused(Exception):
    """The call ends here: `refusal` is what the client reads, `reason` what is on record."""

    def __init__(self, refusal: Refusal, reason: str = "") -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.reason = reason or refusal.message


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is put on record of a call."""

    request: Request
    call: Call | None  # None: it could not be read
    cluster: str
    permit: KubeAccessPermit | None
    code: int
    error: str = ""
    made: bool = False  # the API server may have carried it out

    @property
    def fields(self) -> dict[str, Any]:
        """Those of the event."""
        call, permit = self.call, self.permit
        return {
            "verb": call.verb if call else self.request.method[:20],
            "request_path": (call.told if call else ascii(self.request.target)),
            "resource_api_group": call.api_group if call else "",
            "resource_kind": call.kind if call else "",
            "resource_name": call.name if call else "",
            "resource_namespace": call.namespace if call else "",
            "response_code": self.code,
            "kubernetes_cluster": self.cluster,
            "kubernetes_users": [permit.kube_user] if permit else [],
            "kubernetes_groups": list(permit.kube_groups) if permit else [],
            **({"with_mfa": permit.mfa_device} if permit and permit.mfa_device else {}),
            "success": not self.error,
            "error": self.error,
        }


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


Way = Upstream | ServiceWay
"""Where a call goes: an API server, or a service that decides once more and leads there."""


class Tells(Protocol):
    """Puts calls on record."""

    async def tell(self, outcome: Outcome, identity: UserIdentity, client: Peer) -> None:
        """Returns once it is durable. Of a call that was made it is kept otherwise, and told later."""
        ...

    async def settle(self) -> None:
        """Tells of the calls that were made and could not be told of. Raises what `tell` does."""
        ...

    async def rejected(self, identity: UserIdentity, client: Peer, most: int) -> None:
        """Puts on record that somebody has as many connections as they may."""
        ...

    def disconnected(self, identity: UserIdentity, client: Peer, reason: str) -> None:
        """Puts on record, some time, that we ended a call, and why."""
        ...


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
        if not isinstance(now, KubeAccessPermit) or _why_not(known.call, known.request, now, known.recorded):
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
        call: Call | None = None
        permit: KubeAccessPermit | None = None
        name = self._named
        try:
            await self._settled()
            self._identify()  # from here to the call nothing is waited for
            if (request.method, request.target, request.has_body) == ("GET", CLUSTERS, False):
                await self._list(client)
                return
            call = _read(request)
            act_as = _asked(request)
            upstream, permit = self._permitted(name, act_as, call)
            name = upstream.cluster.name
            before = self._recorded_before and exec_request.says_recorded(request.headers)
            recorded = permit.record and exec_request.is_recorded(call) and (before or self._sessions is not None)
            refusal = _why_not(call, request, permit, recorded)
            if refusal is not None:
                raise Refused(refusal)
            stay = Stay(self._counts, self._over) if self._counts is not None and call.into_pod else None
            self._open = _Open(upstream, self._named, act_as, permit, call, request, recorded, stay)
            began()
            if stay is not None:
                await self._enter(stay, permit)
            await (self._record if recorded and not before else self._relay)(client, request, call, upstream, permit)
        except Refused as refused:
            told = refused.refusal
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
            await _to_its_end(self._tells.settle())
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
                await _to_its_end(session.begin())  # cut within, nobody would know whether it has to be ended
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
            await _to_its_end(session.end(why))

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
        headers = _headers(asked, upstream, permit, self._peer.host, recorded=session is not None)
        part = (permit.shown, call.verb == "watch") if permit.shown is not None else None
        wanted = streams.wanted(request.headers)
        terminal = call.subresource != "portforward" and exec_request.read_command(call).terminal

        def moved(data: bytes, by_client: bool) -> None:
            if (by_client or not terminal) and not only_pings(wanted, data):
                self._active()

        relayed = _Relayed(
            client, asked, upstream, upstream.cluster.path + target, headers, part, session, moved, call.proxied
        )

        recorded = False

        async def on_record(status: int, error: str = "") -> None:
            nonlocal recorded
            recorded = True
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
                    with contextlib.suppress(_EndedBefore):
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
        await _to_its_end(self._tells.tell(outcome, self._identity, self._peer))


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Does the work whatever cancels the caller meanwhile; that comes through afterwards."""
    doing = asyncio.create_task(work, name="a Kubernetes call's record")
    cancelled: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        _failure(doing)
        raise cancelled
    doing.result()


class _EndedBefore(Exception):
    """The server had ended the connection before it heard the call, which can be made again on another one."""


@dataclass(frozen=True, slots=True)
class _Relayed:
    """A call on its way."""

    client: Client
    request: Request
    upstream: Way
    target: str
    headers: list[tuple[bytes, bytes]]
    part: tuple[Shown, bool] | None = None  # what of the answer is shown, and whether it is a watch; None: all of it
    session: ExecSession | None = None  # that is recorded
    moved: streams.Moved | None = None  # hears of what goes through one that is not
    proxied: bool = False  # it is not the API server that answers

    async def once(self, on_record: Callable[[int], Awaitable[None]], *, again: bool) -> None:
        """Asks the server and gives its answer to the client. `again`: the call may be made once more on another
        connection."""
        client = self.client
        try:
            server = await self.upstream.take(again=again)
        except ConnectionProblem as error:
            raise Refused(Refusal(502, f"{error.message}.", error.hint)) from None
        sending = asyncio.create_task(self._send(server), name="a Kubernetes call's request")
        sending.add_done_callback(
            _failure
        )  # it ended the server's connection, so that the answer says what became of it
        try:
            try:
                answer = await server.answer()
            except (TeleportError, h11.ProtocolError, OSError) as error:
                if server.used and not server.heard:
                    raise _EndedBefore from None
                if sending.done() and isinstance(_failure(sending), h11.RemoteProtocolError):
                    raise Refused(Refusal(400, "The request's body cannot be read to its end.")) from None
                raise Refused(Refusal(502, "The API server gave no answer that can be read."), _said(error)) from None
            if answer.status_code == 401 and not self.proxied and isinstance(self.upstream, Upstream):
                raise Refused(refusals.not_taken(self.upstream.cluster.name), "the API server answered 401")
            if answer.status_code == 403 and refusals.discovers(self.request) and isinstance(self.upstream, Upstream):
                said = await _beginning(server, refusals.MOST_READ)
                raise Refused(refusals.of_server(said), "the API server answered 403")
            shows = self._filter(answer)
            session = self.session
            if session is not None:
                agreed = exec_request.agreed(self.request.headers, answer)
                if answer.status_code < 300 and not agreed:
                    raise Refused(UNREADABLE)
                if not agreed:
                    session.refused(answer.status_code)
            await on_record(answer.status_code)
            if isinstance(answer, h11.InformationalResponse):
                await client.change(streams.answered(list(answer.headers), streams.wanted(self.request.headers)))
                if session is not None:
                    await session.relay(client, server)
                else:
                    await streams.relay(client, server, self.moved)
                return
            if shows is not None:
                try:
                    await filtered.relay(client, server, answer, shows)
                except UnreadableList as error:
                    raise Refused(Refusal(502, error.message, error.hint)) from None
                return
            await client.begin(answer.status_code, _for_client(answer))
            if not client.bodiless and _is_chunked(answer):
                async for part in server.chunks():
                    await client.chunks(part)
            async for part in server.body():
                await client.part(part)
            await client.end()
        finally:
            sending.cancel()
            self.upstream.give(server)  # before anything is waited for: who is cancelled twice must not leave it open
            await asyncio.wait([sending])

    def _filter(self, answer: h11.Response | h11.InformationalResponse) -> ListFilter | WatchFilter | None:
        """What shows a part of the answer; None: it goes on as it is, as refusals do."""
        if self.part is None or answer.status_code >= 400:
            return None
        shown, watch = self.part
        headers = list(answer.headers)
        found = filtering.filter_of(headers, shown, watch=watch) if answer.status_code == 200 else None
        if found is None:
            raise Refused(Refusal(502, "The API server's list is in a form that cannot be shown in part."))
        return found

    async def _send(self, server: Server) -> None:
        try:
            await server.ask(self.request.method, self.target, self.headers)
            if self.request.has_body:
                async for part in self.client.body():
                    await server.part(part)
            await server.end()
        except BaseException:
            server.close()
            raise


async def _beginning(server: Server, most: int) -> bytes:
    """The first bytes of the answer's body, as far as they can be read."""
    found = b""
    with contextlib.suppress(h11.ProtocolError, OSError, TeleportError):
        async for part in server.body():
            found += part
            if len(found) >= most:
                break
    return found[:most]


async def answer(client: Client, code: int, body: bytes, kind: bytes = b"application/json") -> None:
    """Answers by itself, without an API server."""
    headers = [(b"Content-Type", kind), (b"Content-Length", str(len(body)).encode())]
    await client.begin(code, headers)
    if not client.bodiless:
        await client.part(body)
    await client.end()


async def refuse(client: Client, request: Request, refusal: Refusal) -> None:
    """Answers with a Status; of the request's body so much is thrown away that the client comes to read it."""
    told = refusals.worded(request, refusal)
    await answer(client, told.code, told.body, told.kind)
    thrown = 0
    with contextlib.suppress(TimeoutError, h11.ProtocolError):
        async with asyncio.timeout(THROWN_AWAY_WITHIN):
            async for part in client.body():
                thrown += len(part)
                if thrown > MOST_THROWN_AWAY:
                    return


def denied(denial: AccessDenial) -> Refused:
    """The refusal of somebody who is not allowed."""
    return Refused(Refusal(403, denial.public, denial.hint), f"{denial.code}: {'; '.join(denial.reasons)}")


def _read(request: Request) -> Call:
    try:
        call = classify(request.method, request.target)
    except BadRequest as error:
        raise Refused(Refusal(400, error.message, error.hint)) from None
    return replace(call, makes=makes(request.method, values(request.headers, b"content-type")))


def _asked(request: Request) -> ActAs:
    try:
        return impersonate.asked(request.headers)
    except BadRequest as error:
        raise Refused(Refusal(403, error.message, error.hint)) from None


def _why_not(call: Call, request: Request, permit: KubeAccessPermit, recorded: bool) -> Refusal | None:
    """What is not relayed for the person, whatever the API server would say; None: this is. `recorded`: as a session
    in a pod."""
    if call.subresource == "portforward" and call.into_pod:
        if not permit.port_forwarding:
            return Refusal(403, "Your roles do not allow port forwarding.")
    elif call.into_pod:
        if permit.record and not recorded:
            return Refusal(403, f"Sessions have to be recorded here, and {call.subresource} into pods cannot be.")
        if permit.needs_company:
            return Refusal(403, "Your roles ask for somebody else in your sessions, and in pods nobody can be yet.")
    elif call.through_node and permit.record:
        return Refusal(
            403, "A node's own service runs commands that nobody records, and sessions have to be recorded here."
        )
    elif call.through_node and permit.needs_company:
        return Refusal(403, "Your roles ask for somebody else in your sessions, and at a node's service nobody can be.")
    if call.into_pod and len(call.told) > MOST_TOLD:
        return Refusal(400, f"The command is too long to be put on record: at most {MOST_TOLD} characters are taken.")
    if call.into_pod and not streams.wanted(request.headers):
        return Refusal(400, "A stream into a pod is asked for as SPDY/3.1 or as a websocket.")
    if recorded and (refusal := exec_request.why_unrecordable(request)) is not None:
        return refusal
    if asks_upgrade(request.headers) and not call.into_pod:
        return Refusal(403, "No other protocol than HTTP is relayed here.")
    return None


def _headers(
    request: Request, upstream: Way, permit: KubeAccessPermit, client_address: str, *, recorded: bool
) -> list[tuple[bytes, bytes]]:
    if isinstance(upstream, ServiceWay):
        said = _for_service(request)
        recorded_here = [(exec_request.RECORDED_BEFORE, b"1")] if recorded else []
    else:
        recorded_here = []
        said = _for_server(request, upstream, permit, client_address)
    return [
        *(one for one in streams.without(said) if plain_name(one[0]) != exec_request.RECORDED_BEFORE.lower()),
        *recorded_here,
        *((exec_request if recorded else streams).asked(request.headers) if asks_upgrade(request.headers) else []),
        *([(b"Transfer-Encoding", b"chunked")] if request.length is None else []),
        *([(b"Content-Length", request.length)] if request.length else []),
    ]


def _for_service(request: Request) -> list[tuple[bytes, bytes]]:
    """What a service reads: whom the client asks to act as, as it was asked, since the service decides by itself."""
    return [(b"Host", b"kube"), *forwarded(request.headers), *impersonate.repeated(_asked(request))]


def _for_server(
    request: Request, upstream: Upstream, permit: KubeAccessPermit, client_address: str
) -> list[tuple[bytes, bytes]]:
    try:
        proof = authorization(upstream.cluster)
    except (BadRequest, OSError) as error:
        refusal = Refusal(502, f"The credentials for {upstream.cluster.name} cannot be read.", "tell an administrator")
        raise Refused(refusal, str(error)) from None
    return [
        (b"Host", str(upstream.cluster.address).encode()),
        *impersonate.told(request.headers, permit, client_address),
        *([(b"Authorization", proof)] if proof else []),
    ]


def _is_chunked(answer: h11.Response) -> bool:
    """Whether its body comes in chunks: h11 takes no other `Transfer-Encoding` than that."""
    return answer.status_code not in (204, 304) and bool(values(list(answer.headers), b"transfer-encoding"))


def _for_client(answer: h11.Response) -> list[tuple[bytes, bytes]]:
    headers = list(answer.headers)
    return [*forwarded(headers), *((name, value) for name, value in headers if name == b"content-length")]


def _failure(done: asyncio.Task[None]) -> BaseException | None:
    return None if done.cancelled() else done.exception()


def _said(error: Exception) -> str:
    return error.message if isinstance(error, TeleportError) else str(error) or type(error).__name__

"""Finding and proving recorded sessions: lists with filters, search of what the screens showed, verification.

Who may not read a recording finds nothing of it. Rendering is done before, in processes of their own
(`recording.indexing`); a call searches for a few seconds, in threads, and says where the next one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from teleport.api import messages as m
from teleport.audit.events import SessionRecordingSearch
from teleport.auth.authorizer import Authorizer, Denied
from teleport.auth.caller import Caller
from teleport.auth.evidence.facts import facts_of, own
from teleport.auth.evidence.removed import Removed
from teleport.auth.sessions.participants import of_recording, people_of, people_of_each
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial, DenialCode
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.recording.format import BrokenPlace
from teleport.recording.index import Hits, search_index
from teleport.recording.indexing import Indexer
from teleport.recording.storage import FileRecordingStore, SessionKind, StoredRecording
from teleport.resources.kinds import Kind, Verb
from teleport.transport.turns import Turns

UPLOADS: Final = "audit/uploads/"
MAX_MATCHES: Final = 100
MAX_QUERY: Final = 200
SECONDS: Final = 5.0  # of one call
BATCH: Final = 20  # sessions searched at a time
DECIDED_AT_ONCE: Final = 200  # decisions between two turns of the loop
AT_ONCE: Final = 2  # searches and verifications of all callers
OF_ONE: Final = 4  # of one caller that wait

Filtered = m.ListRecordingsRequest | m.SearchRecordingsRequest


class Recorded:
    """The handlers of the routes about many recordings."""

    def __init__(
        self, state: ClusterState, authorizer: Authorizer, recordings: FileRecordingStore, indexer: Indexer
    ) -> None:
        self._state = state
        self._authorizer = authorizer
        self._recordings = recordings
        self.removed = Removed(state.backend, authorizer)
        self._indexer = indexer
        self._slots = Turns("searches of recordings", at_once=AT_ONCE, of_one=OF_ONE)

    async def newest(self, request: Filtered) -> list[StoredRecording]:
        """The recordings that a request is about, newest first, after its key."""
        if request.kind and request.kind not in set(SessionKind):
            raise BadRequest(f"there is no kind of session {request.kind[:40]!r}", hint=", ".join(SessionKind))
        found = [one for one in await self._recordings.all() if wanted(one, request)]
        if request.start_key:
            key = parse_key(request.start_key)
            found = [one for one in found if (one.started, one.name) < key]
        return found

    async def permitted(
        self, caller: Caller, verb: Verb, found: Sequence[StoredRecording], *, most: int = 0
    ) -> list[StoredRecording]:
        """Those that the caller may list, or read, in their order; `most` (0: all) of them suffice. Pages are made of
        these, so that no key tells of another."""
        allowed: list[StoredRecording] = []
        at, size = 0, max(most, DECIDED_AT_ONCE) if most else len(found)
        while at < len(found) and not 0 < most <= len(allowed):
            some, at, size = found[at : at + size], at + size, size * 2
            people = await people_of_each(self._state.backend, [one.sid for one in some])
            for first in range(0, len(some), DECIDED_AT_ONCE):
                decided = some[first : first + DECIDED_AT_ONCE]
                may = await self._authorizer.decide_each(
                    caller,
                    verb,
                    Kind.SESSION,
                    [facts_of(one, of_recording(people, one)) for one in decided],
                    reveals=verb is Verb.READ,
                )
                allowed += [one for one, yes in zip(decided, may, strict=True) if yes]
                await asyncio.sleep(0)
        return allowed

    async def search(self, caller: Caller, request: m.SearchRecordingsRequest) -> m.RecordingMatches:
        """The sessions that showed a text; what was searched for and found is on record before it is told."""
        text = request.text.strip()
        if not text or len(text) > MAX_QUERY or not text.isprintable():
            raise BadRequest(f"a search is for 1 to {MAX_QUERY} printable characters in one line")
        if not 1 <= request.limit <= MAX_MATCHES:
            raise BadRequest(f"a page has 1 to {MAX_MATCHES} sessions, not {request.limit}")
        general = await self._authorizer.decide(caller, Verb.READ, Kind.SESSION, own(caller), reveals=True)
        if isinstance(general, AccessDenial) and general.code is DenialCode.MFA_REQUIRED:
            raise Denied(general)
        async with self._slots.of(caller.name):
            found = await self._search(caller, request, text)
        nothing = not found.searched and not found.left_out and not found.next_key
        if isinstance(general, AccessDenial) and nothing and not request.start_key:
            raise Denied(general)
        if found.searched or not request.start_key:
            await self._state.tell(
                self._state.event(
                    SessionRecordingSearch,
                    caller,
                    query=text,
                    searched=found.searched,
                    sids=[one.name or one.sid for one in found.items],
                )
            )
        return found

    async def _search(self, caller: Caller, request: m.SearchRecordingsRequest, text: str) -> m.RecordingMatches:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SECONDS
        todo = await self.permitted(caller, Verb.READ, await self.newest(request))
        matches: list[m.RecordingMatch] = []
        left_out: list[m.RecordingLeftOut] = []
        searched, key, waits = 0, request.start_key, False
        while todo:
            batch = [one.name for one in todo[:BATCH]]
            elsewhere = {name for name in batch if not await self._recordings.searchable(name)}
            batch = [name for name in batch if name not in elsewhere]
            hits = await asyncio.to_thread(self._hits, batch, text)
            absent = [sid for sid, found in hits.items() if found is None and not self._indexer.failed(sid)]
            if absent:
                await self._indexer.ensure(absent, max(0.1, deadline - loop.time()))
                hits |= await asyncio.to_thread(self._hits, absent, text)
            for one in todo[:BATCH]:
                if one.name in elsewhere:
                    left_out.append(m.RecordingLeftOut(sid=one.name, why="elsewhere"))
                    searched, key, todo = searched + 1, key_of(one), todo[1:]
                    continue
                found = hits[one.name]
                if found is None and not self._indexer.failed(one.name):
                    if not self._indexer.overdue(one.name):
                        key, waits = key or _before(one), True  # the next call goes on with it
                        break
                    left_out.append(m.RecordingLeftOut(sid=one.name, why="preparing"))
                    key, todo = key_of(one), todo[1:]
                    continue
                searched, key, todo = searched + 1, key_of(one), todo[1:]
                if found is None:
                    left_out.append(m.RecordingLeftOut(sid=one.name, why="unreadable"))
                    continue
                if not found.whole:
                    left_out.append(m.RecordingLeftOut(sid=one.name, why=found.cut or "size", until=found.until))
                if found.count:
                    matches.append(_match(one, found))
                    if len(matches) >= request.limit:
                        break
            if waits or len(matches) >= request.limit or loop.time() > deadline:
                break
        return m.RecordingMatches(
            items=matches,
            next_key=key if todo else "",
            searched=searched,
            unsearchable=[one.sid for one in left_out if one.why == "unreadable"],
            left_out=left_out,
        )

    def _hits(self, sids: Sequence[str], text: str) -> dict[str, Hits | None]:
        found: dict[str, Hits | None] = {}
        for sid in sids:
            try:
                found[sid] = search_index(self._recordings.directory, sid, text)
            except NotFound:
                found[sid] = Hits(first=[], count=0, whole=True)  # it is gone
        return found

    async def verify(self, caller: Caller, request: m.VerifyRecordingsRequest) -> m.RecordingVerdicts:
        """Whether recordings are whole, signed by their hosts, and those that arrived."""
        known = {one.name: one for one in await self._recordings.all()}
        announced = {
            item.key.removeprefix(UPLOADS): item.value.decode("ascii", "replace")
            for item in await self._state.backend.range(UPLOADS)
        }
        there = set(await self._recordings.names())
        if request.sid:
            asked = await self._recordings.name_of(request.sid)
            beside = () if "." in request.sid else (f"{asked}.",)
            names = sorted(one for one in there | announced.keys() if one == asked or one.startswith(beside))
            if not there & set(names):
                await self.removed.tell(caller, request.sid)
            names = await self._readable(caller, [(name, known.get(name)) for name in names or [asked]])
            if not there | announced.keys() >= set(names):
                raise NotFound(f"there is no recording of session {asked}", hint="tctl recordings ls")
            async with self._slots.of(caller.name):
                return m.RecordingVerdicts(items=[await self._verdict(name, announced.get(name, "")) for name in names])
        general = await self._authorizer.decide(caller, Verb.READ, Kind.SESSION, {}, reveals=True)
        own_ones = await self._authorizer.decide(caller, Verb.READ, Kind.SESSION, own(caller), reveals=True)
        if isinstance(general, AccessDenial) and isinstance(own_ones, AccessDenial):
            raise Denied(own_ones)
        may = {one.name for one in await self.permitted(caller, Verb.READ, list(known.values()))}
        if not isinstance(general, AccessDenial):
            may |= (there | announced.keys()) - known.keys()  # of whom, nobody can say any more
            may -= await self.removed.names() - there
        loop = asyncio.get_running_loop()
        items: list[m.RecordingVerdict] = []
        async with self._slots.of(caller.name):
            deadline = loop.time() + SECONDS
            for name in sorted(name for name in may if name > request.start_key):
                if items and (loop.time() > deadline or len(items) >= MAX_MATCHES):
                    return m.RecordingVerdicts(items=items, next_key=items[-1].sid)
                items.append(await self._verdict(name, announced.get(name, "")))
        return m.RecordingVerdicts(items=items)

    async def _readable(self, caller: Caller, asked: Sequence[tuple[str, StoredRecording | None]]) -> list[str]:
        """The names of those that the caller may read; raises `AccessDenied` when it is none of them."""
        may: list[str] = []
        refusal: AccessDenied | None = None
        for name, one in asked:
            facts = {}
            if one is not None:
                facts = facts_of(one, await people_of(self._state.backend, one.sid, one.node_id, one.made_by))
            try:
                await self._authorizer.require(caller, Verb.READ, Kind.SESSION, facts, reveals=True)
                may.append(name)
            except AccessDenied as error:
                refusal = error
        if refusal is not None and not may:
            raise refusal
        return may

    async def _verdict(self, sid: str, announced: str) -> m.RecordingVerdict:
        try:
            found = await self._recordings.verify(sid)
        except NotFound:
            return m.RecordingVerdict(sid=sid, ok=False, problem=self._recordings.lost)
        if isinstance(found, BrokenPlace):
            return m.RecordingVerdict(sid=sid, ok=False, problem=str(found), chunk=found.chunk, offset=found.offset)
        verdict = m.RecordingVerdict(
            sid=sid,
            ok=True,
            sha256=found.sha256,
            chunks=found.chunks,
            size=found.size,
            signed_by=found.header.node_id if found.signature_checked else "",
        )
        if announced and announced != found.sha256:
            problem = f"it is another recording than the one that arrived, whose last hash is {announced}"
            return m.RecordingVerdict(sid=sid, ok=False, problem=problem, sha256=found.sha256, size=found.size)
        return verdict


def wanted(one: StoredRecording, request: Filtered) -> bool:
    """Whether the filters of a request let it pass."""
    return (
        request.user in ("", one.user)
        and request.login in ("", one.login)
        and request.host in ("", one.node_id, one.node_name)
        and request.kind in ("", one.kind)
        and (request.start is None or one.started >= request.start)
        and (request.end is None or one.started < request.end)
    )


def key_of(one: StoredRecording) -> str:
    return f"{one.started.isoformat()}|{one.name}"


def _before(one: StoredRecording) -> str:
    """A key behind which `one` is the first."""
    return f"{one.started.isoformat()}|{one.name}~"


def parse_key(text: str) -> tuple[datetime, str]:
    """The place that a key names. Raises `BadRequest`."""
    when, _, sid = text.partition("|")
    try:
        started = datetime.fromisoformat(when)
    except ValueError:
        started = None
    if started is None or started.tzinfo is None:
        raise BadRequest("this is no key that a page of recordings ends with", hint="leave start_key empty")
    return started, sid


def _match(one: StoredRecording, found: Hits) -> m.RecordingMatch:
    return m.RecordingMatch(
        name=one.name,
        sid=one.sid,
        started=one.started,
        user=one.user,
        login=one.login,
        node=one.node_id,
        hostname=one.node_name,
        kind=one.kind,
        command=one.command,
        hits=[m.RecordingHit(time=hit.time, kind=hit.kind, text=hit.text) for hit in found.first],
        count=found.count,
        whole=found.whole,
    )

"""Audit events and recordings over the API: taking them in, finding them, proving them.

Hosts deliver for themselves only: the emitter is the certificate's UUID. Reading a recording is a matter of the
permission on that session, decided with its facts, and leaves an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.audit.checkpoints import verifier
from teleport.audit.events import SessionRecordingAccess, SessionUpload
from teleport.audit.intake import Intake
from teleport.audit.search import Query, Searcher
from teleport.audit.verify import verify_store
from teleport.auth.authorizer import Authorizer
from teleport.auth.evidence.recorded import UPLOADS, Recorded, facts_of, key_of, own, wanted
from teleport.auth.evidence.store import EvidenceStore
from teleport.auth.server import Caller
from teleport.auth.sessions.opened import host_of
from teleport.auth.sessions.participants import Participants, all_people, participants, people_of
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial
from teleport.backend.interface import Absent, PutOp
from teleport.errors import AccessDenied, BadRequest, CompareFailed, NotFound
from teleport.identity import HostIdentity, SystemRole
from teleport.recording.format import BrokenPlace, RecordingHeader, canonical_uuid
from teleport.recording.indexing import Indexer
from teleport.recording.player import RecordingReader
from teleport.recording.storage import MAX_PIECE, FileRecordingStore, HostSink, StoredRecording
from teleport.resources.kinds import Kind, Verb
from teleport.store import records

PIECE: Final = 256 * 1024  # bytes of a recording sent at once
FORMS: Final = frozenset({"play", "cast", "text", "json", "html"})  # what a recording may be said to be read for
MAX_RECORDINGS: Final = 1000


class Evidence:
    """The handlers of the audit and recording routes."""

    def __init__(
        self,
        state: ClusterState,
        authorizer: Authorizer,
        intake: Intake,
        records: EvidenceStore,
        recordings: FileRecordingStore,
        audit_directory: Path,
        recorded: Recorded,
        indexer: Indexer,
    ) -> None:
        self._state = state
        self._authorizer = authorizer
        self._intake = intake
        self._records = records
        self._recordings = recordings
        self._audit_directory = audit_directory
        self._recorded = recorded
        self._indexer = indexer
        self.searcher = Searcher(audit_directory)

    # events

    async def intake(self, caller: Caller, request: m.IntakeRequest) -> m.IntakeReply:
        """A run of a host's chain."""
        host = _host(caller)
        lines = [line.encode("utf-8", "surrogatepass") for line in request.lines]
        ack = await self._intake.intake(
            request.emitter,
            request.epoch,
            lines,
            allowed_emitter=host,
            speaks_for=await self._speaks_for(host, lines),
        )
        return m.IntakeReply(next_seq=ack.next_seq, head=ack.head, checkpoint=ack.checkpoint, may_skip=ack.may_skip)

    async def _speaks_for(self, host: str, lines: Sequence[bytes]) -> frozenset[str]:
        """Of the servers that these events name those without a daemon of their own, if the host is a proxy.

        A registered host that was removed since counts, too: what a proxy has to tell of it comes late, perhaps. What
        has ever joined tells of itself.
        """
        named = {_named_server(line) for line in lines} - {"", host}
        if not named:
            return frozenset()
        if not await self._is_proxy(host):
            return frozenset()
        found = set()
        for server in named:
            joined = await self._state.record(records.HOSTS + server, records.HostRecord)
            if joined is None or joined[0].joined is None:
                found.add(server)
        return frozenset(found)

    async def search(self, caller: Caller, request: m.SearchEventsRequest) -> m.EventsPage:
        page = await self.searcher.search(
            Query(
                start=request.start,
                end=request.end,
                types=tuple(request.types),
                user=request.user,
                login=request.login,
                host=request.host,
                sid=request.sid,
                limit=request.limit,
                start_key=request.start_key,
                oldest_first=request.oldest_first,
            )
        )
        return m.EventsPage(lines=[line.decode() for line in page.lines], next_key=page.next_key)

    async def verify(self, caller: Caller, request: m.Empty) -> m.VerifyReply:
        """Walks the whole store, its signatures and its recordings."""
        key = (await self._records.checkpoint_key()).public
        await self._intake.refresh()
        heads = self._intake.heads()
        loop = asyncio.get_running_loop()

        def recording_hash(sid: str) -> str | None:
            return asyncio.run_coroutine_threadsafe(self._recording_hash(sid), loop).result()

        report = await asyncio.to_thread(
            lambda: verify_store(
                self._audit_directory,
                verify=verifier([key]),
                known_heads=heads,
                recordings=recording_hash,
            )
        )
        return m.VerifyReply(
            ok=report.ok,
            events=report.events,
            emitters=report.emitters,
            checkpoints=report.checkpoints,
            recordings=report.recordings,
            problems=[str(problem) for problem in report.problems],
            checkpoint_key=key.spki_pem().decode(),
        )

    async def _recording_hash(self, sid: str) -> str | None:
        """The last hash of a stored recording that is whole; a broken one has a hash that fits nothing."""
        try:
            found = await self._recordings.verify(sid)
        except (NotFound, BadRequest):
            return None
        return f"broken: {found}" if isinstance(found, BrokenPlace) else found.sha256

    # recordings

    async def page(self, caller: Caller, request: m.ListRecordingsRequest) -> m.RecordingsPage:
        """The recordings that the caller may know of, by id or newest first."""
        if not 1 <= request.limit <= MAX_RECORDINGS:
            raise BadRequest(f"a page has 1 to {MAX_RECORDINGS} recordings, not {request.limit}")
        if request.newest_first:
            asked = await self._recorded.newest(request)
        else:
            known = sorted(await self._recordings.all(), key=lambda one: one.sid)
            asked = [one for one in known if one.sid > request.start_key and wanted(one, request)]
        permitted = await self._recorded.permitted(caller, Verb.LIST, asked)
        found = permitted[: request.limit]
        next_key = ""
        if len(permitted) > request.limit:
            next_key = key_of(found[-1]) if request.newest_first else found[-1].sid
        if not found:
            general = await self._authorizer.decide(caller, Verb.LIST, Kind.SESSION, {})
            if isinstance(general, AccessDenial) and not await self._may_some(caller):
                raise AccessDenied(general.public, hint=general.hint)
        people = await all_people(self._state.backend)
        return m.RecordingsPage(items=[_info(one, people.get(one.sid)) for one in found], next_key=next_key)

    async def read(self, caller: Caller, request: m.RecordingRequest) -> AsyncIterator[bytes]:
        """The recording's bytes, as they are stored; the event is written before the first of them is sent."""
        try:
            found = await self._header(request.sid)
        except (NotFound, BadRequest):
            found = None
        if found is None:
            await self._authorizer.require(caller, Verb.READ, Kind.SESSION)
            raise NotFound(
                f"there is no recording of session {request.sid[:64]!r}",
                hint="a recording arrives after its session ended; tctl recordings ls",
            )
        facts = facts_of(found, await people_of(self._state.backend, found.sid))
        await self._authorizer.require(caller, Verb.READ, Kind.SESSION, facts, reveals=True)
        form = request.form if request.form in FORMS else "raw"
        await self._state.tell(self._state.event(SessionRecordingAccess, caller, sid=request.sid, format=form))
        with await self._recordings.open(request.sid) as file:
            while piece := await asyncio.to_thread(file.read, PIECE):
                yield piece

    async def _header(self, sid: str) -> RecordingHeader:
        with await self._recordings.open(sid) as file:
            return (await asyncio.to_thread(RecordingReader, file)).header

    async def _may_some(self, caller: Caller) -> bool:
        decision = await self._authorizer.decide(caller, Verb.LIST, Kind.SESSION, own(caller))
        return not isinstance(decision, AccessDenial)

    async def offset(self, caller: Caller, request: m.RecordingRequest) -> m.RecordingOffset:
        state = await (await self._sink(caller, request.sid)).begin(request.sid)
        return m.RecordingOffset(offset=state.offset, complete=state.complete)

    async def append(
        self, caller: Caller, request: m.AppendRecordingRequest, body: AsyncIterator[bytes]
    ) -> m.RecordingOffset:
        """A piece of a recording; answers how many bytes are there then."""
        piece = bytearray()
        async for part in body:
            piece += part
            if len(piece) > MAX_PIECE:
                raise BadRequest(f"a piece of a recording has at most {MAX_PIECE} bytes")
        sink = await self._sink(caller, request.sid)
        return m.RecordingOffset(offset=await sink.append(request.sid, request.offset, bytes(piece)))

    async def complete(self, caller: Caller, request: m.CompleteRecordingRequest) -> m.RecordingOffset:
        """The upload is whole: it is verified, kept, and told of."""
        sink = await self._sink(caller, request.sid)
        await sink.complete(request.sid, request.sha256)
        found = await self._header(request.sid)
        event = self._state.event(
            SessionUpload,
            sid=request.sid,
            user=found.user,
            login=found.login,
            server_id=found.node_id,
            server_hostname=found.node_name,
            url=f"file:///{request.sid}.rec",
            recording_hash=request.sha256,
            ei=2**31 - 1,
        )
        # Told once, however often the host asks, and also when this process died between keeping and telling.
        key = UPLOADS + request.sid
        with suppress(CompareFailed):
            await self._state.commit([PutOp(key, request.sha256.encode())], conditions=[Absent(key)], events=[event])
        self._indexer.stored()
        after = await sink.begin(request.sid)
        return m.RecordingOffset(offset=after.offset, complete=after.complete)

    async def _sink(self, caller: Caller, sid: str) -> HostSink:
        """Where the caller uploads. A recording is never replaced, so no host may put one in the place of another's:
        its own sessions only, but for proxies, which record for other hosts and say so."""
        host = _host(caller)
        owner = await host_of(self._state.backend, sid)
        if owner not in ("", host) and not await self._is_proxy(host):
            raise AccessDenied(f"session {canonical_uuid(sid)} did not run on this host")
        return self._recordings.sink_for(host)

    async def _is_proxy(self, host: str) -> bool:
        record = await self._state.record(records.HOSTS + host, records.HostRecord)
        return record is not None and str(SystemRole.PROXY) in record[0].roles


class _Named(msgspec.Struct, frozen=True):
    server_id: str = ""


def _named_server(line: bytes) -> str:
    """The server that an event names; empty when it names none, or is none."""
    try:
        return msgspec.json.decode(line, type=_Named).server_id
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return ""


def _host(caller: Caller) -> str:
    if not isinstance(caller.identity, HostIdentity):
        raise AccessDenied("only hosts deliver events and recordings")
    return caller.identity.host_id


def _info(found: StoredRecording, joined: Participants | None) -> m.RecordingInfo:
    return m.RecordingInfo(
        sid=found.sid,
        started=found.started,
        user=found.user,
        login=found.login,
        node=found.node_id,
        hostname=found.node_name,
        interactive=found.interactive,
        command=found.command,
        size=found.size,
        kind=found.kind,
        participants=participants(found, joined),
    )

"""Audit events and recordings over the API: taking them in, finding them, proving them.

Hosts deliver for themselves only: the emitter is the certificate's UUID. Reading a recording is a matter of the
permission on that session, decided with its facts, and leaves an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from teleport.api import messages as m
from teleport.audit.checkpoints import verifier
from teleport.audit.counting import SERIES, Counter
from teleport.audit.events import SessionRecordingAccess, SessionUpload
from teleport.audit.intake import Intake
from teleport.audit.search import Query, Searcher
from teleport.audit.verify import Report, verify_store
from teleport.auth.authorizer import Authorizer, Denied
from teleport.auth.caller import Caller
from teleport.auth.evidence.choosing import undecided, undisputed
from teleport.auth.evidence.facts import facts_of, own
from teleport.auth.evidence.recorded import UPLOADS, Recorded, key_of, wanted
from teleport.auth.evidence.store import EvidenceStore
from teleport.auth.evidence.waiting import Waiting
from teleport.auth.sessions.claims import Claim, Claims
from teleport.auth.sessions.opened import all_hosts_of
from teleport.auth.sessions.participants import Participants, of_recording, participants, people_of, people_of_each
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial
from teleport.backend.interface import Absent, PutOp
from teleport.copies.searching import FirstSearched, Found
from teleport.errors import AccessDenied, BadRequest, CompareFailed, NotFound, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.recording.format import BrokenPlace, BrokenRecording, RecordingHeader, canonical_uuid
from teleport.recording.indexing import Indexer
from teleport.recording.storage import MAX_PIECE, FileRecordingStore, HostSink, StoredRecording
from teleport.resources.kinds import Kind, Verb
from teleport.store import records
from teleport.transport.turns import Turns

PIECE: Final = 256 * 1024  # bytes of a recording sent at once
FORMS: Final = frozenset({"play", "cast", "text", "json", "html"})  # what a recording may be said to be read for
MAX_RECORDINGS: Final = 1000
MAX_TEXT: Final = 200  # characters that events are searched for
AT_ONCE: Final = 2  # searches of all callers; threads are few, and others need some, too
OF_ONE: Final = 8  # of one caller that wait
LOCKED: Final = 15.0  # seconds that a proof waits for the store, of the 30 that its caller waits


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
        waiting: Waiting,
        claims: Claims | None = None,
        stored: Callable[[], None] | None = None,
        first_searched: Callable[[Searcher], FirstSearched] | None = None,
    ) -> None:
        """`first_searched` makes who searches another place than the log of this server, where one is wanted."""
        self._state = state
        self._authorizer = authorizer
        self._intake = intake
        self._records = records
        self._recordings = recordings
        self._audit_directory = audit_directory
        self._recorded = recorded
        self._removed = recorded.removed
        self._indexer = indexer
        self._waiting = waiting
        self._stored = stored or indexer.stored  # told when a recording arrived
        self._claims = claims or Claims(state.backend, state.clock)
        self.searcher = Searcher(audit_directory)
        self._first = first_searched(self.searcher) if first_searched is not None else None
        self._counter = Counter(audit_directory)
        self._searches = Turns("searches of the audit log", at_once=AT_ONCE, of_one=OF_ONE)
        self._proofs = Turns("proofs of the audit log", at_once=1, of_one=2)
        self._lists = Turns("lists of recordings", at_once=AT_ONCE, of_one=OF_ONE)

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
            if (joined is None or joined[0].joined is None) and _is_uuid(server):
                found.add(server)
        return frozenset(found)

    async def search(self, caller: Caller, request: m.SearchEventsRequest) -> m.EventsPage:
        if len(request.text) > MAX_TEXT:
            raise BadRequest(f"a search is for at most {MAX_TEXT} characters")
        query = Query(
            start=request.start,
            end=request.end,
            types=tuple(request.types),
            user=request.user,
            login=request.login,
            host=request.host,
            sid=request.sid,
            text=request.text,
            limit=request.limit,
            start_key=request.start_key,
            oldest_first=request.oldest_first,
        )
        async with self._searches.of(caller.name):
            found = await self._first.search(query) if self._first else Found(await self.searcher.search(query))
        return m.EventsPage(
            lines=[line.decode() for line in found.page.lines],
            next_key=found.page.next_key,
            waiting=await self._waiting.now(),
            notice=found.notice,
        )

    async def close(self) -> None:
        """Ends what searching has opened."""
        if self._first is not None:
            await self._first.close()

    async def count(self, caller: Caller, request: m.CountEventsRequest) -> m.EventCounts:
        """How many events of a few sorts there were, by the hour: for who may list them all."""
        async with self._searches.of(caller.name):
            found = await self._counter.count(request.start, request.end)
        hours = [
            m.HourCounts(hour=hour, **dict(zip(SERIES, numbers, strict=True))) for hour, numbers in found.hours.items()
        ]
        return m.EventCounts(hours=hours, complete=found.complete, waiting=await self._waiting.now())

    async def verify(self, caller: Caller, request: m.Empty) -> m.VerifyReply:
        """Walks the whole store, its signatures and its recordings."""
        async with self._proofs.of(caller.name):
            return await self._proved()

    async def _proved(self) -> m.VerifyReply:
        report = await self.proof()
        key = (await self._records.checkpoint_key()).public
        return m.VerifyReply(
            ok=report.ok,
            events=report.events,
            emitters=report.emitters,
            checkpoints=report.checkpoints,
            recordings=report.recordings,
            pruned=report.pruned,
            problems=[str(problem) for problem in report.problems],
            checkpoint_key=key.spki_pem().decode(),
            waiting=await self._waiting.now(),
        )

    async def proof(self, *, fetch: bool = True, arrivals: Collection[str] = ()) -> Report:
        """Of the whole store, against auth's database. Without `fetch`, recordings that lie elsewhere are taken for
        what was noted of them. `arrivals`: as `verify_store` has it."""
        key = (await self._records.checkpoint_key()).public
        try:
            async with asyncio.timeout(LOCKED):
                await self._intake.refresh()
        except TimeoutError:
            held = self._waiting.lock.held_up()
            raise TeleportError(
                f"the audit log cannot be proved now: {held or 'other work on it takes long'}",
                hint="see whether an auth server of this cluster is stopped or does not get on, and end it",
            ) from None
        heads = self._intake.heads()
        loop = asyncio.get_running_loop()

        def recording_hash(name: str) -> str | None:
            return asyncio.run_coroutine_threadsafe(self._recording_hash(name, fetch=fetch), loop).result()

        return await asyncio.to_thread(
            lambda: verify_store(
                self._audit_directory,
                verify=verifier([key]),
                known_heads=heads,
                recordings=recording_hash,
                arrivals=arrivals,
            )
        )

    async def _recording_hash(self, name: str, *, fetch: bool) -> str | None:
        """The last hash of a stored recording that is whole; a broken one has a hash that fits nothing."""
        try:
            if not fetch and (noted := await self._recordings.noted_hash(name)):
                return noted
            found = await self._recordings.verify(name)
        except (NotFound, BadRequest):
            return None
        if isinstance(found, BrokenPlace):
            return None if found.absent else f"broken: {found}"
        return found.sha256

    # recordings

    async def page(self, caller: Caller, request: m.ListRecordingsRequest) -> m.RecordingsPage:
        """The recordings that the caller may know of, by id or newest first."""
        if not 1 <= request.limit <= MAX_RECORDINGS:
            raise BadRequest(f"a page has 1 to {MAX_RECORDINGS} recordings, not {request.limit}")
        async with self._lists.of(caller.name):
            if request.newest_first:
                asked = await self._recorded.newest(request)
            else:
                known = sorted(await self._recordings.all(), key=lambda one: one.name)
                asked = [one for one in known if one.name > request.start_key and wanted(one, request)]
            permitted = await self._recorded.permitted(caller, Verb.LIST, asked, most=request.limit + 1)
        found = permitted[: request.limit]
        next_key = ""
        if len(permitted) > request.limit:
            next_key = key_of(found[-1]) if request.newest_first else found[-1].name
        if not found:
            general = await self._authorizer.decide(caller, Verb.LIST, Kind.SESSION, {})
            if isinstance(general, AccessDenial) and not await self._may_some(caller):
                raise AccessDenied(general.public, hint=general.hint)
        people = await people_of_each(self._state.backend, [one.sid for one in found])
        return m.RecordingsPage(items=[_info(one, of_recording(people, one)) for one in found], next_key=next_key)

    async def read(self, caller: Caller, request: m.RecordingRequest) -> AsyncIterator[bytes]:
        """The recording's bytes, as they are stored; the event is written before the first of them is sent."""
        try:
            name, found = await self._meant(caller, request.sid)
        except NotFound:
            await self._removed.tell(caller, request.sid)
            await self._authorizer.require(caller, Verb.READ, Kind.SESSION)
            raise NotFound(
                f"there is no recording of session {request.sid[:64]!r}",
                hint="a recording arrives after its session ended; tctl recordings ls",
            ) from None
        await self._authorizer.require(caller, Verb.READ, Kind.SESSION, await self._facts(found), reveals=True)
        form = request.form if request.form in FORMS else "raw"
        event = self._state.event(SessionRecordingAccess, caller, sid=found.sid, format=form, made_by=found.made_by)
        await self._state.tell(event)
        try:
            opened = await self._recordings.open(name)
        except BrokenRecording as error:
            if error.place.absent:  # it is being removed, or somebody else did that
                await self._removed.tell(caller, name)
            raise
        with opened as file:
            while piece := await asyncio.to_thread(file.read, PIECE):
                yield piece

    async def _meant(self, caller: Caller, name: str) -> tuple[str, RecordingHeader]:
        """The recording that `name` is about, with its header. Raises `NotFound`; `BadRequest` to somebody who may read
        a recording of this session, which several hosts claim."""
        try:
            lies = await self._recordings.name_of(name)
            found = [] if "." in name else await self._of_session(name)
        except BadRequest as error:
            raise NotFound(error.message) from None
        if found:
            if not undisputed(found, await all_hosts_of(self._state.backend, name)):
                await self._refuse_to_choose(caller, name, found)
            lies = found[0].name
        try:
            return lies, await self._header(lies)
        except BadRequest as error:
            raise NotFound(error.message) from None

    async def _of_session(self, sid: str) -> list[StoredRecording]:
        """The recordings of a session: one, unless several hosts have brought one."""
        told = {item.key.removeprefix(UPLOADS) for item in await self._state.backend.range(f"{UPLOADS}{sid}.")}
        return await self._recordings.some({sid} | told)

    async def _refuse_to_choose(self, caller: Caller, sid: str, found: Sequence[StoredRecording]) -> NoReturn:
        """Tells who may read one of them that the name has to be given, and who may read none what anybody else is
        told."""
        denied: AccessDenial | None = None
        may = []
        for one in found:
            people = await people_of(self._state.backend, one.sid, one.node_id, one.made_by)
            decision = await self._authorizer.decide(
                caller, Verb.READ, Kind.SESSION, facts_of(one, people), reveals=True
            )
            if isinstance(decision, AccessDenial):
                denied = decision
            else:
                may.append(one)
        if not may:
            assert denied is not None, "there is one at least"
            raise Denied(denied)
        raise undecided(sid, may)

    async def _facts(self, found: RecordingHeader) -> dict[str, object]:
        return facts_of(found, await people_of(self._state.backend, found.sid, found.node_id, found.made_by))

    async def _header(self, name: str) -> RecordingHeader:
        return await self._recordings.header(name)

    async def _may_some(self, caller: Caller) -> bool:
        decision = await self._authorizer.decide(caller, Verb.LIST, Kind.SESSION, own(caller))
        return not isinstance(decision, AccessDenial)

    async def offset(self, caller: Caller, request: m.RecordingRequest) -> m.RecordingOffset:
        state = await self._sink(caller).begin(request.sid)
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
        sink = self._sink(caller)
        return m.RecordingOffset(offset=await sink.append(request.sid, request.offset, bytes(piece)))

    async def complete(self, caller: Caller, request: m.CompleteRecordingRequest) -> m.RecordingOffset:
        """The upload is whole: it is verified, kept, and told of."""
        sink = self._sink(caller)
        told = await self._state.backend.get(UPLOADS + request.sid)
        taken = told is not None and told.value != request.sha256.encode()
        proxy = await self._is_proxy(_host(caller))
        name = await sink.keep(request.sid, request.sha256, first_is_told=taken, records_others=proxy)
        told = await self._state.backend.get(UPLOADS + name)
        if name == request.sid and told is not None and told.value != request.sha256.encode():
            # another auth server, which keeps its files to itself, has told of another host's meanwhile
            name = await self._recordings.set_beside(name, _host(caller))
        found = await self._header(name)
        event = self._state.event(
            SessionUpload,
            sid=request.sid,
            user=found.user,
            login=found.login,
            server_id=found.node_id,
            server_hostname=found.node_name,
            url=self._recordings.url(name),
            recording_hash=request.sha256,
            ei=2**31 - 1,
            **found.pod_fields,
        )
        # Told once, however often the host asks, and also when this process died between keeping and telling.
        key, told_elsewhere = UPLOADS + name, False
        async with self._claims.lock:
            if await self._state.backend.get(key) is None:
                makers = {one.made_by for one in await self._of_session(request.sid)} - {found.made_by}
                claims = await self._claims.note(
                    request.sid, found.node_id, Claim.RECORDING, told_by=found.made_by, makers=makers
                )
                writes = [PutOp(key, request.sha256.encode()), *claims]
                try:
                    await self._state.commit(writes, conditions=[Absent(key)], events=[event])
                except CompareFailed:
                    told_elsewhere = True
        if told_elsewhere:  # of this one, or of another host's: what is kept decides
            return await self.complete(caller, request)
        self._stored()
        after = await sink.begin(request.sid)
        return m.RecordingOffset(offset=after.offset, complete=after.complete)

    def _sink(self, caller: Caller) -> HostSink:
        """Where the caller uploads: what it brings of a session that another host claims lies beside that one's."""
        return self._recordings.sink_for(_host(caller))

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


def _is_uuid(server: str) -> bool:
    """Whether it can be the id of a registered host: what is told of sessions is kept under it."""
    try:
        canonical_uuid(server, "host id")
    except BadRequest:
        return False
    return True


def _host(caller: Caller) -> str:
    if not isinstance(caller.identity, HostIdentity):
        raise AccessDenied("only hosts deliver events and recordings")
    return caller.identity.host_id


def _info(found: StoredRecording, joined: Participants | None) -> m.RecordingInfo:
    return m.RecordingInfo(
        name=found.name,
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

"""Proving a log: every chain whole and in order, every checkpoint signed, linked and met.

Two passes over the same lines, both fed from outside: `Expectations.look` collects what checkpoints, references and
first events of an epoch demand; `RunVerifier.feed` then walks the chains. Chains are kept as *runs*: stretches of one
chain that follow one another in one file store. One run for a chain is the sound case; missing, repeated and
reordered events show as several runs, and two auth servers that each hold a part of a chain fit together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from teleport.audit.chain.checkpoint import CheckpointRef, Verify, reference, root_of, signature_holds
from teleport.audit.chain.link import ChainKey, Head, Linked
from teleport.audit.chain.pruned import PREFIX, Pruned, digest_of_marks
from teleport.audit.events import (
    REGISTRY,
    AuditCheckpoint,
    AuditGap,
    AuditPrune,
    BackupRestore,
    RecordingPrune,
    SessionEnd,
)
from teleport.errors import BadRequest

MAX_PROBLEMS = 100
_DEMANDING = (
    b'"event":"audit.checkpoint"',
    b'"event":"audit.gap"',
    b'"event":"audit.prune"',
    b'"event":"session_recording.prune"',
    b'"event":"backup.restore"',
    b'"seq":1,',
)  # parts of the lines that say something of others


Excuse = AuditGap | AuditPrune | RecordingPrune | BackupRestore
"""Says why events are not there."""


class Fault(StrEnum):
    """What is wrong at a place."""

    UNREADABLE = "unreadable"
    ALTERED = "altered"
    MISSING = "missing"
    REPEATED = "repeated"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    CHECKPOINT = "checkpoint"
    RECORDING = "recording"
    SUPPLEMENT = "supplement"
    PRUNED = "pruned"


@dataclass(frozen=True, slots=True)
class Place:
    """Where: a line of a file, and which event of which chain it is."""

    file: str
    line: int  # from 1
    key: ChainKey | None = None
    seq: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return (
            where if self.key is None else f"{where} (emitter {self.key.emitter} epoch {self.key.epoch} seq {self.seq})"
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken place."""

    fault: Fault
    place: Place
    text: str
    order: int  # how many lines were read before it

    def __str__(self) -> str:
        return f"{self.place}: {self.fault}: {self.text}"


@dataclass(slots=True)
class _Run:
    """A stretch of a chain in one store, each event following the one before."""

    store: str
    order: int
    place: Place
    first: int
    prev: str
    last: int
    hash: str  # hash as the last line states it
    computed: str  # and as its bytes give it; differs only when that line was altered
    last_place: Place


@dataclass(slots=True)
class Expectations:
    """What the log demands of itself; filled by the first pass."""

    heads: dict[ChainKey, dict[int, list[tuple[str, str]]]] = field(default_factory=dict)  # seq: (hash, who says so)
    former: dict[str, ChainKey] = field(default_factory=dict)  # hash that a first event of this chain follows
    checkpoints: list[tuple[AuditCheckpoint, Place, int]] = field(default_factory=list)
    excuses: list[tuple[Excuse, ChainKey, int]] = field(default_factory=list)  # and where they stand

    def look(self, line: bytes, place: Place, order: int) -> None:
        """First pass: one line. Damaged lines demand nothing; the second pass reports them."""
        if line.startswith(PREFIX):
            self._look_at_mark(line)
            return
        if not any(part in line for part in _DEMANDING):
            return
        try:
            linked = Linked.parse(line)
            event = REGISTRY.decode(linked.body)
        except BadRequest:
            return
        if not linked.intact:
            return
        if linked.seq == 1 and linked.prev:
            self.former[linked.prev] = linked.key
        if isinstance(event, AuditGap | AuditPrune | RecordingPrune | BackupRestore):
            self.excuses.append((event, linked.key, linked.seq))
        if isinstance(event, AuditCheckpoint):
            self.checkpoints.append((event, Place(place.file, place.line, linked.key, linked.seq), order))

    def _look_at_mark(self, line: bytes) -> None:
        """The first event of an epoch may be pruned; what it names has to be there all the same."""
        try:
            mark = Pruned.parse(line)
        except BadRequest:
            return
        if mark.first == 1 and mark.prev:
            self.former[mark.prev] = mark.key

    def demand(self, key: ChainKey, head: Head, who: str) -> None:
        """Somebody trusted says that this chain holds this event."""
        self.heads.setdefault(key, {}).setdefault(head.seq, []).append((head.hash, who))


@dataclass(slots=True)
class RunVerifier:
    """The second pass. `complete`: the log must begin at each chain's first event (a store, not an export)."""

    expected: Expectations
    complete: bool
    verify: Verify | None = None
    problems: list[Problem] = field(default_factory=list)
    events: int = 0
    _runs: dict[ChainKey, list[_Run]] = field(default_factory=dict)
    _open: dict[tuple[str, ChainKey], _Run] = field(default_factory=dict)
    _found_former: set[str] = field(default_factory=set)
    _references: dict[CheckpointRef, tuple[Place, int]] = field(default_factory=dict)
    _ended: set[tuple[str, str]] = field(default_factory=set)  # sessions, each with its host, whose end counts
    _met: set[tuple[ChainKey, int]] = field(default_factory=set)
    _lost: dict[ChainKey, set[tuple[int, int]]] = field(default_factory=dict)  # first and last, as auth put on record
    _lost_former: set[str] = field(default_factory=set)  # hashes of former epochs' events that are lost
    signed: dict[ChainKey, int] = field(default_factory=dict)  # the last event that a sound checkpoint has seen
    prunings: dict[str, list[AuditPrune]] = field(default_factory=dict)  # by file: the last that checkpoints have seen
    numbers: dict[str, int] = field(default_factory=dict)  # by file: of the last pruning that anybody tells of
    pruned: int = 0  # events of which marks are left
    _marks: dict[str, list[bytes]] = field(default_factory=dict)  # by file
    recordings: dict[str, RecordingPrune] = field(default_factory=dict)  # by name: the last that checkpoints have seen
    recording_numbers: dict[str, int] = field(default_factory=dict)  # by name: of the last one that anybody tells of
    digests: dict[str, str] = field(default_factory=dict)  # by file: of the marks that are there
    _first_marks: dict[str, tuple[Place, int]] = field(default_factory=dict)
    _restored: datetime | None = None  # when the log was restored from a backup, the last time
    _order: int = 0

    def start(self) -> None:
        """Checks the checkpoints among themselves and takes up what the sound ones demand."""
        ordered = sorted(self.expected.checkpoints, key=lambda item: (item[0].number, item[2]))
        before: CheckpointRef | None = None
        state: dict[ChainKey, Head] | None = None
        for event, place, order in ordered:
            ref = reference(event)
            if before is not None and ref == before:
                continue  # written again after a crash between writing and noting it
            if self.verify is not None and not signature_holds(event, self.verify):
                self.report(Fault.CHECKPOINT, place, f"the signature of checkpoint {event.number} is wrong", order)
                continue
            wanted = before.number + 1 if before else (1 if self.complete else event.number)
            if event.number != wanted:
                self.report(Fault.CHECKPOINT, place, f"checkpoint {wanted} is missing before {event.number}", order)
                state = None
            elif (before or self.complete) and event.previous != (before.hash if before else ""):
                text = f"checkpoint {event.number} does not follow the one before it"
                self.report(Fault.CHECKPOINT, place, text, order)
            moved = {ChainKey(head.emitter, head.epoch): Head(head.seq, head.hash) for head in event.heads}
            state = moved if event.base else (None if state is None else {**state, **moved})
            if state is not None and root_of(state) != event.root:
                text = f"the root of checkpoint {event.number} is not that of its heads"
                self.report(Fault.CHECKPOINT, place, text, order)
            for key, head in moved.items():
                self.signed[key] = max(head.seq, self.signed.get(key, 0))
                self.expected.demand(key, head, f"checkpoint {event.number} at {place.file}:{place.line}")
            before = ref
        self._excuse()

    def _excuse(self) -> None:
        """Takes up what a restore lost, as far as a checkpoint, or auth's database, has seen the event that says so.

        Else whoever can write the store could excuse what they took out by a line that nobody vouches for.
        """
        for event, key, seq in self.expected.excuses:
            if seq > max(self.expected.heads.get(key, {0: []})):
                continue
            if isinstance(event, AuditPrune):
                self._take_up(event, signed=seq <= self.signed.get(key, 0))
                continue
            if isinstance(event, RecordingPrune):
                self._take_up_recording(event, signed=seq <= self.signed.get(key, 0))
                continue
            if isinstance(event, BackupRestore):
                self._restored = max(event.time, self._restored or event.time)
                continue
            self._lost.setdefault(ChainKey(event.host_id, event.chain_epoch), set()).add((event.first, event.last))
            if not event.first:
                self._lost_former.add(event.follows)

    def _take_up(self, event: AuditPrune, *, signed: bool) -> None:
        """Only the last one of a file counts: one that a hold took back must not excuse what somebody does later."""
        file = f"{event.store}/{event.file}"
        self.numbers[file] = max(event.number, self.numbers.get(file, 0))
        known = self.prunings.get(file, [])
        if signed and (not known or event.number >= known[0].number):
            self.prunings[file] = [*(one for one in known if one.number == event.number), event]

    def _take_up_recording(self, event: RecordingPrune, *, signed: bool) -> None:
        """As with files."""
        known = self.recordings.get(event.recording, RecordingPrune(time=event.time, uid="", gone=False))
        self.recording_numbers[event.recording] = max(event.number, self.recording_numbers.get(event.recording, 0))
        if signed and event.number > known.number:
            self.recordings[event.recording] = event

    def feed(self, line: bytes, file: str, number: int, store: str) -> Linked | None:
        """One line of a file that belongs to `store`; the line taken apart when it is intact."""
        self._order += 1
        place = Place(file, number)
        if line.startswith(PREFIX):
            self._feed_mark(line, place, store)
            return None
        self.events += 1
        try:
            linked = Linked.parse(line)
        except BadRequest as error:
            self.report(Fault.UNREADABLE, place, error.message)
            return None
        place = Place(file, number, linked.key, linked.seq)
        run = self._open.get((store, linked.key))
        follows = run is not None and linked.seq == run.last + 1
        if not linked.intact:
            self.report(Fault.ALTERED, place, "the line is not what its emitter wrote: the hash does not fit")
            if not follows and not (run is None and linked.seq == 1):
                return None  # which event this was cannot be known from an altered line
        elif follows and run is not None and linked.prev not in (run.hash, run.computed):
            self.report(Fault.ALTERED, place, "it does not continue the event before it: another history")
        if follows and run is not None:
            run.last, run.hash, run.computed, run.last_place = linked.seq, linked.stated, linked.computed, place
        else:
            run = _Run(
                store, self._order, place, linked.seq, linked.prev, linked.seq, linked.stated, linked.computed, place
            )
            self._open[store, linked.key] = run
            self._runs.setdefault(linked.key, []).append(run)
        if not linked.intact:
            return None
        self._compare(linked, place)
        return linked

    def _feed_mark(self, line: bytes, place: Place, store: str) -> None:
        """A stretch that was pruned: it fits between its neighbours, and ends as others saw it end."""
        self._marks.setdefault(place.file, []).append(line)
        self._first_marks.setdefault(place.file, (place, self._order))
        try:
            mark = Pruned.parse(line)
        except BadRequest as error:
            self.report(Fault.UNREADABLE, place, error.message)
            return
        self.pruned += mark.count
        place = Place(place.file, place.line, mark.key, mark.first)
        run = self._open.get((store, mark.key))
        if run is not None and mark.first == run.last + 1:
            if mark.prev not in (run.hash, run.computed):
                self.report(Fault.ALTERED, place, "it does not continue the event before it: another history")
            run.last, run.hash, run.computed, run.last_place = mark.last, mark.hash, mark.hash, place
        else:
            run = _Run(store, self._order, place, mark.first, mark.prev, mark.last, mark.hash, mark.hash, place)
            self._open[store, mark.key] = run
            self._runs.setdefault(mark.key, []).append(run)
        if mark.hash in self.expected.former:
            self._found_former.add(mark.hash)
        demands = self.expected.heads.get(mark.key, {}).get(mark.last, ())
        if demands:
            self._met.add((mark.key, mark.last))
        for digest, who in demands:
            if digest != mark.hash:
                self.report(Fault.CHECKPOINT, place, f"{who} has seen another event at the end of what was pruned")

    def _check_marks(self) -> None:
        """Each file's marks together are what auth said that it prunes, or what was there before it; in an export, of
        whichever file."""
        for file, marks in self._marks.items():
            self.digests[file] = digest_of_marks(marks)
            files = [file] if self.complete else list(self.prunings)
            said = [one for name in files for one in self.prunings.get(name, ())]
            if not any(self.digests[file] in (one.digest, one.follows) for one in said):
                place, order = self._first_marks[file]
                text = "events are gone here, and no pruning of just these is on record and seen by a checkpoint"
                self.report(Fault.PRUNED, place, text, order)

    def _compare(self, linked: Linked, place: Place) -> None:
        """Against what others said of this event, and what it says of others."""
        if linked.computed in self.expected.former:
            self._found_former.add(linked.computed)
        demands = self.expected.heads.get(linked.key, {}).get(linked.seq)
        if demands is not None:
            self._met.add((linked.key, linked.seq))
            for digest, who in demands:
                if digest != linked.computed:
                    self.report(Fault.CHECKPOINT, place, f"{who} has seen another event here")
        mark = linked.body.find(b'"checkpoint":"')
        ref = CheckpointRef.parse(linked.body[mark + 14 : mark + 110].split(b'"', 1)[0].decode("ascii", "replace"))
        if ref is not None and not self._of_lost_time(linked):
            self._references.setdefault(ref, (place, self._order))
        if linked.event == "session.end":
            self._check_end(linked, place)
        elif linked.supplement:
            self.report(Fault.SUPPLEMENT, place, "marked a supplement, which only an end of a session can be")

    def _of_lost_time(self, linked: Linked) -> bool:
        """Whether an event is from before a restore, and so may know checkpoints that were lost by it."""
        return self._restored is not None and REGISTRY.decode(linked.body).time < self._restored

    def _check_end(self, linked: Linked, place: Place) -> None:
        event = REGISTRY.decode(linked.body)
        if not isinstance(event, SessionEnd) or not event.sid or linked.supplement:
            return  # a supplement may be read before the end that counts: in another store, or taken in first
        one = event.sid, event.server_id or event.emitter
        if self.complete and one in self._ended:
            self.report(Fault.SUPPLEMENT, place, f"a second end of session {event.sid}, not marked a supplement")
        self._ended.add(one)

    def finish(self) -> None:
        """What only the whole log can tell: gaps, order, ends, references."""
        for key, runs in self._runs.items():
            self._check_chain(key, runs)
        self._check_demands()
        self._check_references()
        self._check_marks()
        self.problems.sort(key=lambda problem: problem.order)

    def chains(self) -> Iterable[ChainKey]:
        """All chains met."""
        return self._runs.keys()

    def _check_chain(self, key: ChainKey, runs: list[_Run]) -> None:
        for one, two in itertools.pairwise(runs):
            if one.store == two.store and two.first < one.first:
                text = f"event {two.first} of its chain stands after it"
                self.report(Fault.REORDERED, one.place, text, one.order)
        ordered = sorted(runs, key=lambda run: (run.first, run.order))
        first = ordered[0]
        lost = self._lost.get(key, set())
        if first.first != 1 and self.complete and (1, first.first - 1) not in lost:
            self.report(Fault.MISSING, first.place, f"events 1 to {first.first - 1} of its chain", first.order)
        known = self._found_former | self._lost_former
        if first.first == 1 and first.prev and self.complete and first.prev not in known:
            text = "the event of a former epoch that it follows is not in the log"
            self.report(Fault.MISSING, first.place, text, first.order)
        reach = first
        for run in ordered[1:]:
            if run.first <= reach.last:
                if run.store == reach.store:
                    text = f"event {run.first} of its chain is in the log before"
                    self.report(Fault.REPEATED, run.place, text, max(run.order, reach.order))
            elif run.first > reach.last + 1:
                if (reach.last + 1, run.first - 1) in lost:
                    reach = run
                    continue
                text = f"events {reach.last + 1} to {run.first - 1} of its chain, before it"
                self.report(Fault.MISSING, run.place, text, run.order)
            elif run.prev not in (reach.hash, reach.computed):
                self.report(Fault.ALTERED, run.place, "it does not continue the event before it", run.order)
            if run.last > reach.last:
                reach = run

    def _check_demands(self) -> None:
        for key, demands in self.expected.heads.items():
            runs = self._runs.get(key, [])
            end = max(runs, key=lambda run: run.last) if runs else None
            for seq in sorted(demands):
                if (key, seq) in self._met:
                    continue
                digest, who = demands[seq][0]
                if end is None:
                    if not self.complete:
                        continue
                    text = f"the whole chain is missing: {who} has seen event {seq} ({digest[:16]})"
                    self.report(Fault.TRUNCATED, Place("", 0, key, 1), text, self._order)
                elif seq > end.last:
                    text = f"the chain ends here, but {who} has seen event {seq} ({digest[:16]})"
                    self.report(Fault.TRUNCATED, end.last_place, text, self._order)
                else:
                    continue  # in a gap, which is reported as such
                break

    def _check_references(self) -> None:
        """A checkpoint that any event mentions must be in the log: else the log's end was cut or replaced."""
        known = {reference(event) for event, _, _ in self.expected.checkpoints}
        lowest = min((ref.number for ref in known), default=0)
        for ref, (place, order) in self._references.items():
            if ref in known or (not self.complete and (not known or ref.number < lowest)):
                continue
            text = f"it knew of checkpoint {ref.number} ({ref.hash[:16]}), which is not in the log"
            self.report(Fault.CHECKPOINT, place, text, order)

    def report(self, fault: Fault, place: Place, text: str, order: int | None = None) -> None:
        """Notes a broken place; the one that is being read unless `order` says otherwise."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(fault, place, text, self._order if order is None else order))


def demand_all(expected: Expectations, heads: Mapping[ChainKey, Head], who: str) -> None:
    """Heads known from elsewhere, such as auth's database: the log must reach at least these."""
    for key, head in heads.items():
        if head.seq:
            expected.demand(key, head, who)

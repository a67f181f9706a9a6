"""`tctl audit verify`: proves a store or an exported file, and names the first broken place.

A store is a folder with one folder for each auth server, holding its day files; an export is a file of the same
lines. The store must begin at each chain's first event, an export need not. What was cut from the newest end together
with every checkpoint about it shows only against knowledge from outside: `known_heads`, from auth's database.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from teleport.audit.appendlog import whole_lines
from teleport.audit.chain import ChainKey, Head, Linked, Verify
from teleport.audit.chain.verify import Expectations, Fault, Place, Problem, RunVerifier, demand_all
from teleport.audit.events import REGISTRY, AuditPrune, RecordingPrune, SessionEnd, SessionUpload
from teleport.audit.sinks import day_files
from teleport.errors import NotFound

Recordings = Callable[[str], str | None]
"""Name of a recording (SID, or SID.HOST for that which a host made) to its last hash, None when there is none."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What pruning rests on: how far sound checkpoints have seen each chain; by file the last pruning that they have
    seen, the number of the last one, and what is left of prunings; and the events that first ones of later epochs name.
    """

    signed: Mapping[ChainKey, int] = field(default_factory=dict)
    prunings: Mapping[str, Sequence[AuditPrune]] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    former: Collection[str] = ()
    recordings: Mapping[str, RecordingPrune] = field(default_factory=dict)
    recording_numbers: Mapping[str, int] = field(default_factory=dict)
    arrivals: Mapping[str, datetime] = field(default_factory=dict)  # when auth told of recordings, of those asked for


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    events: int
    emitters: int
    chains: int
    checkpoints: int
    signatures: bool  # whether checkpoints' signatures were checked
    recordings: int  # how many recordings were compared
    problems: tuple[Problem, ...]  # in order of the log, at most 100
    pruned: int = 0  # events that are not there any more, as auth put on record
    basis: Basis = field(default_factory=Basis)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def first(self) -> Problem | None:
        """The first broken place."""
        return self.problems[0] if self.problems else None


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    name: str  # as shown
    store: str
    size: int  # bytes to read: a store may grow while it is proved


def verify_store(
    directory: Path,
    *,
    verify: Verify | None = None,
    known_heads: Mapping[ChainKey, Head] | None = None,
    recordings: Recordings | None = None,
    arrivals: Collection[str] = (),
) -> Report:
    """Proves all of a store. Blocks; `NotFound` when there is none. `arrivals`: names of recordings of which it is to
    be known when auth told that they arrived."""
    if not directory.is_dir():
        raise NotFound(f"there is no audit store {directory}", hint="name the folder that holds events.log")
    stores = sorted(entry for entry in directory.iterdir() if entry.is_dir() and not entry.is_symlink())
    sources = [source for store in stores for source in _sources(store)]
    return _verify(
        sources, complete=True, verify=verify, known_heads=known_heads, recordings=recordings, wanted=arrivals
    )


def verify_file(path: Path, *, verify: Verify | None = None, recordings: Recordings | None = None) -> Report:
    """Proves an exported stretch of a log. Blocks; `NotFound` when the file is not there."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}", hint="`tctl audit ls --format=json` exports events")
    return _verify(
        [_Source(path, path.name, "", path.stat().st_size)],
        complete=False,
        verify=verify,
        known_heads=None,
        recordings=recordings,
    )


def _sources(store: Path) -> Iterator[_Source]:
    """A store's files as they are now. An unfinished last line of the newest is being written, or was never kept."""
    files = day_files(store)
    for path in files:
        size = whole_lines(path) if path is files[-1] else path.stat().st_size
        yield _Source(path, f"{store.name}/{path.name}", store.name, size)


def _lines(sources: list[_Source]) -> Iterator[tuple[_Source, int, bytes]]:
    for source in sources:
        left = source.size
        with source.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if left <= 0:
                    break
                raw = raw[:left]
                left -= len(raw)
                yield source, number, raw[:-1] if raw.endswith(b"\n") else raw


def _verify(
    sources: list[_Source],
    *,
    complete: bool,
    verify: Verify | None,
    known_heads: Mapping[ChainKey, Head] | None,
    recordings: Recordings | None,
    wanted: Collection[str] = (),
) -> Report:
    expected = Expectations()
    for order, (source, number, line) in enumerate(_lines(sources), 1):
        expected.look(line, Place(source.name, number), order)
    demand_all(expected, known_heads or {}, "auth's database")
    runs = RunVerifier(expected, complete, verify)
    runs.start()
    compared: set[str] = set()
    arrivals: dict[str, datetime] = {}
    for source, number, line in _lines(sources):
        linked = runs.feed(line, source.name, number, source.store)
        if linked is not None and recordings is not None:
            place = Place(source.name, number, linked.key, linked.seq)
            _compare_recording(runs, linked, place, recordings, compared)
        if linked is not None and wanted and linked.seq <= runs.signed.get(linked.key, 0):
            _note_arrival(linked, wanted, arrivals)
    runs.finish()
    return Report(
        events=runs.events,
        emitters=len({key.emitter for key in runs.chains()}),
        chains=len(set(runs.chains())),
        checkpoints=len(expected.checkpoints),
        signatures=verify is not None,
        recordings=len(compared),
        problems=tuple(runs.problems),
        pruned=runs.pruned,
        basis=Basis(
            runs.signed if verify is not None else {},
            runs.prunings,
            runs.numbers,
            runs.digests,
            frozenset(expected.former),
            runs.recordings,
            runs.recording_numbers,
            arrivals,
        ),
    )


def _compare_recording(
    runs: RunVerifier, linked: Linked, place: Place, recordings: Recordings, compared: set[str]
) -> None:
    """The hash in an event against the recording that is kept. A missing one is wrong only after its upload."""
    if linked.event not in ("session.end", "session.upload"):
        return
    event = REGISTRY.decode(linked.body)
    if not isinstance(event, SessionEnd | SessionUpload) or not event.recording_hash:
        return
    # An end speaks of what its own host recorded, an upload of what auth stored then.
    name = _brought(event) if isinstance(event, SessionUpload) else f"{event.sid}.{event.emitter}"
    kept = recordings(name)
    if kept is None:
        pruned = runs.recordings.get(name)
        if isinstance(event, SessionUpload) and (pruned is None or not pruned.gone):
            runs.report(Fault.RECORDING, place, f"the recording of session {event.sid} is missing")
        return
    compared.add(f"{event.sid} {event.recording_hash}")
    if kept != event.recording_hash:
        runs.report(Fault.RECORDING, place, f"the recording of session {event.sid} is not the one that was made")


def _brought(event: SessionUpload) -> str:
    """The name of the recording that an upload is about."""
    return event.url.rpartition("/")[2].removesuffix(".rec") or event.sid


def _note_arrival(linked: Linked, wanted: Collection[str], arrivals: dict[str, datetime]) -> None:
    """When auth, by its own clock, told that a recording was stored."""
    if linked.event != "session.upload":
        return
    event = REGISTRY.decode(linked.body)
    if isinstance(event, SessionUpload) and (name := _brought(event)) in wanted:
        arrivals[name] = max(event.time, arrivals.get(name, event.time))

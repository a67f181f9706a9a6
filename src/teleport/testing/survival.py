"""What survived: the ledger of what a cluster acknowledged, and the checker that compares it with what is on its disks.

A workload notes in a `Ledger` what it was told is done, and only that: a write that was answered, a session whose exit
status the client got. `Evidence` is read from the disks afterwards, without the daemons. `problems` compares the two
and names each thing that is missing or half done. It is shown to find planted losses wherever it is used.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teleport.backend.sqlite_file import FILE_NAME
from teleport.recording.format import BrokenPlace, BrokenRecording, FrameKind
from teleport.recording.player import RecordingReader
from teleport.recording.verify import verify_recording
from teleport.testing.survival_moves import Forwarded, Joined, Moved, forwarded_wrongly, joined_wrongly, moved_wrongly

ROLE = "roles/"
HOST = "hosts/"


@dataclass(frozen=True, slots=True)
class Ran:
    """A session that the client saw: what it printed, and whether its exit status came."""

    tag: str  # stands in its command
    seen: bytes  # what the client got
    finished: bool  # the client was told that it ended well: the whole of it is on record
    acknowledged: float = 0.0  # of lines `number time`: those printed before this time are on disk


class Ledger:
    """What was acknowledged. Used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.writes: dict[str, str] = {}  # role: its description
        self.logins: set[str] = set()  # fingerprints of the certified keys
        self.joins: set[str] = set()  # host UUIDs
        self.sessions: list[Ran] = []
        self.moves: list[Moved] = []
        self.forwards: list[Forwarded] = []
        self.shared: list[Joined] = []
        self.shut_out: set[str] = set()  # people who may do nothing
        self.tried = 0  # what policy forbids, and
        self.let_in: list[str] = []  # of that what was done all the same, as a client saw it
        self.failures: Counter[str] = Counter()  # what was asked and not acknowledged, for the report

    def wrote(self, name: str, description: str) -> None:
        with self._lock:
            self.writes[name] = description

    def logged_in(self, fingerprint: str) -> None:
        with self._lock:
            self.logins.add(fingerprint)

    def joined(self, host_id: str) -> None:
        with self._lock:
            self.joins.add(host_id)

    def ran(self, session: Ran) -> None:
        with self._lock:
            self.sessions.append(session)

    def moved(self, move: Moved) -> None:
        with self._lock:
            self.moves.append(move)

    def forwarded(self, forward: Forwarded) -> None:
        with self._lock:
            self.forwards.append(forward)

    def joined_session(self, joined: Joined) -> None:
        with self._lock:
            self.shared.append(joined)

    def forbidden(self, what: str, *, done: bool) -> None:
        """Somebody tried what policy forbids."""
        with self._lock:
            self.tried += 1
            if done:
                self.let_in.append(what)

    def failed(self, what: str) -> None:
        with self._lock:
            self.failures[what] += 1

    def summary(self) -> str:
        finished = sum(session.finished for session in self.sessions)
        return (
            f"{len(self.writes)} writes, {len(self.logins)} logins, {len(self.joins)} joins, "
            f"{len(self.sessions)} sessions ({finished} to their end), "
            f"{sum(move.told for move in self.moves)} of {len(self.moves)} operations on files, "
            f"{sum(forward.told for forward in self.forwards)} of {len(self.forwards)} forwards acknowledged, "
            f"{sum(one.told for one in self.shared)} of {len(self.shared)} joined sessions seen; "
            f"{len(self.let_in)} of {self.tried} forbidden things done; "
            "not acknowledged: "
            + (", ".join(f"{count} {what}" for what, count in sorted(self.failures.items())) or "nothing")
        )


@dataclass(slots=True)
class Evidence:
    """What lies on the disks of a cluster that is stopped."""

    events: list[dict[str, Any]] = field(default_factory=list)
    items: dict[str, bytes] = field(default_factory=dict)  # of auth's storage
    recordings: dict[str, bytes | str] = field(default_factory=dict)  # session: its output, or what is wrong with it
    left: list[str] = field(default_factory=list)  # files that should have gone: undelivered spools, open parts

    @classmethod
    def read(cls, auth: Path, hosts: Sequence[Path]) -> Evidence:
        """`auth` and `hosts`: data directories; auth's storage, log and recordings, and every host's spools."""
        with closing(sqlite3.connect(auth / "backend" / FILE_NAME)) as connection:
            items = dict(connection.execute("SELECT key, value FROM item"))
        return cls.of(auth / "log", auth / "log" / "records", items, {auth, *hosts})

    @classmethod
    def of(cls, log: Path, records: Path, items: dict[str, bytes], hosts: Collection[Path]) -> Evidence:
        """The folders of the log and of the recordings, what is in the storage, and the data directories of all
        hosts."""
        found = cls(items=items)
        for path in sorted(log.glob("*/*.00:00:00.log")):
            found.events += [json.loads(line) for line in path.read_bytes().splitlines()]
        for path in sorted(records.glob("*.rec")):
            found.recordings[path.stem] = recorded_output(path)
        for host in hosts:
            for folder, end in itertools.product(("upload", "upload-proxy"), ("*.rec*", "*.torn", "*.open")):
                found.left += [str(path) for path in sorted((host / "log" / folder).rglob(end))]
        return found


def recorded_output(path: Path) -> bytes | str:
    """What a stored recording holds of the session's output; a text when it cannot be believed."""
    with path.open("rb") as file:
        verified = verify_recording(file, sid=path.stem)
        if isinstance(verified, BrokenPlace):
            return f"broken: {verified}"
        file.seek(0)
        try:
            return b"".join(frame.payload for frame in RecordingReader(file).frames() if frame.kind is FrameKind.OUTPUT)
        except BrokenRecording as error:
            return f"broken: {error}"


def problems(ledger: Ledger, evidence: Evidence) -> list[str]:
    """Everything that was acknowledged and is not there, and everything that is there by half."""
    named: dict[str, list[dict[str, Any]]] = {}
    for event in _told_once(evidence.events):
        named.setdefault(str(event["event"]), []).append(event)
    return [
        *_lost_writes(ledger, evidence, named),
        *_lost_events(ledger, named),
        *_broken_chains(evidence.events),
        *_sessions(ledger, evidence, named),
        *moved_wrongly(ledger.moves, named),
        *forwarded_wrongly(ledger.forwards, named),
        *joined_wrongly(ledger.shared, named),
        *_forbidden(ledger, named),
        *(f"left behind: {path}" for path in evidence.left),
        *(f"left in the outbox: {key}" for key in evidence.items if key.startswith("audit/outbox/")),
    ]


_Named = Mapping[str, list[dict[str, Any]]]
_CHAIN = {"emitter", "epoch", "seq", "prev", "hash", "checkpoint", "received", "receipt"}  # where an event stands


def _told_once(events: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Without what another auth server told of again, in the same words and with the same uid: of what one was telling
    of when it died that is promised (`docs/operations.md`). What one of them told of twice stays."""
    known: dict[str, dict[str, Any]] = {}
    for event in events:
        other = known.setdefault(event["uid"], event)
        if other is event or other["emitter"] == event["emitter"] or _words(other) != _words(event):
            yield event


def _words(event: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in _CHAIN}


def _lost_writes(ledger: Ledger, evidence: Evidence, named: _Named) -> Iterator[str]:
    told = {event["name"] for event in named.get("role.created", ())}
    for name, description in ledger.writes.items():
        value = evidence.items.get(ROLE + name)
        if value is None:
            yield f"lost write: role {name} was acknowledged and is not in the storage"
        elif json.loads(value)["metadata"].get("description") != description:
            yield f"lost write: role {name} is not as it was acknowledged"
    for key in evidence.items:
        name = key.removeprefix(ROLE)
        if key.startswith(ROLE) and name not in told:
            yield f"half done: role {name} is in the storage without an event"
    for name in told:
        if ROLE + name not in evidence.items:
            yield f"half done: an event tells of role {name}, which is not in the storage"
    joined = {event["host_id"] for event in named.get("host.join", ())}
    for host_id in joined:
        if HOST + host_id not in evidence.items:
            yield f"half done: an event tells that host {host_id} joined, which is not in the storage"


def _forbidden(ledger: Ledger, named: _Named) -> Iterator[str]:
    """What was done though policy forbids it."""
    for what in ledger.let_in:
        yield f"forbidden access: {what}"
    for kind in ("session.start", "session.join", "port", "sftp", "scp", "exec"):
        for event in named.get(kind, ()):
            if event.get("user") in ledger.shut_out and not event.get("error"):
                yield f"forbidden access: {kind} of {event['user']} is on record"


def _lost_events(ledger: Ledger, named: _Named) -> Iterator[str]:
    created = {event["name"] for event in named.get("role.created", ())}
    certified = {event.get("key_fingerprint") for event in named.get("cert.create", ())}
    joined = {event["host_id"] for event in named.get("host.join", ())}
    for what, acknowledged, found in (
        ("role.created", set(ledger.writes), created),
        ("cert.create", ledger.logins, certified),
        ("host.join", ledger.joins, joined),
    ):
        for name in sorted(acknowledged - found):
            yield f"lost event: {what} of {name}"
    if (logins := sum(event["success"] for event in named.get("user.login", ()))) < len(ledger.logins):
        yield f"lost event: {len(ledger.logins)} logins were acknowledged, {logins} are on record"


def _broken_chains(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each event once, each chain without a gap."""
    last: dict[tuple[str, int], int] = {}
    for event in events:
        key = (event["emitter"], event["epoch"])
        if event["seq"] != last.get(key, 0) + 1:
            yield f"lost event: emitter {key[0]} epoch {key[1]} goes from {last.get(key, 0)} to {event['seq']}"
        last[key] = event["seq"]


def _sessions(ledger: Ledger, evidence: Evidence, named: _Named) -> Iterator[str]:
    starts = {event["sid"]: " ".join(event.get("initial_command", ())) for event in named.get("session.start", ())}
    ends = Counter(event["sid"] for event in named.get("session.end", ()) if not event.get("supplement"))
    uploads = Counter(event["sid"] for event in named.get("session.upload", ()))
    for gap in named.get("recording.gap", ()):
        yield f"lost recording: of session {gap['sid']}: {gap['reason']}"
    for sid, count in ends.items():
        if count > 1 and sid not in starts:
            yield f"doubled event: session {sid}, of which no start is known, has {count} ends"
    for sid in starts:
        if ends[sid] != 1:
            yield f"lost event: session {sid} started and has {ends[sid]} ends"
        if uploads[sid] != 1:
            yield f"lost event: session {sid} has {uploads[sid]} uploads"
        recorded = evidence.recordings.get(sid)
        if recorded is None or isinstance(recorded, str):
            yield f"lost recording: session {sid} has {recorded or 'none'}"
    by_tag = {session.tag: session for session in ledger.sessions}
    for tag, session in by_tag.items():
        mine = [sid for sid, command in starts.items() if tag in command]
        if not mine and (session.seen or session.finished):
            yield f"lost event: the start of the session {tag}"
        for sid in mine:
            recorded = evidence.recordings.get(sid)
            if isinstance(recorded, bytes):
                yield from _lost_output(session, sid, recorded)


def _lost_output(session: Ran, sid: str, recorded: bytes) -> Iterator[str]:
    if session.finished:
        if recorded != session.seen:
            yield (
                f"lost output: session {sid} ended well and printed {len(session.seen)} bytes, "
                f"its recording has {len(recorded)}"
            )
        return
    numbers = [int(line.split()[0]) for line in recorded.splitlines()[:-1] if line.split()]
    if numbers != list(range(len(numbers))):
        yield f"lost output: the lines in the recording of session {sid} do not follow one another"
    kept = set(recorded.splitlines())
    for line in session.seen.splitlines(keepends=True):
        words = line.split()
        told = line.endswith(b"\n") and len(words) == 2 and float(words[1]) < session.acknowledged
        if told and line.strip() not in kept:
            yield f"lost output: session {sid} showed {line.decode().strip()!r}, which is not in its recording"
            return

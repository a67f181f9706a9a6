"""What clients were told of moved files, opened ways and joined sessions, compared with what is on record.

The promise: what a client was told is done is on record exactly once, with the hash of what moved. What it was not told
of (the connection broke before the answer) is on record once or not at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Moved:
    """One thing that a client of SFTP or scp was to do to a file. No other one has its kind, action and path."""

    kind: str  # of its event: sftp or scp
    action: str  # write, read, rename or remove
    path: str
    told: bool  # the client was told that it is done
    sha256: str = ""  # of what moved, hex; empty where nothing did


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A connection that was to go through a host to an address that no other one has."""

    address: str
    told: bool  # bytes came back


@dataclass(frozen=True, slots=True)
class Joined:
    """A session that somebody came to. Nobody else came to it."""

    sid: str
    told: bool  # what it printed came to who joined


def moved_wrongly(moves: Sequence[Moved], named: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """What is missing, twice there, or another than it was; `named` are all events by what they are called."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for kind, action in (("sftp", "action"), ("scp", "operation")):
        for event in named.get(kind, ()):
            found[kind, event[action], event["path"]].append(event)
    for move in moves:
        events = found[move.kind, move.action, move.path]
        what = f"{move.kind} {move.action} of {move.path}"
        if len(events) > 1:
            yield f"doubled event: {what} is on record {len(events)} times"
        if not move.told:
            continue
        whole = [event for event in events if not event.get("error")]
        if not whole:
            yield f"lost event: {what}, which a client was told of"
        elif move.sha256 and whole[0].get("sha256", "") != move.sha256:
            yield f"wrong event: {what} is on record with another hash than what moved"


def forwarded_wrongly(forwards: Sequence[Forwarded], named: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """As `moved_wrongly`, of forwards."""
    found = Counter(event["addr"] for event in named.get("port", ()))
    for forward in forwards:
        if found[forward.address] > 1:
            yield f"doubled event: the forward to {forward.address} is on record {found[forward.address]} times"
        if forward.told and not found[forward.address]:
            yield f"lost event: the forward to {forward.address}, through which bytes came back"


def joined_wrongly(joined: Sequence[Joined], named: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """As `moved_wrongly`, of people who came to a session."""
    found = Counter(event["sid"] for event in named.get("session.join", ()))
    for one in joined:
        if found[one.sid] > 1:
            yield f"doubled event: who joined the session {one.sid} is on record {found[one.sid]} times"
        if one.told and not found[one.sid]:
            yield f"lost event: who joined the session {one.sid}, and saw what it printed"

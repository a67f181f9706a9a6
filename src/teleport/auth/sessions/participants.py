"""Who took part in sessions that are recorded, kept beyond the sessions' ends.

It comes from the sessions' events (`sessions.opened.SessionTracker`): auth takes from a host only events of itself, and
keeps them by session and host. Who took part counts for a recording only when it was made on the same host, so no host
can let anybody into the recording of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import msgspec

from teleport.backend.interface import Backend, PutOp

PEOPLE: Final = "audit/session-people/"  # SID/HOST, of sessions that others joined; versions before kept SID alone
MOST: Final = 100  # people of one session that are remembered


class Participants(msgspec.Struct, frozen=True, kw_only=True):
    """Who was in a session that others joined."""

    host_id: str
    people: list[str]  # its user first


class Recorded(Protocol):
    """What has to be known of a recording: of one that is stored, or of its header."""

    @property
    def sid(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def node_id(self) -> str: ...


def put_people(sid: str, host_id: str, people: Iterable[str]) -> PutOp:
    """Remembers them for as long as there may be a recording."""
    kept = list(dict.fromkeys(people))[:MOST]
    return PutOp(f"{PEOPLE}{sid}/{host_id}", msgspec.json.encode(Participants(host_id=host_id, people=kept)))


async def all_people(backend: Backend) -> Mapping[tuple[str, str], Participants]:
    """Of every session that others joined, by its id and its host."""
    found = {}
    for item in await backend.range(PEOPLE):  # SID comes before SID/HOST, which counts
        known = msgspec.json.decode(item.value, type=Participants)
        found[item.key.removeprefix(PEOPLE).partition("/")[0], known.host_id] = known
    return found


async def people_of(backend: Backend, sid: str, host_id: str) -> Participants | None:
    """Of one session on a host; None where nobody joined it."""
    item = await backend.get(f"{PEOPLE}{sid}/{host_id}") or await backend.get(PEOPLE + sid)
    known = None if item is None else msgspec.json.decode(item.value, type=Participants)
    return known if known is not None and known.host_id == host_id else None


def participants(one: Recorded, known: Participants | None) -> list[str]:
    """Who took part in a recorded session: its user, and who joined it as far as its own host told."""
    if known is None or known.host_id != one.node_id:
        return [one.user]
    return list(dict.fromkeys([one.user, *known.people]))

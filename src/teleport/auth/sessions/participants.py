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
FEW: Final = 2000  # joined sessions that are read as a whole
_AT_ONCE: Final = 200  # sessions in one read


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


async def people_of_each(backend: Backend, sids: Iterable[str]) -> Mapping[tuple[str, str], Participants]:
    """Of those of these sessions that others joined, by id and host.

    Mostly few sessions are joined, and reading all of those is quickest. But hosts tell of joined sessions as they
    like, so of many no more is read than was asked for.
    """
    wanted = set(sids)
    items = await backend.range(PEOPLE, limit=FEW + 1)
    if len(items) > FEW:
        items, asked = [], sorted(wanted)
        for at in range(0, len(asked), _AT_ONCE):
            items += (await backend.snapshot([PEOPLE + sid for sid in asked[at : at + _AT_ONCE]])).items
    found = {}
    for item in items:  # SID comes before SID/HOST, which counts
        sid = item.key.removeprefix(PEOPLE).partition("/")[0]
        if sid in wanted:
            known = msgspec.json.decode(item.value, type=Participants)
            found[sid, known.host_id] = known
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

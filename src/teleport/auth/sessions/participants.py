"""Who took part in sessions that are recorded, kept beyond the sessions' ends.

It comes from the sessions' events (`sessions.opened.SessionTracker`): auth takes from a host only events of itself, and
keeps them by session, host and who told of it. Who took part counts for a recording only when its own host or its
maker told of it, so nobody can let anybody into the recording of another; and only what is told until the session's
end, so nobody lets people into old recordings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from teleport.backend.interface import Backend, PutOp

PEOPLE: Final = "audit/session-people/"
"""SID/HOST, of sessions that others joined; SID/HOST/TELLER where a proxy told of it; of versions before, SID alone."""
CLOSED: Final = "audit/session-closed/"  # SID/HOST/TELLER, of sessions whose end that one told
CLOSED_KEPT: Final = timedelta(days=400)  # as ends are
MOST: Final = 100  # people of one session that are remembered
MOST_NAME: Final = 512  # characters of a name that are
FEW: Final = 2000  # joined sessions that are read as a whole
_AT_ONCE: Final = 200  # sessions in one read

Told = tuple[str, str, str]  # of a session: id, host, and the proxy that told, or empty


class Participants(msgspec.Struct, frozen=True, kw_only=True):
    """Who was in a session that others joined."""

    host_id: str
    people: list[str]  # its user first
    told_by: str = ""  # UUID of the proxy that told of it; empty when the host itself did


class Recorded(Protocol):
    """What has to be known of a recording: of one that is stored, or of its header."""

    @property
    def sid(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def node_id(self) -> str: ...
    @property
    def made_by(self) -> str: ...


def put_people(sid: str, host_id: str, people: Iterable[str], teller: str = "") -> PutOp:
    """Remembers them for as long as there may be a recording."""
    kept = list(dict.fromkeys(one[:MOST_NAME] for one in people))[:MOST]
    told_by = "" if teller == host_id else teller
    value = msgspec.json.encode(Participants(host_id=host_id, people=kept, told_by=told_by))
    return PutOp(_key(sid, host_id, told_by), value)


def _key(sid: str, host_id: str, told_by: str) -> str:
    return f"{PEOPLE}{sid}/{host_id}" + (f"/{told_by}" if told_by else "")


def put_closed(sid: str, host_id: str, teller: str, now: datetime) -> PutOp:
    """From now on nothing that this one tells adds to who took part."""
    return PutOp(f"{CLOSED}{sid}/{host_id}/{teller}", b"", now + CLOSED_KEPT)


async def is_closed(backend: Backend, sid: str, host_id: str, teller: str) -> bool:
    """Whether `teller` has told of the session's end. Not to be read from the ends that count: those are by host, so
    one proxy could close what another tells; and by an id of the event, which its host chooses."""
    return await backend.get(f"{CLOSED}{sid}/{host_id}/{teller}") is not None


async def people_of_each(backend: Backend, sids: Iterable[str]) -> Mapping[Told, Participants]:
    """Of those of these sessions that others joined, by id, host and the proxy that told (empty: the host did).

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
            found[sid, known.host_id, known.told_by] = known
    return found


def of_recording(known: Mapping[Told, Participants], one: Recorded) -> Participants | None:
    """What counts for a recording of what `people_of_each` gives."""
    own, told = known.get((one.sid, one.node_id, "")), known.get((one.sid, one.node_id, one.made_by))
    return _both(own, told)


def _both(own: Participants | None, told: Participants | None) -> Participants | None:
    if own is None or told is None:
        return own or told
    return Participants(host_id=own.host_id, people=list(dict.fromkeys([*own.people, *told.people])))


async def people_of(backend: Backend, sid: str, host_id: str, maker: str = "") -> Participants | None:
    """Of one session on a host, as the host told of it and, where it is another one, `maker`; None where nobody joined
    it."""
    item = await backend.get(_key(sid, host_id, "")) or await backend.get(PEOPLE + sid)
    own = None if item is None else msgspec.json.decode(item.value, type=Participants)
    if own is not None and own.host_id != host_id:
        own = None
    if maker in ("", host_id):
        return own
    return _both(own, await told_by(backend, sid, host_id, maker))


async def told_by(backend: Backend, sid: str, host_id: str, teller: str) -> Participants | None:
    """What one of those who tell of a session told of it, and nobody else."""
    if teller in ("", host_id):
        return await people_of(backend, sid, host_id)
    item = await backend.get(_key(sid, host_id, teller))
    return None if item is None else msgspec.json.decode(item.value, type=Participants)


def participants(one: Recorded, known: Participants | None) -> list[str]:
    """Who took part in a recorded session: its user, and who joined it as far as its own host told."""
    if known is None or known.host_id != one.node_id:
        return [one.user]
    return list(dict.fromkeys([one.user, *known.people]))

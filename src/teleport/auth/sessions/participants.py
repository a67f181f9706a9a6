"""Who took part in sessions that are recorded, and on which host each ran, kept beyond the sessions' ends.

Both come from the sessions' own events (`sessions.opened.SessionTracker`), and from no other host's: auth takes from a
host only events of itself. Who took part counts for a recording only when it was made on the same host, so no host
can let anybody into the recording of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from teleport.backend.interface import Backend, PutOp

PEOPLE: Final = "audit/session-people/"  # of sessions that others joined
HOSTS: Final = "audit/session-hosts/"  # of sessions that ended
HOSTS_KEPT: Final = timedelta(days=400)  # as long as ends are told apart
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
    return PutOp(PEOPLE + sid, msgspec.json.encode(Participants(host_id=host_id, people=kept)))


def put_host(sid: str, host_id: str, ended: datetime) -> PutOp:
    """Remembers where an ended session ran, so that no other host can claim its id."""
    return PutOp(HOSTS + sid, host_id.encode(), ended + HOSTS_KEPT)


async def all_people(backend: Backend) -> Mapping[str, Participants]:
    """Of every session that others joined, by id."""
    return {
        item.key.removeprefix(PEOPLE): msgspec.json.decode(item.value, type=Participants)
        for item in await backend.range(PEOPLE)
    }


async def people_of(backend: Backend, sid: str) -> Participants | None:
    """Of one session; None where nobody joined it."""
    item = await backend.get(PEOPLE + sid)
    return None if item is None else msgspec.json.decode(item.value, type=Participants)


async def ended_on(backend: Backend, sid: str) -> str:
    """The host on which a session ran that ended lately, or empty."""
    item = await backend.get(HOSTS + sid)
    return "" if item is None else item.value.decode()


def participants(one: Recorded, known: Participants | None) -> list[str]:
    """Who took part in a recorded session: its user, and who joined it as far as its own host told."""
    if known is None or known.host_id != one.node_id:
        return [one.user]
    return list(dict.fromkeys([one.user, *known.people]))

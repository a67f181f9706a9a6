"""Messages about searching and verifying stored recordings."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.resources.metadata import Moment


class SearchRecordingsRequest(Request, frozen=True, kw_only=True):
    """Sessions that showed `text`, newest first. One call does a bounded part of the work; `start_key` goes on."""

    text: str
    start_key: str = ""
    limit: int = 20
    user: str = ""
    host: str = ""  # name or UUID
    login: str = ""
    kind: str = ""  # shell, exec, transfer
    start: Moment | None = None  # began not before
    end: Moment | None = None  # began before


class RecordingHit(Message, frozen=True, kw_only=True):
    """A line of a session."""

    time: int  # microseconds since its start
    kind: str  # screen, exec, file, forward, note, ...
    text: str


class RecordingMatch(Message, frozen=True, kw_only=True):
    """A session that showed it."""

    sid: str
    started: datetime
    user: str
    login: str
    node: str
    hostname: str
    kind: str
    command: str
    hits: list[RecordingHit]  # the first few lines
    count: int  # lines in all, up to a limit
    whole: bool = True  # false: the session showed more than was searched
    name: str = ""  # as in lists: the session's id, or SID.HOST where several hosts have recorded it


class RecordingLeftOut(Message, frozen=True, kw_only=True):
    """A session that was not searched, or not all of it."""

    sid: str  # or SID.HOST, where several hosts have recorded it
    why: (
        str  # preparing (ask again later), unreadable, elsewhere (another auth server can search it); or searched up to
    )
    # `until` only: time, size, broken
    until: int = 0  # microseconds since its start


class RecordingMatches(Message, frozen=True, kw_only=True):
    items: list[RecordingMatch]
    next_key: str = ""  # empty: everything was searched. The same as before: ask again, it is being prepared
    searched: int = 0  # sessions of this call
    unsearchable: list[str] = []  # sessions whose recordings cannot be read
    left_out: list[RecordingLeftOut] = []  # these, and others that were not searched, or only in part


class VerifyRecordingsRequest(Request, frozen=True, kw_only=True):
    """One session's recording, or all after `start_key`. One call does a bounded part of the work."""

    sid: str = ""
    start_key: str = ""


class RecordingVerdict(Message, frozen=True, kw_only=True):
    """Whether a recording is whole, unaltered, signed, and the one that was announced when it arrived."""

    sid: str  # or SID.HOST, where several hosts have recorded it
    ok: bool
    problem: str = ""  # what is wrong, with its place
    chunk: int | None = None  # the first broken one
    offset: int | None = None  # where that begins
    sha256: str = ""  # hex, of the recording as it is
    chunks: int = 0
    size: int = 0
    signed_by: str = ""  # UUID of the host


class RecordingVerdicts(Message, frozen=True, kw_only=True):
    items: list[RecordingVerdict]
    next_key: str = ""

"""Messages about the audit log and recordings."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.resources.metadata import Moment


class IntakeReply(Message, frozen=True, kw_only=True):
    """How far auth holds the chain of an emitter's epoch: the next sequence number that it wants."""

    next_seq: int
    head: str = ""
    checkpoint: str = ""  # auth's last one, number:hash
    may_skip: bool = False  # auth was restored from a backup, so a chain may go on behind events that were lost


class IntakeRequest(Request, frozen=True, kw_only=True):
    """A run of chained event lines of one emitter, in order."""

    emitter: str
    epoch: int
    lines: list[str]


class SearchEventsRequest(Request, frozen=True, kw_only=True):
    start: Moment | None = None
    end: Moment | None = None
    types: list[str] = []
    user: str = ""
    host: str = ""
    login: str = ""
    sid: str = ""
    limit: int = 500
    start_key: str = ""
    oldest_first: bool = False
    text: str = ""  # anywhere in the event, any case


class EventsWaiting(Message, frozen=True, kw_only=True):
    """Events that happened and that no search finds yet: they wait to be taken into the log."""

    count: int  # at least; 0 when nobody knows of one, and none could come in
    since: datetime
    cause: str = ""


class EventsPage(Message, frozen=True, kw_only=True):
    """Event lines as they are stored, so that they can be verified."""

    lines: list[str]
    next_key: str = ""
    waiting: EventsWaiting | None = None  # what is missing from this answer, when some wait for long
    notice: str = ""  # why the place first in audit_events_uri was not searched, or what it has removed


class TailEventsRequest(Request, frozen=True, kw_only=True):
    """What follows a cursor, in the order in which events were taken into the log."""

    cursor: str = ""  # as a reply gave it; empty: from the oldest event on
    types: list[str] = []  # names; one may end with a star: session.*
    limit: int = 500
    from_now: bool = False  # no events: the cursor behind all that the log holds


class TailedEvent(Message, frozen=True, kw_only=True):
    """A line as it is stored, and the place in its store behind it."""

    line: str
    store: str
    file: str
    offset: int
    check: str


class TailedEvents(Message, frozen=True, kw_only=True):
    events: list[TailedEvent]
    cursor: str  # behind all of them
    more: bool = False  # the log holds more by now
    waiting: EventsWaiting | None = None


class CountEventsRequest(Request, frozen=True, kw_only=True):
    """How many events of a few sorts there were in each hour of a range."""

    start: Moment
    end: Moment


class HourCounts(Message, frozen=True, kw_only=True):
    """The numbers of one hour."""

    hour: datetime  # its beginning, UTC
    sessions: int = 0  # that began
    commands: int = 0  # that were run
    logins: int = 0  # of people
    failed_logins: int = 0
    denied: int = 0  # that hosts, or auth, refused to somebody


class EventCounts(Message, frozen=True, kw_only=True):
    """Hours in which something was counted. One call counts for a bounded time; the next goes on."""

    hours: list[HourCounts]
    complete: bool = True  # false: ask again, not everything is counted yet
    waiting: EventsWaiting | None = None


class VerifyReply(Message, frozen=True, kw_only=True):
    """What the verifier found over auth's own store."""

    ok: bool
    events: int
    emitters: int
    checkpoints: int
    recordings: int
    pruned: int = 0  # events whose time had come, and of which marks are left
    problems: list[str] = []  # each names its place, in order of the log
    checkpoint_key: str = ""  # the public key that checkpoints are signed with, PEM
    waiting: EventsWaiting | None = None  # what was not proved, since it is not in the log


class RecordingRequest(Request, frozen=True, kw_only=True):
    sid: str  # session; to read: or SID.HOST, where several hosts have recorded it
    form: str = ""  # what it is read for: play, or the form of an export; goes into the event


class RecordingOffset(Message, frozen=True, kw_only=True):
    """How many bytes of a recording auth holds."""

    offset: int
    complete: str = ""  # hex hash of the stored recording; empty while it is not complete


class AppendRecordingRequest(Request, frozen=True, kw_only=True):
    sid: str
    offset: int


class CompleteRecordingRequest(Request, frozen=True, kw_only=True):
    sid: str
    sha256: str  # hex of the recording's last hash


class RecordingInfo(Message, frozen=True, kw_only=True):
    sid: str
    started: datetime
    user: str
    login: str
    node: str
    hostname: str
    interactive: bool
    command: str
    size: int
    kind: str = ""  # shell, exec, transfer
    participants: list[str] = []  # its user, and who joined
    name: str = ""  # by which it is read: the session's id, or SID.HOST where several hosts have recorded it


class ListRecordingsRequest(Request, frozen=True, kw_only=True):
    """Recordings by id, after `start_key`; or newest first, after the key that a page gave."""

    start_key: str = ""
    limit: int = 100
    newest_first: bool = False
    user: str = ""
    host: str = ""  # name or UUID
    login: str = ""
    kind: str = ""
    start: Moment | None = None  # began not before
    end: Moment | None = None  # began before


class RecordingsPage(Message, frozen=True, kw_only=True):
    items: list[RecordingInfo]
    next_key: str = ""

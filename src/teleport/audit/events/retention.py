"""Events about what is kept and what is not. Ours, from T9390 on."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, UnsetType

from teleport.audit.events.base import Event, UserEvent


class AuditPrune(Event, frozen=True, kw_only=True, tag="audit.prune"):
    """The time of events has come. They are taken out of a file of the log once a signed checkpoint has seen this
    event, if none of them is held by then; if one is, the next of these events takes it back."""

    store: str = ""  # host UUID of the auth server whose file it is
    file: str = ""  # name of the file
    pruned: int = 0  # how many events are gone from it then, altogether
    digest: str = ""  # SHA-256 over the marks that are left of them, hex
    follows: str = ""  # the same of the marks that are in the file before that
    number: int = 0  # 1, 2, 3, ... for each file; only the last one counts


class RecordingPrune(Event, frozen=True, kw_only=True, tag="session_recording.prune"):
    """The time of a recording has come. It is removed once a signed checkpoint has seen this event, if it is not held
    by then; if it is, the next of these events takes it back."""

    sid: str = ""  # session
    recording: str = ""  # name of the recording: the session's id, or that and its maker's
    user: str = ""  # whose session it was
    gone: bool = True  # no: it stays, since it is held
    number: int = 0  # 1, 2, 3, ... for each recording; only the last one counts
    rule: str = ""  # by which it goes: its name in auth_service.retention.recordings, and how long that keeps
    stored: datetime | UnsetType = UNSET  # when auth had stored it


class HoldCreated(UserEvent, frozen=True, kw_only=True, tag="hold.created"):
    """Events were put on legal hold: they are not pruned."""

    hold: str = ""  # UUID of the hold
    held_user: str = ""  # whose events are held; empty: everybody's
    held_session: str = ""  # the session whose events are held; empty: all
    held_from: datetime | UnsetType = UNSET  # only events from then on
    held_to: datetime | UnsetType = UNSET  # only events before
    reason: str = ""  # why, as the person who did it said


class HoldDeleted(HoldCreated, frozen=True, kw_only=True, tag="hold.deleted"):
    """A legal hold was removed; what is old enough is pruned."""

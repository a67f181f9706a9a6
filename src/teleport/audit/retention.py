"""What may be pruned: how long events are kept by their type, and what a hold keeps from it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

LEAST: Final = timedelta(hours=48)
DEFAULT: Final = "default"
KEPT: Final = frozenset(
    {
        *("audit.checkpoint", "audit.gap", "audit.prune", "backup.restore"),
        *("hold.created", "hold.deleted", "session_recording.prune"),
    }
)
"""Never pruned: the log is proved by them, or they say who let others be pruned."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Times by name, by group (`session.*`), and `default`; what none of them names is kept for ever."""

    rules: Sequence[tuple[str, timedelta | None]] = ()  # None: for ever

    def of(self, event: str) -> timedelta | None:
        """For how long after its day events of this type are kept; None: for ever."""
        if event in KEPT:
            return None
        if event == "session.end":  # a session whose start alone is left would count as one that goes on
            times = [self._of(one) for one in ("session.start", event)]
            return None if None in times else max(time for time in times if time is not None)
        return self._of(event)

    def _of(self, event: str) -> timedelta | None:
        return dict(self.rules).get(self.rule(event))

    def rule(self, event: str) -> str:
        """Which of the rules counts for it; `default` also where there is none of that name."""
        fitting = [pattern for pattern, _ in self.rules if pattern == event or fnmatchcase(event, pattern)]
        return event if event in fitting else max(fitting, key=len, default=DEFAULT)

    @property
    def shortest(self) -> timedelta | None:
        """No event is pruned before; None when none ever is."""
        return min((kept for _, kept in self.rules if kept is not None), default=None)


class Hold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must not be pruned. All that is set has to fit; nothing set fits nothing."""

    id: str
    reason: str
    created: datetime
    creator: str
    user: str = ""
    session: str = ""
    start: datetime | None = None
    end: datetime | None = None

    def holds(self, event: dict[str, Any], sessions: frozenset[str]) -> bool:
        """Whether an event is held; `sessions` are those of the held user."""
        if not (self.user or self.session or self.start or self.end):
            return False
        texts = set(_texts(event))
        if self.user and self.user not in texts and not texts & sessions:
            return False
        if self.session and not any(one == self.session or one.startswith(f"{self.session}.") for one in texts):
            return False
        return self._spans(event)

    def holds_recording(self, texts: Collection[str], sid: str, started: datetime, stored: datetime) -> bool:
        """Whether a recording of session `sid` is held; `texts`: who took part. Its host says when it `started`, auth
        when it was `stored`: all between the two counts, so that no time that a host writes lets it escape."""
        if not (self.user or self.session or self.start or self.end):
            return False
        if (self.user and self.user not in texts) or (self.session and self.session != sid):
            return False
        first, last = sorted((started, stored))
        return (self.start is None or last >= self.start) and (self.end is None or first < self.end)

    def _spans(self, event: dict[str, Any]) -> bool:
        """Whether it happened, or was taken in, within the hold's time. What has no time is held."""
        if self.start is None and self.end is None:
            return True
        moments = [moment for name in ("time", "received") if (moment := _moment(event.get(name))) is not None]
        return not moments or any(
            (self.start is None or moment >= self.start) and (self.end is None or moment < self.end)
            for moment in moments
        )


def held(line: bytes, holds: Sequence[Hold], sessions: dict[str, frozenset[str]]) -> bool:
    """Whether one of `holds` keeps a line; one that cannot be read is kept by any. `sessions`: those of each held
    user."""
    if not holds:
        return False
    try:
        event = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return True
    return any(hold.holds(event, sessions.get(hold.user, frozenset())) for hold in holds)


def session_of(line: bytes, user: str) -> str:
    """The session that an event of this user is about; empty when it is of somebody else, or of none."""
    if user.encode() not in line and msgspec.json.encode(user)[1:-1] not in line:
        return ""
    try:
        event = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    sid = event.get("sid")
    return sid if isinstance(sid, str) and user in _texts(event) else ""


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for one in value.values():
                yield from _texts(one)
        case list():
            for one in value:
                yield from _texts(one)


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

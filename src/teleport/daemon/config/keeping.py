"""`auth_service.retention`: how long audit events are kept."""

# `key` makes a dataclass field

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from teleport.audit.retention import DEFAULT, KEPT, LEAST
from teleport.daemon.config.shipping import event_type
from teleport.resources.values import Duration
from teleport.resources.yaml_readers import MapOf, key, matching

SORTS: Final = ("shell", "exec", "transfer")  # `recording.storage.SessionKind`
_NOTHING: Final[Mapping[str, Duration]] = MappingProxyType({})


def _type(name: str) -> str:
    if name in KEPT:
        raise ValueError
    return name if name == DEFAULT else event_type.parse(name)


def _time(text: str) -> Duration:
    if text == "never":
        return Duration(0)
    kept = Duration.parse(text)
    if kept.seconds < LEAST.total_seconds():
        raise ValueError
    return kept


def _sort(name: str) -> str:
    if name not in (DEFAULT, *SORTS):
        raise ValueError
    return name


@dataclass(frozen=True, slots=True)
class RetentionSection:
    """`retention`."""

    events: Mapping[str, Duration] = key(
        MapOf(
            matching("a duration of 48h or more, or never", _time),
            _type,
            "default, the name of an event, or a group such as session.*; not what the log is proved by",
        ),
        _NOTHING,
        "by type: how long after the day in which auth took them in; never: for ever",
        default_text="for ever",
    )
    recordings: Mapping[str, Duration] = key(
        MapOf(
            matching("a duration of 48h or more, or never", _time),
            _sort,
            "default, " + ", ".join(SORTS),
        ),
        _NOTHING,
        "by sort of session: how long after auth stored them; never: for ever",
        default_text="for ever",
    )

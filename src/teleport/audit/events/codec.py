"""An event as one line of JSON and back.

Lines are canonical: compact, fields in the order of the class, unprintable characters escaped. Reading is lenient
where formats grow (unknown fields are ignored, unknown events become `UnknownEvent`) and strict about types.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from teleport.audit.events.base import Event, event_name
from teleport.audit.events.text import MAX_ITEMS, MAX_TEXT, clean_value, escape_all, escape_line
from teleport.errors import BadRequest

MAX_LINE = 64 * 1024  # bytes of an event without its hash (`reference/audit-events.md` 6, "Max record")
_SMALLEST = 16
_RAW_CONTROL = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")  # C0, DEL, C1, line separators


class UnknownEvent(Event, frozen=True, kw_only=True, tag="?"):
    """An event of a name that this version does not know; everything it holds is in `fields`."""

    name: str = ""
    fields: dict[str, Any] = msgspec.field(default_factory=dict)


def _leaf_classes(cls: type[Event]) -> list[type[Event]]:
    below = [leaf for child in cls.__subclasses__() for leaf in _leaf_classes(child)]
    own = [cls] if cls.__struct_config__.tag not in (None, cls.__name__, "?") else []
    return own + below


class Registry:
    """All event classes by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, type[Event]] = {event_name(cls): cls for cls in _leaf_classes(Event)}
        self._decoders = {name: msgspec.json.Decoder(cls) for name, cls in self.by_name.items()}

    def decode(self, line: bytes) -> Event:
        """The event that `line` holds; `BadRequest` when it is not one."""
        try:
            name = _NAME.decode(line).event
            decoder = self._decoders.get(name)
            if decoder is not None:
                return decoder.decode(line)
            fields = _OBJECT.decode(line)
            common = {key: fields[key] for key in _COMMON if key in fields}
            return msgspec.convert({**common, "event": "?", "name": name, "fields": fields}, UnknownEvent)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"not an audit event: {error}") from error


class _Name(msgspec.Struct):
    event: str


_NAME = msgspec.json.Decoder(_Name)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_COMMON = tuple(Event.__struct_encode_fields__)


def encode_event(event: Event) -> bytes:
    """The line of `event`, without a newline and at most `MAX_LINE` bytes long.

    Raises `BadRequest` when a field holds something of another type than its class says: types are stable (T45).
    """
    try:
        line = msgspec.json.encode(event)
        if len(line) > MAX_TEXT:
            line = _fitted(event)
    except UnicodeEncodeError:
        line = _fitted(event)
    line = escape_line(line)
    if len(line) > MAX_LINE:
        line = _fitted(event)
    try:
        msgspec.json.decode(line, type=type(event))
    except msgspec.ValidationError as error:
        raise BadRequest(f"event {event_name(event)} has a field of a wrong type: {error}") from error
    return line


def _fitted(event: Event) -> bytes:
    """Cleaned, and cut shorter and shorter until it fits; every text can shrink, so it does."""
    plain = msgspec.to_builtins(event)
    limit, items = MAX_TEXT, MAX_ITEMS
    while True:
        line = escape_line(msgspec.json.encode(clean_value(plain, limit, items)))
        if len(line) <= MAX_LINE or limit <= _SMALLEST:
            break
        limit, items = max(limit // 2, _SMALLEST), max(items // 2, _SMALLEST)
    if len(line) > MAX_LINE:
        raise BadRequest(f"event {event_name(event)} is longer than {MAX_LINE} bytes even when cut")
    return line


def is_canonical(body: bytes) -> bool:
    """Whether `body` is JSON as `encode_event` writes it: no doubled keys, no spare spaces, no raw controls.

    Which characters count as printable depends on the writer's Unicode version, so only controls must be escaped.
    """
    if _RAW_CONTROL.search(body):
        return False
    try:
        return escape_all(msgspec.json.encode(_OBJECT.decode(body))) == escape_all(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False

"""What goes to a receiver: an entry of the log as a line of JSON, and that line as a syslog message. Pure.

Texts are scrubbed as those of a support bundle are: whatever looks like a key, token or password is hidden.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from teleport.clock import rfc3339
from teleport.copies.syslog import header
from teleport.daemon.support.scrub import scrubbed

FACILITY: Final = 3  # system daemons
_SEVERITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


@dataclass(frozen=True, slots=True)
class Entry:
    """One of the log, as it was made."""

    created: float  # seconds since 1970
    level: str
    component: str
    caller: str
    message: str


class _Line(msgspec.Struct):
    timestamp: str = ""
    level: str = ""
    component: str = ""
    pid: int = 0
    message: str = ""


_LINE = msgspec.json.Decoder(_Line)


def line_of(entry: Entry, host: str, pid: int) -> bytes:
    """One line of ASCII, whatever foreign text is in the message."""
    told = {
        "timestamp": rfc3339(datetime.fromtimestamp(entry.created, UTC)),
        "level": entry.level,
        "component": entry.component,
        "caller": entry.caller,
        "host": host,
        "pid": pid,
        "message": scrubbed(entry.message),
    }
    return json.dumps(told).encode()


def message(line: bytes, host: str) -> bytes:
    """A line as a syslog message (RFC 5424): what made it as MSGID, the text as MSG, its line ends escaped."""
    try:
        told = _LINE.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        told = _Line(message=line.decode("utf-8", "replace"))
    text = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "replace").decode()
        for letter in told.message
    )
    severity = _SEVERITIES.get(told.level, 6)
    return header(FACILITY, severity, told.timestamp, host, str(told.pid or "-"), told.component) + text.encode(
        "utf-8", "replace"
    )

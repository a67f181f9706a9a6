"""What a terminal page and the proxy say to each other (`docs/web-terminal.md`): envelopes, their payloads, credit.

Every message is a protobuf envelope of three strings: version, type, payload. What a page sends is bounded and refused
(`BadMessage`) when it is not exactly that; fields that are not known are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final, TypeVar

import msgspec

from teleport.errors import BadRequest
from teleport.recording.format import canonical_uuid
from teleport.resources.joining import JoinMode

VERSION: Final = b"1"
MAX_MESSAGE: Final = 128 * 1024  # bytes of an envelope from a page
MAX_OUTPUT: Final = 64 * 1024  # bytes of output in one message
MAX_CREDIT: Final = 4 * 1024 * 1024  # bytes of output that a page may grant at once
MAX_SIZE: Final = 1000  # columns, rows
_MAX_VARINT: Final = 5  # bytes: no length here needs more
T = TypeVar("T")


class BadMessage(BadRequest):
    """What came is no message of this protocol, or came out of turn."""


class Kind(StrEnum):
    """The types of messages."""

    HELLO = "h"
    STARTED = "s"
    RAW = "r"
    RESIZE = "w"
    CREDIT = "k"
    FACTOR = "u"
    NOTE = "a"
    QUIT = "q"
    CLOSED = "c"
    ERROR = "e"


class End(IntEnum):
    """Why the socket is closed: its close code."""

    DONE = 1000
    LEAVING = 1001
    TOO_LARGE = 1009
    AGAIN = 1012
    BAD = 4400
    NOT_LOGGED_IN = 4401
    LATE = 4408
    ELSEWHERE = 4409
    TOO_MANY = 4429


# envelopes


def encode(kind: Kind, payload: bytes) -> bytes:
    """An envelope."""
    head = b"\x0a\x01" + VERSION + b"\x12" + _varint(len(kind)) + kind.encode()
    return b"".join((head, b"\x1a", _varint(len(payload)), payload))


def encode_json(kind: Kind, payload: msgspec.Struct | dict[str, Any]) -> bytes:
    """An envelope around JSON."""
    return encode(kind, msgspec.json.encode(payload))


def decode(data: bytes) -> tuple[Kind | None, bytes]:
    """Type and payload; None for a type of a newer page. Raises `BadMessage`."""
    if len(data) > MAX_MESSAGE:
        raise BadMessage(f"a message has at most {MAX_MESSAGE} bytes")
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            size, at = _read_varint(data, at)
            if size > len(data) - at:
                raise BadMessage("a message ends before it is whole")
            fields[number] = data[at : at + size]
            at += size
        elif wire == 0:
            _, at = _read_varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise BadMessage("a message is no envelope")
        if at > len(data) or number == 0:
            raise BadMessage("a message is no envelope")
    if fields.get(1) != VERSION:
        raise BadMessage("a message is not of version 1")
    kind = fields.get(2, b"")
    try:
        return Kind(kind.decode("ascii")), fields.get(3, b"")
    except ValueError:
        return None, b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for number in range(_MAX_VARINT):
        if at + number >= len(data):
            break
        byte = data[at + number]
        value |= (byte & 0x7F) << (7 * number)
        if byte < 0x80:
            return value, at + number + 1
    raise BadMessage("a message is no envelope")


# what is in them


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A window."""

    w: int = msgspec.field(default=80)
    h: int = msgspec.field(default=25)

    def check(self) -> Size:
        """Itself. Raises `BadMessage`."""
        if not (1 <= self.w <= MAX_SIZE and 1 <= self.h <= MAX_SIZE):
            raise BadMessage(f"a terminal has from 1 to {MAX_SIZE} columns and rows")
        return self


class Params(msgspec.Struct, frozen=True, kw_only=True):
    """What the address of a terminal says: where to, and as whom."""

    server_id: str
    login: str
    term: Size = Size()
    sid: str = ""
    mode: str = ""

    @classmethod
    def parse(cls, text: str) -> Params:
        """Raises `BadRequest`."""
        found = read(text.encode("utf-8", "replace")[: MAX_MESSAGE + 1], cls)
        found.term.check()
        for name, value, most in (("server_id", found.server_id, 300), ("login", found.login, 64)):
            if not value or len(value) > most or not value.isprintable():
                raise BadMessage(f"params: {name} is missing, or no {name}")
        # A host passes over what it does not understand: a new session would begin where one was to be joined.
        if found.sid:
            canonical_uuid(found.sid)
        if found.mode and found.mode not in frozenset(JoinMode):
            raise BadMessage(f"params: mode is one of {', '.join(JoinMode)}")
        if found.mode and not found.sid:
            raise BadMessage("params: mode belongs to sid")
        return found


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The first message of a page."""

    token: str
    credit: int = 0
    resume: str = ""


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """So many bytes more may be sent."""

    bytes: int


class Resize(msgspec.Struct, frozen=True, kw_only=True):
    """The window has another size, `W:H`."""

    size: str

    @property
    def parsed(self) -> Size:
        """Raises `BadMessage`."""
        columns, colon, rows = self.size.partition(":")
        numbers = [text for text in (columns, rows) if text.isascii() and text.isdecimal() and len(text) <= 4]
        if not colon or len(numbers) != 2:
            raise BadMessage("the size of a window is W:H")
        return Size(w=int(columns), h=int(rows)).check()


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The session runs."""

    sid: str
    server_id: str
    login: str
    mode: str
    credit: int
    resume: str
    resumed: bool
    lives_for: int


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """The session is over."""

    reason: str
    status: int | None = None
    signal: str = ""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """It failed, or was refused."""

    code: str
    message: str
    hint: str = ""


class Resumed(msgspec.Struct, frozen=True, array_like=True):
    """What a page comes back with, sealed by its session's secret (`pki.web_secret`)."""

    sid: str
    host_id: str
    login: str
    cluster: str
    window: str  # the id of this terminal: in a session it is once
    mode: str = ""  # in which it joined


def read(payload: bytes, kind: type[T]) -> T:
    """A payload in JSON. Raises `BadMessage`."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"a message cannot be read: {error}") from None


# credit


@dataclass(slots=True)
class Granted:
    """How many bytes the other end takes now."""

    left: int = 0
    most: int = MAX_CREDIT

    def grant(self, size: int) -> None:
        """More. Raises `BadMessage` for what nobody would grant."""
        if size < 0 or self.left + size > self.most:
            raise BadMessage(f"credit is from 0 to {self.most} bytes at once")
        self.left += size

    def take(self, size: int) -> int:
        """As much of `size` as may be sent, which is sent now."""
        taken = min(size, self.left)
        self.left -= taken
        return taken

    def spend(self, size: int) -> None:
        """So many bytes came. Raises `BadMessage` when that is more than was granted."""
        if size > self.left:
            raise BadMessage("more was sent than was granted")
        self.left -= size

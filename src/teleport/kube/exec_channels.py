"""What runs through a stream into a pod, apart from how it is framed: output, errors, sizes. Pure.

Two sorts of readers (`websocket_frames`, `spdy`) take the bytes of one direction and give what is in them. They hold
no more than the head of one frame. What another reader could take in another way is no stream of ours: `BadStream`.
What is typed is counted and never given, so that it cannot come to be recorded.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Final, Protocol

MOST_SIZE: Final = 1024  # bytes of one size of a terminal, as JSON
MOST_STATUS: Final = 64 * 1024  # bytes of the last word
MOST_REASON: Final = 500  # characters of why a command failed, in events
_LARGEST: Final = 0xFFFF  # columns or rows


class BadStream(Exception):
    """What came is not as it has to be, so that nobody can say what it means. Nothing more of it is relayed."""


class Channel(StrEnum):
    """What a part of a stream is."""

    STDIN = "stdin"
    STDOUT = "stdout"
    STDERR = "stderr"
    ERROR = "error"  # the last word: how the command ended
    RESIZE = "resize"


FROM_CLIENT: Final = frozenset({Channel.STDIN, Channel.RESIZE})
FROM_SERVER: Final = frozenset({Channel.STDOUT, Channel.STDERR, Channel.ERROR})
Pieces = list[tuple[Channel, bytes]]


class Reader(Protocol):
    """Reads one direction."""

    typed: int  # bytes of stdin so far
    closed: bool  # whether this side has said that it is about to go

    def feed(self, data: bytes) -> Pieces:
        """What is in the next bytes, but for stdin. Raises `BadStream`."""
        ...

    @property
    def between(self) -> bool:
        """Whether something of ours could come behind what was read so far."""
        ...

    def last_word(self, status: bytes) -> bytes:
        """What tells the client the last word in the server's place; nothing where it has no place for it."""
        ...

    def piece(self, channel: Channel, data: bytes) -> bytes:
        """Frames of this direction that carry `data` (64 KiB at most); nothing where there is no place for them: a
        channel that was not opened, or has ended."""
        ...


class Sizes:
    """The sizes of a terminal, which come as JSON, one object after another, wherever the bytes are cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, int]]:
        """Columns and rows, in their order. Raises `BadStream`."""
        *whole, self._rest = (self._rest + data).split(b"}")
        if len(self._rest) > MOST_SIZE:
            raise BadStream("a terminal's size is too long")
        return [_size(text + b"}") for text in whole]


def _size(text: bytes) -> tuple[int, int]:
    try:
        if len(text) > MOST_SIZE:
            raise ValueError
        pairs: Any = json.loads(text.decode("ascii"), object_pairs_hook=list)
        found = dict(pairs)
    except (ValueError, TypeError):
        raise BadStream("a terminal's size is none") from None
    # exactly these: the server would also take others, in any case of letters, and of two the last
    if len(pairs) != 2 or found.keys() != {"Width", "Height"}:
        raise BadStream("a terminal's size is none")
    width, height = found["Width"], found["Height"]
    if type(width) is not int or type(height) is not int or not (0 <= width <= _LARGEST and 0 <= height <= _LARGEST):
        raise BadStream("a terminal's size is none")
    return width, height


class LastWord:
    """How the command ended, as a `Status`. It is read as far as it can be: nothing is decided by it."""

    def __init__(self) -> None:
        self._text = b""

    def feed(self, data: bytes) -> None:
        self._text += data[: MOST_STATUS - len(self._text)]

    @property
    def came(self) -> bool:
        return bool(self._text)

    def read(self) -> tuple[str, str]:
        """The exit status as text, empty when there is none; and why it failed, empty when it did not."""
        if not self._text:
            return "", ""
        try:
            found = json.loads(self._text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            return "", _printable(self._text.decode("utf-8", "replace"))
        if found.get("status") == "Success":
            return "0", ""
        message = found.get("message")
        why = _printable(message) if isinstance(message, str) and message else "it failed"
        if found.get("reason") == "NonZeroExitCode":
            code = _exit_code(found)
            return (code, "") if code else ("", why)
        return "", why


def _exit_code(status: dict[str, Any]) -> str:
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            code = cause.get("message")
            if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) < 12:
                return code
    return ""


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:MOST_REASON]).strip()

"""A body in chunks (RFC 9112, 7.1) that goes on as it came: where they begin and end is followed, nothing framed anew.

API servers write logs and watches in chunks of a line or two. Taking each out of its frame and putting it into another
one costs more than all else that is done for it. Only what everybody reads in one way goes on: a length in plain
hexadecimal digits, so many bytes, and the end of a line. Anything else is left to a parser of HTTP: the last chunk with
what follows it, and lengths with extensions.
"""

from __future__ import annotations

import re
from typing import Final

import h11

_LENGTH: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_LONGEST: Final = 17  # bytes of what `_LENGTH` reads
_BETWEEN: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")


class Chunks:
    """The place within a body. `feed` it until it says that there is a `rest`."""

    def __init__(self) -> None:
        self.rest: bytes | None = None  # from where a chunk begins that does not go on as it is; None: all do so far
        self._left = 0  # bytes of the open chunk that are still to come
        self._closing = False  # the end of its line is still to come
        self._held = b""  # the beginning of what can only be told when more has come

    def feed(self, data: bytes) -> bytes:
        """What goes on of the bytes that have come. Raises `h11.RemoteProtocolError` for a chunk without its end."""
        if self._held:
            data, self._held = self._held + data, b""
        size, at = len(data), self._left
        closing = self._closing or at > 0
        while at < size:
            found = (_BETWEEN if closing else _LENGTH).match(data, at)
            length = int(found[1], 16) if found is not None else 0
            if found is None or not length:
                return self._stop(data, at, closing)
            closing = True
            at = found.end() + length
        self._left, self._closing = at - size, closing
        return data

    def _stop(self, data: bytes, at: int, closing: bool) -> bytes:
        """What goes on where there is no length of a further chunk at `at`, or not yet."""
        self._left = 0
        if closing:
            end = data[at : at + 2]
            if end != b"\r\n":
                if end not in (b"", b"\r"):
                    raise h11.RemoteProtocolError("a chunk is longer than it says")
                self._closing, self._held = True, end
                return data[:at]
            at += 2
        self._closing = False
        rest = data[at:]
        if len(rest) < _LONGEST and b"\n" not in rest:
            self._held = rest
        else:
            self.rest = rest
        return data[:at]

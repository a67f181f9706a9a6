"""The data types of the SSH protocol (RFC 4251 section 5) as a strict reader and a writer.

The reader refuses every encoding that is not the one canonical form, because certificates are compared byte by byte
and a second spelling of the same value is how comparisons are got around.
"""

from __future__ import annotations


class WireError(ValueError):
    """Bytes that are not what the format says."""


class Reader:
    """Reads fields off the front of some bytes; each method raises `WireError` when there is not enough."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._at

    @property
    def done(self) -> bool:
        return self._at == len(self._data)

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise WireError("ends early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def byte(self) -> int:
        return self._take(1)[0]

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        # in one step: reading certificates is mostly this (a length cut short leaves `start` beyond the end)
        start = self._at + 4
        end = start + int.from_bytes(self._data[self._at : start], "big")
        if end > len(self._data):
            raise WireError("ends early")
        self._at = end
        return self._data[start:end]

    def text(self) -> str:
        """A string field that must be UTF-8."""
        try:
            return self.string().decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError("text that is not UTF-8") from error

    def natural(self) -> int:
        """An mpint that is positive and in its shortest form."""
        raw = self.string()
        if not raw or raw[0] & 0x80 or (raw[0] == 0 and (len(raw) == 1 or not raw[1] & 0x80)):
            raise WireError("a number that is not positive or not in its shortest form")
        return int.from_bytes(raw, "big")

    def rest(self) -> bytes:
        return self._take(len(self._data) - self._at)

    def finish(self) -> None:
        """Nothing may follow."""
        if not self.done:
            raise WireError("bytes after the end")


def uint32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def uint64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def mpint(value: int) -> bytes:
    """A number that is not negative."""
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b"")

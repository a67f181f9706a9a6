"""What a session has left a terminal in, and the bytes that put it back: for a session that ended without its own end.

Programs set modes (the alternate screen, a hidden cursor, mouse reporting, pasted text in brackets) and take them back
when they end. Cut off, they cannot. Only what was set is taken back, so that a terminal that knows no such mode sees
nothing of it.
"""

from __future__ import annotations

import re

_KEPT = 64  # bytes of an unfinished sequence
_SEQUENCE = re.compile(rb"\x1b(?:\[(\?|>|<)?([0-9;]*)([hlrmu])|([=>cM78])|([()][0AB12]))|([\x0e\x0f])")
_UNFINISHED = re.compile(rb"\x1b(?:\[[?><]?[0-9;]{0,48}|[()])?\Z")
# Private modes that are set when a program shows something, and unset when it ends.
_SETTABLE = frozenset(
    {1, 5, 6, 9, 47, 66, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 1047, 1049, 2004, 2026}
)
_USUAL = {7, 25}  # set in a fresh terminal: wrapping, the cursor
_ALTERNATE = (1049, 1047, 47)


class Screen:
    """Reads what is shown; never changes it."""

    def __init__(self) -> None:
        self._held = b""
        self._modes: set[int] = set()
        self._usual = set(_USUAL)
        self._keypad = self._region = self._styled = self._shifted = self._charset = False
        self._keys = 0  # levels of the kitty keyboard protocol

    def feed(self, data: bytes) -> None:
        """Takes note of `data`."""
        if not self._held and b"\x1b" not in data and b"\x0e" not in data and b"\x0f" not in data:
            return
        text = self._held + data
        for found in _SEQUENCE.finditer(text):
            prefix, numbers, final, single, charset, shift = found.groups()
            if shift:
                self._shifted = shift == b"\x0e"
            elif charset:
                self._charset = charset[1:] not in (b"B",)
            elif single:
                self._single(single)
            else:
                self._control(prefix or b"", numbers, final)
        rest = _UNFINISHED.search(text[-_KEPT:])
        self._held = rest.group() if rest else b""

    def _single(self, final: bytes) -> None:
        if final == b"c":
            held = self._held
            self.__init__()  # type: ignore[misc]  # a full reset: everything as at the start
            self._held = held
        elif final in (b"=", b">"):
            self._keypad = final == b"="

    def _control(self, prefix: bytes, numbers: bytes, final: bytes) -> None:
        given = [int(number) for number in numbers.split(b";") if number]
        if final in (b"h", b"l") and prefix == b"?":
            for mode in given:
                kept = self._usual if mode in _USUAL else self._modes if mode in _SETTABLE else None
                if kept is not None:
                    (kept.add if final == b"h" else kept.discard)(mode)
        elif final == b"r" and not prefix:
            self._region = bool(given)
        elif final == b"m" and not prefix:
            self._styled = any(given)
        elif final == b"u" and prefix in (b">", b"<"):
            self._keys = max(0, self._keys + (1 if prefix == b">" else -(given[0] if given else 1)))

    def restore(self) -> bytes:
        """What to write so that the terminal is as a shell expects it; empty when nothing was left behind."""
        out = bytearray()
        if 2026 in self._modes:
            out += b"\x1b[?2026l"  # first: nothing is shown before it
        for mode in sorted(self._modes - {2026, *_ALTERNATE}):
            out += b"\x1b[?%dl" % mode
        if self._keys:
            out += b"\x1b[<%du" % min(self._keys, 99)
        if self._keypad:
            out += b"\x1b>"
        if self._region:
            out += b"\x1b7\x1b[r\x1b8"
        if self._styled:
            out += b"\x1b[0m"
        if self._charset:
            out += b"\x1b(B"
        if self._shifted:
            out += b"\x0f"
        for mode in _ALTERNATE:
            if mode in self._modes:
                out += b"\x1b[?%dl" % mode
        if 7 not in self._usual:
            out += b"\x1b[?7h"
        if 25 not in self._usual:
            out += b"\x1b[?25h"
        return bytes(out)

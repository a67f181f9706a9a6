"""The last output of a terminal, for who joins a session or comes back to it. No IO.

What is kept: at least the last `LIMIT` bytes (all, while there are fewer), compressed in blocks, and for the beginning
of each block the state that earlier output has left the terminal in: private modes and the alternate screen, colours,
the scrolling region, character sets, the cursor's shape, and a sequence that the block before did not finish. So a
replay begins with what nobody would see otherwise, and never in the middle of a sequence. The state is that of
ECMA-48 and xterm's control sequences, as far as programs use them; whatever else there is passes by.
"""

from __future__ import annotations

import copy
import re
from collections import deque
from dataclasses import dataclass
from typing import Final

import zstandard

LIMIT: Final = 1024 * 1024  # bytes
_BLOCK: Final = 64 * 1024  # bytes
_COLOURS: Final = 32  # sequences since the last reset; a program that sets more without one loses the oldest

_SEQUENCE = re.compile(
    rb"\x1b(?:"
    rb"\[([0-?]{0,100})([ -/]{0,4})([@-~])"  # 1 parameters, 2 intermediates, 3 final
    rb"|([()])([0-~])"  # 4, 5: character sets
    rb"|([=>c])"  # 6: keypad, full reset
    rb"|[\]PX^_k][^\x07\x18\x1a\x1b]*(?:\x07|\x18|\x1a|\x1b\\|(?=\x1b)|\Z)"  # strings, to their end or what aborts them
    rb")|([\x0e\x0f])"  # 7: shift out, shift in
)
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]{0,100}[ -/]{0,4}|[()]|[\]PX^_k][^\x07\x18\x1a\x1b]*\x1b?)?\Z")
_STRINGS: Final = (b"]", b"P", b"X", b"^", b"_", b"k")
# DEC private modes that survive in a terminal until they are reset. The alternate screens come first: entering one
# saves the cursor and clears, which must not undo what follows.
_SCREENS: Final = (47, 1047, 1049)
_KEPT: Final = frozenset({1, 5, 6, 7, 9, 12, 25, 66, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004})
_ON_AT_FIRST: Final = frozenset({7, 25})


@dataclass
class TerminalState:
    """What output so far has left a terminal in, as far as it can be put back."""

    modes: dict[int, bool]
    insert: bool = False
    keypad: bool = False  # application mode
    region: bytes = b""  # parameters of the scrolling region
    shape: bytes = b""  # of the cursor
    charsets: tuple[bytes, bytes] = (b"B", b"B")  # G0, G1
    shifted: bool = False  # G1 in use
    colours: tuple[bytes, ...] = ()  # parameters of what was set since the last reset
    pending: bytes = b""  # a sequence that is not finished; of a string only how it begins

    @classmethod
    def initial(cls) -> TerminalState:
        return cls({})

    def feed(self, data: bytes) -> None:
        """Output, in any pieces."""
        data = self.pending + data
        rest = _UNFINISHED.search(data)
        self.pending = rest[0] if rest is not None else b""
        if self.pending[1:2] in _STRINGS:
            self.pending = self.pending[:2] + (b"\x1b" if self.pending.endswith(b"\x1b") else b"")
        for found in _SEQUENCE.finditer(data, 0, rest.start() if rest is not None else len(data)):
            if found[3] is not None:
                self._control(found[1], found[2], found[3])
            elif found[4] is not None:
                first, second = self.charsets
                self.charsets = (found[5], second) if found[4] == b"(" else (first, found[5])
            elif found[6] == b"c":
                self._reset()
            elif found[6] is not None:
                self.keypad = found[6] == b"="
            elif found[7] is not None:
                self.shifted = found[7] == b"\x0e"

    def _control(self, parameters: bytes, intermediates: bytes, final: bytes) -> None:
        if final in b"hl" and not intermediates:
            self._mode(parameters, on=final == b"h")
        elif final == b"m" and not intermediates and parameters[:1] not in (b"<", b"=", b">", b"?"):
            self._colour(parameters)
        elif final == b"r" and not intermediates and re.fullmatch(rb"[0-9;]*", parameters):
            self.region = parameters
        elif final == b"q" and intermediates == b" " and re.fullmatch(rb"[0-9]{0,2}", parameters):
            self.shape = parameters
        elif final == b"p" and intermediates == b"!":
            screens = {mode: on for mode, on in self.modes.items() if mode in _SCREENS}
            self._reset()
            self.modes = screens

    def _mode(self, parameters: bytes, *, on: bool) -> None:
        private = parameters.startswith(b"?")
        for text in parameters.lstrip(b"?").split(b";"):
            if not text.isdigit() or len(text) > 5:
                continue
            number = int(text)
            if private and (number in _KEPT or number in _SCREENS):
                self.modes[number] = on
            elif not private and number == 4:
                self.insert = on

    def _colour(self, parameters: bytes) -> None:
        if re.fullmatch(rb"[0-9;:]*", parameters) is None:
            return
        if parameters.strip(b"0") == b"" or parameters.startswith((b"0;", b";")):
            self.colours = ()  # a reset, perhaps with something after it
        if parameters.strip(b"0"):
            self.colours = (*self.colours, parameters)[-_COLOURS:]

    def _reset(self) -> None:
        fresh = TerminalState.initial()
        fresh.pending = self.pending  # what follows the reset
        self.__dict__.update(fresh.__dict__)

    def restore(self, *, screens: bool = True) -> bytes:
        """What puts a terminal that was just reset into this state (without `pending`), `screens` being whether to the
        alternate screen, too: to enter it a second time clears it."""
        out = [b"\x1b[?%dh" % mode for mode in _SCREENS if screens and self.modes.get(mode)]
        for mode in sorted(_KEPT):
            on = self.modes.get(mode, mode in _ON_AT_FIRST)
            if on != (mode in _ON_AT_FIRST):
                out.append(b"\x1b[?%d%c" % (mode, b"h" if on else b"l"))
        if self.insert:
            out.append(b"\x1b[4h")
        if self.keypad:
            out.append(b"\x1b=")
        if self.region.strip(b";"):
            out.append(b"\x1b7\x1b[%sr\x1b8" % self.region)  # setting it moves the cursor
        if self.shape:
            out.append(b"\x1b[%s q" % self.shape)
        for which, name in zip((b"(", b")"), self.charsets, strict=True):
            if name != b"B":
                out.append(b"\x1b" + which + name)
        if self.shifted:
            out.append(b"\x0e")
        out += [b"\x1b[%sm" % parameters for parameters in self.colours]
        return b"".join(out)


@dataclass(frozen=True, slots=True)
class Replay:
    """What shows the last output. `output` may hold anything and reaches a terminal only filtered; `after` puts the
    terminal into the modes that it ends with, those that a filter drops as well."""

    output: bytes
    after: bytes


class Scrollback:
    """Keeps the last output of one terminal."""

    def __init__(self, limit: int = LIMIT, block: int = _BLOCK) -> None:
        self._limit = limit
        self._block = block
        self._blocks: deque[tuple[TerminalState, bytes, int]] = deque()  # state before it, compressed, size
        self._kept = 0  # bytes in the blocks
        self._tail = bytearray()
        self._state = TerminalState.initial()  # before the tail

    def feed(self, data: bytes) -> None:
        """Output of the terminal."""
        self._tail += data
        if len(self._tail) >= self._block:
            self._seal()

    def _seal(self) -> None:
        block = bytes(self._tail)
        self._tail.clear()
        before = copy.deepcopy(self._state)
        self._state.feed(block)
        self._blocks.append((before, zstandard.ZstdCompressor(level=1).compress(block), len(block)))
        self._kept += len(block)
        while self._kept - self._blocks[0][2] >= self._limit:
            self._kept -= self._blocks.popleft()[2]

    def replay(self) -> Replay:
        """What is kept."""
        now = copy.deepcopy(self._state)
        now.feed(bytes(self._tail))
        first = self._blocks[0][0] if self._blocks else self._state
        decompressor = zstandard.ZstdDecompressor()
        parts = [decompressor.decompress(packed) for _, packed, _ in self._blocks]
        output = b"".join((first.restore(), first.pending, *parts, self._tail))
        return Replay(output, now.restore(screens=False))

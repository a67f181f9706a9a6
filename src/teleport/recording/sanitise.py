"""What stands between recorded bytes and a viewer's terminal (threat T44).

A recording holds whatever the session printed, and a session may print to attack its viewer: set the clipboard (OSC
52), hide a link (OSC 8), name the window and have the terminal type the name back, ask for answers that arrive as
keystrokes (DA, DSR, DECRQSS, ENQ), print to a printer, switch mouse or paste reporting on. So nothing passes that is
not named in the tables below: text, colours, cursor movement, erasing, scrolling, the alternate screen.

Bytes are read as UTF-8, in any pieces; what is not UTF-8 becomes U+FFFD. 8-bit control characters (U+0080 to U+009F)
are read as the sequences they stand for and then judged alike. Bidirectional controls and invisible characters, which
make text read differently from what it is, are dropped for terminals and made visible in text.
"""

from __future__ import annotations

import codecs
import re
from enum import Enum, auto

_ESC = "\x1b"
_MAX_SEQUENCE = 128  # characters of a control sequence; longer ones are dropped whole
_MAX_STRING = 1024 * 1024  # of an OSC, DCS, ...: then what follows is shown, so that nothing hides for ever
_MAX_NUMBER = 9999
_MAX_NUMBERS = 32

# C0 controls that pass: bell, backspace, tab, line feeds, return, shift out and in.
_C0_KEPT = frozenset("\x07\x08\t\n\x0b\x0c\r\x0e\x0f")
# Zero width and direction: U+061C, ZWSP to RLM, line and paragraph separators, embeddings, isolates, word joiner and
# invisible operators, BOM, interlinear marks, tags, soft hyphen, Hangul fillers, Mongolian vowel separator.
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U000e0000-\U000e0fff"
)
_SPECIAL = re.compile(f"[\x00-\x1f\x7f-\x9f{_INVISIBLE}]")

# Nearly all of what programs print: text, returns, line feeds, and short sequences that are in the tables below.
# Reading these character by character would take six times as long; a test compares. The last + keeps no way back,
# which would cost 150 bytes of memory for each letter.
_QUICK = re.compile(
    f"(?:[^\x00-\x1f\x7f-\x9f{_INVISIBLE}]+|[\r\n\t\b]|\x1b\\[(?:[0-9]{{1,4}}(?:;[0-9]{{1,4}}){{0,7}})?[ABCDGHJKLMPXdfm])++"
)

_STRING_END = re.compile("[\x07\x18\x1a\x1b\x9c]")

# Final characters of control sequences without a private prefix or intermediates.
_CSI_KEPT = frozenset("@ABCDEFGHIJKLMPSTXZ`adefmrsubg")
# DEC private modes that may be set and reset: origin, wrap, cursor blink and visibility, alternate screens, cursor
# kept, reverse video, synchronised output. Not: mouse (1000-1016), focus, bracketed paste, keys, 132 columns, sixel.
_PRIVATE_MODES = frozenset({5, 6, 7, 12, 25, 47, 1047, 1048, 1049, 2026})
_ANSI_MODES = frozenset({4})  # insert
_ESC_KEPT = frozenset("78DEHM")
_CHARSETS = frozenset({"(0", "(A", "(B", ")0", ")A", ")B"})
_STRINGS = frozenset("PX]^_k")  # DCS SOS OSC PM APC, and screen's title
_C1_OF = {chr(code): chr(code - 0x40) for code in range(0x80, 0xA0)}
_RIS_INSTEAD = "\x1b[!p\x1b[0m\x1b[H\x1b[2J"  # a full reset would also drop the viewer's scrollback

RESET_TERMINAL = (
    b"\x1b[?2026l\x1b[?1049l\x1b[!p\x1b[0m\x1b(B\x0f\x1b[4l\x1b[?5l\x1b[?6l\x1b[?7h\x1b[?25h\x1b[r\x1b[999H"
)
"""Puts a viewer's terminal back in order after playing, whatever the recording left it in."""


class _State(Enum):
    GROUND = auto()
    ESCAPE = auto()
    CSI = auto()
    STRING = auto()


class _Filter:
    """The state machine of both forms: decides what passes. Subclasses say how it is written."""

    _quick: re.Pattern[str] | None = None  # what passes as it is when it begins outside of any sequence

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._state = _State.GROUND
        self._held = ""  # the sequence so far, without its introducer
        self._string_size = 0

    def feed(self, data: bytes) -> bytes:
        """What may be shown of `data`. Sequences that are not complete yet are kept for the next call."""
        return self.feed_text(data).encode()

    def finish(self) -> bytes:
        """What is left at the end: an unfinished character. An unfinished sequence is dropped."""
        return self.finish_text().encode()

    def feed_text(self, data: bytes) -> str:
        """As `feed`, as text: it holds whole sequences only."""
        return self._text(self._decoder.decode(data))

    def finish_text(self) -> str:
        """As `finish`, as text."""
        rest = self._text(self._decoder.decode(b"", final=True))
        self._state, self._held = _State.GROUND, ""
        return rest

    def _text(self, text: str) -> str:
        out: list[str] = []
        position = 0
        while position < len(text):
            if self._state is _State.GROUND:
                if self._quick is not None and (run := self._quick.match(text, position)):
                    out.append(run.group())
                    position = run.end()
                    if position == len(text):
                        break
                found = _SPECIAL.search(text, position)
                end = found.start() if found else len(text)
                if end > position:
                    out.append(self._plain(text[position:end]))
                position = end
                if found is None:
                    break
            elif self._state is _State.STRING:
                found = _STRING_END.search(text, position, position + _MAX_STRING - self._string_size)
                skipped = (found.start() if found else len(text)) - position
                skipped = min(skipped, _MAX_STRING - self._string_size)
                self._string_size += skipped
                position += skipped
                if position >= len(text):
                    break
            out.append(self._character(text[position]))
            position += 1
        return "".join(out)

    def _character(self, char: str) -> str:
        if self._state is _State.STRING:
            return self._in_string(char)
        if char == _ESC:
            self._state, self._held = _State.ESCAPE, ""
            return ""
        if char in _C1_OF:
            self._state, self._held = _State.ESCAPE, ""
            return self._in_escape(_C1_OF[char])
        if char in "\x18\x1a":  # cancel, substitute: end a sequence, show nothing
            self._state, self._held = _State.GROUND, ""
            return ""
        if char < " " or char == "\x7f":
            # terminals obey these in the middle of a sequence as well
            return self._control(char) if char in _C0_KEPT else ""
        if self._state is _State.ESCAPE:
            return self._in_escape(char)
        if self._state is _State.CSI:
            return self._in_csi(char)
        return self._invisible(char)

    def _in_escape(self, char: str) -> str:
        if " " <= char <= "/":  # an intermediate
            self._held = (self._held + char)[:4]
            return ""
        sequence, self._held = self._held + char, ""
        if sequence == "[":
            self._state = _State.CSI
            return ""
        if sequence in _STRINGS:
            self._state, self._string_size = _State.STRING, 0
            return ""
        self._state = _State.GROUND
        if sequence == "c":
            return self._sequence(_RIS_INSTEAD)
        if sequence in _ESC_KEPT or sequence in _CHARSETS or sequence == "#8":
            return self._sequence(_ESC + sequence)
        return ""

    def _in_csi(self, char: str) -> str:
        if not "@" <= char <= "~":
            if char > "~":  # not part of any sequence: it is ended, and the character is text again
                self._state, self._held = _State.GROUND, ""
                return self._invisible(char) if _SPECIAL.match(char) else self._plain(char)
            if len(self._held) <= _MAX_SEQUENCE:
                self._held += char
            return ""
        body, self._held = self._held, ""
        self._state = _State.GROUND
        return self._sequence(f"{_ESC}[{body}{char}") if _allowed_csi(body, char) else ""

    def _in_string(self, char: str) -> str:
        self._string_size += 1
        if char in "\x07\x18\x1a\x9c" or self._string_size > _MAX_STRING:
            self._state = _State.GROUND
        elif char == _ESC:
            self._state, self._held = _State.ESCAPE, ""  # ST, or a sequence that aborts the string
        return ""

    def _plain(self, text: str) -> str:
        return text

    def _control(self, char: str) -> str:
        raise NotImplementedError

    def _sequence(self, sequence: str) -> str:
        raise NotImplementedError

    def _invisible(self, char: str) -> str:
        raise NotImplementedError


def _allowed_csi(body: str, final: str) -> bool:
    if len(body) > _MAX_SEQUENCE:
        return False
    if body == "!" and final == "p":  # soft reset
        return True
    if final == "q" and body in ("0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", " "):  # the cursor's shape
        return True
    private = body.startswith("?")
    numbers = body[1:] if private else body
    if not re.fullmatch(r"[0-9;:]*", numbers):
        return False
    fields = [field for field in re.split(r"[;:]", numbers) if field]
    if len(fields) > _MAX_NUMBERS or any(len(field) > 5 or int(field) > _MAX_NUMBER for field in fields):
        return False
    if final in "hl":
        modes = _PRIVATE_MODES if private else _ANSI_MODES
        return bool(fields) and all(int(field) in modes for field in fields)
    if private:
        return final in "JK"  # selective erase
    if final in "su":
        return not numbers  # with numbers these are margins, or keys in another protocol
    if final == "T":
        return len(fields) <= 1  # with five it starts mouse tracking
    return final in _CSI_KEPT


class TerminalSanitiser(_Filter):
    """For playing into a viewer's terminal: what is in the tables passes, all else is dropped."""

    _quick: re.Pattern[str] | None = _QUICK

    def _control(self, char: str) -> str:
        return char

    def _sequence(self, sequence: str) -> str:
        return sequence

    def _invisible(self, char: str) -> str:
        return ""


class TextSanitiser(_Filter):
    """For reading as plain text: no sequences at all, line ends as LF, invisible characters as `<U+202E>`."""

    def __init__(self) -> None:
        super().__init__()
        self._returned = False  # the last character was a carriage return

    def _plain(self, text: str) -> str:
        if self._returned:
            self._returned = False
            return "\n" + text  # a line that was written over: kept, on a line of its own
        return text

    def _control(self, char: str) -> str:
        if char == "\r":
            self._returned = True
            return ""
        if char in "\n\x0b\x0c":
            self._returned = False
            return "\n"
        return self._plain("\t") if char == "\t" else ""

    def _sequence(self, sequence: str) -> str:
        return ""

    def _invisible(self, char: str) -> str:
        return self._plain(f"<U+{ord(char):04X}>")


def sanitise_for_terminal(data: bytes) -> bytes:
    """The whole of `data` at once, as `TerminalSanitiser` lets it pass."""
    cleaner = TerminalSanitiser()
    return cleaner.feed(data) + cleaner.finish()


def sanitise_to_text(data: bytes) -> str:
    """The whole of `data` at once, as plain text."""
    cleaner = TextSanitiser()
    return (cleaner.feed(data) + cleaner.finish()).decode()


def one_line(text: str, limit: int = 200) -> str:
    """`text` for a table or a log line: one line, control and invisible characters visible, at most `limit` long."""
    shown = _SPECIAL.sub(lambda found: _visible(found.group()), text.encode(errors="backslashreplace").decode())
    return shown if len(shown) <= limit else shown[: limit - 1] + "\u2026"


def _visible(char: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char, f"<U+{ord(char):04X}>")

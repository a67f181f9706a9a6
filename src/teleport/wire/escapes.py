"""The escape sequences of a terminal session (ssh(1)): `~.` at the start of a line, and the like. Bytes in, acts out.

A line begins after carriage return or line feed, and at the very start. Whatever follows the escape character and is no
command is sent, with the character before it; twice the character sends it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from teleport.errors import BadRequest


class Command(Enum):
    """What the person asks of their own end."""

    DROP = auto()
    SUSPEND = auto()
    LIST = auto()
    BREAK = auto()
    REKEY = auto()
    HELP = auto()


_COMMANDS = {
    ord("."): Command.DROP,
    0x1A: Command.SUSPEND,
    ord("#"): Command.LIST,
    ord("B"): Command.BREAK,
    ord("R"): Command.REKEY,
    ord("?"): Command.HELP,
}


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes for the other side."""

    data: bytes


def escape_character(text: str) -> int | None:
    """What `-e` and `-o EscapeChar` take: one character, `^X`, or `none` (gives None). Raises `BadRequest`."""
    if text.lower() == "none":
        return None
    if len(text) == 2 and text[0] == "^" and 0x40 <= ord(text[1]) < 0x80:
        return ord(text[1]) & 0x1F
    if len(text) == 1 and 0x20 < ord(text) < 0x7F:
        return ord(text)
    raise BadRequest(f"{text[:20]!r} is no escape character", hint="one character, ^X, or none: -e none")


class Escapes:
    """Remembers whether a line begins, whatever pieces the keys come in."""

    def __init__(self, character: int | None = ord("~")) -> None:
        self._character = character
        self._at_start = True
        self._held = False

    def feed(self, data: bytes) -> list[Send | Command]:
        """What to do, in order."""
        if self._character is None:
            return [Send(data)] if data else []
        acts: list[Send | Command] = []
        out = bytearray()
        for key in data:
            if self._held:
                self._held = False
                command = _COMMANDS.get(key)
                if command is not None:
                    if out:
                        acts.append(Send(bytes(out)))
                        out.clear()
                    acts.append(command)
                    self._at_start = True
                    continue
                if key != self._character:
                    out.append(self._character)
            elif self._at_start and key == self._character:
                self._held = True
                continue
            out.append(key)
            self._at_start = key in b"\r\n"
        if out:
            acts.append(Send(bytes(out)))
        return acts

    def help_text(self) -> str:
        """What `~?` shows, in lines of a raw terminal."""
        key = "~" if self._character is None else _name(self._character)
        rows = [
            (f"{key}.", "end the connection (and the sessions over it)"),
            (f"{key}B", "send a break"),
            (f"{key}R", "exchange new keys"),
            (f"{key}^Z", "suspend tsh"),
            (f"{key}#", "list forwarded connections"),
            (f"{key}?", "this help"),
            (f"{key}{key}", "send the escape character"),
        ]
        lines = [f"{keys:<5} {what}" for keys, what in rows]
        return "\r\n".join([f"{key}?", "Escape sequences, at the start of a line:", *lines, ""])


def _name(character: int) -> str:
    return chr(character) if character >= 0x20 else f"^{chr(character + 0x40)}"

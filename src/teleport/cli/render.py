"""How the commands print: tables, JSON, errors. Data goes to stdout, everything else to stderr.

Text from elsewhere (host names, labels, commands) never drives the terminal: control characters are shown as escapes.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from teleport.clock import how_long as how_long
from teleport.clock import rfc3339
from teleport.errors import TeleportError


def printable(text: str) -> str:
    """`text` with everything that could move a cursor or hide a letter written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() and unicodedata.category(letter) not in ("Cf", "Co", "Cn", "Cs")
        else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces under a dashed rule, a blank line after (`cli.md`)."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(_width(text) for text in column) for column in zip(headers, *cells, strict=True)]

    def line(texts: Sequence[str]) -> str:
        padded = (text + " " * (width - _width(text)) for text, width in zip(texts, widths, strict=True))
        return " ".join(padded).rstrip()

    rule = " ".join("-" * width for width in widths)
    return "\n".join([line(headers), rule, *(line(row) for row in cells)]) + "\n\n"


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """A headless table of two columns."""
    width = max((_width(name) for name, _ in rows), default=0)
    return "".join(f"{name}{' ' * (width - _width(name))}  {printable(value)}\n" for name, value in rows)


def _default(value: object) -> object:
    if isinstance(value, datetime):
        return rfc3339(value)
    raise TypeError(type(value).__name__)


def as_json(value: Any) -> str:
    """`value` as indented JSON with RFC 3339 times."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=_default) + "\n"


def when(moment: datetime | None) -> str:
    """A time for a table whose header names the zone: UTC, to the second; `never` for none."""
    return "never" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def out(text: str) -> None:
    """Data, to stdout."""
    sys.stdout.write(text)


def say(text: str) -> None:
    """What a person has to read before answering a question: to stderr, now, whatever the form of the output."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


_kept: list[str] | None = None


def note(text: str) -> None:
    """Anything that is not data, to stderr; where JSON was asked for, at the end."""
    if _kept is None:
        sys.stderr.write(text + "\n")
    else:
        _kept.append(text)


@contextmanager
def notes_kept(kept: bool) -> Iterator[None]:
    """While `kept`, notes wait: they are shown when the work was done, and are part of the error when it was not, so
    that a failure leaves one JSON object on stderr and nothing else. Raises what the work raises."""
    global _kept
    _kept = [] if kept else None
    try:
        yield
    except TeleportError as error:
        if _kept:
            error.message = "\n".join([error.message, *_kept])
        raise
    else:
        for text in _kept or ():
            sys.stderr.write(text + "\n")
    finally:
        _kept = None


def report(error: TeleportError, program: str, *, as_json_object: bool) -> None:
    """One error on stderr: a sentence and its hint, or one JSON object."""
    sys.stdout.flush()
    if as_json_object:
        sys.stderr.write(
            json.dumps({"code": error.code, "message": error.message, "hint": error.next_step}, ensure_ascii=False)
            + "\n"
        )
        return
    lines = [
        f"{program}: {line}" if not index else f"  {line}" for index, line in enumerate(error.message.splitlines())
    ]
    lines.append(f"  hint: {error.next_step}")
    sys.stderr.write("\n".join(printable(line) for line in lines) + "\n")

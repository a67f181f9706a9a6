"""JSON for a terminal or a program: whatever the text of others holds, no byte of it drives a terminal."""

from __future__ import annotations

import unicodedata
from typing import Any

from teleport.cli import render


def json_text(value: Any) -> str:
    """As `render.as_json`, with invisible and control characters as JSON escapes; it reads back as the same value."""
    text = render.as_json(value)
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return "".join(letter if letter == "\n" or _harmless(letter) else _escape(letter) for letter in text)


def _harmless(letter: str) -> bool:
    return letter.isprintable() and unicodedata.category(letter) not in ("Cf", "Co", "Cn", "Cs")


def _escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))

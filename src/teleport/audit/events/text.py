"""Hostile text in events: whatever a client puts into a name or a command, one event stays one safe line.

The encoded line is printable ASCII where it matters: control characters, line separators, direction marks and
everything else that is not printable is written as a JSON escape, so that neither a line splitter nor a terminal is
driven by it. Bytes that were not UTF-8 (Python's surrogates) become the text `\\xNN`. Long values are cut with a mark
that tells their length (threats T45).
"""

from __future__ import annotations

import re
from typing import Any

MAX_TEXT = 8192  # characters of one text
MAX_ITEMS = 1000  # entries of one list or mapping
_UNSAFE = re.compile("[^\\x20-\\x7e]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _byte_text(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "\ufffd"


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """`text` as valid Unicode of at most `limit` characters and a mark where it was cut."""
    length = len(text)
    if length > limit:
        text = text[:limit]
    text = _SURROGATE.sub(_byte_text, text)
    return text if length <= limit else f"{text} [cut: {length} characters]"


def clean_value(value: Any, limit: int = MAX_TEXT, items: int = MAX_ITEMS) -> Any:
    """The same for plain values of any depth; keys are texts too. Types stay as they are."""
    if isinstance(value, str):
        return clean_text(value, limit)
    if isinstance(value, dict):
        pairs = list(value.items())[:items]
        cleaned = {clean_text(str(key), limit): clean_value(item, limit, items) for key, item in pairs}
        if len(value) > items and all(isinstance(item, str) for item in cleaned.values()):
            cleaned["[cut]"] = f"{len(value)} entries"
        return cleaned
    if isinstance(value, list):
        kept = [clean_value(item, limit, items) for item in value[:items]]
        if len(value) > items and all(isinstance(item, str) for item in kept):
            kept.append(f"[cut: {len(value)} items]")
        return kept
    return value


def _escape(match: re.Match[str]) -> str:
    return "".join(char if char.isprintable() else _json_escape(char) for char in match.group())


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def escape_all(encoded: bytes) -> bytes:
    """Compact JSON in ASCII only: the same for every Unicode version, so what to compare lines by."""
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return _UNSAFE.sub(lambda match: "".join(map(_json_escape, match.group())), encoded.decode()).encode()


def escape_line(encoded: bytes) -> bytes:
    """Compact JSON with everything unprintable escaped; only texts can hold such characters, so the value stays."""
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return _UNSAFE.sub(_escape, encoded.decode()).encode()

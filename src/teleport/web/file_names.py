"""What a downloaded file is called, in a header: a host's word that a browser makes a file's name of. Pure.

Whatever is in it, it is no page of ours: an attachment of no type that browsers show, which may do nothing if one does.

A name cannot lead out of the folder of downloads, cannot pass for another one (bidirectional and invisible characters),
and cannot break out of the header.
"""

from __future__ import annotations

import unicodedata
from typing import Final
from urllib.parse import quote

LONGEST: Final = 180  # bytes; with what browsers append it stays below 255
_NOT = frozenset('/\\:*?"<>|%')
_INVISIBLE = ("C", "Zl", "Zp")  # general categories: control, format, surrogates, unassigned; line ends
_TOKEN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$&+-.^_`|~")  # RFC 8187


def download_name(name: str) -> str:
    """`name` as a browser may take it; never empty."""
    found = "".join(
        "_" if char in _NOT or unicodedata.category(char).startswith(_INVISIBLE) else char for char in name
    ).strip(" ")
    while len(found.encode()) > LONGEST:
        found = found[:-1]
    return found if found.strip(".") else "file"


def disposition(name: str) -> str:
    """The value of Content-Disposition (RFC 6266)."""
    safe = download_name(name)
    plain = "".join(char if char.isascii() and char.isprintable() else "_" for char in safe)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(safe, safe=''.join(_TOKEN))}"


def attachment(name: str) -> dict[str, str]:
    """The headers of a file of this name."""
    return {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": disposition(name),
        "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    }

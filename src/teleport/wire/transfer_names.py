"""Names and places of file transfers: what `tsh scp` is told, and what a server may call its files (threat T49). Pure.

A server's name becomes part of a path only if it is one component; whatever else it is, it is shown as escapes.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from teleport.errors import BadRequest

_REMOTE = re.compile(r"(?:([^@/\\:\[\]]+)@)?(\[[0-9A-Fa-f:.%]+\]|[^@/\\:\[\]]+):(.*)", re.DOTALL)
_GLOB = re.compile(r"(?<!\\)[*?\[]")
_WINDOWS = re.compile(r'[\\:*?"<>|\x00-\x1f]|[ .]\Z')
_WINDOWS_DEVICES = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """`[user@]host:path`, or a path of this machine (`host` empty)."""

    path: str
    host: str = ""
    user: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.path}" if self.host else self.path


def parse_place(text: str, *, windows: bool = False) -> Place:
    """As scp reads it: what has a slash before its first colon is a path. Raises `BadRequest`."""
    if not text:
        raise BadRequest("an empty path", hint="tsh scp [user@]host:path path; . is the folder you are in")
    if windows and re.match(r"[A-Za-z]:([\\/]|\Z)", text):
        return Place(text)
    found = _REMOTE.fullmatch(text)
    if found is None:
        return Place(text)
    user, host, path = found.groups()
    if host.startswith("-"):
        raise BadRequest(f"{host[:80]!r} is no host", hint="tsh scp [user@]host:path path")
    return Place(path or ".", host.strip("[]"), user or "")


def safe_name(name: str, *, windows: bool = False) -> str:
    """`name` if it stays in the folder it is put into; raises `BadRequest`."""
    why = ""
    if name in ("", ".", ".."):
        why = "is no name of its own"
    elif "/" in name or "\0" in name:
        why = "leads elsewhere"
    elif len(name.encode(errors="surrogateescape")) > 255:
        why = "is too long"
    elif windows and (_WINDOWS.search(name) or _WINDOWS_DEVICES.fullmatch(name)):
        why = "cannot be a file's name here"
    elif windows and any("\ud800" <= letter <= "\udfff" for letter in name):
        why = "is not UTF-8"
    if why:
        raise BadRequest(f"the name {name[:80]!r} {why}", hint="what the host sends under it is left out")
    return name


def last_name(path: str) -> str:
    """The last component of a path that somebody typed; empty for `.`, `..` and `/`, which name the folder itself."""
    name = path.rstrip("/").rpartition("/")[2]
    return "" if name in ("", ".", "..") else name


def joined(folder: str, name: str) -> str:
    """A path on a host."""
    return name if folder in ("", ".") else f"{folder.rstrip('/')}/{name}"


def is_pattern(path: str) -> bool:
    """Whether a path on a host has to be looked for: `*`, `?`, `[`, unless a backslash stands before it."""
    return bool(_GLOB.search(path))


def literal(path: str) -> str:
    """A path without the backslashes that keep patterns from being such."""
    return re.sub(r"\\([*?\[\\])", r"\1", path)


def matches(name: str, pattern: str) -> bool:
    """Whether a host's answer is one that was asked for. A leading dot has to be asked for by name."""
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return fnmatch.fnmatchcase(name, re.sub(r"\\([*?\[])", r"[\1]", pattern))

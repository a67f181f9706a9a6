"""Which files may move, which way, and how large: one answer for sftp, scp and rsync (threat T50).

With `exec: all` the rules are advice, since a shell moves files, too (`channels.exec_is_limited`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from teleport.authz.channels import ChannelTerms, RoleGrant, exec_is_limited, first_hit, paths_of, refusal
from teleport.authz.decision import AccessDenial, DenialCode
from teleport.resources.destinations import parse_path_pattern
from teleport.resources.role import ExecMode, FileTransfer


class Direction(StrEnum):
    """Which way bytes or changes go. `LOOK` reads names and attributes, which every transfer needs."""

    DOWNLOAD = "download"
    UPLOAD = "upload"
    LOOK = "look"


def why_no_transfer(
    terms: ChannelTerms, direction: Direction, path: str = "", *, home: str = "", size: int = 0
) -> AccessDenial | None:
    """What forbids moving a file. `path` is absolute and resolved by whoever opens it; empty asks whether the direction
    is allowed for any path at all. `size` is bytes moved so far, or announced."""
    doing = "looking at" if direction is Direction.LOOK else f"{direction} of"
    what = f"{doing} {path[:200]!r}" if path else f"{doing} files"
    reasons = []
    for grant in terms.grants:
        why = _why_not_moved(grant, direction, path, home, size)
        if not why:
            return None
        reasons.append(f"role {grant.role!r} {why}")
    return refusal(what, *reasons)


def most_bytes(terms: ChannelTerms, direction: Direction, path: str, *, home: str = "") -> int:
    """How many bytes of a file may move; 0: no limit. Of several roles that allow it, the largest."""
    limits = [
        grant.file_transfer.max_file_size
        for grant in terms.grants
        if not _why_not_moved(grant, direction, path, home, 0)
    ]
    return 0 if 0 in limits else max(limits, default=0)


@dataclass(frozen=True, slots=True)
class Scope:
    """How much of what is done to files the rules have a say in; with neither, nothing needs to be asked."""

    asks: bool = True  # opening, and whatever changes something
    looks: bool = True  # also looking: the rules are about paths


def scope(terms: ChannelTerms) -> Scope:
    """What has to be asked under `terms`."""
    free = [
        one for one in terms.grants if one.exec is not ExecMode.NONE and not (one.exec is ExecMode.ALL and one.commands)
    ]
    for rules in (one.file_transfer for one in free):
        if rules.download and rules.upload and _names_no_path(rules) and not rules.max_file_size:
            return Scope(asks=False, looks=False)
    return Scope(looks=not free or not all(_names_no_path(one.file_transfer) for one in free))


def _names_no_path(rules: FileTransfer) -> bool:
    return rules.download_paths is None and rules.upload_paths is None and not rules.deny_paths


def why_no_rsync(terms: ChannelTerms) -> AccessDenial | None:
    """What forbids rsync altogether: its protocol names further files, by filters and by links, which nobody judges."""
    if not scope(terms).looks or not exec_is_limited(terms):
        return None
    return AccessDenial(
        DenialCode.NOT_GRANTED,
        "rsync cannot be held to the paths that your roles name; use sftp or scp.",
        ("rsync cannot be held to the paths that roles name",),
    )


def why_no_move(terms: ChannelTerms, old: str, new: str, *, home: str = "") -> AccessDenial | None:
    """What forbids giving the file at `old` the name `new`, too or instead. It changes both; and what may not be
    downloaded by one name may not get another by which it may. What is moved may be a folder, or a link to one, by the
    time that it is moved: so neither name may be one of a folder above a denied path."""
    for path in (old, new):
        denied = why_no_link(terms, path, home=home)
        if denied is not None:
            return denied
    if why_no_transfer(terms, Direction.DOWNLOAD, new, home=home) is None:
        return why_no_transfer(terms, Direction.DOWNLOAD, old, home=home)
    return None


def why_no_link(terms: ChannelTerms, path: str, *, home: str = "") -> AccessDenial | None:
    """What forbids that `path` leads elsewhere from now on. A link in place of a folder above a denied path would give
    that path to what is written under another name."""
    reasons = []
    for grant in terms.grants:
        why = _why_not_moved(grant, Direction.UPLOAD, path, home, 0)
        if not why and any(_may_be_above(path, entry, home) for entry in grant.file_transfer.deny_paths):
            why = "denies paths that may be below it"
        if not why:
            return None
        reasons.append(f"role {grant.role!r} {why}")
    return refusal(f"upload of {path[:200]!r}", *reasons)


def _may_be_above(path: str, entry: str, home: str) -> bool:
    """Whether something below `path` may match `entry` for what is above it, so that it would not match elsewhere.

    That is so where a part of the pattern that ends before a slash, or within a `**`, matches `path`. A `**` at the
    very start matches wherever a folder is moved to.
    """
    if entry.startswith("~") and f"{home}/".startswith(path.rstrip("/") + "/"):
        return True
    ends = {found.start() for found in re.finditer("/", entry)} | {found.end() for found in re.finditer(r"\*\*", entry)}
    parts = {entry[:end] for end in ends if end < len(entry) or entry.endswith("**")} - {"", "**"}
    return any(parse_path_pattern(part).matches(path, home) for part in parts)


def why_no_tree(terms: ChannelTerms, direction: Direction, path: str, *, home: str = "") -> AccessDenial | None:
    """What forbids moving everything below a folder, whatever it is called: for who cannot ask about each file."""
    reasons = []
    for grant in terms.grants:
        why = _why_not_moved(grant, direction, path, home, 0)
        why = why or _why_not_whole(grant.file_transfer, direction, path, home)
        if not why:
            return None
        reasons.append(f"role {grant.role!r} {why}")
    return refusal(f"{direction} of everything in {path[:200]!r}", *reasons)


def _why_not_whole(rules: FileTransfer, direction: Direction, path: str, home: str) -> str:
    allowed = rules.download_paths if direction is Direction.DOWNLOAD else rules.upload_paths
    if allowed is not None and not any(
        text.endswith("/**") and one.matches(path, home) for text in allowed for one in paths_of((text,))
    ):
        return f"names no pattern in {direction}_paths that ends with /** and covers it"
    for text in rules.deny_paths:
        fixed = re.split(r"[*?]", home + text[1:] if text.startswith("~") else text, maxsplit=1)[0]
        if fixed.startswith(path.rstrip("/") + "/") or (path.rstrip("/") + "/").startswith(fixed):
            return "denies paths that may be in it"
    return ""


def _why_not_moved(grant: RoleGrant, direction: Direction, path: str, home: str, size: int) -> str:
    rules = grant.file_transfer
    if grant.exec is ExecMode.NONE:
        return "has exec: none"
    if grant.exec is ExecMode.ALL and grant.commands:
        return "allows only the commands that it lists"
    ways = {
        Direction.DOWNLOAD: ((rules.download, rules.download_paths),),
        Direction.UPLOAD: ((rules.upload, rules.upload_paths),),
        Direction.LOOK: ((rules.download, rules.download_paths), (rules.upload, rules.upload_paths)),
    }[direction]
    if not any(allowed for allowed, _ in ways):
        return f"does not allow {direction}s" if direction is not Direction.LOOK else "allows no transfer"
    if not path:
        return ""
    if rules.deny_paths and (not path.startswith("/") or _denies_path(rules.deny_paths, path, home)):
        return "denies the path"
    lists = [paths for allowed, paths in ways if allowed]
    if not any(paths is None or any(one.matches(path, home) for one in paths_of(paths)) for paths in lists):
        names = "download_paths or upload_paths" if direction is Direction.LOOK else f"{direction}_paths"
        return f"does not name the path in {names}"
    if rules.max_file_size and size > rules.max_file_size:
        return f"allows files of at most {rules.max_file_size} bytes"
    return ""


def _denies_path(entries: Sequence[str], path: str, home: str) -> bool:
    return bool(first_hit(entries, lambda entry: parse_path_pattern(entry).matches(path, home)))

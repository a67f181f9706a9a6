"""Patterns of roles for where a forward may lead, where one may listen, and which commands and paths are meant.

    HOST:PORTS     HOST: a name, a glob (*.db.example.com), an IP address, a network (10.0.0.0/8, [fd00::]/8), or *
                   PORTS: *, 5432, 8000-8100, or several of these with commas
    unix:/PATH     a Unix socket; in paths * stands for what has no slash, ** for anything
    /PATH, ~/PATH  a file; ~ is the home of the login; **/NAME is one in any folder

Everything is parsed when a role is written; a pattern that slipped through matches nothing under `allow` and everything
under `deny` (`authz.channels`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from teleport.errors import BadRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_PATTERN = 1024  # characters
UNIX = "unix:"
_HOST = re.compile(r"[a-z0-9*_](?:[a-z0-9*_.\-]{0,252}[a-z0-9*_])?")
_NUMBER = re.compile(r"[0-9]{1,5}")
_SAFE_WORD = re.compile(r"[A-Za-z0-9_./:=@%+,\-]+")


@dataclass(frozen=True, slots=True)
class HostPattern:
    """`HOST:PORTS`. Exactly one of `glob` and `network` is set; the glob is in lower case."""

    glob: str
    network: Network | None
    ports: tuple[tuple[int, int], ...]  # first and last; none: every port

    @property
    def exact(self) -> bool:
        """Whether it names one host and says which ports: what is reserved is open to such an entry only."""
        host = "*" not in self.glob if self.network is None else self.network.num_addresses == 1
        return host and bool(self.ports)

    def has_port(self, port: int) -> bool:
        return not self.ports or any(first <= port <= last for first, last in self.ports)


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A glob over whole paths. `home` says that it begins at the home of the login."""

    pattern: re.Pattern[str]
    home: bool

    def matches(self, path: str, home: str = "") -> bool:
        """Whether an absolute, resolved `path` is meant; `home` is the login's, likewise resolved."""
        if not self.home:
            return self.pattern.fullmatch(path) is not None
        if not home.startswith("/"):
            return False
        base = home.rstrip("/")
        if path != base and not path.startswith(base + "/"):
            return False
        return self.pattern.fullmatch(path[len(base) :]) is not None


@lru_cache(maxsize=4096)
def parse_host_pattern(text: str) -> HostPattern:
    """`HOST:PORTS`; `BadRequest` says what is wrong with it."""
    host, colon, ports = text.rpartition(":")
    if not colon or not host or len(text) > MAX_PATTERN:
        raise BadRequest(f"{text[:80]!r} is not HOST:PORTS", hint="for instance db.example.com:5432 or 10.0.0.0/8:*")
    network = _network(host)
    glob = "" if network is not None else host.lower()
    if network is None and not _HOST.fullmatch(glob):
        raise BadRequest(
            f"{host[:80]!r} is neither a name, a glob of names, an address nor a network",
            hint="IPv6 addresses stand in brackets: [fd00::1]:22, [fd00::]/8:*",
        )
    return HostPattern(glob, network, _ports(ports))


def _network(host: str) -> Network | None:
    address, slash, length = host.partition("/")
    if address.startswith("[") != address.endswith("]"):
        return None
    bare = address[1:-1] if address.startswith("[") else address
    if ":" in bare and not address.startswith("["):
        return None
    try:
        return ipaddress.ip_network(f"{bare}{slash}{length}")
    except ValueError as error:
        if slash:
            raise BadRequest(f"{host[:80]!r} is not a network: {error}", hint="for instance 10.0.0.0/8:*") from error
        return None


def _ports(text: str) -> tuple[tuple[int, int], ...]:
    if text == "*":
        return ()
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not _NUMBER.fullmatch(first) or not _NUMBER.fullmatch(last) or not 0 < int(first) <= int(last) <= 65535:
            raise BadRequest(f"{text[:80]!r} are no ports", hint="*, 5432, 8000-8100, or several with commas")
        found.append((int(first), int(last)))
    return tuple(found)


@lru_cache(maxsize=4096)
def parse_path_pattern(text: str) -> PathPattern:
    """`/PATH` or `~/PATH` with globs; `BadRequest` says what is wrong with it."""
    home = text == "~" or text.startswith("~/")
    path = text[1:] if home else text
    begins = path.startswith(("/", "**/")) or (home and not path)
    if len(text) > MAX_PATTERN or "\0" in text or not begins:
        raise BadRequest(f"{text[:80]!r} is not a path", hint="/srv/data/**, ~/incoming/*; ** also stands for slashes")
    if any(part in {".", ".."} for part in path.split("/")):
        raise BadRequest(f"{text[:80]!r} has a part that is . or ..", hint="write the path without it")
    pieces = []
    for piece in re.split(r"(/\*\*$|\*\*|\*|\?)", path):
        match piece:
            case "/**":
                pieces.append("(?:/.*)?")  # the folder itself is meant, too
            case "**":
                pieces.append(".*")
            case "*":
                pieces.append("[^/]*")
            case "?":
                pieces.append("[^/]")
            case _:
                pieces.append(re.escape(piece))
    return PathPattern(re.compile("".join(pieces), re.DOTALL), home)


@lru_cache(maxsize=4096)
def parse_command_pattern(text: str) -> tuple[str, ...]:
    """The words of an allowed command. `*` stands for one word, `**` at the end for any number; no other globs.

    `BadRequest` when a word holds anything that a shell could understand in its own way.
    """
    words = tuple(text.split(" "))
    if len(text) > MAX_PATTERN or not all(words):
        raise BadRequest(f"{text[:80]!r} is not a command with single spaces", hint="systemctl restart *")
    for place, word in enumerate(words):
        if word == "*" or (word == "**" and place == len(words) - 1):
            continue
        if not _SAFE_WORD.fullmatch(word):
            raise BadRequest(
                f"{word[:80]!r} is not a plain word, *, or ** at the end",
                hint="put what needs a shell into a script on the host, and allow that",
            )
    if words[0] in {"*", "**"}:
        raise BadRequest("a command pattern begins with the name of a program", hint="/usr/local/bin/deploy *")
    return words


def command_matches(pattern: Sequence[str], command: str) -> bool:
    """Whether `command` consists of plain words that fit. Words that a shell would change never fit."""
    words = command.split(" ")
    if not all(_SAFE_WORD.fullmatch(word) for word in words):
        return False
    if pattern and pattern[-1] == "**":
        pattern = pattern[:-1]
        words = words[: len(pattern)] if len(words) >= len(pattern) else words
    return len(words) == len(pattern) and all(fits in {"*", word} for fits, word in zip(pattern, words, strict=True))


def host_matches(glob: str, host: str) -> bool:
    """Whether a name, as it was asked for, fits a glob; the case and a dot at the end do not count."""
    expression = ".*".join(re.escape(part) for part in glob.split("*"))
    return re.fullmatch(expression, host.lower().removesuffix("."), re.DOTALL) is not None

"""What `-L`, `-R` and `-D` say, as ssh(1) has it: text in, values out.

    -L [bind:]port:host:hostport     -L [bind:]port:/remote/socket
    -L /local/socket:host:hostport   -L /local/socket:/remote/socket      likewise -R
    -D [bind:]port

An address of IPv6 stands in brackets. What holds a slash is the path of a Unix socket. Without `bind` a listener is on
loopback; `*` means every address. Port 0 of a listener means any free one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from teleport.errors import BadRequest

LOOPBACK = "localhost"
_WORD = re.compile(r"\[([0-9A-Fa-f:.%]+)\]|((?:[^:\\]|\\.)*)")


class Direction(StrEnum):
    """Who listens."""

    LOCAL = "-L"  # this machine; the host connects
    REMOTE = "-R"  # the host; this machine connects
    DYNAMIC = "-D"  # this machine; whoever connects says by SOCKS where to


@dataclass(frozen=True, slots=True)
class TcpEnd:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SocketEnd:
    """A Unix socket's path."""

    path: str

    def __str__(self) -> str:
        return self.path


End = TcpEnd | SocketEnd


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward. `to` is None for a dynamic one."""

    direction: Direction
    listen: End
    to: End | None = None

    def __str__(self) -> str:
        return f"{self.direction} {self.listen}" + (f" to {self.to}" if self.to else "")


def parse(direction: Direction, text: str) -> Forward:
    """Raises `BadRequest`, which shows the form."""
    words = _words(text)
    if words is None:
        raise _wrong(direction, text)
    if direction is Direction.DYNAMIC:
        match words:
            case [port]:
                return Forward(direction, _tcp(direction, text, LOOPBACK, port, least=0))
            case [bind, port]:
                return Forward(direction, _tcp(direction, text, _bound(bind), port, least=0))
        raise _wrong(direction, text)
    match words:
        case [path, to] if "/" in path and "/" in to:
            return Forward(direction, SocketEnd(path), SocketEnd(to))
        case [path, host, port] if "/" in path:
            return Forward(direction, SocketEnd(path), _tcp(direction, text, host, port))
        case [port, to] if "/" in to:
            return Forward(direction, _tcp(direction, text, LOOPBACK, port, least=0), SocketEnd(to))
        case [bind, port, to] if "/" in to:
            return Forward(direction, _tcp(direction, text, _bound(bind), port, least=0), SocketEnd(to))
        case [port, host, to_port]:
            listen = _tcp(direction, text, LOOPBACK, port, least=0)
            return Forward(direction, listen, _tcp(direction, text, host, to_port))
        case [bind, port, host, to_port]:
            listen = _tcp(direction, text, _bound(bind), port, least=0)
            return Forward(direction, listen, _tcp(direction, text, host, to_port))
    raise _wrong(direction, text)


def _words(text: str) -> list[str] | None:
    """The parts between colons; None when brackets do not match."""
    words, at = [], 0
    while True:
        found = _WORD.match(text, at)
        assert found is not None  # the second alternative matches the empty string
        words.append(found.group(1) or re.sub(r"\\(.)", r"\1", found.group(2) or ""))
        at = found.end()
        if at == len(text):
            return words
        if text[at] != ":":
            return None
        at += 1


def _bound(bind: str) -> str:
    return "" if bind == "*" else bind or LOOPBACK


def _tcp(direction: Direction, text: str, host: str, port: str, *, least: int = 1) -> TcpEnd:
    if not re.fullmatch(r"[0-9]{1,5}", port) or not least <= int(port) <= 65535:
        raise _wrong(direction, text)
    if least and (not host or not host.isprintable() or len(host) > 255):
        raise _wrong(direction, text)
    if "/" in host or any(letter.isspace() for letter in host):
        raise _wrong(direction, text)
    return TcpEnd(host, int(port))


def _wrong(direction: Direction, text: str) -> BadRequest:
    form = "[bind:]port" if direction is Direction.DYNAMIC else "[bind:]port:host:hostport, a path with / for a socket"
    return BadRequest(f"{direction} {text[:120]!r} is not {form}", hint=_EXAMPLES[direction])


_EXAMPLES = {
    Direction.LOCAL: "-L 8080:localhost:80",
    Direction.REMOTE: "-R 9000:localhost:9000",
    Direction.DYNAMIC: "-D 1080",
}

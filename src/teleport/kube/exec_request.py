"""What a request for a command in a pod says, read as API servers read it; and whether it can be recorded. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

import h11

from teleport.kube import streams
from teleport.kube.calls import Call
from teleport.kube.heads import Headers, values
from teleport.kube.http import Request
from teleport.kube.status import Refusal

RECORDED: Final = frozenset({"exec", "attach"})
PROTOCOLS: Final = (b"v5.channel.k8s.io", b"v4.channel.k8s.io")  # by websocket and by SPDY
RECORDED_BEFORE: Final = b"X-Teleport-Recorded"
"""Said by a proxy to a service: it records the session. Of a client it counts nowhere and goes nowhere."""
_VERSION: Final = b"x-stream-protocol-version"
_SPDY: Final = b"SPDY/3.1"


@dataclass(frozen=True, slots=True)
class PodCommand:
    """What is asked for. `attach` runs no command: it shows the one that runs."""

    command: str  # as a shell would be told it; empty for `attach`
    container: str
    terminal: bool


def is_recorded(call: Call) -> bool:
    """Whether it is one of those whose bytes are recorded."""
    return call.into_pod and call.subresource in RECORDED


def read_command(call: Call) -> PodCommand:
    """What the call asks for: of an option that comes twice the server takes the first."""
    pairs = [pair.partition("=")[::2] for pair in call.target.partition("?")[2].split("&") if pair]
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(_text(name), []).append(_text(value))
    words = found.get("command", []) if call.subresource == "exec" else []
    terminal = found.get("tty", ["false"])[0]
    return PodCommand(shlex.join(words), found.get("container", [""])[0], terminal.lower() not in {"0", "false"})


def _text(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "backslashreplace")


def says_recorded(headers: Headers) -> bool:
    """Whether the proxy that leads here says that it records the session."""
    return values(headers, RECORDED_BEFORE.lower()) == [b"1"]


def why_unrecordable(request: Request) -> Refusal | None:
    """Why what is asked for cannot be recorded; None: it can be."""
    if request.has_body:
        return Refusal(400, "A command in a pod is asked for without a body.")
    if _offered(request.headers):
        return None
    return Refusal(
        400,
        "Sessions are recorded here, in the protocols v5.channel.k8s.io and v4.channel.k8s.io only.",
        "use a kubectl of the last years",
    )


def _offered(headers: Headers) -> list[bytes]:
    """The protocols that the client speaks and that can be read here."""
    name = _VERSION if streams.wanted(headers) == _SPDY else streams.PROTOCOL
    return [one for one in _tokens(headers, name) if one in PROTOCOLS]


def _tokens(headers: Headers, name: bytes) -> list[bytes]:
    return [token.strip() for value in values(headers, name) for token in value.split(b",")]


def asked(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers by which the server is asked for one of these, and for nothing else."""
    kept = [(name, value) for name, value in streams.asked(headers) if name.lower() not in (streams.PROTOCOL, _VERSION)]
    by_spdy = streams.wanted(headers) == _SPDY
    name = b"X-Stream-Protocol-Version" if by_spdy else b"Sec-WebSocket-Protocol"
    return [*kept, (name, b", ".join(_offered(headers)))]


def agreed(asked_by: Headers, answered: h11.Response | h11.InformationalResponse) -> bool:
    """Whether the server's answer has the protocol that it was asked for, in a form that can be read here."""
    if not isinstance(answered, h11.InformationalResponse):
        return False
    protocol, answer = streams.wanted(asked_by), list(answered.headers)
    if [value.strip().lower() for value in values(answer, b"upgrade")] != [protocol.lower()]:
        return False
    if values(answer, b"sec-websocket-extensions"):
        return False
    chosen = values(answer, _VERSION if protocol == _SPDY else streams.PROTOCOL)
    return len(chosen) == 1 and chosen[0].strip() in _offered(asked_by)

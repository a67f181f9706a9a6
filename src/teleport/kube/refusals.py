"""How a refusal is worded, so that each sort of kubectl prints its sentence. Pure.

Usually that is a Status. Those of the API server go on as they are, but for discovery, where it refuses everything
when our own account may not act as the person. Not everywhere does kubectl read a Status:

- Before its first command at a cluster it asks what that has. A newer one (1.26) prints "unknown" for a Status there,
  and plain text as it is. An older one takes 403 for a cluster that has nothing, and says that there is no resource
  "pods"; of 400 it prints the Status. What is on record is 403.
- Of a watch for a table an older one prints "unknown", and plain text as it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl

from teleport.kube.heads import values
from teleport.kube.http import Request
from teleport.kube.status import Refusal

_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"
_MAY_NOT: Final = "an administrator of the Kubernetes cluster can let our account act as you"
MOST_SAID: Final = 1000  # characters of what the API server says
MOST_READ: Final = 64 * 1024  # bytes of its refusal


class Refused(Exception):
    """The call ends here: `refusal` is what the client reads, `reason` what is on record."""

    def __init__(self, refusal: Refusal, reason: str = "") -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.reason = reason or refusal.message


@dataclass(frozen=True, slots=True)
class Worded:
    code: int
    body: bytes
    kind: bytes  # of the body


def worded(request: Request, refusal: Refusal) -> Worded:
    """The answer to this request."""
    query = request.target.partition("?")[2]
    accepted = b",".join(values(request.headers, b"accept"))
    if discovers(request):
        if b"as=APIGroupDiscoveryList" in accepted:
            return Worded(refusal.code, refusal.sentence.encode(), _TEXT)
        if refusal.code == 403:
            refusal = replace(refusal, code=400)
    elif b"as=Table" in accepted and ("watch", "true") in parse_qsl(query):
        return Worded(refusal.code, refusal.sentence.encode(), _TEXT)
    return Worded(refusal.code, refusal.body, _JSON)


def discovers(request: Request) -> bool:
    """Whether it asks what a cluster has."""
    return request.target.partition("?")[0] in ("/api", "/apis")


def of_server(body: bytes) -> Refusal:
    """A refusal with the words of the API server's own."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    message = found.get("message") if isinstance(found, dict) else None
    if not isinstance(message, str) or not message:
        return Refusal(403, "The API server refuses to say what it has.")
    told = "".join(character if character.isprintable() else " " for character in message[:MOST_SAID])
    return Refusal(403, told, _MAY_NOT if "cannot impersonate resource" in told else "")


def not_taken(cluster: str) -> Refusal:
    """For 401 of an API server: it is about our own credentials, and would read as if the person had to log in."""
    return Refusal(502, f"The API server of {cluster} does not take our credentials.", "tell an administrator")

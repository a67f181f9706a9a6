"""How a refusal is worded, so that each sort of kubectl prints its sentence. Pure.

Usually that is a Status. Not everywhere does kubectl read one:

- Before its first command at a cluster it asks what that has. A newer one (1.26) prints "unknown" for a Status there,
  and plain text as it is. An older one takes 403 for a cluster that has nothing, and says that there is no resource
  "pods"; of 400 it prints the Status. What is on record is 403.
- Of a watch for a table an older one prints "unknown", and plain text as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl

from teleport.kube.heads import values
from teleport.kube.http import Request
from teleport.kube.status import Refusal

_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Worded:
    code: int
    body: bytes
    kind: bytes  # of the body


def worded(request: Request, refusal: Refusal) -> Worded:
    """The answer to this request."""
    path, _, query = request.target.partition("?")
    accepted = b",".join(values(request.headers, b"accept"))
    if path in ("/api", "/apis"):
        if b"as=APIGroupDiscoveryList" in accepted:
            return Worded(refusal.code, refusal.sentence.encode(), _TEXT)
        if refusal.code == 403:
            refusal = replace(refusal, code=400)
    elif b"as=Table" in accepted and ("watch", "true") in parse_qsl(query):
        return Worded(refusal.code, refusal.sentence.encode(), _TEXT)
    return Worded(refusal.code, refusal.body, _JSON)


def not_taken(cluster: str) -> Refusal:
    """For 401 of an API server: it is about our own credentials, and would read as if the person had to log in."""
    return Refusal(502, f"The API server of {cluster} does not take our credentials.", "tell an administrator")

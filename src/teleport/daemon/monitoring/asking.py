"""What a daemon says at its diagnostics address, asked from another process of the host."""

from __future__ import annotations

import http.client
import json
from typing import Final

from teleport.errors import ConnectionProblem
from teleport.resources.values import HostPort

MOST: Final = 4 << 20  # bytes of an answer
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - how they are reached


def ask(address: HostPort, path: str, seconds: float) -> tuple[int, str]:
    """Status and body. Raises `ConnectionProblem` when nobody answers in time, or not by HTTP."""
    host = _ANY.get(address.host, address.host)
    connection = http.client.HTTPConnection(host, address.port, timeout=seconds)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read(MOST).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ConnectionProblem(
            f"the daemon does not answer at {HostPort(host, address.port)}: {said}",
            hint="check that it runs, and that teleport.diag_addr is this address: teleport doctor",
        ) from None
    finally:
        connection.close()


def status_of(body: str) -> str:
    """The text in an answer of `/healthz` and `/readyz`; what cannot be read is shown as it stands."""
    try:
        found = json.loads(body)
    except ValueError:
        return body[:500]
    return str(found["status"]) if isinstance(found, dict) and "status" in found else body[:500]

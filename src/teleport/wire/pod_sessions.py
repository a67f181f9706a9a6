"""The name by which somebody asks a proxy for the sessions in pods that it leads into, in place of a host's. Pure.

A host that runs a node, too, has the same UUID: so the name is another one than the UUID alone.
"""

from __future__ import annotations

from typing import Final

_PREFIX: Final = "pods."


def name_of(proxy_id: str) -> str:
    """What a client asks for to be led to the sessions that this proxy holds."""
    return _PREFIX + proxy_id


def proxy_of(name: str) -> str:
    """The UUID of the proxy that is meant; empty when the name is that of a host."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""

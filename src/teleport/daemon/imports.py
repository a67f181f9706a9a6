"""What a running daemon imports only when it is first needed, imported ahead.

A process that was replaced goes on for as long as its sessions do, perhaps after its release was removed or another one
put in its place: what it loaded then would be of another version (design, decision 19).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Final

EVERY: Final = ("teleport.pki.names", "teleport.resources.names", "ipaddress")
BY_SERVICE: Final = {
    "auth": (
        "teleport.api.routes",
        "teleport.resources.user",
        *("teleport.auth.cluster.from_file", "teleport.backup", "teleport.backup.archive"),
        *("fido2", "fido2.attestation.base", "fido2.cbor", "fido2.cose", "fido2.server", "fido2.webauthn", "json"),
        *("difflib", "unicodedata"),
    ),
    "proxy": ("difflib", "email.policy", "segno", "base64", "io", "teleport.ssh.client"),
}


def import_ahead(services: Iterable[str]) -> None:
    """For a daemon with these services, once it is ready."""
    for service in services:
        for name in (*EVERY, *BY_SERVICE.get(service, ())):
            import_module(name)

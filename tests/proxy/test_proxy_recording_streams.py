"""Where a forward through a recording proxy may lead: the proxy's resolver is asked, and gets around no rule."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from teleport.authz.channels import ChannelDenies, ChannelTerms, RoleGrant
from teleport.authz.decision import AccessDenial
from teleport.authz.forwarding import Destination
from teleport.proxy.recording.streams import allowed
from teleport.transport import search_domains

DENIES = ChannelDenies(forward_to=("secret.corp.example.com:*",))
TERMS = ChannelTerms(port_forwarding=True, grants=(RoleGrant("access"),), denies=DENIES)


@pytest.mark.parametrize(
    ("host", "canonical", "denied"),
    [
        ("secret", "secret.corp.example.com", True),
        ("secret", "elsewhere.example.net", True),
        ("alias", "secret.corp.example.com", True),
        ("secret.corp", "elsewhere.example.net", True),
        ("secret.", "secret", False),
        ("public", "public.corp.example.com", False),
        ("secret.corp", "secret.corp", False),
    ],
)
async def test_what_the_resolver_completes_does_not_get_around_a_deny(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, canonical: str, denied: bool
) -> None:
    """Threat T26."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("search corp.example.com example.com\n")
    monkeypatch.setattr(search_domains, "RESOLVER", resolver)

    async def answer(name: str, port: int, **_: Any) -> list[Any]:
        if name == f"{host}.":
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, canonical, ("192.0.2.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answer)
    found = await allowed(TERMS, host, 80, lambda *_: "")
    assert isinstance(found, AccessDenial if denied else Destination)

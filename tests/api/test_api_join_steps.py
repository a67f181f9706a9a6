"""What is printed for a new host or another cluster can be used as it stands."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from teleport.api import messages as m
from teleport.api.join_steps import cluster_document
from teleport.resources.parse import parse_resources
from teleport.resources.trusted_cluster import TrustedCluster

PIN = "sha256:" + "0" * 64


@pytest.mark.parametrize("address", ["proxy.example.com:443", "192.0.2.7:3080", "[2001:db8::7]:3080", "[::1]:443"])
@pytest.mark.parametrize("out", ["", "/etc/a token: its file"])
def test_the_document_for_another_cluster_says_what_it_means(address: str, out: str) -> None:
    made = m.JoinToken(
        token="0123456789abcdef",
        id="one",
        roles=["trusted_cluster"],
        expires=datetime(2026, 1, 1, tzinfo=UTC),
        ca_pins=[PIN],
        auth_servers=[],
        web_addresses=[address],
    )
    (found,) = parse_resources(cluster_document(made, out), "printed")
    assert isinstance(found, TrustedCluster)
    assert found.spec.web_proxy_addr == address
    assert found.spec.token is not None
    assert found.spec.token.reveal() == (f"THE TOKEN IN {out}" if out else made.token)

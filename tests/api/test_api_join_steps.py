"""What is printed for a new host or another cluster can be used as it stands."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api.join_steps import cluster_document, for_host
from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.resources.parse import parse_resources
from teleport.resources.trusted_cluster import TrustedCluster
from teleport.testing.kube_api import KubeApi

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


def test_a_kubernetes_service_is_told_by_a_file(tmp_path: Path) -> None:
    """Which the daemon takes as it is; no flag starts the service."""
    made = m.JoinToken(
        token="secret",
        id="1",
        roles=["kube"],
        expires=datetime(2026, 1, 1, tzinfo=UTC),
        ca_pins=[PIN],
        auth_servers=["a:3025"],
    )
    said = for_host(made, "", [])
    assert "--roles" not in said
    text = said[said.index("teleport:") :].replace("/etc/teleport.kubeconfig", f"{tmp_path}/kubeconfig")
    (tmp_path / "kubeconfig").write_text(KubeApi(tmp_path).kubeconfig("prod", port=6443))
    found = effective_config(load_config(text, "teleport.yaml"), StartFlags(), "box")
    assert found.roles == ("kube",)
    assert [str(one) for one in found.auth_servers] == ["a:3025"]
    behind = msgspec.structs.replace(made, web_addresses=["p.example:443"])
    assert '["p.example:443"]' in for_host(behind, "/etc/kube.token", [])

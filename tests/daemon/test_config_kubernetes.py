"""`proxy_service.kubernetes` and `kube_listen_addr`: where is listened, and which clusters are led to."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.daemon.config.values import Config, ProxyConfig
from teleport.errors import BadRequest
from teleport.resources.values import HostPort
from teleport.testing.kube_api import KubeApi


def proxy(text: str) -> tuple[ProxyConfig, tuple[str, ...]]:
    found = effective_config(
        load_config("proxy_service:\n  enabled: yes\n" + text, "teleport.yaml"), StartFlags(), "box"
    )
    assert found.proxy is not None
    return found.proxy, found.warnings


def test_off_by_default() -> None:
    """Without either form there is no listener."""
    for text in ("", "  kubernetes: {enabled: no, kubeconfig_file: /missing}\n"):
        made, _ = proxy(text)
        assert (made.kube_listen_addr, made.kube_clusters, made.kube_public_addrs) == (None, (), ())


def test_both_forms(tmp_path: Path) -> None:
    """The older one brings the clusters; the address may be of either, and is 3026 by default. All of it is values."""
    file = tmp_path / "kubeconfig"
    file.write_text(KubeApi(tmp_path).kubeconfig("prod", port=6443))
    section = f"  kubernetes: {{enabled: yes, kubeconfig_file: {file}}}\n"
    made, warnings = proxy(section)
    assert made.kube_listen_addr == HostPort("0.0.0.0", 3026)
    assert made.kube_public_addrs == (HostPort("box", 3026),)
    assert [(one.name, one.address) for one in made.kube_clusters] == [("prod", HostPort("localhost", 6443))]
    assert warnings == ()
    assert pickle.loads(pickle.dumps(made)) == made
    made, _ = proxy(section + "  kube_listen_addr: 127.0.0.1:4026\n  kube_public_addr: k.example.com\n")
    assert made.kube_listen_addr == HostPort("127.0.0.1", 4026)
    assert made.kube_public_addrs == (HostPort("k.example.com", 3026),)


def test_the_newer_form_alone_leads_to_clusters_of_services() -> None:
    made, warnings = proxy("  kube_listen_addr: 127.0.0.1:4026\n")
    assert (made.kube_listen_addr, made.kube_clusters) == (HostPort("127.0.0.1", 4026), ())
    assert warnings == ()


def test_a_name_beside_a_kubeconfig_says_that_it_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(KubeApi(tmp_path).kubeconfig("prod", port=6443))
    made, warnings = proxy(
        f"  kubernetes: {{enabled: yes, kubeconfig_file: {tmp_path}/kubeconfig, cluster_name: other}}\n"
    )
    assert [one.name for one in made.kube_clusters] == ["prod"]
    assert "is ignored" in warnings[0]


@pytest.mark.parametrize("content", [None, "kind: Pod", "{"])
def test_a_kubeconfig_that_cannot_be_used_stops_the_start(tmp_path: Path, content: str | None) -> None:
    """Named with its key and its file."""
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadRequest, match=r"proxy_service\.kubernetes\.kubeconfig_file: .*kubeconfig: "):
        proxy(f"  kubernetes: {{enabled: yes, kubeconfig_file: {file}}}\n")


def test_outside_a_pod_a_kubeconfig_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(BadRequest, match=r"proxy_service\.kubernetes\.enabled: this process does not run in a pod"):
        proxy("  kubernetes: {enabled: yes}\n")


def service(text: str, roles: str = "", *, proxy: str = "no") -> Config:
    others = f"auth_service: {{enabled: no}}\nproxy_service: {{enabled: {proxy}}}\n"
    file = load_config(f"{others}kubernetes_service:\n  enabled: yes\n{text}", "teleport.yaml")
    return effective_config(file, StartFlags(roles=roles), "box")


def test_the_service_is_of_the_file(tmp_path: Path) -> None:
    """Its clusters, labels and addresses are values; flags for roles neither start nor stop it."""
    (tmp_path / "kubeconfig").write_text(KubeApi(tmp_path).kubeconfig("prod", port=6443))
    text = f"  listen_addr: 127.0.0.1\n  kubeconfig_file: {tmp_path}/kubeconfig\n  labels: {{env: prod}}\n"
    for roles in ("", "node"):
        made = service(text, roles=roles)
        assert made.kube is not None
        assert made.kube.listen_addr == HostPort("127.0.0.1", 3027)
        assert [one.name for one in made.kube.clusters] == ["prod"]
        assert dict(made.kube.labels.static) == {"env": "prod"}
        assert made.roles[-1] == "kube"
    with pytest.raises(BadRequest, match="kubernetes_service is enabled by the file alone"):
        service(text, roles="kube")
    with pytest.raises(BadRequest, match=r"kubernetes_service\.kubeconfig_file: /missing: No such file"):
        service("  listen_addr: 127.0.0.1\n  kubeconfig_file: /missing\n")
    with pytest.raises(BadRequest, match=r"kubernetes_service\.enabled: this process does not run in a pod"):
        service("  listen_addr: 127.0.0.1\n  kube_cluster_name: own\n")


def test_without_an_address_it_keeps_tunnels_unless_a_proxy_or_auth_is_beside(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(KubeApi(tmp_path).kubeconfig("prod", port=6443))
    text = f"  kubeconfig_file: {tmp_path}/kubeconfig\n"
    made = service(text)
    assert made.kube is not None
    assert made.kube.listen_addr is None
    with pytest.raises(
        BadRequest, match=r"kubernetes_service\.listen_addr: .* a host that runs proxy keeps no tunnels"
    ):
        service(text, proxy="yes")

"""What a kubeconfig may say, and what is refused because it would weaken the way to the API server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from teleport.errors import BadRequest
from teleport.kube.credentials import authorization, from_kubeconfig, in_pod
from teleport.kube.upstream import Upstream
from teleport.resources.values import HostPort

PEM = base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()


def document(**user: Any) -> dict[str, Any]:
    user = user or {"token": "abc"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://kube:6443/k8s/", "certificate-authority-data": PEM}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u", "namespace": "x"}}],
    }


def read(found: dict[str, Any], folder: Path = Path("/nowhere")) -> Any:
    return from_kubeconfig(json.dumps(found).encode(), folder)


def test_each_context_is_a_cluster() -> None:
    """Called like the context, with address, path, authorities and what proves us."""
    found = document()
    found["contexts"].append({"name": "dev", "context": {"cluster": "c", "user": "u"}})
    found["clusters"][0]["cluster"]["tls-server-name"] = "inner"
    prod, dev = read(found)
    assert (prod.name, dev.name) == ("prod", "dev")
    assert (prod.address, prod.path, prod.server_name) == (HostPort("kube", 6443), "/k8s", "inner")
    assert authorization(prod) == b"Bearer abc"
    assert "abc" not in repr(prod)


def test_certificates_inline_and_in_files(tmp_path: Path) -> None:
    """Files are named relative to the kubeconfig."""
    (tmp_path / "crt").write_bytes(b"certificate")
    key = base64.b64encode(b"key").decode()
    (made,) = read(document(**{"client-certificate": "crt", "client-key-data": key}), tmp_path)
    assert (made.certificate, made.key, authorization(made)) == (b"certificate", b"key", b"")


def test_a_tokens_file_is_read_each_time(tmp_path: Path) -> None:
    """A pod's own token changes while the daemon runs."""
    (tmp_path / "token").write_text("one\n")
    (made,) = read(document(tokenFile="token", token="old"), tmp_path)
    assert authorization(made) == b"Bearer one"
    (tmp_path / "token").write_text("two\n")
    assert authorization(made) == b"Bearer two"
    (tmp_path / "token").write_text("two\r\nImpersonate-User: admin\n")
    with pytest.raises(BadRequest):
        authorization(made)
    (tmp_path / "token").write_text("\n")  # nobody is asked anything in nobody's name
    with pytest.raises(BadRequest, match="is empty"):
        authorization(made)
    (tmp_path / "token").unlink()
    with pytest.raises(OSError, match="token"):
        authorization(made)


@pytest.mark.parametrize(
    "user",
    [
        {"exec": {"command": "aws"}},
        {"auth-provider": {"name": "gcp"}},
        {"username": "a", "password": "b"},
        {"token": "abc", "as": "admin"},
        {"token": "abc", "as-groups": ["g"]},
        {"token": "a b"},
        {"token": "a\nb"},
        {"token": 5},
        {"client-certificate-data": PEM},
        {"client-key-data": PEM},
        {"client-certificate-data": "%%%", "client-key-data": PEM},
        {"client-certificate": "missing", "client-key": "missing"},
        {"nothing": "else"},
    ],
    ids=str,
)
def test_users_that_are_refused(user: dict[str, Any]) -> None:
    """Programs, plugins, passwords, somebody else's name, and what is not there. The context is named."""
    with pytest.raises(BadRequest, match="the context 'prod' cannot be used"):
        read(document(**user))


@pytest.mark.parametrize(
    "change",
    [
        {"server": "http://kube"},
        {"server": "kube:6443"},
        {"server": "https://user@kube"},
        {"server": "https://kube?x=1"},
        {"server": "https://kube:port"},
        {"server": ""},
        {"insecure-skip-tls-verify": True},
        {"proxy-url": "http://proxy"},
        {"certificate-authority-data": ""},
        {"certificate-authority-data": base64.b64encode(b"\xff").decode()},
    ],
    ids=str,
)
def test_clusters_that_are_refused(change: dict[str, Any]) -> None:
    """Without TLS, with a server that is not checked, or by another way."""
    found = document()
    found["clusters"][0]["cluster"].update(change)
    with pytest.raises(BadRequest, match="the context 'prod' cannot be used"):
        read(found)


def _drop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        _drop("kind"),
        _drop("contexts"),
        _drop("users"),
        _drop("clusters"),
        lambda found: found["contexts"].append(found["contexts"][0]),
        lambda found: found["users"].append({"user": {}}),
        lambda found: found["clusters"].append("x"),
        lambda found: found["contexts"][0].update(context=[1]),
    ],
)
def test_files_that_are_none(change: Callable[[dict[str, Any]], object]) -> None:
    """What is missing, has no name, or stands twice."""
    found = document()
    change(found)
    with pytest.raises(BadRequest):
        read(found)


@pytest.mark.parametrize(
    "text", [b"", b"\x00", b"[1", b"- a", b"kind: Config", b"a: &a [*a]", b"!!python/object:os.x {}"]
)
def test_texts_that_are_none(text: bytes) -> None:
    with pytest.raises(BadRequest):
        from_kubeconfig(text, Path("/nowhere"))


def test_the_account_of_a_pod(tmp_path: Path) -> None:
    """The address is in the environment, the rest in the pod's folder."""
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    for where in ({}, environment):
        with pytest.raises(BadRequest):
            in_pod("own", where, tmp_path)
    (tmp_path / "ca.crt").write_text("authority")
    (tmp_path / "token").write_text("abc")
    made = in_pod("own", environment, tmp_path)
    assert (made.name, made.address, made.server_name) == ("own", HostPort("10.0.0.1", 443), "10.0.0.1")
    assert (made.authorities, authorization(made)) == ("authority", b"Bearer abc")


def test_certificates_that_no_tls_library_takes() -> None:
    """They are refused when the daemon starts, with the cluster's name."""
    (made,) = read(document())
    with pytest.raises(BadRequest, match="the Kubernetes cluster prod cannot be used"):
        Upstream(made)

"""What is measured: a cluster before an API server, somebody who may use it, and the two ways to it."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.kube import real
from bench.programs import ROOT, BenchmarkFailed, server, wait_until
from teleport.testing.cluster import PUBLIC, Cluster, Person, at, free_port, plain_environment
from teleport.testing.kubectl import newest_kubectl

USER = "bench"
ROLES = """
kind: role
version: v5
metadata: {name: kube}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
---
kind: role
version: v5
metadata: {name: kube-part}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    kubernetes_resources: [{kind: pods, namespace: dev, name: 'pod-*', verbs: [get, list, watch, log]}]
"""


@dataclass(frozen=True)
class Way:
    """How kubectl and other clients get there."""

    kubeconfig: Path
    acting: tuple[str, ...] = ()  # groups, when it acts as somebody

    def kubectl(self, *arguments: str) -> list[str]:
        acting = [f"--as={USER}", *(f"--as-group={group}" for group in self.acting)] if self.acting else []
        return [
            str(newest_kubectl()),
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.kubeconfig}.cache",
            *acting,
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        return plain_environment(self.kubeconfig.parent)

    def headers(self) -> list[tuple[str, str]]:
        """For a client that writes HTTP by itself."""
        if not self.acting:
            return []
        return [("Impersonate-User", USER), *(("Impersonate-Group", group) for group in self.acting)]

    def connection(self) -> tuple[str, int, ssl.SSLContext, str]:
        """Host, port, TLS and the name of the server, out of the kubeconfig."""
        config = json.loads(self.kubeconfig.read_text()) if self.acting else _yaml(self.kubeconfig)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=_text(cluster["certificate-authority-data"]))
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
            pair.write(_text(user["client-certificate-data"]) + "\n" + _text(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        address = urlsplit(cluster["server"])
        name = cluster.get("tls-server-name") or address.hostname or ""
        return "127.0.0.1", address.port or 443, context, name


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


def _yaml(file: Path) -> dict[str, list[dict[str, dict[str, str]]]]:
    """A kubeconfig that `tctl` wrote, as kubectl reads it."""
    said = subprocess.run(
        ["kubectl", f"--kubeconfig={file}", "config", "view", "--raw", "-o", "json"],
        env=plain_environment(file.parent),
        capture_output=True,
        check=True,
    )
    found: dict[str, list[dict[str, dict[str, str]]]] = json.loads(said.stdout)
    return found


@dataclass
class Estate:
    """Everything, running."""

    cluster: Cluster
    direct: Way
    proxied: Way
    part: Way  # of somebody who sees a part
    person: Person


def estate(folder: Path, mebibytes: int, stack: contextlib.ExitStack, *, is_real: bool = False) -> Estate:
    """Starts it; `stack` ends it. `mebibytes`: of the long log. `is_real`: before a real Kubernetes cluster."""
    if newest_kubectl() is None:
        raise BenchmarkFailed("kubectl is not installed")
    api = folder / "api"
    api.mkdir()
    (real.serve if is_real else _stand_in)(api, mebibytes, stack)
    return _before(api, folder, stack)


def _stand_in(api: Path, mebibytes: int, stack: contextlib.ExitStack) -> None:
    folder = api.parent
    log = folder / "api.log"
    here = {"PYTHONPATH": str(ROOT)}
    process = stack.enter_context(
        server([sys.executable, "-m", "bench.kube.api", str(api), str(mebibytes)], log, **here)
    )

    def ready() -> bool:
        if process.poll() is not None:
            raise BenchmarkFailed(f"the API server ended: {log.read_text()[-1000:]}")
        return (api / "kubeconfig").exists()

    wait_until(ready, "the API server")


def _before(api: Path, folder: Path, stack: contextlib.ExitStack) -> Estate:
    cluster = Cluster(folder / "cluster")
    port = free_port()
    cluster.config["proxy_service"]["kubernetes"] = {
        "enabled": True,
        "listen_addr": at(port),
        "public_addr": at(port, PUBLIC),
        "kubeconfig_file": str(api / "kubeconfig"),
    }
    cluster.write()
    stack.enter_context(cluster)
    cluster.tctl("create", "-f", stdin=ROLES).ok()
    person = cluster.add_person(USER, roles=["kube"])
    cluster.add_person("part", roles=["kube-part"])
    ways = []
    for user in (USER, "part"):
        file = folder / f"{user}.kubeconfig"
        proxy = f"--proxy={at(port, PUBLIC)}"
        cluster.tctl("auth", "sign", f"--user={user}", "--format=kubernetes", proxy, f"--out={file}").ok()
        ways.append(Way(file))
    direct = Way(api / "kubeconfig", ("developers", "system:authenticated"))
    return Estate(cluster, direct, ways[0], ways[1], person)

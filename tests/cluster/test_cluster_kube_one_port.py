"""kubectl through the one port of a proxy that serves everything there."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.cluster.cluster_kube import KubeHost
from tests.cluster.test_cluster_kube import ROLE
from tests.cluster.test_cluster_one_port import one_port

from teleport.pki.x509cert import KUBE_NAME
from teleport.testing.cluster import LOOPBACK, Cluster, run, wait_until
from teleport.testing.kube_api import running_kube_api

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")


def unproved(cluster: Cluster) -> bytes:
    """What whoever shows no certificate gets for an answer."""
    context = ssl.create_default_context(cadata=cluster.authority())
    with socket.create_connection((LOOPBACK, cluster.web_port), timeout=10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=KUBE_NAME) as tls:
                tls.sendall(b"GET /version HTTP/1.1\r\nHost: kube\r\n\r\n")
                return tls.recv(65536)
        except (ssl.SSLError, ConnectionError):
            return b""


def test_kubectl_comes_by_the_port_of_the_web(tmp_path: Path) -> None:
    """By the server's name that tsh writes into the kubeconfig. Without a certificate nobody is let in, a lock ends
    what is open, and the web is reached as ever."""
    with running_kube_api(tmp_path) as api, one_port(Cluster(tmp_path / "cluster")) as cluster:
        cluster.tctl("create", "-f", stdin=ROLE).ok()
        with KubeHost(tmp_path / "kube", cluster, "kay", api):
            alice = cluster.add_person("alice", roles=["developers"])
            alice.log_in()
            wait_until("it is listed", lambda: alice.tsh("kube", "ls", "-q").stdout == "demo\n")
            alice.tsh("kube", "login", "demo").ok()
            written = yaml.safe_load((alice.home / ".kube" / "config").read_text())
            (entry,) = written["clusters"]
            assert entry["cluster"]["server"] == f"https://{cluster.web_address}"
            assert entry["cluster"]["tls-server-name"] == KUBE_NAME
            listed = run("kubectl", "get", "pods", "-n", "dev", "-o", "name", environment=alice.environment).ok()
            assert listed.stdout.startswith("pod/")
            assert api.calls[-1].of("Impersonate-User") == ["alice"]
            event = cluster.wait_event("kube.request", user="alice")
            assert LOOPBACK in event["addr.remote"]

            assert unproved(cluster) == b""
            assert alice.web("GET", "/webapi/ping")[0] == 200

            with subprocess.Popen(
                ["kubectl", "get", "pods", "-n", "dev", "-w"],
                env=alice.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
            ) as watching:
                try:
                    wait_until("it is open", lambda: api.open_streams == 1)
                    cluster.tctl("lock", "--user=alice").ok()
                    wait_until("it is cut", lambda: api.open_streams == 0, 2.0 * 5)
                finally:
                    watching.send_signal(signal.SIGTERM)
                    watching.communicate(timeout=10)

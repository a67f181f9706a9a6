"""Kubernetes clients while the daemon is replaced by another one."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.cluster.cluster_kube import serve_kubectl
from tests.cluster.cluster_restarting import Restarting

from teleport.testing.cluster import plain_environment, run, wait_until
from teleport.testing.kube_api import running_kube_api

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")

ROLE = """
kind: role
version: v5
metadata: {name: developers}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers]}}
"""


def test_a_daemon_that_is_replaced_serves_kubectl_all_along(tmp_path: Path) -> None:
    """The listener goes over to the new process, watches of the old one end, and it leaves."""
    with running_kube_api(tmp_path) as api:
        cluster = Restarting(tmp_path / "cluster")
        address = serve_kubectl(cluster, api)
        with cluster:
            cluster.tctl("create", "-f", stdin=ROLE).ok()
            cluster.add_person("alice", roles=["developers"])
            file = tmp_path / "alice"
            signed = ("auth", "sign", "--user=alice", "--format=kubernetes", f"--proxy={address}", f"--out={file}")
            cluster.tctl(*signed).ok()
            kubectl = ["kubectl", f"--kubeconfig={file}", "get", "pods", "-n", "dev", "-o", "name"]
            environment = plain_environment(tmp_path)
            watching = subprocess.Popen(
                [*kubectl, "-w"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                wait_until("the watch is open", lambda: api.open_streams == 1)
                former = cluster.daemon.pid
                cluster.signal(signal.SIGHUP)
                while cluster.serving() == former:
                    assert run(*kubectl, environment=environment).ok().stdout == "pod/web\n"
                assert run(*kubectl, environment=environment).ok().stdout == "pod/web\n"
                assert cluster.daemon.ended() == 0
                assert run(*kubectl, environment=environment).ok().stdout == "pod/web\n"
            finally:
                watching.terminate()
                watching.wait(10)

"""A real Kubernetes cluster in the place of the stand-in API server: `python -m bench.kube --real`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench.kube.api import PODS
from bench.programs import BenchmarkFailed, wait_until
from teleport.testing.kube_cluster import KubeCluster, pod, why_none

RIGHTS = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: dev}}
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRole
  metadata: {name: impersonate}
  rules: [{apiGroups: [""], resources: [users, groups], verbs: [impersonate]}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRoleBinding
  metadata: {name: impersonate}
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: impersonate}
  subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: impersonators}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRoleBinding
  metadata: {name: developers}
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
  subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: developers}]
"""


def serve(folder: Path, mebibytes: int, stack: contextlib.ExitStack) -> None:
    """Starts it, with as many pods as the stand-in has (those beside `web` never run), and writes `kubeconfig`."""
    if why := why_none():
        raise BenchmarkFailed(why)
    kube = stack.enter_context(KubeCluster())
    kube.kubectl("apply", "-f", "-", stdin=RIGHTS).ok()
    there = ("get", "serviceaccount", "default", "-n", "dev")
    wait_until(lambda: kube.kubectl(*there).status == 0, "the namespace's account")
    kube.apply(*(pod(f"pod-{number}", "dev", nodeSelector={"no-node": "has"}) for number in range(PODS - 1)))
    script = f"head -c {mebibytes << 20} /dev/zero | tr '\\0' x | fold -w 1000; echo; echo end; exec sleep 100000"
    kube.add_pod("web", "dev", {"name": "main", "command": ["/bin/sh", "-c", script]})

    def written() -> bool:
        return kube.kubectl("logs", "web", "-n", "dev", "--tail=1").stdout == "end\n"

    wait_until(written, "the pod's log")
    (folder / "kubeconfig").write_text(kube.kubeconfig())

"""What a request asks for, read as the API server reads it."""

from __future__ import annotations

import pytest

from teleport.errors import BadRequest
from teleport.kube.calls import classify


@pytest.mark.parametrize(
    ("request_line", "verb", "group", "namespace", "kind", "name"),
    [
        ("GET /api/v1/namespaces/dev/pods", "list", "", "dev", "pods", ""),
        ("GET /api/v1/namespaces/dev/pods/", "list", "", "dev", "pods", ""),
        ("GET /api/v1/pods?limit=500", "list", "", "", "pods", ""),
        ("GET /api/v1/namespaces/dev/pods/web", "get", "", "dev", "pods", "web"),
        ("HEAD /api/v1/namespaces/dev/pods/web", "get", "", "dev", "pods", "web"),
        ("GET /api/v1/namespaces/dev/pods/web/log?follow=true", "get", "", "dev", "pods/log", "web"),
        ("POST /api/v1/namespaces/dev/pods/web/exec?command=sh", "create", "", "dev", "pods/exec", "web"),
        ("GET /api/v1/namespaces/dev/pods/web/exec?command=sh", "get", "", "dev", "pods/exec", "web"),
        ("GET /api/v1/namespaces/dev/pods/web/proxy/a/b", "get", "", "dev", "pods/proxy", "web"),
        ("GET /api/v1/proxy/namespaces/dev/pods/web/a", "proxy", "", "dev", "pods", "web"),
        ("GET /api/v1/proxy/nodes/n1/exec/dev/web/c", "proxy", "", "", "nodes", "n1"),
        ("POST /api/v1/nodes/n1/proxy/run/dev/web/c", "create", "", "", "nodes/proxy", "n1"),
        ("GET /api/v1/watch/namespaces/dev/pods", "watch", "", "dev", "pods", ""),
        ("GET /api/v1/namespaces/dev/pods?watch=true", "watch", "", "dev", "pods", ""),
        ("GET /api/v1/namespaces/dev/pods?watch=1&watch=0", "watch", "", "dev", "pods", ""),
        ("GET /api/v1/namespaces/dev/pods?watch", "watch", "", "dev", "pods", ""),
        ("GET /api/v1/namespaces/dev/pods?w%61tch=yes", "watch", "", "dev", "pods", ""),
        ("GET /api/v1/namespaces/dev/pods?watch=False", "list", "", "dev", "pods", ""),
        ("GET /api/v1/namespaces/dev/pods/web?watch=true", "get", "", "dev", "pods", "web"),
        ("GET /api/v1/namespaces/dev", "get", "", "dev", "namespaces", "dev"),
        ("GET /api/v1/namespaces", "list", "", "", "namespaces", ""),
        ("PUT /api/v1/namespaces/dev/status", "update", "", "dev", "namespaces/status", "dev"),
        ("PUT /api/v1/namespaces/dev/finalize", "update", "", "dev", "namespaces/finalize", "dev"),
        ("PATCH /apis/apps/v1/namespaces/dev/deployments/web", "patch", "apps", "dev", "deployments", "web"),
        ("PUT /apis/apps/v1/namespaces/dev/deployments/web/scale", "update", "apps", "dev", "deployments/scale", "web"),
        ("DELETE /api/v1/namespaces/dev/pods", "deletecollection", "", "dev", "pods", ""),
        ("DELETE /api/v1/namespaces/dev/pods/web", "delete", "", "dev", "pods", "web"),
        ("GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", "get", "rbac.authorization.k8s.io", "",
         "clusterroles", "system:node"),
        ("GET /version", "get", "", "", "", ""),
        ("GET /", "get", "", "", "", ""),
        ("GET /api", "get", "", "", "", ""),
        ("GET /api/v1", "get", "", "", "", ""),
        ("GET /apis/apps/v1", "get", "", "", "", ""),
        ("POST /metrics/a/b", "post", "", "", "", ""),
    ],
)  # fmt: skip
def test_classified(request_line: str, verb: str, group: str, namespace: str, kind: str, name: str) -> None:
    """Verb, group, namespace, resource with its subresource, and name."""
    call = classify(*request_line.split(" "))
    assert (call.verb, call.api_group, call.namespace, call.kind, call.name) == (verb, group, namespace, kind, name)


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/namespaces/dev//pods",
        "//api/v1/pods",
        "/api/v1/../v1/pods",
        "/api/v1/namespaces/dev/pods/.",
        "/api/v1/namespaces/dev/pods/..",
        "/api/v1/namespaces/dev/pods/%2e%2e",
        "/api/v1/namespaces/dev/pods/%2E%2e/secrets",
        "/api/v1/namespaces/dev%2fpods",
        "/api/v1/namespaces/dev%2Fpods/web%2Fexec",
        "/api/v1/namespaces/dev%5cpods",
        "/api/v1/namespaces/dev\\pods",
        "/api/v1/namespaces/dev/pods%252fexec",
        "/api/v1/pods%00",
        "/api/v1/pods%0d%0aHost:x",
        "/api/v1/pods%ff",
        "/api/v1/pods%zz",
        "/api/v1/pods?x=%zz",
        "/api/v1/pods?a=1;watch=true",
        "/api/v1/pods#x",
        "/api/v1/p\u00f6ds",
        "/api/v1/watch",
        "/api/v1/proxy",
        "api/v1/pods",
        "https://elsewhere/api/v1/pods",
        "*",
        "",
        "/" + "x" * 20000,
    ],
)
def test_two_readings_are_none(target: str) -> None:
    """A path that could be split in two ways is refused, never tidied up."""
    with pytest.raises(BadRequest):
        classify("GET", target)


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "OPTIONS", "get", "WATCH", ""])
def test_methods_without_use(method: str) -> None:
    """Only the methods of the Kubernetes API are taken, exactly as they are spelt."""
    with pytest.raises(BadRequest):
        classify(method, "/api/v1/pods")


@pytest.mark.parametrize(
    ("target", "into_pod", "through_node"),
    [
        ("/api/v1/namespaces/dev/pods/web/exec", True, False),
        ("/api/v1/namespaces/dev/pods/web/attach", True, False),
        ("/api/v1/namespaces/dev/pods/web/portforward", True, False),
        ("/api/v1/namespaces/dev/pods/web/%65xec", True, False),
        ("/api/v1/namespaces/dev/pods/exec", False, False),
        ("/api/v1/namespaces/dev/pods/web/log", False, False),
        ("/api/v1/nodes/n1/proxy/exec/dev/web/c", False, True),
        ("/api/v1/proxy/nodes/n1/exec/dev/web/c", False, True),
        ("/api/v1/nodes/n1", False, False),
    ],
)
def test_ways_into_pods(target: str, into_pod: bool, through_node: bool) -> None:
    """What opens a stream into a pod is known by its subresource, whichever method; so is a node's own service."""
    for method in ("GET", "POST"):
        call = classify(method, target)
        assert (call.into_pod, call.through_node) == (into_pod, through_node)

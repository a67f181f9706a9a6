"""Random calls to a Kubernetes cluster, against what the API server itself would take them for (threats T25, T57).

The model below splits a path as `RequestInfo` of `k8s.io/apiserver` is documented to: decoded first, then at slashes.
Whatever is written, a call is refused, or it is read as the server reads it, and the role decides about just that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl, unquote

import pytest

from teleport.authz.decision import Policy
from teleport.authz.kube import KubeAccessPermit, KubeAccessRequest, evaluate_kube_access
from teleport.errors import BadRequest
from teleport.identity import UserIdentity
from teleport.kube.calls import classify
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role

NOW: Final = datetime(2030, 1, 1, tzinfo=UTC)
ROLE = """
kind: role
version: v5
metadata: {name: dev-pods}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    kubernetes_resources: [{kind: pods, namespace: dev, verbs: [get, list, exec]}]
"""
ROLES: Final[Mapping[str, Role]] = {
    role.name: role for role in parse_resources(ROLE, "role.yaml") if isinstance(role, Role)
}
DORA: Final = UserIdentity(
    name="dora", cluster="example.com", roles=("dev-pods",), logins=(), expires=NOW + timedelta(hours=1), serial="17"
)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get", "CONNECT", "PROPFIND")
WORDS: Final = (
    *("api", "apis", "v1", "namespaces", "dev", "prod", "pods", "secrets", "nodes", "web", "exec", "log", "proxy"),
    *("watch", "status", "portforward", "attach", "eviction", "apps", "deployments", "scale", "finalize", "metrics"),
    *("API", "Pods", "PODS", "Dev", "", ".", "..", "%2e%2e", "%2F", "a%2Fb", "%2f..%2f", "p%6Fds", "%70ods", "dev;x=1"),
    *("pods;a", "%5c", "a\\b", "%00", "%ff", "%25", "%252F", "po%64s", "dev%20", "\uff44ev", "%EF%BD%84ev", "web:80"),
)
QUERIES: Final = (
    *("", "?watch=true", "?watch=1", "?watch", "?watch=", "?watch=false", "?watch=0&watch=1", "?watch=1&watch=0"),
    *("?%77atch=1", "?watch=FALSE", "?Watch=1", "?limit=5;watch=1", "?a=b&watch=t", "?dryRun=All", "?command=id"),
    *("?fieldSelector=metadata.name%3Dweb", "?watch=%74rue", "?watch%3D1"),
)


@dataclass(frozen=True)
class Read:
    """What the API server takes a request for."""

    verb: str
    group: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""


def as_the_server_reads(method: str, target: str) -> Read:
    """The model. It is asked about paths alone that were not refused."""
    raw, _, query = target.partition("?")
    parts = unquote(raw).strip("/").split("/")
    verb = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, "delete")
    plain = Read(method.lower())
    if len(parts) < 3 or parts[0] not in ("api", "apis"):
        return plain
    group = ""
    if parts.pop(0) == "apis":
        if len(parts) < 3:
            return plain
        group = parts.pop(0)
    del parts[0]  # the version
    if parts[0] in ("proxy", "watch"):
        verb = parts.pop(0)
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in ("status", "finalize"):
            parts = parts[2:]
    resource, name, subresource = (*parts, "", "", "")[:3]
    if verb == "proxy":
        subresource = ""
    if not name and verb == "get":
        flags = [value for key, value in parse_qsl(query, keep_blank_values=True) if key == "watch"]
        verb = "watch" if flags and flags[0].lower() not in ("0", "false") else "list"
    if not name and verb == "delete":
        verb = "deletecollection"
    return Read(verb, group, namespace, resource, subresource, name)


def requests(count: int) -> Iterator[tuple[str, str]]:
    chance = random.Random(57)
    shapes = (
        "/api/v1/namespaces/dev/pods/web/exec",
        "/api/v1/namespaces/dev/pods/web",
        "/api/v1/namespaces/dev/pods",
        "/api/v1/pods",
        "/api/v1/watch/namespaces/dev/pods",
        "/api/v1/proxy/namespaces/dev/pods/web/x",
        "/apis/apps/v1/namespaces/dev/deployments/web/scale",
    )
    for _ in range(count):
        if chance.random() < 0.3:
            path = "/" + "/".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 9)))
        else:
            parts = chance.choice(shapes).split("/")
            for _ in range(chance.randrange(3)):
                at = chance.randrange(1, len(parts) + 1)
                if chance.random() < 0.5 and at < len(parts):
                    parts[at] = chance.choice(WORDS)
                else:
                    parts.insert(at, chance.choice(WORDS))
            path = "/".join(parts)
        yield chance.choice(METHODS if chance.random() < 0.3 else ("GET",)), path + chance.choice(QUERIES)


def test_calls_are_refused_or_read_as_the_server_reads_them() -> None:
    """Over twenty thousand random ones, of which both kinds are many."""
    refused = read = allowed = 0
    for method, target in requests(20_000):
        try:
            call = classify(method, target)
        except BadRequest:
            refused += 1
            continue
        read += 1
        found = Read(call.verb, call.api_group, call.namespace, call.resource, call.subresource, call.name)
        assert found == as_the_server_reads(method, target), (method, target)
        request = KubeAccessRequest(
            identity=DORA, cluster="example.com", now=NOW, kube_cluster="one", call=call.decided
        )
        permit = evaluate_kube_access(request, Policy(roles=ROLES))
        if not isinstance(permit, KubeAccessPermit):
            continue
        allowed += 1
        if not found.resource:
            assert found.verb in ("get", "head")
            assert call.path.split("/")[1] in ("api", "apis")
            continue
        assert (found.resource, found.group) == ("pods", ""), (method, target)
        if found.verb == "list":
            assert found.namespace in ("dev", "")
            assert (permit.shown is None) is (found.namespace == "dev")
        else:
            assert found.namespace == "dev"
            assert found.subresource == "exec" or (found.verb, found.subresource) == ("get", ""), (method, target)
    assert min(refused, read - allowed, allowed) > 500


POD = "/api/v1/namespaces/dev/pods/web"


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/namespaces/dev/pods/web%2Fexec",
        "/api/v1/namespaces/dev/pods/web%2flog",
        "/api/v1/namespaces/dev/pods/%2E%2E/secrets",
        "/api/v1/namespaces/dev/pods/../secrets/a",
        "/api/v1/namespaces/dev/pods/./web",
        "/api/v1/namespaces/dev//pods/web",
        "//api/v1/namespaces/prod/pods/web",
        "/api/v1/namespaces/dev%2F..%2Fprod/pods/web",
        "/api/v1/namespaces/dev/pods/web%252Fexec",
        "/api/v1/namespaces/dev/pods/web%00",
        "/api/v1/namespaces/dev/pods/web\\exec",
        "/api/v1/namespaces/dev/pods/web%5Cexec",
        "/api/v1/namespaces/dev/pods/%ff",
        "/api/v1/namespaces/dev/pods/%zz",
        "/api/v1/namespaces/dev/pods?a=1;watch=1",
        "http://kube/api/v1/namespaces/dev/pods/web",
        "*",
        "",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(target: str) -> None:
    """Never tidied up, and never left for the next reader to find out."""
    with pytest.raises(BadRequest) as refused:
        classify("GET", target)
    assert refused.value.hint

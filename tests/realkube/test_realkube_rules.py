"""What our roles, locks and records say, and the cluster's own RBAC, with a real Kubernetes cluster behind."""

from __future__ import annotations

import time

import pytest
from tests.realkube.conftest import Estate, Use, program, running

from teleport.testing.cluster import wait_until
from teleport.testing.terminal import Terminal

pytestmark = pytest.mark.real_kube

BOTH = ["demo-debian", "demo-newest", "inner-debian", "inner-newest"]


def use_of(estate: Estate, name: str, by: str, role: str = "developers") -> Use:
    way, _, generation = by.partition("-")
    return Use(estate, estate.person(f"{name}-{by}", role, way), way, program(generation))


def test_a_session_is_played_and_every_call_is_on_record(use: Use) -> None:
    estate, me = use.estate, use_of(use.estate, "rec", use.by)
    with Terminal(
        me.words("exec", "-it", "quiet", "--", "sh", "-c", "echo pl''ayed; exit 3"), me.environment
    ) as terminal:
        terminal.expect("played")
        assert terminal.ended() == 3
    ends = [one for one in estate.cluster.events("--type=session.end", f"--user={me.name}") if not one["reason"]]
    end = ends[-1] if ends else estate.cluster.wait_event("session.end", user=me.name, reason="")
    estate.cluster.wait_event("session.upload", sid=end["sid"])
    assert "played" in me.person.tsh("play", end["sid"], "--format=text").ok().stdout
    assert f"{me.way}/dev/quiet" in me.person.tsh("recordings", "ls").ok().stdout

    me.kubectl("get", "pods").ok()
    me.kubectl("logs", "quiet").ok()
    me.kubectl("apply", "-f", "-", stdin=CONFIG % me.name).ok()
    me.kubectl("delete", "configmap", me.name).ok()
    me.kubectl("get", "pods", "-n", "prod")
    told = [
        (one["verb"], one["resource_kind"], one["resource_namespace"], one["resource_name"], one["response_code"])
        for one in estate.cluster.events("--type=kube.request", f"--user={me.name}", "--limit=500")
    ]
    wanted = [
        ("get", "pods", "dev", "quiet", 200),
        ("list", "pods", "dev", "", 200),
        ("get", "pods/log", "dev", "quiet", 200),
        ("create", "configmaps", "dev", "", 201),
        ("delete", "configmaps", "dev", me.name, 200),
        ("list", "pods", "prod", "", 403),
    ]
    assert [one for one in wanted if one not in told] == []
    assert {("pods/exec", "dev", "quiet", 101)} <= {one[1:] for one in told}


CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {a: b}\n"


@pytest.mark.parametrize("by", BOTH)
def test_a_role_for_pods_of_one_namespace(estate: Estate, by: str) -> None:
    """Lists show that part, other calls are refused in a sentence, before the API server is asked."""
    me = use_of(estate, "pat", by, "dev-pods")
    assert "web" in me.kubectl("get", "pods").ok().stdout
    everywhere = me.kubectl("get", "pods", "-A", "-o", "jsonpath={.items[*].metadata.namespace}").ok().stdout
    assert set(everywhere.split()) == {"dev"}
    assert "hidden" not in me.kubectl("get", "pods", "-A", "-o", "wide").ok().stdout
    assert me.kubectl("get", "pod", "quiet", "-o", "name").ok().stdout == "pod/quiet\n"
    assert me.kubectl("exec", "quiet", "--", "echo", "hi").ok().stdout == "hi\n"
    assert me.kubectl("get", "pods", "-n", "prod").stderr.startswith(
        "Error from server (Forbidden): pods is forbidden: "
    )
    for words, what in (
        (("get", "pods", "-n", "prod"), 'list resource "pods"'),
        (("get", "pod", "hidden", "-n", "prod"), 'get resource "pods"'),
        (("exec", "hidden", "-n", "prod", "--", "id"), 'get resource "pods"'),
        (("get", "secrets"), 'list resource "secrets"'),
        (("get", "nodes"), 'list resource "nodes"'),
        (("get", "pods", "-w"), 'watch resource "pods"'),
        (("logs", "quiet"), 'cannot log resource "pods"'),
        (("port-forward", "web", "0:8000"), 'cannot portforward resource "pods"'),
        (("attach", "quiet"), 'cannot attach resource "pods"'),
        (("delete", "pod", "quiet"), 'delete resource "pods"'),
        (("label", "pod", "quiet", "a=b"), 'patch resource "pods"'),
        (("run", "new", "--image=any"), 'create resource "pods"'),
        (("get", "--raw", "/metrics"), "/metrics"),
        (("get", "--raw", "/api/v1/nodes/localhost/proxy/pods"), "nodes"),
    ):
        refused = me.kubectl(*words, seconds=20)
        assert refused.status != 0, words
        assert what in refused.stderr, (words, refused.stderr)
        assert "orbidden" in refused.stderr, (words, refused.stderr)


def test_watches_show_what_roles_allow(estate: Estate) -> None:
    """Of what happens in the whole cluster, also with the API server's bookmarks and tables."""
    estate.cluster.tctl("create", "-f", stdin=WATCHERS).ok()
    me = use_of(estate, "wanda", "inner-newest", "dev-watchers")
    with running(me, "get", "pods", "-A", "-w", "--output-watch-events", "-o", "name", "--watch-only") as process:
        assert process.stdout is not None
        estate.cluster.wait_event("kube.request", user=me.name, verb="watch")
        for number in range(3):
            estate.kube.kubectl("label", "--overwrite", "pod", "hidden", "-n", "prod", f"new={number}").ok()
            estate.kube.kubectl("label", "--overwrite", "pod", "web", "-n", "dev", f"new={number}").ok()
        seen = [process.stdout.readline().split()[-1] for _ in range(3)]
    assert set(seen) == {"pod/web"}


WATCHERS = """
kind: role
version: v5
metadata: {name: dev-watchers}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [everything]
    kubernetes_resources: [{kind: pods, namespace: dev, verbs: [get, list, watch]}]
"""


@pytest.mark.parametrize("by", BOTH)
def test_a_lock_ends_commands_and_watches(estate: Estate, by: str) -> None:
    """Within two seconds, and kubectl says so, then and later."""
    me = use_of(estate, "lars", by)
    words = me.words("exec", "-it", "quiet", "--", "sh", "-c", "echo ready; exec sleep 1000")
    with Terminal(words, me.environment) as terminal, running(me, "get", "pods", "-w") as watching:
        terminal.expect("ready")
        assert watching.stdout is not None
        assert watching.stdout.readline()
        estate.cluster.tctl("lock", f"--user={me.name}").ok()
        began = time.monotonic()
        terminal.expect("This session was ended: access has ended")
        assert terminal.ended(10.0) != 0
        watching.wait(10.0)
        assert time.monotonic() - began < 2.0
    assert "Access is locked" in me.kubectl("get", "pods").stderr
    end = estate.cluster.wait_event("session.end", user=me.name, reason="access has ended")
    assert end["kubernetes_pod_name"] == "quiet"


def test_the_clusters_own_refusals(estate: Estate) -> None:
    """Somebody whose group is bound to nothing; a binding that is made is followed."""
    for by in BOTH:
        me = use_of(estate, "vic", by, "visitors")
        refused = me.kubectl("get", "pods")
        said = f'pods is forbidden: User "{me.name}" cannot list resource "pods" in API group "" in the namespace "dev"'
        assert refused.stderr == f"Error from server (Forbidden): {said}\n"
        executed = me.kubectl("exec", "quiet", "--", "id")
        assert f'User "{me.name}" cannot get resource "pods"' in executed.stderr
    estate.kube.apply(BINDING)
    try:
        for by in BOTH:
            me = use_of(estate, "vic", by, "visitors")
            wait_until("the binding counts", lambda me=me: me.kubectl("get", "pods").status == 0)  # type: ignore[misc]
            executed = me.kubectl("exec", "quiet", "--", "id")
            said = f'pods "quiet" is forbidden: User "{me.name}" cannot create resource "pods/exec"'
            assert said in executed.stderr
            assert executed.status != 0
            forwarded = me.kubectl("port-forward", "web", "0:8000")
            assert f'User "{me.name}" cannot create resource "pods/portforward"' in forwarded.stderr
            logs = me.kubectl("attach", "quiet")
            assert f'User "{me.name}" cannot create resource "pods/attach"' in logs.stderr
    finally:
        estate.kube.kubectl("delete", "rolebinding", "visitors", "-n", "dev").ok()


BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "RoleBinding",
    "metadata": {"name": "visitors", "namespace": "dev"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "visitors"}],
}


def test_nobody_acts_as_others(use: Use) -> None:
    for words in (("--as=admin",), (f"--as={use.name}", "--as-group=system:masters")):
        refused = use.kubectl(*words, "get", "secrets", "-n", "kube-system")
        assert "Your roles do not let you act as the Kubernetes" in refused.stderr
    assert use.kubectl(f"--as={use.name}", "--as-group=developers", "get", "pods").ok()

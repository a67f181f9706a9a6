"""What rules about Kubernetes objects come to: a call, a role, and whether it is made, in part, or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.kube import KubeAccessPermit, KubeAccessRequest, evaluate_kube_access
from teleport.authz.kube_resources import Place, Shown
from teleport.identity import UserIdentity
from teleport.kube.calls import classify
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LET_IN = "kubernetes_labels: {'*': '*'}, kubernetes_groups"
RULES = {
    "dev-pods": "{kind: pods, namespace: dev, verbs: [get, list, exec]}",
    "web": "{kind: pods, namespace: 'team-*', name: 'web-*',"
    " verbs: [get, list, watch, create, delete, deletecollection]}",
    "all-pods": "{kind: pods, namespace: '*', verbs: ['*']}",
    "reader": "{kind: '*', namespace: '*', verbs: [get, list, watch]}",
    "own-dev": "{kind: '*', namespace: dev, verbs: ['*']}",
    "below": "{kind: pods/*, namespace: dev, verbs: [get, patch]}",
    "scaler": "{kind: '*/scale', namespace: dev, verbs: [get, patch]}",
    "nodes": "{kind: nodes, verbs: [get, list]}",
    "proxies": "{kind: services, namespace: dev, name: web, verbs: [proxy]}",
    "apps": "{kind: deployments, namespace: dev, verbs: [get, list]}",
    "crd": "{kind: widgets, api_group: example.com, namespace: dev, verbs: [get, list]}",
    "makes": "{kind: pods, namespace: dev, verbs: [create, deletecollection]}",
    "by-trait": "{kind: pods, namespace: 'team-{{external.team}}', name: '{{external.pod}}', verbs: [get, list]}",
    "none": "",
}
ROLES_TEXT = "---\n".join(
    [
        *(
            f"kind: role\nversion: v5\nmetadata: {{name: {name}}}\n"
            f"spec: {{allow: {{{LET_IN}: [g-{name}], kubernetes_resources: [{rules}]}}}}\n"
            for name, rules in RULES.items()
        ),
        f"kind: role\nversion: v5\nmetadata: {{name: whole}}\nspec: {{allow: {{{LET_IN}: [viewers]}}}}\n",
        f"kind: role\nversion: v3\nmetadata: {{name: old}}\nspec: {{allow: {{{LET_IN}: [old]}}}}\n",
        *(
            f"kind: role\nversion: v5\nmetadata: {{name: {name}}}\n"
            f"spec: {{deny: {{kubernetes_resources: [{rules}]}}}}\n"
            for name, rules in {
                "no-secrets": "{kind: secrets, verbs: [get]}",
                "no-pods-in-dev": "{kind: pods, namespace: dev, verbs: ['*']}",
                "no-prod-pods": "{kind: pods, name: 'prod-*', verbs: [get, delete, create]}",
                "no-exec": "{kind: pods, verbs: [exec]}",
                "no-lists": "{kind: secrets, verbs: [list]}",
                "no-ends": "{kind: pods, namespace: dev, verbs: [delete]}",
                "no-making": "{kind: '*', verbs: [create]}",
                "no-web-proxy": "{kind: services, name: web, verbs: [proxy]}",
                "nothing": "{kind: '*', verbs: ['*']}",
            }.items()
        ),
        "kind: role\nversion: v5\nmetadata: {name: elsewhere}\n"
        "spec: {deny: {namespaces: [other], kubernetes_resources: [{kind: '*', verbs: ['*']}]}}\n",
    ]
)
ROLES: Mapping[str, Role] = {
    role.name: role for role in parse_resources(ROLES_TEXT, "roles.yaml") if isinstance(role, Role)
}
ALICE = UserIdentity(
    name="alice",
    cluster="example.com",
    roles=(),
    logins=(),
    expires=NOW + timedelta(hours=1),
    serial="17",
    traits={"team": ("blue", "*", "re*"), "pod": ("a", "b")},
)
POD = "/api/v1/namespaces/dev/pods/web"
PODS = "/api/v1/namespaces/dev/pods"
ALL_PODS = "/api/v1/pods"
WHO = 'User "alice" cannot'
IN_DEV = 'in API group "" in the namespace "dev"'


def decide(roles: str, call: str, *, denying: tuple[str, ...] = ()) -> KubeAccessPermit | AccessDenial:
    """`call` is METHOD and target."""
    identity = replace(ALICE, roles=tuple(roles.split()), denying=denying)
    return evaluate_kube_access(
        KubeAccessRequest(
            identity=identity,
            cluster="example.com",
            now=NOW,
            kube_cluster="one",
            client_address="192.0.2.7",
            call=classify(*call.split(" ", 1)).decided,
        ),
        Policy(roles=ROLES),
    )


WHOLE, PART, NO = "whole", "part", "no"


@pytest.mark.parametrize(
    ("roles", "call", "comes_to"),
    [
        # the example of the issue
        ("dev-pods", f"GET {POD}", WHOLE),
        ("dev-pods", f"GET {PODS}", WHOLE),
        ("dev-pods", f"GET {PODS}?limit=500&fieldSelector=metadata.name%3Dweb", WHOLE),
        ("dev-pods", f"GET {POD}/exec?command=id", WHOLE),
        ("dev-pods", f"POST {POD}/exec?command=id", WHOLE),
        ("dev-pods", f"GET {ALL_PODS}", PART),
        ("dev-pods", f"GET {PODS}?watch=true", NO),
        ("dev-pods", f"GET {PODS}?watch", NO),
        ("dev-pods", f"GET {PODS}?watch=1&watch=0", NO),
        ("dev-pods", f"GET {PODS}?watch=0&watch=1", WHOLE),
        ("dev-pods", f"GET {PODS}?%77atch=1", NO),
        ("dev-pods", "GET /api/v1/watch/namespaces/dev/pods", NO),
        ("dev-pods", "GET /api/v1/watch/namespaces/dev/pods/web", NO),
        ("dev-pods", "GET /api/v1/namespaces/prod/pods", NO),
        ("dev-pods", "GET /api/v1/namespaces/prod/pods/web", NO),
        ("dev-pods", "GET /api/v1/namespaces/dev/PODS/web", NO),
        ("dev-pods", "GET /api/v1/namespaces/DEV/pods/web", NO),
        ("dev-pods", "GET /api/v1/namespaces/d%65v/pods/web", WHOLE),  # which is what the server reads, too
        ("dev-pods", f"GET {POD}/", WHOLE),
        *(
            ("dev-pods", f"{method} {POD}/{below}", NO)
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
            for below in ("log", "attach", "portforward", "proxy", "proxy/a/b", "status", "eviction", "binding",
                          "ephemeralcontainers", "resize", "unknown", "log/", "EXEC")
        ),
        ("dev-pods", f"POST {PODS}", NO),
        ("dev-pods", f"PUT {POD}", NO),
        ("dev-pods", f"PATCH {POD}", NO),
        ("dev-pods", f"DELETE {POD}", NO),
        ("dev-pods", f"DELETE {POD}?dryRun=All", NO),
        ("dev-pods", f"DELETE {PODS}", NO),
        ("dev-pods", "GET /api/v1/namespaces/dev/secrets", NO),
        ("dev-pods", "GET /api/v1/namespaces/dev", NO),
        ("dev-pods", "GET /api/v1/namespaces", NO),
        ("dev-pods", "GET /api/v1/nodes", NO),
        ("dev-pods", "GET /api/v1/nodes/n/proxy/pods", NO),
        ("dev-pods", "GET /api/v1/proxy/namespaces/dev/pods/web", NO),
        ("dev-pods", "GET /apis/metrics.k8s.io/v1beta1/namespaces/dev/pods", NO),
        ("dev-pods", "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", NO),
        # paths about nothing
        *(
            ("dev-pods", f"GET {path}", WHOLE)
            for path in ("/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/version", "/openapi/v3/api/v1",
                         "/healthz", "/livez/ping", "/readyz")
        ),
        *(
            ("dev-pods", f"GET {path}", NO)
            for path in ("/", "/metrics", "/logs/kube-apiserver.log", "/debug/pprof/heap", "/ui", "/.well-known/x",
                         "/apis2", "/openid/v1/jwks", "/API/v1")
        ),
        ("dev-pods", "POST /version", NO),
        ("dev-pods", "DELETE /apis/apps/v1", NO),
        ("none", "GET /version", WHOLE),
        ("none", f"GET {POD}", NO),
        ("none", f"GET {ALL_PODS}", NO),
        # names
        ("web", "GET /api/v1/namespaces/team-a/pods/web-1", WHOLE),
        ("web", "GET /api/v1/namespaces/team-a/pods/aweb-1", NO),
        ("web", "GET /api/v1/namespaces/ateam-/pods/web-1", NO),
        ("web", "GET /api/v1/namespaces/team-a/pods", PART),
        ("web", "GET /api/v1/namespaces/team-a/pods?watch=true", PART),
        ("web", "GET /api/v1/watch/pods", PART),
        ("web", "GET /api/v1/watch/namespaces/team-a/pods/web-1", WHOLE),
        ("web", "GET /api/v1/watch/namespaces/team-a/pods/db-1", NO),
        ("web", "POST /api/v1/namespaces/team-a/pods", NO),
        ("web", "DELETE /api/v1/namespaces/team-a/pods", NO),
        ("web", "DELETE /api/v1/namespaces/team-a/pods/web-1", WHOLE),
        ("makes", f"POST {PODS}", WHOLE),
        ("makes", f"DELETE {PODS}", WHOLE),
        ("makes", f"POST {ALL_PODS}", NO),
        # kinds, groups, subresources
        ("all-pods", f"GET {POD}/log", WHOLE),
        ("all-pods", f"GET {POD}/status", WHOLE),
        ("all-pods", f"POST {POD}/eviction", WHOLE),
        ("all-pods", f"GET {ALL_PODS}", WHOLE),
        ("all-pods", "GET /api/v1/nodes", NO),
        ("reader", f"GET {POD}", WHOLE),
        ("reader", "GET /api/v1/nodes", WHOLE),
        ("reader", "GET /apis/example.com/v1/widgets", WHOLE),
        ("reader", f"GET {POD}/log", NO),
        ("reader", f"GET {POD}/exec", NO),
        ("reader", f"GET {POD}/proxy", NO),
        ("reader", "GET /apis/subresources.kubevirt.io/v1/namespaces/dev/virtualmachineinstances/a/vnc", NO),
        ("own-dev", "GET /api/v1/namespaces/dev", WHOLE),
        ("own-dev", "GET /api/v1/namespaces", PART),
        ("own-dev", "POST /api/v1/namespaces", NO),
        ("own-dev", "PUT /api/v1/namespaces/dev/finalize", WHOLE),
        ("own-dev", "GET /api/v1/namespaces/prod", NO),
        ("own-dev", "GET /api/v1/nodes", NO),
        ("own-dev", "GET /apis/example.com/v1/widgets", PART),
        ("own-dev", f"GET {POD}/portforward", WHOLE),
        ("below", f"GET {POD}/status", WHOLE),
        ("below", f"PATCH {POD}/ephemeralcontainers", WHOLE),
        ("below", f"GET {POD}", NO),
        ("below", f"GET {POD}/exec", NO),
        ("below", f"GET {POD}/log", NO),
        ("scaler", "PATCH /apis/apps/v1/namespaces/dev/deployments/a/scale", WHOLE),
        ("scaler", "PATCH /apis/apps/v1/namespaces/dev/deployments/a", NO),
        ("nodes", "GET /api/v1/nodes", WHOLE),
        ("nodes", "GET /api/v1/nodes/n", WHOLE),
        ("nodes", "GET /api/v1/nodes/n/proxy/exec/a/b/c", NO),
        ("proxies", "GET /api/v1/namespaces/dev/services/web/proxy/", WHOLE),
        ("proxies", "POST /api/v1/namespaces/dev/services/https:web:443/proxy/a", WHOLE),
        ("proxies", "GET /api/v1/namespaces/dev/services/web:80/proxy", WHOLE),
        ("proxies", "GET /api/v1/proxy/namespaces/dev/services/web:80/x", WHOLE),
        ("proxies", "GET /api/v1/namespaces/dev/services/other:web/proxy", NO),
        ("proxies", "GET /api/v1/namespaces/dev/services/web", NO),
        ("apps", "GET /apis/apps/v1/namespaces/dev/deployments/a", WHOLE),
        ("apps", "GET /apis/apps.example.com/v1/namespaces/dev/deployments/a", NO),
        ("apps", "GET /api/v1/namespaces/dev/deployments/a", NO),
        ("crd", "GET /apis/example.com/v1/namespaces/dev/widgets/a", WHOLE),
        ("crd", "GET /apis/example.org/v1/namespaces/dev/widgets/a", NO),
        # several roles, and those without the field
        ("whole", "DELETE /api/v1/nodes", WHOLE),
        ("whole", "GET /metrics", WHOLE),
        ("old", f"DELETE {PODS}", WHOLE),
        ("dev-pods web", f"GET {ALL_PODS}", PART),
        ("dev-pods nodes", "GET /api/v1/nodes", WHOLE),
        ("by-trait", "GET /api/v1/namespaces/team-blue/pods/a", WHOLE),
        ("by-trait", "GET /api/v1/namespaces/team-blue/pods/c", NO),
        ("by-trait", "GET /api/v1/namespaces/team-red/pods/a", NO),
        # deny
        ("whole no-secrets", "GET /api/v1/namespaces/dev/secrets/a", NO),
        ("whole no-secrets", "GET /api/v1/namespaces/dev/secrets", NO),
        ("whole no-secrets", "GET /api/v1/secrets?watch=true", NO),
        ("whole no-secrets", "GET /api/v1/secrets", NO),
        ("whole no-secrets", f"GET {PODS}", WHOLE),
        # the answers to these hold the object, which a dry run does not even change
        *(
            ("whole no-secrets", f"{method} /api/v1/namespaces/dev/secrets{rest}", NO)
            for method, rest in (("PATCH", "/a?dryRun=All"), ("PUT", "/a?dryRun=All"), ("DELETE", "?dryRun=All"),
                                 ("DELETE", "/a?dryRun=All&propagationPolicy=Foreground"), ("DELETE", "/a"))
        ),
        ("whole no-secrets", "POST /api/v1/namespaces/dev/secrets", WHOLE),
        ("whole no-lists", "DELETE /api/v1/namespaces/dev/secrets?dryRun=All", NO),
        ("whole no-lists", "PATCH /api/v1/namespaces/dev/secrets/a", WHOLE),
        ("whole no-ends", f"POST {POD}/eviction", NO),
        ("whole no-ends", "POST /api/v1/namespaces/prod/pods/web/eviction", WHOLE),
        ("whole no-ends", f"POST {POD}/binding", WHOLE),
        ("whole no-making", "PUT /apis/rbac.authorization.k8s.io/v1/namespaces/dev/rolebindings/a", NO),
        ("whole no-making", "PUT /api/v1/namespaces/dev/services/a", NO),
        ("whole no-making", "PUT /api/v1/namespaces/dev/services/a/status", WHOLE),
        ("whole no-making", "PUT /api/v1/namespaces/dev/secrets/a", WHOLE),
        ("whole no-pods-in-dev", f"GET {POD}/log", NO),
        ("whole no-pods-in-dev", f"GET {POD}/status", NO),
        ("whole no-pods-in-dev", f"GET {PODS}", NO),
        ("whole no-pods-in-dev", f"GET {ALL_PODS}", PART),
        ("whole no-pods-in-dev", "GET /apis/metrics.k8s.io/v1beta1/namespaces/dev/pods", NO),
        ("whole no-prod-pods", f"GET {PODS}", PART),
        ("whole no-prod-pods", f"GET {PODS}/prod-1", NO),
        ("whole no-prod-pods", f"GET {PODS}/prod-1/status", NO),
        ("whole no-prod-pods", f"GET {PODS}/prod-1/log", WHOLE),
        ("whole no-prod-pods", f"POST {PODS}", NO),
        ("whole no-prod-pods", f"DELETE {PODS}", NO),
        ("whole no-prod-pods", f"DELETE {PODS}/a", WHOLE),
        ("own-dev no-exec", f"GET {POD}/exec", NO),
        ("own-dev no-exec", f"GET {POD}/attach", WHOLE),
        ("whole no-web-proxy", "GET /api/v1/namespaces/dev/services/http:web:80/proxy", NO),
        ("whole no-web-proxy", "GET /api/v1/proxy/namespaces/dev/services/web:80", NO),
        ("whole no-web-proxy", "GET /api/v1/namespaces/dev/services/other/proxy", WHOLE),
        ("whole nothing", "GET /version", WHOLE),
        ("whole nothing", "GET /api/v1/nodes", NO),
        ("whole elsewhere", "GET /api/v1/nodes", WHOLE),
    ],
)  # fmt: skip
def test_what_a_call_comes_to(roles: str, call: str, comes_to: str) -> None:
    """Everything, the part of a list that is allowed, or nothing."""
    found = decide(roles, call)
    if isinstance(found, AccessDenial):
        assert comes_to == NO, found
        assert found.hint
        assert found.reasons
    else:
        assert comes_to == (WHOLE if found.shown is None else PART)


@pytest.mark.parametrize(
    ("roles", "call", "groups"),
    [
        ("dev-pods whole", f"GET {POD}", ["g-dev-pods", "viewers"]),
        ("dev-pods whole", f"DELETE {POD}", ["viewers"]),
        ("dev-pods whole", f"GET {ALL_PODS}", ["viewers"]),
        ("dev-pods web", f"GET {ALL_PODS}", ["g-dev-pods", "g-web"]),
        ("dev-pods web", f"GET {PODS}", ["g-dev-pods"]),
    ],
)
def test_a_call_goes_on_with_the_groups_of_the_roles_that_allow_it(roles: str, call: str, groups: list[str]) -> None:
    """The groups of one role do not serve what only another one allows."""
    permit = decide(roles, call)
    assert isinstance(permit, KubeAccessPermit)
    assert list(permit.kube_groups) == [*groups, "system:authenticated"]


def test_what_is_shown_of_a_list() -> None:
    """What the roles allow together, less what any denies; nothing without a name."""
    permit = decide("dev-pods web no-prod-pods by-trait", f"GET {ALL_PODS}")
    assert isinstance(permit, KubeAccessPermit)
    shown = permit.shown
    assert shown is not None
    seen = [("dev", "x"), ("team-a", "web-1"), ("team-blue", "a")]
    hidden = [("prod", "x"), ("team-a", "x"), ("dev", "prod-1"), ("team-blue", "c"), ("", "x"), ("dev", "")]
    assert [shown.shows(*one) for one in (*seen, *hidden)] == [True] * len(seen) + [False] * len(hidden)


def test_a_namespace_lies_in_itself() -> None:
    """Rules for what is in a namespace show it in the list of namespaces."""
    permit = decide("own-dev", "GET /api/v1/namespaces")
    assert isinstance(permit, KubeAccessPermit)
    assert permit.shown == Shown("namespaces", (Place("dev", "*"),))
    assert permit.shown.shows("", "dev")
    assert not permit.shown.shows("", "prod")


def test_roles_given_since_deny_their_objects() -> None:
    """A role that the user got after the certificate takes away, and allows nothing."""
    assert isinstance(decide("whole", f"GET {POD}", denying=("no-pods-in-dev",)), AccessDenial)
    assert isinstance(decide("none", f"GET {POD}", denying=("dev-pods",)), AccessDenial)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (f"DELETE {POD}", f'pods "web" is forbidden: {WHO} delete resource "pods" {IN_DEV}'),
        (f"GET {POD}/log", f'pods "web" is forbidden: {WHO} log resource "pods" {IN_DEV}'),
        (
            "GET /api/v1/nodes",
            f'nodes is forbidden: {WHO} list resource "nodes" in API group "" at the cluster scope',
        ),
        ("GET /metrics", f'forbidden: {WHO} get path "/metrics"'),
        (
            "PATCH /apis/apps/v1/namespaces/dev/deployments/a/scale",
            f'deployments/scale "a" is forbidden: {WHO} patch resource "deployments/scale"'
            ' in API group "apps" in the namespace "dev"',
        ),
    ],
)
def test_the_refusal_says_who_and_what(call: str, said: str) -> None:
    """In the API server's own words; the same whether no role allows it or one denies it."""
    for roles, code in (("dev-pods", DenialCode.NOT_GRANTED), ("dev-pods nothing", DenialCode.DENIED_BY_ROLE)):
        denial = decide(roles, call)
        assert isinstance(denial, AccessDenial)
        assert denial.public == f"{said}: your roles do not allow it"
        if "metrics" not in call:
            assert denial.code is code
        assert "kubernetes_resources" in denial.hint


@pytest.mark.parametrize(
    ("roles", "allowed"),
    [
        ("patches", False),
        ("applies", True),
        ("whole", True),
        ("whole no-making", False),
    ],
)
def test_a_patch_that_makes_what_is_not_there_has_to_be_allowed_to(roles: str, allowed: bool) -> None:
    """One role has to allow both, and none may deny one of them; a plain patch makes nothing."""
    both = "kubernetes_resources: [{kind: pods, namespace: dev, name: 'w*', verbs: [patch, create]}]"
    texts = {
        "patches": "allow: {" + LET_IN + ": [g], " + both.replace(", create", "") + "}",
        "applies": "allow: {" + LET_IN + ": [g], " + both + "}",
        "whole": "allow: {" + LET_IN + ": [g]}",
        "no-making": "deny: {kubernetes_resources: [{kind: pods, verbs: [create]}]}",
    }
    known = {
        name: role
        for name, spec in texts.items()
        for role in parse_resources(
            f"kind: role\nversion: v5\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n", "roles.yaml"
        )
        if isinstance(role, Role)
    }
    for makes in (False, True):
        request = KubeAccessRequest(
            identity=replace(ALICE, roles=tuple(roles.split())),
            cluster="example.com",
            now=NOW,
            kube_cluster="one",
            client_address="192.0.2.7",
            call=replace(classify("PATCH", POD).decided, makes=makes),
        )
        found = evaluate_kube_access(request, Policy(roles=known))
        assert isinstance(found, KubeAccessPermit) is (allowed or not makes)
        if makes and not allowed:
            assert isinstance(found, AccessDenial)
            assert f'{WHO} create by patch resource "pods"' in found.public

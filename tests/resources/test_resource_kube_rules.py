"""What `tctl create` says of rules about Kubernetes objects that cannot be meant."""

from __future__ import annotations

import pytest

from teleport.resources.kube_rules import MAX_RULES
from teleport.resources.parse import parse_resources, to_yaml
from teleport.resources.role import Role
from teleport.resources.yaml_document import InvalidDocument

ROLE = "kind: role\nversion: {version}\nmetadata: {{name: r}}\nspec: {{{part}: {{kubernetes_resources: [{rule}]}}}}\n"


def parse(rule: str, *, part: str = "allow", version: str = "v5") -> Role:
    (role,) = parse_resources(ROLE.format(rule=rule, part=part, version=version), "role.yaml")
    assert isinstance(role, Role)
    return role


@pytest.mark.parametrize("version", ["v3", "v4", "v5"])
@pytest.mark.parametrize(
    "rule",
    [
        "{kind: pods, namespace: dev, verbs: [get, list, exec]}",
        "{kind: pods, namespace: '*', name: 'a-*-b*', verbs: ['*']}",
        "{kind: pods/status, namespace: 'team-{{external.team}}-*', verbs: [get]}",
        "{kind: '*', namespace: dev, verbs: [get]}",
        "{kind: '*/*', verbs: [get]}",
        "{kind: nodes, verbs: [get, proxy]}",
        "{kind: widgets, api_group: example.com, namespace: dev, verbs: [get]}",
        "{kind: things, api_group: '', verbs: [get]}",
        "{kind: clusterroles, name: 'system:node', verbs: [get]}",
        "{kind: deployments, api_group: '*', verbs: [get]}",
    ],
)
def test_rules_that_are_taken(rule: str, version: str) -> None:
    """In every version of roles."""
    role = parse(rule, version=version)
    assert role.allow.kubernetes_resources
    assert role.deny.kubernetes_resources is None


def test_an_empty_list_is_kept_as_one() -> None:
    """It allows nothing; absence allows everything."""
    role = parse("")
    assert role.allow.kubernetes_resources == ()
    assert parse_resources(to_yaml(role), "again.yaml") == [role]


@pytest.mark.parametrize(
    ("rule", "path", "hint"),
    [
        ("{kind: pod, namespace: dev, verbs: [get]}", "[0].kind", "'pods'"),
        ("{kind: Pod, namespace: dev, verbs: [get]}", "[0].kind", "the plural in small letters, 'pods'"),
        ("{kind: PODS, namespace: dev, verbs: [get]}", "[0].kind", "'pods'"),
        ("{kind: NetworkPolicy, namespace: dev, verbs: [get]}", "[0].kind", "'networkpolicies'"),
        ("{kind: deployments.apps, namespace: dev, verbs: [get]}", "[0].kind", "the group 'apps' as api_group"),
        ("{kind: 'po*', namespace: dev, verbs: [get]}", "[0].kind", "api-resources"),
        ("{kind: pods/exec, namespace: dev, verbs: [create]}", "[0].kind", "'pods' with the verb 'exec'"),
        ("{kind: pods/x/y, namespace: dev, verbs: [get]}", "[0].kind", "api-resources"),
        ("{namespace: dev, verbs: [get]}", "[0]", "api-resources"),
        ("{kind: widgets, namespace: dev, verbs: [get]}", "[0]", "the API group of this kind"),
        ("{kind: widgets, api_group: Example, verbs: [get]}", "[0].api_group", "an API group such as"),
        ("{kind: pods, verbs: [get]}", "[0]", "'*' for all"),
        ("{kind: pods, namespace: '', verbs: [get]}", "[0].namespace", "a name"),
        ("{kind: pods, namespace: 'a b', verbs: [get]}", "[0].namespace", "a name"),
        ("{kind: pods, namespace: '^dev$', verbs: [get]}", "[0].namespace", "a name"),
        ("{kind: pods, namespace: 'a/b', verbs: [get]}", "[0].namespace", "a name"),
        ("{kind: pods, namespace: '{{team}}', verbs: [get]}", "[0].namespace", "a template"),
        ("{kind: pods, namespace: '{{regexp.match(\"x\")}}', verbs: [get]}", "[0].namespace", "gives values"),
        ("{kind: pods, namespace: dev, name: '', verbs: [get]}", "[0].name", "a name"),
        ("{kind: pods, namespace: dev, verbs: []}", "[0].verbs", "one or more verbs"),
        ("{kind: pods, namespace: dev}", "[0]", "one or more verbs"),
        ("{kind: pods, namespace: dev, verbs: [read]}", "[0].verbs[0]", "deletecollection"),
        ("{kind: pods, namespace: dev, verbs: [GET]}", "[0].verbs[0]", "one of get"),
        ("{kind: pods, namespace: dev, verbs: [get], names: [a]}", "[0].names", ""),
        (", ".join(["{kind: nodes, verbs: [get]}"] * (MAX_RULES + 1)), "", f"at most {MAX_RULES}"),
    ],
)
def test_rules_that_are_refused(rule: str, path: str, hint: str) -> None:
    """The message names the field, and what would be taken."""
    with pytest.raises(InvalidDocument) as refused:
        parse(rule)
    text = str(refused.value)
    assert f"spec.allow.kubernetes_resources{path}" in text
    assert hint in text


@pytest.mark.parametrize("rule", ["{kind: pods, verbs: [get]}", "{kind: widgets, verbs: ['*']}"])
def test_deny_may_say_less(rule: str) -> None:
    """What deny leaves out means everything, so that there is nothing to ask for."""
    assert parse(rule, part="deny").deny.kubernetes_resources

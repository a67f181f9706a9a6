"""Which objects of a Kubernetes cluster a role is about: the field `kubernetes_resources`, and what is wrong with it.

A rule names a kind, perhaps with a subresource (`pods/status`), an API group, a namespace, names and verbs. Verbs are
those of Kubernetes; what leads into something (`exec`, `log`, `portforward`, `proxy`, ..), in Kubernetes a subresource,
is a verb of its own, so that nobody gives it away with `get`. `authz.kube_resources` says what rules come to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from teleport.resources.lexer import BadSyntax
from teleport.resources.metadata import Finding, Value, shown
from teleport.resources.template import Template, is_template, parse_template

WILDCARD: Final = "*"
LEADS_IN: Final = frozenset({"attach", "exec", "log", "portforward", "proxy"})
"""Subresources that are verbs here."""
VERBS: Final = (
    *("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"),
    *sorted(LEADS_IN),
)
MAX_RULES: Final = 200  # of one role's allow or deny
MAX_PATTERN: Final = 253  # characters, the most that Kubernetes gives a name

_KIND: Final = re.compile(r"(\*|[a-z0-9][a-z0-9-]*)(/(\*|[a-z0-9][a-z0-9-]*))?")
_GROUP: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_PATTERN: Final = re.compile(r"[A-Za-z0-9.:*_@+-]+")

_CORE_NAMESPACED = (
    "bindings configmaps endpoints events limitranges persistentvolumeclaims pods podtemplates replicationcontrollers"
    " resourcequotas secrets serviceaccounts services"
)
_CORE = "componentstatuses namespaces nodes persistentvolumes"
_GROUPS_NAMESPACED = {
    "apps": "controllerrevisions daemonsets deployments replicasets statefulsets",
    "authorization.k8s.io": "localsubjectaccessreviews",
    "autoscaling": "horizontalpodautoscalers",
    "batch": "cronjobs jobs",
    "coordination.k8s.io": "leases",
    "discovery.k8s.io": "endpointslices",
    "events.k8s.io": "events",
    "extensions": "ingresses networkpolicies",
    "networking.k8s.io": "ingresses networkpolicies",
    "policy": "poddisruptionbudgets",
    "rbac.authorization.k8s.io": "rolebindings roles",
    "storage.k8s.io": "csistoragecapacities",
}
_GROUPS = {
    "admissionregistration.k8s.io": "mutatingwebhookconfigurations validatingwebhookconfigurations"
    " validatingadmissionpolicies validatingadmissionpolicybindings",
    "apiextensions.k8s.io": "customresourcedefinitions",
    "apiregistration.k8s.io": "apiservices",
    "authentication.k8s.io": "selfsubjectreviews tokenreviews",
    "authorization.k8s.io": "selfsubjectaccessreviews selfsubjectrulesreviews subjectaccessreviews",
    "certificates.k8s.io": "certificatesigningrequests",
    "flowcontrol.apiserver.k8s.io": "flowschemas prioritylevelconfigurations",
    "networking.k8s.io": "ingressclasses",
    "node.k8s.io": "runtimeclasses",
    "policy": "podsecuritypolicies",
    "rbac.authorization.k8s.io": "clusterrolebindings clusterroles",
    "scheduling.k8s.io": "priorityclasses",
    "storage.k8s.io": "csidrivers csinodes storageclasses volumeattachments",
}


def _table() -> dict[str, tuple[bool, frozenset[str]]]:
    found: dict[str, tuple[bool, frozenset[str]]] = {}
    for namespaced, groups in (
        (True, {"": _CORE_NAMESPACED, **_GROUPS_NAMESPACED}),
        (False, {"": _CORE, **_GROUPS}),
    ):
        for group, kinds in groups.items():
            for kind in kinds.split():
                found[kind] = (namespaced, found.get(kind, (namespaced, frozenset()))[1] | {group})
    return found


KNOWN: Final = _table()
"""Kinds of Kubernetes itself: whether they live in namespaces, and in which API groups they are."""


class KubeRule(Value, frozen=True, kw_only=True):
    """Verbs on objects. Absent names are all names; an absent namespace is: what is in none (in `deny`: anywhere)."""

    kind: str = ""
    api_group: str | None = None  # absent: that of the kind, in `deny` every one
    namespace: str | None = None
    name: str = WILDCARD
    verbs: tuple[str, ...] = ()


def kube_rule_findings(at: tuple[str | int, ...], rules: Sequence[KubeRule], *, allow: bool) -> Iterator[Finding]:
    """What is wrong with the field."""
    if len(rules) > MAX_RULES:
        yield Finding(at, f"{len(rules)} entries", f"at most {MAX_RULES}")
    for number, rule in enumerate(rules[:MAX_RULES]):
        here = (*at, number)
        kind = _KIND.fullmatch(rule.kind) if len(rule.kind) <= MAX_PATTERN else None
        if kind is None:
            yield Finding((*here, "kind"), shown(rule.kind), _kind_hint(rule.kind))
        elif kind[3] in LEADS_IN:
            yield Finding(
                (*here, "kind"), shown(rule.kind), f"{kind[1]!r} with the verb {kind[3]!r}, which is not said as a kind"
            )
        else:
            yield from _places(here, rule, kind[1], allow=allow)
        yield from _verbs((*here, "verbs"), rule.verbs)
        if rule.namespace is not None:
            yield from _pattern((*here, "namespace"), rule.namespace)
        yield from _pattern((*here, "name"), rule.name)


def _kind_hint(kind: str) -> str:
    plain = kind.lower()
    for known in KNOWN:
        if plain in (known, known.removesuffix("s"), known.removesuffix("es")) or (
            plain.endswith("y") and plain[:-1] + "ies" == known
        ):
            return f"the plural in small letters, {known!r}"
    if "." in kind:
        return f"the kind {plain.partition('.')[0]!r} with the group {plain.partition('.')[2]!r} as api_group"
    return "a kind as `kubectl api-resources` names it, such as 'pods', 'pods/status', 'pods/*', or '*'"


def _places(at: tuple[str | int, ...], rule: KubeRule, kind: str, *, allow: bool) -> Iterator[Finding]:
    group = rule.api_group
    if group not in (None, "", WILDCARD) and (len(group) > MAX_PATTERN or not _GROUP.fullmatch(group)):
        yield Finding((*at, "api_group"), shown(group), "an API group such as 'apps', '' (core) or '*' (every one)")
    if not allow or kind == WILDCARD:
        return
    if kind not in KNOWN and group is None:
        if kind + "s" in KNOWN:
            yield Finding((*at, "kind"), shown(kind), f"the plural of the kind, {kind + 's'!r}")
        else:
            allowed = "the API group of this kind (api_group), see `kubectl api-resources`"
            yield Finding((*at, "api_group"), "nothing", allowed)
    elif kind in KNOWN and group is None and KNOWN[kind][0] and rule.namespace is None:
        yield Finding((*at, "namespace"), "nothing", f"the namespace of these {kind} (namespace); '*' for all")


def _verbs(at: tuple[str | int, ...], verbs: Sequence[str]) -> Iterator[Finding]:
    if not verbs:
        yield Finding(at, "nothing", "one or more verbs, or '*'")
    for number, verb in enumerate(verbs[: len(VERBS) + 1]):
        if verb != WILDCARD and verb not in VERBS:
            yield Finding((*at, number), shown(verb), f"one of {', '.join(VERBS)}, *")
    if len(verbs) > len(VERBS) + 1:
        yield Finding(at, f"{len(verbs)} entries", f"at most {len(VERBS) + 1}")


def _pattern(at: tuple[str | int, ...], text: str) -> Iterator[Finding]:
    if is_template(text):
        try:
            good = isinstance(parse_template(text), Template)
        except BadSyntax as error:
            yield Finding(at, shown(text), f"a template; this one: {error}")
            return
        if not good:
            yield Finding(at, shown(text), "a template that gives values")
    elif len(text) > MAX_PATTERN or not _PATTERN.fullmatch(text):
        yield Finding(at, shown(text), "a name, perhaps with '*' for any characters in it")

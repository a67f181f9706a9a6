"""Fills in the templates of roles with a user's traits (`resources.md` 6).

Applied once to every role of a user, before anything is decided: the result is a role without templates. A value
that is missing, or that a function cannot use, is left out; a login that is no Unix account name is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from teleport.resources.kube_rules import MAX_PATTERN, WILDCARD, KubeRule
from teleport.resources.lexer import BadSyntax
from teleport.resources.names import check_text, is_unix_login
from teleport.resources.role import Conditions, LabelSelector, Role, RoleSpec
from teleport.resources.role_checks import FORWARD_FIELDS, LABEL_FIELDS, NAME_FIELDS
from teleport.resources.template import Matcher, Template, Transform, is_template, parse_template

Traits = Mapping[str, Sequence[str]]
MAX_VALUES = 1000  # results of one list: a hostile trait may not make a role grow without bound

NOTHING_KEY = ""
"""The key that stands for a templated label key without a value: with no values beside it, it matches no target."""


def expand(text: str, traits: Traits) -> tuple[str, ...]:
    """The values of `text`: itself if it is no template, else one for each value of its trait, perhaps none."""
    if not is_template(text):
        return (text,)
    try:
        template = parse_template(text)
    except BadSyntax:
        return ()  # roles are checked when written; one that slipped through grants nothing
    if isinstance(template, Matcher):
        return ()
    results = []
    for value in list(traits.get(template.trait, ()))[:MAX_VALUES]:
        result = _transform(template, value)
        if result:
            results.append(template.prefix + result + template.suffix)
    return tuple(results)


def _transform(template: Template, value: str) -> str | None:
    match template.transform:
        case Transform.NONE:
            return value
        case Transform.EMAIL_LOCAL:
            local, at, domain = value.rpartition("@")
            return local if at and local and domain and "@" not in local else None
        case Transform.REGEXP_REPLACE:
            assert template.pattern is not None
            return template.pattern.replace(value, template.replacement)


def expand_all(texts: Sequence[str], traits: Traits, keep: Callable[[str], bool] = bool) -> tuple[str, ...]:
    """The values of every entry, each once, in order; template results only if `keep` says so."""
    results: dict[str, None] = {}
    for text in texts:
        templated = is_template(text)
        for value in expand(text, traits):
            if not templated or (keep(value) and not check_text(value)):
                results[value] = None
    return tuple(results)[:MAX_VALUES]


def expand_labels(selector: LabelSelector, traits: Traits) -> LabelSelector:
    """The selector with its templates filled in.

    A missing trait in a value leaves that value out; a key with a missing trait matches nothing (dropping the key
    would match more). Nothing that a trait brings is a wildcard *key*.
    """
    results: dict[str, tuple[str, ...]] = {}
    for key, values in selector.items():
        name = key
        if is_template(key):
            first = expand(key, traits)[:1]
            if not first or first[0] == "*":
                results[NOTHING_KEY] = ()
                continue
            name = first[0]
        expanded = expand_all(values, traits)
        # Two keys that become one: the target has to match both, so that only common values are left.
        results[name] = tuple(v for v in expanded if v in results[name]) if name in results else expanded
    return results


def expand_kube_rules(rules: Sequence[KubeRule], traits: Traits) -> tuple[KubeRule, ...]:
    """The rules with their templates filled in, one for each value. A rule whose trait is missing is left out, and so
    is a value that would be a wildcard: only who writes roles gives those."""
    results: dict[KubeRule, None] = {}
    for rule in rules:
        namespaces = (None,) if rule.namespace is None else _expand_pattern(rule.namespace, traits)
        for namespace in namespaces:
            for name in _expand_pattern(rule.name, traits):
                results[msgspec.structs.replace(rule, namespace=namespace, name=name)] = None
                if len(results) == MAX_VALUES:
                    return tuple(results)
    return tuple(results)


def _expand_pattern(text: str, traits: Traits) -> tuple[str, ...]:
    if not is_template(text):
        return (text,)
    written = text.partition("{{")[0].count(WILDCARD) + text.rpartition("}}")[2].count(WILDCARD)
    return tuple(
        value
        for value in expand(text, traits)
        if value.count(WILDCARD) == written and len(value) <= MAX_PATTERN and not check_text(value)
    )


@dataclass(frozen=True, slots=True)
class _Filled:
    """Conditions with the traits of one user."""

    traits: Traits

    def conditions(self, conditions: Conditions) -> Conditions:
        changes: dict[str, object] = {"logins": expand_all(conditions.logins, self.traits, is_unix_login)}
        changes["host_groups"] = expand_all(conditions.host_groups, self.traits, is_unix_login)
        for name in NAME_FIELDS:
            changes[name] = expand_all(getattr(conditions, name), self.traits)
        if conditions.kubernetes_resources is not None:
            changes["kubernetes_resources"] = expand_kube_rules(conditions.kubernetes_resources, self.traits)
        for name in FORWARD_FIELDS:
            entries = getattr(conditions, name)
            if entries is not None:  # a list whose traits are missing allows nothing: absence would allow more
                changes[name] = expand_all(entries, self.traits)
        for name in LABEL_FIELDS:
            selector = getattr(conditions, name)
            if selector is not None:
                changes[name] = expand_labels(selector, self.traits)
        if conditions.impersonate is not None:
            changes["impersonate"] = msgspec.structs.replace(
                conditions.impersonate,
                users=expand_all(conditions.impersonate.users, self.traits),
                roles=expand_all(conditions.impersonate.roles, self.traits),
            )
        return msgspec.structs.replace(conditions, **changes)


def apply_traits(role: Role, traits: Traits) -> Role:
    """`role` as it holds for somebody with `traits`."""
    filled = _Filled(traits)
    # A v3 role with logins but without node_labels reaches every node; that must not change when its logins vanish.
    allow = role.allow
    if allow.node_labels is None:
        allow = msgspec.structs.replace(allow, node_labels=role.allowed_node_labels)
    spec = RoleSpec(options=role.options, allow=filled.conditions(allow), deny=filled.conditions(role.deny))
    return msgspec.structs.replace(role, spec=spec)

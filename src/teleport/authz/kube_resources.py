"""What rules of roles about Kubernetes objects (`kubernetes_resources`) say of one call. Pure.

A call is named as the API server's own authorization names it: verb, group, resource, subresource, namespace, name. Of
that, subresources that lead into something are verbs (`resources.kube_rules`). What a call may touch without naming it
counts by its widest reading: to allow it, a rule has to cover all that it may touch, and to deny it, any part.
Only lists and watches can be allowed in part: the permit then says which objects are shown (`Shown`).

Deny reads further than allow, so that nobody gets by it in another way: without a group it means every group, without
a namespace anywhere, a kind with its subresources; `get` is also what lists and watches show and what is answered to
changes (a patch that changes nothing, a deletion that is a dry run), `delete` also what `deletecollection` and
evictions delete, `create` also what an update makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Final

from teleport.resources.kube_rules import KNOWN, LEADS_IN, WILDCARD, KubeRule

SHOWS: Final = frozenset({"list", "watch"})
_NAMESPACES: Final = "namespaces"  # objects that are, to the server, in the namespace that they are
_NOTHING: Final[frozenset[str]] = frozenset()
_ALSO_DENIED: Final = {
    "list": frozenset({"get"}),
    "watch": frozenset({"get"}),
    "update": frozenset({"get"}),
    "patch": frozenset({"get"}),
    "delete": frozenset({"get"}),
    "deletecollection": frozenset({"get", "list", "delete"}),
}
_MAKING_KINDS: Final = (
    "clusterrolebindings clusterroles endpoints events leases limitranges mutatingadmissionpolicies"
    " mutatingadmissionpolicybindings poddisruptionbudgets podsecuritypolicies priorityclasses rolebindings roles"
    " runtimeclasses services validatingadmissionpolicies validatingadmissionpolicybindings"
)
_MADE_BY_UPDATE: Final = frozenset(_MAKING_KINDS.split())  # of which the API server makes one when an update finds none
_MAX_SHOWN: Final = 253  # characters of a name in a sentence
_OPEN: Final = frozenset({"version", "healthz", "livez", "readyz", "openapi"})


@dataclass(frozen=True, slots=True)
class KubeCall:
    """What is asked of an API server. Without a `resource` it is a path that is about none."""

    verb: str
    api_group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""  # decoded
    makes: bool = False  # it makes the object if there is none, which its verb does not say


class Extent(IntEnum):
    """How much of a call a role allows."""

    NONE = 0
    PART = 1
    WHOLE = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Objects by namespace and name, as patterns. Without a namespace: those in none."""

    namespace: str | None
    name: str

    def holds(self, namespace: str, name: str) -> bool:
        return _in_namespace(self.namespace, namespace) and _matches(self.name, name)


@dataclass(frozen=True, slots=True)
class Shown:
    """Which objects of a list or a watch are shown: those in a place of `allow` and in none of `deny`."""

    resource: str
    allow: tuple[Place, ...]
    deny: tuple[Place, ...] = ()

    def shows(self, namespace: str, name: str) -> bool:
        """Whether the object is shown; one without a name never is."""
        if not name:
            return False
        spots = _spots(self.resource, namespace, name)
        return _any_holds(self.allow, spots, name) and not _any_holds(self.deny, spots, name)


def verb_and_subresource(call: KubeCall) -> tuple[str, str]:
    """The verb as rules name it, and the subresource that is left."""
    if call.subresource in LEADS_IN:
        return call.subresource, ""
    return call.verb, call.subresource


def extent(call: KubeCall, rules: Sequence[KubeRule] | None) -> Extent:
    """How much of the call a role with these rules allows; None: it has no such field, and allows everything."""
    if rules is None:
        return Extent.WHOLE
    if not call.resource:
        return Extent.WHOLE if is_discovery(call) else Extent.NONE
    return min(
        max((_extent(one, place) for place in _places(one, rules, deny=False)), default=Extent.NONE)
        for one in _both(call)
    )


def denies(call: KubeCall, rules: Sequence[KubeRule]) -> bool:
    """Whether rules of `deny` refuse the call. What they refuse of a list is not shown, and no reason to refuse it."""
    if not call.resource:
        return False
    least = Extent.WHOLE if call.verb in SHOWS else Extent.PART
    return any(_extent(one, place) >= least for one in _both(call) for place in _places(one, rules, deny=True))


def _both(call: KubeCall) -> tuple[KubeCall, ...]:
    """The call, and the creation that it may come to: both have to be allowed."""
    return (call, replace(call, verb="create", makes=False)) if call.makes else (call,)


def shown(
    call: KubeCall, allow: Sequence[Sequence[KubeRule] | None], deny: Sequence[Sequence[KubeRule]]
) -> Shown | None:
    """What is shown of a list or a watch by roles that allow it, with the rules of `allow` and `deny` of each; None:
    everything, so that nobody need look."""
    verb, _ = verb_and_subresource(call)
    if not call.resource or verb not in SHOWS or call.name:
        return None
    hidden = tuple(dict.fromkeys(place for rules in deny for place in _places(call, rules, deny=True)
                                 if _extent(call, place)))  # fmt: skip
    whole = any(extent(call, rules) is Extent.WHOLE for rules in allow)
    if whole and not hidden:
        return None
    seen = [Place(WILDCARD, WILDCARD)] if whole else [
        place for rules in allow for place in _places(call, rules or (), deny=False) if _extent(call, place)
    ]  # fmt: skip
    return Shown(call.resource, tuple(dict.fromkeys(seen)), hidden)


def is_discovery(call: KubeCall) -> bool:
    """Whether it asks what the server is and has, as clients do before anything else (`system:discovery`)."""
    if call.resource or call.verb not in ("get", "head"):
        return False
    first, *rest = call.path.strip("/").split("/")
    return first in _OPEN or (first == "api" and len(rest) <= 1) or (first == "apis" and len(rest) <= 2)


def sentence(user: str, call: KubeCall) -> str:
    """The refusal, in the words of the API server."""
    verb, subresource = verb_and_subresource(call)
    if not call.resource:
        return f"forbidden: User {_quoted(user)} cannot {verb} path {_quoted(call.path)}"
    verb = f"create by {verb}" if call.makes else verb
    kind = f"{call.resource}/{subresource}" if subresource else call.resource
    where = f"in the namespace {_quoted(call.namespace)}" if call.namespace else "at the cluster scope"
    what = f"{kind} {_quoted(call.name)}" if call.name else kind
    return (
        f"{what} is forbidden: User {_quoted(user)} cannot {verb} resource {_quoted(kind)}"
        f" in API group {_quoted(call.api_group)} {where}"
    )


def _quoted(text: str) -> str:
    return '"' + (text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..") + '"'


def _places(call: KubeCall, rules: Sequence[KubeRule], *, deny: bool) -> Iterator[Place]:
    """Where rules are about such a call."""
    verb, subresource = verb_and_subresource(call)
    verbs = {verb} | (_also_denied(call, verb) if deny else _NOTHING)
    for rule in rules:
        every = WILDCARD in rule.verbs
        if not every and verbs.isdisjoint(rule.verbs):
            continue
        kind, slash, below = rule.kind.partition("/")
        if kind not in (WILDCARD, call.resource) or not _in_group(rule, call.api_group, deny=deny):
            continue
        widely = not subresource or every or deny
        of_kind = bool(subresource) and below in (WILDCARD, subresource) if slash else widely
        if of_kind:
            yield Place(WILDCARD if deny and rule.namespace is None else rule.namespace, rule.name)


def _also_denied(call: KubeCall, verb: str) -> frozenset[str]:
    """The verbs by which such a call is denied, too, since it comes to the same."""
    if verb == "create" and (call.resource, call.subresource) == ("pods", "eviction"):
        return frozenset({"delete"})
    if verb == "update" and not call.subresource and call.resource in _MADE_BY_UPDATE:
        return _ALSO_DENIED[verb] | {"create"}
    return _ALSO_DENIED.get(verb, _NOTHING)


def _in_group(rule: KubeRule, group: str, *, deny: bool) -> bool:
    if rule.api_group is not None:
        return rule.api_group in (WILDCARD, group)
    kind = rule.kind.partition("/")[0]
    return deny or kind == WILDCARD or (kind in KNOWN and group in KNOWN[kind][1])


def _extent(call: KubeCall, place: Place) -> Extent:
    """How much of what the call may touch lies there."""
    if call.name:
        name = _proxied(call.name) if verb_and_subresource(call)[0] == "proxy" else call.name
        return Extent.WHOLE if _any_holds((place,), _spots(call.resource, call.namespace, name), name) else Extent.NONE
    every = _matches_all(place.name)
    if call.namespace:
        if not _in_namespace(place.namespace, call.namespace):
            return Extent.NONE
        return Extent.WHOLE if every else Extent.PART
    if place.namespace is not None and _matches_all(place.namespace):
        return Extent.WHOLE if every else Extent.PART
    known = KNOWN.get(call.resource)
    if known is None or call.api_group not in known[1] or (call.resource == _NAMESPACES and place.namespace):
        return Extent.PART
    if known[0] is (place.namespace is None):  # in namespaces, or in none, and the rule means the others
        return Extent.NONE
    return Extent.WHOLE if every and place.namespace is None else Extent.PART


def _proxied(name: str) -> str:
    """The object's name in what proxies take for one: NAME, NAME:PORT or SCHEME:NAME:PORT."""
    parts = name.split(":")
    return parts[1] if len(parts) == 3 else parts[0]


def _spots(resource: str, namespace: str, name: str) -> tuple[str, ...]:
    return ("", name) if resource == _NAMESPACES else (namespace,)


def _any_holds(places: Sequence[Place], namespaces: Sequence[str], name: str) -> bool:
    return any(place.holds(namespace, name) for place in places for namespace in namespaces)


def _in_namespace(pattern: str | None, namespace: str) -> bool:
    if pattern is None:
        return not namespace
    return _matches_all(pattern) or (bool(namespace) and _matches(pattern, namespace))


def _matches_all(pattern: str) -> bool:
    return bool(pattern) and not pattern.strip(WILDCARD)


@lru_cache(maxsize=4096)
def _pieces(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.split(WILDCARD))


def _matches(pattern: str, text: str) -> bool:
    """Whether it is the text, `*` standing for any characters. Takes no longer for patterns that are made to."""
    first, *rest = _pieces(pattern)
    if not rest:
        return text == pattern
    last = rest.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in rest:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True

"""What can be wrong with a role, found when it is written and not when somebody logs in.

Names that go into certificates, templates, regular expressions and predicates are all checked here, for `allow` and
`deny` alike. What a role may say but the product cannot do yet is a warning that names the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from teleport.errors import BadRequest
from teleport.resources.destinations import UNIX, parse_command_pattern, parse_host_pattern, parse_path_pattern
from teleport.resources.joining import join_findings, join_warnings
from teleport.resources.kinds import WILDCARD, Kind, Verb
from teleport.resources.kube_rules import kube_rule_findings
from teleport.resources.lexer import BadSyntax
from teleport.resources.metadata import FieldWarning, Finding, shown, text_findings
from teleport.resources.names import check_name, check_text, is_no_login, is_unix_login
from teleport.resources.pattern import BadPattern, compile_pattern, is_pattern
from teleport.resources.predicate import parse_predicate
from teleport.resources.template import Matcher, Template, is_template, parse_template
from teleport.resources.values import Duration

if TYPE_CHECKING:
    from teleport.resources.role import Conditions, LabelSelector, Role, Rule

_T = TypeVar("_T")
Where = tuple[str | int, ...]
LABEL_FIELDS = ("node_labels", "app_labels", "kubernetes_labels", "db_labels", "cluster_labels")
NAME_FIELDS = ("kubernetes_groups", "kubernetes_users", "db_names", "db_users", "aws_role_arns")
FORWARD_FIELDS = ("forward_to", "listen_on")
MAX_FILE_SIZE = 2**62  # bytes
MAX_ENTRIES = 1000  # of any list
MAX_VALUE = 2048  # characters
LEAST_LEASE, LONGEST_LEASE = Duration.of(minutes=1), Duration.of(hours=30)

_LATER = {
    "app_labels": "application access",
    "db_labels": "database access",
    "db_names": "database access",
    "db_users": "database access",
    "aws_role_arns": "application access",
    "request": "access requests",
    "review_requests": "access requests",
    "impersonate": "impersonation",
}


def role_findings(role: Role) -> Iterator[Finding]:
    """Everything wrong with the spec of `role`."""
    options = role.spec.options
    at: Where = ("spec", "options")
    if not options.max_session_ttl:
        yield Finding((*at, "max_session_ttl"), "0", "a duration above zero")
    for name in ("max_connections", "max_sessions"):
        if not 0 <= getattr(options, name) <= 1_000_000:
            yield Finding((*at, name), str(getattr(options, name)), "0 (no limit) to 1000000")
    if options.mfa_lease_ttl and not LEAST_LEASE <= options.mfa_lease_ttl <= LONGEST_LEASE:
        allowed = f"0 (none), or {LEAST_LEASE} to {LONGEST_LEASE}"
        yield Finding((*at, "mfa_lease_ttl"), str(options.mfa_lease_ttl), allowed)
    yield from text_findings((*at, "request_prompt"), options.request_prompt)
    yield from _patterns((*at, "commands"), options.commands, parse_command_pattern)
    files = options.file_transfer
    for name in ("download_paths", "upload_paths", "deny_paths"):
        yield from _patterns((*at, "file_transfer", name), getattr(files, name) or (), parse_path_pattern)
    if not 0 <= files.max_file_size <= MAX_FILE_SIZE:
        yield Finding((*at, "file_transfer", "max_file_size"), str(files.max_file_size), "bytes; 0 is no limit")
    yield from _conditions(("spec", "allow"), role.spec.allow, allow=True)
    yield from _conditions(("spec", "deny"), role.spec.deny, allow=False)


def _conditions(at: Where, conditions: Conditions, *, allow: bool) -> Iterator[Finding]:
    for number, namespace in enumerate(_bounded(conditions.namespaces or ())):
        if namespace != WILDCARD and (problem := check_name(namespace)):
            yield Finding((*at, "namespaces", number), shown(namespace), f"a namespace; this one {problem}")
    yield from _logins((*at, "logins"), conditions.logins, allow=allow)
    yield from _logins((*at, "host_groups"), conditions.host_groups, allow=allow, what="group")
    for name in LABEL_FIELDS:
        selector: LabelSelector | None = getattr(conditions, name)
        if selector is not None:
            yield from _selector((*at, name), selector)
    for name in NAME_FIELDS:
        yield from _names((*at, name), getattr(conditions, name), wildcard=name != "aws_role_arns" or not allow)
    yield from kube_rule_findings((*at, "kubernetes_resources"), conditions.kubernetes_resources or (), allow=allow)
    for number, rule in enumerate(_bounded(conditions.rules)):
        yield from _rule((*at, "rules", number), rule)
    for name in FORWARD_FIELDS:
        yield from _patterns((*at, name), getattr(conditions, name) or (), _forward)
    yield from _requests(at, conditions)
    yield from _impersonate(at, conditions, allow=allow)
    yield from join_findings(at, conditions.join_sessions, conditions.require_session_join, allow=allow)
    for name in ("logins", "host_groups", *NAME_FIELDS, "rules"):
        if len(getattr(conditions, name)) > MAX_ENTRIES:
            yield Finding((*at, name), f"{len(getattr(conditions, name))} entries", f"at most {MAX_ENTRIES}")


def _patterns(at: Where, entries: Sequence[str], parse: Callable[[str], object]) -> Iterator[Finding]:
    if len(entries) > MAX_ENTRIES:
        yield Finding(at, f"{len(entries)} entries", f"at most {MAX_ENTRIES}")
    for number, entry in enumerate(_bounded(entries)):
        if at[-1] in FORWARD_FIELDS and is_template(entry):
            yield from _template((*at, number), entry)
            continue
        try:
            parse(entry)
        except BadRequest as error:
            yield Finding((*at, number), shown(entry), f"{error.hint}; this one: {error.message}")


def _forward(entry: str) -> object:
    return parse_path_pattern(entry.removeprefix(UNIX)) if entry.startswith(UNIX) else parse_host_pattern(entry)


def _bounded(entries: Sequence[_T]) -> Sequence[_T]:
    return entries[:MAX_ENTRIES]


def _logins(at: Where, logins: Sequence[str], *, allow: bool, what: str = "account") -> Iterator[Finding]:
    for number, login in enumerate(_bounded(logins)):
        if is_template(login):
            yield from _template((*at, number), login)
        elif login == WILDCARD and allow:
            yield Finding((*at, number), "'*'", f"the name of a Unix {what}; '*' is refused under allow")
        elif login != WILDCARD and not is_unix_login(login) and not is_no_login(login):
            yield Finding(
                (*at, number), shown(login), f"the name of a Unix {what} (a-z, 0-9, '_', '.', '-'; at most 32)"
            )


def _names(at: Where, names: Sequence[str], *, wildcard: bool) -> Iterator[Finding]:
    for number, name in enumerate(_bounded(names)):
        if is_template(name):
            yield from _template((*at, number), name)
        elif name == WILDCARD and not wildcard:
            yield Finding((*at, number), "'*'", "a name; '*' is refused under allow")
        elif not name or len(name) > MAX_VALUE or check_text(name):
            yield Finding((*at, number), shown(name), "a name")


def _selector(at: Where, selector: LabelSelector) -> Iterator[Finding]:
    if len(selector) > MAX_ENTRIES:
        yield Finding(at, f"{len(selector)} keys", f"at most {MAX_ENTRIES}")
        return
    for key, values in selector.items():
        here = (*at, key)
        if key == WILDCARD:
            if tuple(values) != (WILDCARD,):
                yield Finding(here, "another value", "'*': '*' (every host); the key '*' takes no other value")
            continue
        if is_template(key):
            yield from _template(here, key)
        elif not key or len(key) > MAX_VALUE or check_text(key):
            yield Finding(here, shown(key), "a label key")
        if not values:
            yield Finding(here, "no value", "one or more values, or '*' for any")
        for number, value in enumerate(_bounded(values)):
            yield from _label_value((*here, number), value)


def _label_value(at: Where, value: str) -> Iterator[Finding]:
    if len(value) > MAX_VALUE or check_text(value):
        yield Finding(
            at, shown(value), f"a label value, glob or ^regular expression$ of at most {MAX_VALUE} characters"
        )
    elif is_pattern(value):
        try:
            compile_pattern(value)
        except BadPattern as error:
            yield Finding(at, shown(value), f"an RE2 regular expression; this one: {error}")
    elif is_template(value):
        yield from _template(at, value)


def _template(at: Where, text: str) -> Iterator[Finding]:
    try:
        parsed = parse_template(text)
    except BadSyntax as error:
        yield Finding(at, shown(text), f"a template; this one: {error}")
        return
    if not isinstance(parsed, Template):
        yield Finding(at, shown(text), "a template that gives values; regexp.match only fits where roles are matched")


def _matchers(at: Where, entries: Sequence[str]) -> Iterator[Finding]:
    """Names of roles or users that may be globs, patterns, templates or `{{regexp.match(..)}}`."""
    for number, entry in enumerate(_bounded(entries)):
        here = (*at, number)
        if is_template(entry):
            try:
                parsed = parse_template(entry)
                assert isinstance(parsed, Template | Matcher)
            except BadSyntax as error:
                yield Finding(here, shown(entry), f"a template; this one: {error}")
        elif not entry:
            yield Finding(here, "''", "a name, a glob or a pattern")
        else:
            yield from _label_value(here, entry)


def _rule(at: Where, rule: Rule) -> Iterator[Finding]:
    if not rule.resources:
        yield Finding((*at, "resources"), "nothing", "one or more kinds of resources, or '*'")
    if not rule.verbs:
        yield Finding((*at, "verbs"), "nothing", "one or more verbs, or '*'")
    for number, kind in enumerate(_bounded(rule.resources)):
        if kind != WILDCARD and kind not in Kind.__members__.values():
            yield Finding((*at, "resources", number), shown(kind), f"one of {', '.join(sorted(Kind))}, *")
    for number, verb in enumerate(_bounded(rule.verbs)):
        if verb != WILDCARD and verb not in Verb.__members__.values():
            yield Finding((*at, "verbs", number), shown(verb), f"one of {', '.join(Verb)}, *")
    yield from _predicate((*at, "where"), rule.where)


def _predicate(at: Where, text: str) -> Iterator[Finding]:
    if not text:
        return
    try:
        parse_predicate(text)
    except BadSyntax as error:
        yield Finding(at, shown(text), f"a predicate; this one: {error}")


def _requests(at: Where, conditions: Conditions) -> Iterator[Finding]:
    if (request := conditions.request) is not None:
        yield from _matchers((*at, "request", "roles"), request.roles)
        for number, threshold in enumerate(_bounded(request.thresholds)):
            if threshold.approve < 1 or threshold.deny < 1:
                yield Finding(
                    (*at, "request", "thresholds", number), "a count below 1", "approve and deny of at least 1"
                )
            yield from _predicate((*at, "request", "thresholds", number, "filter"), threshold.filter)
        for number, claim in enumerate(_bounded(request.claims_to_roles)):
            yield from _label_value((*at, "request", "claims_to_roles", number, "value"), claim.value)
    if (review := conditions.review_requests) is not None:
        yield from _matchers((*at, "review_requests", "roles"), review.roles)
        yield from _predicate((*at, "review_requests", "where"), review.where)
        for number, claim in enumerate(_bounded(review.claims_to_roles)):
            yield from _label_value((*at, "review_requests", "claims_to_roles", number, "value"), claim.value)


def _impersonate(at: Where, conditions: Conditions, *, allow: bool) -> Iterator[Finding]:
    impersonate = conditions.impersonate
    if impersonate is None:
        return
    here = (*at, "impersonate")
    if bool(impersonate.users) != bool(impersonate.roles):
        yield Finding(here, "only one of users and roles", "users and roles together")
    if impersonate.where and not allow:
        yield Finding((*here, "where"), "a predicate", "no predicate under deny")
    yield from _matchers((*here, "users"), impersonate.users)
    yield from _matchers((*here, "roles"), impersonate.roles)
    yield from _predicate((*here, "where"), impersonate.where)


def role_warnings(role: Role) -> tuple[FieldWarning, ...]:
    """What `role` says that has no effect yet, and what grants more than it seems to."""
    found: list[FieldWarning] = []
    for part in ("allow", "deny"):
        conditions: Conditions = getattr(role.spec, part)
        for name, feature in _LATER.items():
            if getattr(conditions, name):
                found.append(FieldWarning(f"spec.{part}.{name}", f"{feature}: not available yet; kept without effect"))
        found += join_warnings(f"spec.{part}", conditions.require_session_join)
        for number, rule in enumerate(conditions.rules):
            if rule.actions:
                found.append(
                    FieldWarning(f"spec.{part}.rules[{number}].actions", "not available yet; kept without effect")
                )
        for name in LABEL_FIELDS:
            selector = getattr(conditions, name)
            if selector and WILDCARD in selector and len(selector) > 1:
                found.append(
                    FieldWarning(f"spec.{part}.{name}", "'*': '*' matches everything; the other keys have no effect")
                )
    options = role.spec.options
    later = {
        "cert_format": options.cert_format != "standard",
        "request_access": options.request_access != "optional",
        "request_prompt": bool(options.request_prompt),
    }
    found += [
        FieldWarning(f"spec.options.{name}", "not available yet; kept without effect")
        for name, given in later.items()
        if given
    ]
    return tuple(found)

"""What a role gives, in sentences: for whoever writes one and wants to read what was written. Nothing is decided here;
pure. Fields that are kept without effect are not told of: `Role.warnings` names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from teleport.clock import how_long
from teleport.resources.joining import JoinMode, OnLeave
from teleport.resources.kinds import WILDCARD
from teleport.resources.metadata import DEFAULT_NAMESPACE
from teleport.resources.role import Conditions, ExecMode, FileTransfer, LabelSelector, Role, RoleLocking, Rule
from teleport.resources.values import Duration

_ENDLESS = 2**63 - 1  # nanoseconds, as roles without a limit have it


class Sort(StrEnum):
    """What a sentence tells of."""

    GRANT = "grant"  # what holders may do
    TERM = "term"  # under which conditions
    DENY = "deny"  # what is refused, whatever other roles allow


@dataclass(frozen=True, slots=True)
class Sentence:
    """One thing that the role does; `field` is the place in the document that says so."""

    sort: Sort
    text: str
    field: str


def role_sentences(role: Role) -> tuple[Sentence, ...]:
    """Everything that the role gives by itself, then its terms, then what it denies."""
    found = [*_hosts(role), *_rules(role.allow, Sort.GRANT), *_others(role), *_terms(role), *_denied(role.deny)]
    order = list(Sort)
    return tuple(sorted(found, key=lambda one: order.index(one.sort)))


# hosts


def _hosts(role: Role) -> Iterator[Sentence]:
    allow = role.allow
    selector = role.allowed_node_labels
    if not allow.logins or not selector:
        missing = "no logins" if not allow.logins else "no node_labels"
        field = "spec.allow.logins" if not allow.logins else "spec.allow.node_labels"
        yield Sentence(Sort.GRANT, f"Reaches no host: it names {missing}.", field)
        return
    where = _selected(selector, "host")
    spaces = allow.effective_namespaces
    if spaces != (DEFAULT_NAMESPACE,):
        where += f", in the namespaces {_all(spaces)}"
    yield Sentence(Sort.GRANT, f"Logs in as {_any(map(_login, allow.logins))} on {where}.", "spec.allow")
    yield from _runs(role)
    yield from _forwards(role)
    if role.options.create_host_user:
        groups = f", in the groups {_all(allow.host_groups)}" if allow.host_groups else ""
        text = f"Accounts that a host does not have are made there for the session{groups}."
        yield Sentence(Sort.GRANT, text, "spec.options.create_host_user")


def _login(login: str) -> str:
    """A login as it is written, or what it stands for."""
    inside = login.strip()
    if inside in ("{{internal.logins}}", "{{external.logins}}"):
        return "whatever the user's trait logins says"
    return login


def _runs(role: Role) -> Iterator[Sentence]:
    options, at = role.options, "spec.options"
    match options.exec:
        case ExecMode.NONE:
            yield Sentence(
                Sort.GRANT, "Runs nothing there: neither a shell, nor commands, nor transfers.", f"{at}.exec"
            )
            return
        case ExecMode.TRANSFER:
            yield Sentence(Sort.GRANT, "Only moves files there: no shell and no command.", f"{at}.exec")
        case ExecMode.ALL if options.commands:
            text = f"Runs these commands only, without a shell: {', '.join(options.commands)}."
            yield Sentence(Sort.GRANT, text, f"{at}.commands")
            return
        case ExecMode.ALL:
            yield Sentence(Sort.GRANT, "Gets a shell there and runs every command.", f"{at}.exec")
    yield from _files(options.file_transfer, f"{at}.file_transfer", shell=options.exec is ExecMode.ALL)


def _files(rules: FileTransfer, at: str, *, shell: bool) -> Iterator[Sentence]:
    if rules == FileTransfer():
        return
    parts = []
    for verb, allowed, paths in (
        ("fetches", rules.download, rules.download_paths),
        ("puts", rules.upload, rules.upload_paths),
    ):
        if not allowed or paths == ():
            parts.append(f"{verb} no files")
        else:
            parts.append(f"{verb} {'every file' if paths is None else 'files under ' + _any(paths)}")
    text = f"By sftp, scp and rsync {parts[0]} and {parts[1]}"
    text += f"; never {_any(rules.deny_paths)}" if rules.deny_paths else ""
    text += f"; no file above {rules.max_file_size:,} bytes" if rules.max_file_size else ""
    text += ". The shell moves files past this." if shell else "."
    yield Sentence(Sort.GRANT, text, at)


def _forwards(role: Role) -> Iterator[Sentence]:
    options, allow = role.options, role.allow
    general = options.port_forwarding is not False
    local = general if options.local_forwarding is None else options.local_forwarding
    remote = general if options.remote_forwarding is None else options.remote_forwarding
    ports = "spec.options.port_forwarding"
    if local:
        to = "all destinations that are not reserved" if allow.forward_to is None else _any(allow.forward_to)
        yield Sentence(Sort.GRANT, f"Forwards connections from there to {to}.", ports)
    if remote:
        on = "loopback" if allow.listen_on is None else _any(allow.listen_on)
        yield Sentence(Sort.GRANT, f"Listens there, on {on}, for connections back to the client.", ports)
    if not local and not remote:
        yield Sentence(Sort.TERM, "No ports are forwarded by this role.", ports)
    if options.forward_agent:
        yield Sentence(Sort.GRANT, "Takes the client's SSH agent along.", "spec.options.forward_agent")
    if options.permit_x11_forwarding:
        yield Sentence(Sort.GRANT, "Forwards X11 windows.", "spec.options.permit_x11_forwarding")


# the cluster


def _rules(conditions: Conditions, sort: Sort) -> Iterator[Sentence]:
    part = "deny" if sort is Sort.DENY else "allow"
    for number, rule in enumerate(conditions.rules):
        yield Sentence(sort, _rule(rule, denied=sort is Sort.DENY), f"spec.{part}.rules[{number}]")


def _rule(rule: Rule, *, denied: bool) -> str:
    verbs = "do everything" if WILDCARD in rule.verbs else _all(_VERBS.get(verb, verb) for verb in rule.verbs)
    joint = " with " if WILDCARD in rule.verbs else " "
    kinds = "everything" if WILDCARD in rule.resources else _all(_plural(kind) for kind in rule.resources)
    where = f", where {rule.where}" if rule.where else ""
    return f"{'May never' if denied else 'In the cluster, may'} {verbs}{joint}{kinds}{where}."


_VERBS = {"readnosecrets": "read without secrets"}
_PLURALS = {
    "token": "join tokens",
    "cert_authority": "certificate authorities",
    "event": "audit events",
    "session": "recordings and running sessions",
    "ssh_session": "running sessions",
    "proxy": "proxies",
    "cluster_auth_preference": "the settings of authentication",
    "cluster_networking_config": "the network settings",
    "session_recording_config": "the settings of recording",
    "cluster_audit_config": "the settings of the audit log",
    "cluster_name": "the cluster's name",
}


def _plural(kind: str) -> str:
    return _PLURALS.get(kind) or f"{kind.replace('_', ' ')}s"


def _others(role: Role) -> Iterator[Sentence]:
    allow = role.allow
    if allow.cluster_labels is not None:
        where = _selected(allow.cluster_labels, "other cluster")
        text = f"Goes to {where}." if allow.cluster_labels else "Goes to no other cluster."
        yield Sentence(Sort.GRANT, text, "spec.allow.cluster_labels")
    for number, entry in enumerate(allow.join_sessions):
        text = f"Joins, as {_modes(entry.modes)}, the sessions of holders of {_any(entry.roles)}."
        yield Sentence(Sort.GRANT, text, f"spec.allow.join_sessions[{number}]")


# terms and denials


def _terms(role: Role) -> Iterator[Sentence]:
    options, at = role.options, "spec.options"

    def term(name: str, text: str) -> Sentence:
        return Sentence(Sort.TERM, text, f"{at}.{name}")

    longest = options.max_session_ttl
    most = "Sets no limit on how long certificates hold." if longest.nanoseconds >= _ENDLESS else ""
    yield term("max_session_ttl", most or f"Certificates hold for {_long(longest)} at most.")
    if options.client_idle_timeout:
        text = f"Sessions end after {_long(options.client_idle_timeout)} in which nobody does anything."
        yield term("client_idle_timeout", text)
    if options.disconnect_expired_cert:
        yield term("disconnect_expired_cert", "Sessions end with the certificate.")
    if options.require_session_mfa:
        yield term("require_session_mfa", "Each session asks for a second factor.")
    if options.mfa_lease_ttl:
        yield term("mfa_lease_ttl", f"Plain ssh may prove it once for {_long(options.mfa_lease_ttl)}.")
    if options.pin_source_ip:
        yield term("pin_source_ip", "Certificates hold from the address of the login only.")
    if options.max_connections:
        yield term("max_connections", f"At most {options.max_connections} connections at once.")
    if options.max_sessions:
        yield term("max_sessions", f"At most {options.max_sessions} sessions on one connection.")
    if options.lock is RoleLocking.STRICT:
        yield term("lock", "When a host cannot know whether somebody is locked, it refuses.")
    for number, needed in enumerate(role.allow.require_session_join):
        whom = f", of whom {needed.filter}," if needed.filter else ""
        ends = "stops until they are back" if needed.on_leave is OnLeave.PAUSE else "ends when they leave"
        text = f"A session needs {needed.count} more in it{whom} as {_modes(needed.modes)}, and {ends}."
        yield Sentence(Sort.TERM, text, f"spec.allow.require_session_join[{number}]")


def _denied(deny: Conditions) -> Iterator[Sentence]:
    if deny.logins:
        who = "anybody" if WILDCARD in deny.logins else _any(deny.logins)
        yield Sentence(Sort.DENY, f"Never logs in as {who}, on any host.", "spec.deny.logins")
    if deny.node_labels:
        where = _selected(deny.node_labels, "host")
        yield Sentence(Sort.DENY, f"Never reaches {where}.", "spec.deny.node_labels")
    if deny.cluster_labels:
        where = _selected(deny.cluster_labels, "other cluster")
        yield Sentence(Sort.DENY, f"Never goes to {where}.", "spec.deny.cluster_labels")
    for name, text in (("forward_to", "Never forwards to"), ("listen_on", "Never listens on")):
        if entries := getattr(deny, name):
            yield Sentence(Sort.DENY, f"{text} {_any(entries)}.", f"spec.deny.{name}")
    if deny.host_groups:
        text = f"Accounts that are made are never in the groups {_all(deny.host_groups)}."
        yield Sentence(Sort.DENY, text, "spec.deny.host_groups")
    for number, entry in enumerate(deny.join_sessions):
        text = f"Never joins, as {_modes(entry.modes)}, the sessions of holders of {_any(entry.roles)}."
        yield Sentence(Sort.DENY, text, f"spec.deny.join_sessions[{number}]")
    yield from _rules(deny, Sort.DENY)


# words


def _selected(selector: LabelSelector, what: str) -> str:
    """`every host`, `hosts with env = prod or test, and team = blue`."""
    if selector.get(WILDCARD) == (WILDCARD,):
        return f"every {what}"
    parts = [
        f"any {key}" if WILDCARD in values else f"{key} = {_any(values)}" for key, values in sorted(selector.items())
    ]
    return f"{what}s with {', and '.join(parts)}"


def _modes(modes: Iterable[JoinMode]) -> str:
    return _any(str(mode) for mode in modes)


def _any(names: Iterable[str]) -> str:
    return _listed(list(names), "or")


def _all(names: Iterable[str]) -> str:
    return _listed(list(names), "and")


def _listed(names: list[str], last: str) -> str:
    if len(names) < 2:
        return "".join(names) or "nobody"
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def _long(duration: Duration) -> str:
    return how_long(duration.seconds)

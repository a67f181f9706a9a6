"""What a permit says about channels: the second half of an SSH decision, asked for each of them.

`ChannelTerms.grants` holds the rules of each role that grants the access; one of them has to allow what is asked, and
nothing that any role of the user denies may hit it. Nodes and recording proxies ask the same functions (`forwarding`
and `transfer` hold those about destinations and files), so that no way in knows a rule that another does not. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from teleport.authz.decision import AccessDenial, DenialCode
from teleport.errors import TeleportError
from teleport.resources.destinations import PathPattern, command_matches, parse_command_pattern, parse_path_pattern
from teleport.resources.role import ExecMode, FileTransfer, Role


@dataclass(frozen=True, slots=True)
class RoleGrant:
    """What one granting role says about channels; the fields are those of the role (`docs/roles.md`)."""

    role: str
    exec: ExecMode = ExecMode.ALL
    commands: tuple[str, ...] = ()  # none: every command
    local_forwarding: bool = True
    remote_forwarding: bool = True
    forward_to: tuple[str, ...] | None = None  # None: anywhere that is not reserved
    listen_on: tuple[str, ...] | None = None  # None: loopback
    file_transfer: FileTransfer = field(default_factory=FileTransfer)

    @classmethod
    def of(cls, role: Role) -> RoleGrant:
        options, allow = role.options, role.allow
        forwarding = options.port_forwarding is not False
        local, remote = options.local_forwarding, options.remote_forwarding
        return cls(
            role=role.name,
            exec=options.exec,
            commands=options.commands,
            local_forwarding=forwarding if local is None else local,
            remote_forwarding=forwarding if remote is None else remote,
            forward_to=allow.forward_to,
            listen_on=allow.listen_on,
            file_transfer=options.file_transfer,
        )


@dataclass(frozen=True, slots=True)
class ChannelDenies:
    """What roles of the user deny, whichever grants."""

    forward_to: tuple[str, ...] = ()
    listen_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChannelTerms:
    """The part of a permit that concerns channels. Empty grants nothing."""

    port_forwarding: bool = False  # any role of the user; the node's own switch is asked beside it
    forward_agent: bool = False
    x11_forwarding: bool = False
    grants: tuple[RoleGrant, ...] = ()
    denies: ChannelDenies = ChannelDenies()


def why_no_shell(terms: ChannelTerms) -> AccessDenial | None:
    """What forbids a login shell. A list of allowed commands is no list if a shell is beside it."""
    reasons = []
    for grant in terms.grants:
        if grant.exec is not ExecMode.ALL:
            reasons.append(f"role {grant.role!r} has exec: {grant.exec}")
        elif grant.commands:
            reasons.append(f"role {grant.role!r} allows only the commands that it lists")
        else:
            return None
    return refusal("a shell", *reasons)


def why_no_command(terms: ChannelTerms, command: str) -> AccessDenial | None:
    """What forbids running `command` through the login's shell."""
    reasons = []
    for grant in terms.grants:
        if grant.exec is not ExecMode.ALL:
            reasons.append(f"role {grant.role!r} has exec: {grant.exec}")
        elif grant.commands and not any(command_matches(one, command) for one in _commands(grant.commands)):
            reasons.append(f"role {grant.role!r} does not list it under commands")
        else:
            return None
    return refusal(f"the command {command[:80]!r}", *reasons)


def exec_is_limited(terms: ChannelTerms) -> bool:
    """Whether no role gives a shell: then the rules of file transfers bind, else whoever is let in can get around."""
    return why_no_shell(terms) is not None


def why_no_agent(terms: ChannelTerms) -> AccessDenial | None:
    """What forbids forwarding the client's agent."""
    return None if terms.forward_agent else refusal("agent forwarding", "no role has forward_agent: yes")


def why_no_x11(terms: ChannelTerms) -> AccessDenial | None:
    """What forbids forwarding X11."""
    return None if terms.x11_forwarding else refusal("X11 forwarding", "no role has permit_x11_forwarding: yes")


def refusal(what: str, *reasons: str, code: DenialCode = DenialCode.NOT_GRANTED) -> AccessDenial:
    """The caller learns what was refused; which rule did it is for operators."""
    shown = "".join(one if " " <= one <= "~" else f"\\x{ord(one):02x}" for one in what)
    return AccessDenial(
        code,
        f"Your roles do not allow {shown}.",
        reasons or ("no role grants access",),
        "ask an administrator for a role that allows it",
    )


def first_hit(entries: Iterable[str], hits: Callable[[str], bool]) -> str:
    """The first entry that hits. What cannot be read hits: these entries deny."""
    for entry in entries:
        try:
            if hits(entry):
                return entry
        except TeleportError:
            return entry
    return ""


def paths_of(entries: Iterable[str], prefix: str = "") -> Iterable[PathPattern]:
    for entry in entries:
        if entry.startswith(prefix):
            try:
                yield parse_path_pattern(entry.removeprefix(prefix))
            except TeleportError:
                continue


def _commands(entries: Iterable[str]) -> Iterable[tuple[str, ...]]:
    for entry in entries:
        try:
            yield parse_command_pattern(entry)
        except TeleportError:
            continue

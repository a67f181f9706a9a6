"""What in a role may mean something else than its author thinks. Nothing is decided here; pure.

A *warning* is about a rule that does not hold what it seems to promise; a *note* about one that gives much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from teleport.resources.role import ExecMode, FileTransfer, Role

_SHELLS = frozenset(["ash", "bash", "csh", "dash", "fish", "ksh", "sh", "tcsh", "zsh", "busybox"])
_RUNNERS = frozenset(
    name
    for line in (
        "awk env expect find gawk gdb git kubectl less lua man more mysql nano nice nohup nsenter perl php podman",
        "psql python python3 rsync ruby scp screen script sed setsid socat ssh stdbuf strace su sudo systemd-run tar",
        "tclsh docker tcpdump timeout tmux unshare vi vim watch xargs zip",
    )
    for name in line.split()
)
_WILD = frozenset({"*", "**"})
_START_FILES = "~/.ssh, ~/.bashrc and what else is run at a login"


class Level(StrEnum):
    """How much it matters."""

    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark about a role. `check` names the sort, `field` the place in the document."""

    role: str
    level: Level
    check: str
    field: str
    message: str
    hint: str = ""


def lint_role(role: Role) -> tuple[Finding, ...]:
    """Everything there is to say about a role, warnings first."""
    found = [*_transfers(role), *_commands(role), *_forwards(role), *_reach(role), *_duplicates(role)]
    return tuple(sorted(found, key=lambda one: one.level is Level.NOTE))


def _transfers(role: Role) -> Iterator[Finding]:
    options, where = role.spec.options, "spec.options.file_transfer"
    rules = options.file_transfer
    limits = rules != FileTransfer()
    if limits and options.exec is ExecMode.ALL and not options.commands:
        yield Finding(
            role.name,
            Level.WARNING,
            "transfer-advisory",
            where,
            "file_transfer is advice here: the role gives a shell, which moves any file",
            "exec: transfer",
        )
    if limits and (options.exec is ExecMode.NONE or (options.exec is ExecMode.ALL and options.commands)):
        why = "exec: none" if options.exec is ExecMode.NONE else "a list of commands"
        yield Finding(
            role.name,
            Level.WARNING,
            "transfer-void",
            where,
            f"{why} allows no transfer: file_transfer is void",
        )
    for way, allowed, paths in (
        ("download", rules.download, rules.download_paths),
        ("upload", rules.upload, rules.upload_paths),
    ):
        if paths is not None and not allowed:
            message = f"{way}_paths has no effect: {way} is off"
            yield Finding(role.name, Level.WARNING, "transfer-void", f"{where}.{way}_paths", message)
        if paths is not None and not paths and allowed:
            message = f"an empty list of {way}_paths allows no {way}"
            yield Finding(role.name, Level.NOTE, "transfer-void", f"{where}.{way}_paths", message)
    if options.exec is ExecMode.TRANSFER and rules.upload and rules.upload_paths is None and not rules.deny_paths:
        yield Finding(
            role.name,
            Level.WARNING,
            "transfer-home",
            where,
            f"uploads may write {_START_FILES}, which can come to as much as a shell",
            "name upload_paths, or deny_paths: ['~/.*', '~/.*/**']",
        )


def _commands(role: Role) -> Iterator[Finding]:
    options, where = role.spec.options, "spec.options.commands"
    if options.commands and options.exec is not ExecMode.ALL:
        message = f"commands has no effect: exec is {options.exec}"
        yield Finding(role.name, Level.WARNING, "commands-void", where, message, "exec: all")
    for entry in options.commands:
        words = entry.split(" ")
        program = words[0].rpartition("/")[2]
        if program in _SHELLS and (len(words) == 1 or _WILD & set(words)):
            message = f"{entry!r} is a shell: whoever may run it may run everything"
            yield Finding(role.name, Level.WARNING, "command-shell", where, message)
        elif program in _RUNNERS and _WILD & set(words):
            message = f"{entry!r} leaves open what {program} is told, and {program} can run other programs"
            hint = "name all of its arguments, or put the task into a script on the host"
            yield Finding(role.name, Level.WARNING, "command-runner", where, message, hint)
        if not words[0].startswith("/"):
            message = f"{entry!r} is found by the login's PATH, which its start files may change"
            yield Finding(role.name, Level.NOTE, "command-path", where, message, "begin it with a slash")


def _forwards(role: Role) -> Iterator[Finding]:
    for name, entries in (("forward_to", role.spec.allow.forward_to), ("listen_on", role.spec.allow.listen_on)):
        for entry in entries or ():
            host, _, ports = entry.rpartition(":")
            if host in ("*", "0.0.0.0/0", "[::]/0") or entry in ("unix:**", "unix:/**"):
                wide = "any port" if ports == "*" or host == "unix" else f"port {ports}"
                message = f"{entry!r} opens every host on {wide}" if host != "unix" else f"{entry!r} opens every socket"
                yield Finding(role.name, Level.WARNING, "forward-anywhere", f"spec.allow.{name}", message)


def _reach(role: Role) -> Iterator[Finding]:
    allow = role.spec.allow
    labels = allow.node_labels or {}
    if "root" in allow.logins and "*" in labels.get("*", ()):
        message = "gives root on every host"
        yield Finding(role.name, Level.WARNING, "root-everywhere", "spec.allow.node_labels", message, "name labels")


def _duplicates(role: Role) -> Iterator[Finding]:
    allow, deny, options = role.spec.allow, role.spec.deny, role.spec.options
    rules = options.file_transfer
    lists: tuple[tuple[str, Iterable[str] | None], ...] = (
        ("spec.allow.logins", allow.logins),
        ("spec.deny.logins", deny.logins),
        ("spec.allow.forward_to", allow.forward_to),
        ("spec.deny.forward_to", deny.forward_to),
        ("spec.allow.listen_on", allow.listen_on),
        ("spec.deny.listen_on", deny.listen_on),
        ("spec.options.commands", options.commands),
        ("spec.options.file_transfer.download_paths", rules.download_paths),
        ("spec.options.file_transfer.upload_paths", rules.upload_paths),
        ("spec.options.file_transfer.deny_paths", rules.deny_paths),
    )
    for where, entries in lists:
        seen: set[str] = set()
        for entry in entries or ():
            if entry in seen:
                yield Finding(role.name, Level.NOTE, "duplicate", where, f"{entry!r} is listed twice")
            seen.add(entry)
    for name, both in (("logins", set(allow.logins) & set(deny.logins)),
                       ("forward_to", set(allow.forward_to or ()) & set(deny.forward_to or ()))):  # fmt: skip
        for entry in sorted(both):
            message = f"{entry!r} is allowed and denied, so it is denied"
            yield Finding(role.name, Level.WARNING, "denied-anyway", f"spec.allow.{name}", message)

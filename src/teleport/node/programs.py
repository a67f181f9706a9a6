"""What a client asks of its channel, and the program that a session then runs.

A start goes `Start` -> `choose` -> `Program` -> `Session`. Another sort of program gets its own case in `choose` and,
where the launcher has to start it differently, its own `Kind`; what clients ask for beforehand has a place in `Asked`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from teleport.authz.channels import ChannelTerms, exec_is_limited, refusal, why_no_command, why_no_shell
from teleport.authz.decision import AccessDenial
from teleport.authz.transfer import Direction, Scope, scope, why_no_rsync, why_no_transfer
from teleport.errors import TeleportError
from teleport.launcher.values import Kind, Pty, Transfer
from teleport.recording.format import canonical_uuid
from teleport.resources.joining import JoinMode
from teleport.resources.values import Duration
from teleport.ssh.surface import Exec, Refusal, Shell, Start, Subsystem, TerminalRequest
from teleport.wire import returning, vouch
from teleport.wire.transfer_command import RsyncCommand, ScpCommand, Word, parse

NODE_VARIABLES: Final = frozenset(
    {"TELEPORT_SESSION", "TELEPORT_JOIN_MODE", "TELEPORT_DETACH", returning.TERMINAL_VARIABLE, vouch.RECORDED_AS}
)
_IN_PLACE: Final = frozenset({"--inplace", "--append", "--append-verify", "--delay-updates"})
LEAST_LINGER, LONGEST_LINGER = Duration.of(seconds=1), Duration.of(hours=24)


@dataclass(slots=True)
class Asked:
    """What a client asked of its channel before it started something."""

    environment: list[tuple[str, str]] = field(default_factory=list)  # what the filter kept
    offered: list[tuple[str, str]] = field(
        default_factory=list
    )  # variables that tell of the client's agent and display
    terminal: TerminalRequest | None = None
    linger: float = 0.0  # seconds for which the session lives on without anybody who may type
    join: UUID | None = None  # the session to take part in, instead of a new one
    mode: JoinMode | None = None  # in which
    window: UUID | None = None  # which of its user's terminals it is: one that comes back takes its own place
    recorded_as: UUID | None = None  # under which a proxy records it; only from a certificate that names a proxy

    def variable(self, name: str, value: str) -> bool:
        """Takes a variable that is meant for the node; False for one that it does not understand."""
        try:
            match name:
                case "TELEPORT_SESSION":
                    self.join = UUID(canonical_uuid(value))
                case vouch.RECORDED_AS:
                    self.recorded_as = UUID(canonical_uuid(value))
                case "TELEPORT_JOIN_MODE":
                    self.mode = JoinMode(value)
                case returning.TERMINAL_VARIABLE:
                    self.window = UUID(canonical_uuid(value))
                case "TELEPORT_DETACH":
                    linger = Duration.parse(value)
                    if not LEAST_LINGER <= linger <= LONGEST_LINGER:
                        return False
                    self.linger = linger.timedelta.total_seconds()
                case _:
                    return False
        except (ValueError, TeleportError):
            return False
        return True

    @property
    def pty(self) -> Pty | None:
        """The terminal as the launcher makes it."""
        if self.terminal is None:
            return None
        size = self.terminal.size
        return Pty(self.terminal.term, size.columns, size.rows, size.width, size.height, self.terminal.modes)


@dataclass(frozen=True, slots=True)
class Program:
    """What a session runs. `original` is what the client asked for where a forced command runs instead of it."""

    kind: Kind
    command: str = ""  # of a login shell: none
    original: str = ""
    transfer: Transfer | None = None  # it moves files, as this says
    rsync: RsyncCommand | None = None  # what of rsync's command is on record
    scope: Scope | None = None  # what its process was told to ask about

    @property
    def shown(self) -> str:
        """The command as events and recordings name it."""
        return self.command.encode("utf-8", "backslashreplace").decode()


def choose(what: Start, *, forced: str, terms: ChannelTerms) -> Program | Refusal | AccessDenial:
    """The program for what a client starts; `forced` is the command that its certificate allows and nothing else,
    `terms` what the permit says."""
    match what:
        case Shell():
            command = ""
        case Exec(command=command):
            if not command or "\0" in command:
                return Refusal("The command is empty or contains a zero byte.")
        case Subsystem(name=command):
            if not forced:
                return _subsystem(command, terms)
    if command and not forced:
        moving = _moving(command, terms)
        if moving is not None:
            return moving
    program = Program(Kind.EXEC if forced or command else Kind.SHELL, forced or command, command if forced else "")
    denied = why_no_command(terms, program.command) if program.command else why_no_shell(terms)
    return program if denied is None else denied


def _subsystem(name: str, terms: ChannelTerms) -> Program | Refusal | AccessDenial:
    if name != "sftp":
        return Refusal(f"There is no subsystem {name[:40]!r} here, only sftp.")
    denied = why_no_transfer(terms, Direction.LOOK)
    if denied is not None:
        return denied
    rules = scope(terms)
    return Program(Kind.SFTP, "sftp", transfer=Transfer(asks=rules.asks, looks=rules.looks), scope=rules)


def _moving(command: str, terms: ChannelTerms) -> Program | Refusal | AccessDenial | None:
    """The program for a command that moves files; None: it is none, or one that a role lists by its words."""
    parsed = parse(command)
    listed = replace(terms, grants=tuple(grant for grant in terms.grants if grant.commands))
    if parsed is None or (listed.grants and why_no_command(listed, command) is None):
        return None
    rules = scope(terms)
    if isinstance(parsed, ScpCommand):
        sink, ways = parsed.sink, [Direction.UPLOAD if parsed.sink else Direction.DOWNLOAD]
    else:
        sink, ways = not parsed.sender, [Direction.DOWNLOAD if parsed.sender else Direction.UPLOAD]
        if parsed.removes:
            ways.append(Direction.UPLOAD)
        if not rules.asks and not exec_is_limited(terms):
            return Program(Kind.EXEC, command, rsync=parsed)  # with the login's shell, which may do all of it anyway
        if (denied := why_no_rsync(terms)) is not None:
            return denied
        if exec_is_limited(terms) and _IN_PLACE & set(parsed.options):
            return refusal("rsync with --inplace, --append or --delay-updates", "in place it may write to a process")
        if rules.looks and parsed.follows_links:
            return refusal("rsync with --copy-links, --copy-dirlinks or --keep-dirlinks", "roles name paths")
        if rules.looks and parsed.removes:
            return refusal("rsync with --remove-source-files", "roles name paths")
    for way in ways:
        denied = why_no_transfer(terms, way)
        if denied is not None:
            return denied
    paths = tuple(map(_unfolded, parsed.paths))
    if isinstance(parsed, ScpCommand):
        transfer = Transfer(
            rules.asks, rules.looks, sink, paths, parsed.recursive, parsed.preserve, parsed.folder or len(paths) > 1
        )
        return Program(Kind.SCP, command, transfer=transfer, scope=rules)
    transfer = Transfer(rules.asks, rules.looks, sink, paths, options=parsed.options)
    return Program(Kind.RSYNC, command, transfer=transfer, scope=rules, rsync=parsed)


def _unfolded(word: Word) -> tuple[str, str]:
    """A word as the launcher gets it."""
    how = "" if word.home is None else f"~{word.home}"
    return (how, word.text) if word.pattern is None else (f"{how}*", word.pattern)

"""What a client asks of its channel, and the program that a session then runs.

A start goes `Start` -> `choose` -> `Program` -> `Session`. Another sort of program gets its own case in `choose` and,
where the launcher has to start it differently, its own `Kind`; what clients ask for beforehand has a place in `Asked`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from teleport.authz.channels import ChannelTerms, why_no_command, why_no_shell
from teleport.authz.decision import AccessDenial
from teleport.launcher.values import Kind, Pty
from teleport.ssh.surface import Exec, Refusal, Shell, Start, Subsystem, TerminalRequest


@dataclass(slots=True)
class Asked:
    """What a client asked of its channel before it started something."""

    environment: list[tuple[str, str]] = field(default_factory=list)  # what the filter kept
    terminal: TerminalRequest | None = None

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
                return Refusal("Subsystems are not offered here.")
    program = Program(Kind.EXEC if forced or command else Kind.SHELL, forced or command, command if forced else "")
    denied = why_no_command(terms, program.command) if program.command else why_no_shell(terms)
    return program if denied is None else denied

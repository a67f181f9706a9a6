"""What may begin in a session where the proxy records, of what a permit lets somebody have, and with which variables.

Rules (pure, nothing is opened or put on record here):

- Nobody joins a session there, and of subsystems there is sftp alone.
- What a plain sshd cannot be held to does not begin: one forced command, limits of which files may move.
- Else the terms of the permit's roles say whether a shell or this command may.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from teleport.authz.channels import ChannelTerms, exec_is_limited, why_no_command, why_no_shell
from teleport.authz.decision import AccessDenial
from teleport.proxy.recording.facts import Facts
from teleport.ssh.surface import Exec, Refusal, Shell, Start, Subsystem

SFTP: Final = "sftp"
# What a client may set: locale and terminal. The host's sshd has a list of its own (AcceptEnv) beside it.
_VARIABLE = re.compile(r"LANG|LANGUAGE|LC_[A-Z]+|TERM|COLORTERM|NO_COLOR|GIT_PROTOCOL")
_VALUE = re.compile(r"[A-Za-z0-9_.:,=@+ -]{0,256}")


@dataclass(frozen=True, slots=True)
class NotBegun:
    """Why something does not begin: what the client is told, and what goes on record (nothing without `asked`)."""

    told: Refusal
    asked: str = ""
    reason: str = ""


def why_not_begun(what: Start, facts: Facts, terms: ChannelTerms, *, joining: bool) -> NotBegun | None:
    """What forbids that a session begins with `what`; None when it may. `joining`: it is to be part of another one."""
    user = facts.user
    denied: AccessDenial | None = None
    if joining:
        told = Refusal("Sessions are not joined where the proxy records them.")
        return NotBegun(told, "join", "sessions are not joined where the proxy records")
    match what:
        case Shell():
            asked, denied = "shell", why_no_shell(terms)
        case Exec(command=command):
            if not command or "\0" in command:
                return NotBegun(Refusal("The command is empty or contains a zero byte."))
            asked, denied = "exec", why_no_command(terms, command)
        case Subsystem(name=name):
            asked = f"subsystem {name[:80]}"
            if name != SFTP:
                return NotBegun(Refusal("The only subsystem that is offered here is sftp."), asked, "not offered here")
            if exec_is_limited(terms) and facts.told_here:
                told = Refusal("Your roles limit which files may move, and this host cannot hold to that.")
                return NotBegun(told, asked, "the roles limit transfers, which a plain sshd does not hold to")
    if user is not None and user.force_command:
        # A plain sshd would run what is asked: a forced command is for hosts of ours.
        told = Refusal("Your certificate is good for one command, which this host cannot be held to.")
        return NotBegun(told, asked, "the certificate forces a command, which is not done at a plain sshd")
    if denied is not None:
        reason = f"{denied.code}: {'; '.join(denied.reasons)}"
        return NotBegun(Refusal.told(denied.public, denied.hint), asked, reason)
    return None


def may_set(name: str, value: str) -> bool:
    """Whether a client may set this variable of a session's environment."""
    return bool(_VARIABLE.fullmatch(name) and _VALUE.fullmatch(value))

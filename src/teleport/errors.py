"""The errors that operators and users read.

Few kinds, because callers only ever distinguish these. The message says what failed, for what, and why; `hint`
is the next command or step. Only the edges (HTTP, SSH, command line) turn a kind into a status or exit code; the
exit codes are those of `reference/ours.md`: 1 failed, 2 usage, 3 not found, 4 exists, 5 denied, 6 unreachable.
"""

from __future__ import annotations

from typing import ClassVar

SECOND_FACTOR_DUE = "This session needs a second factor."
"""The sentence of that refusal wherever it is made; tsh recognises it and asks."""
CALL_FACTOR_DUE = "This needs a second factor of its own."
"""Likewise of a call to the auth API."""


class TeleportError(Exception):
    """Something failed in a way that a person can act upon."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    usual_hint: ClassVar[str] = "run it again with -d, which shows where the error came from"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    @property
    def next_step(self) -> str:
        """What commands print as the hint: the error's own, else the usual one of its kind. Never empty."""
        return self.hint or self.usual_hint


class BadRequest(TeleportError):
    """What was asked cannot be meant: malformed or contradictory input."""

    code = "bad_request"
    exit_code = 2
    usual_hint = "--help shows what can be given"


class AccessDenied(TeleportError):
    """The caller may not do this. The message reveals nothing that the caller may not read."""

    code = "access_denied"
    exit_code = 5
    usual_hint = "ask an administrator, who sees why in the audit log or with tctl access explain"


class NotFound(TeleportError):
    """The named thing does not exist, as far as the caller may know."""

    code = "not_found"
    exit_code = 3
    usual_hint = "check the name; the command ls of its kind lists what there is"


class AlreadyExists(TeleportError):
    """The name is taken."""

    code = "already_exists"
    exit_code = 4
    usual_hint = "use another name, or remove the other one first"


class CompareFailed(TeleportError):
    """Somebody else changed the thing first; read it again and repeat."""

    code = "compare_failed"
    usual_hint = "look at it again, then repeat"


class LimitExceeded(TeleportError):
    """A limit was reached; trying later may succeed. `retry_after`: in so many seconds, 0 when nobody knows."""

    code = "limit_exceeded"
    usual_hint = "wait a moment, then try again"

    def __init__(self, message: str, *, hint: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ConnectionProblem(TeleportError):
    """The other end could not be reached, or did not prove who it is."""

    code = "connection_problem"
    exit_code = 6
    usual_hint = "check the address, and that the service runs there"


class Busy(ConnectionProblem):
    """The other end leads there, and cannot just now."""


class ConnectionLost(ConnectionProblem):
    """A connection was made and then lost, without a word from the other end."""


KINDS: dict[str, type[TeleportError]] = {
    kind.code: kind
    for kind in (
        TeleportError,
        BadRequest,
        AccessDenied,
        NotFound,
        AlreadyExists,
        CompareFailed,
        LimitExceeded,
        ConnectionProblem,
    )
}

"""A refusal at the proxy as two people read it: the user a sentence that tells nothing, the audit log the reasons."""

from __future__ import annotations

from teleport.authz.decision import AccessDenial
from teleport.errors import AccessDenied, TeleportError


class Forbidden(AccessDenied):
    """A refusal by `authz`: the user reads the public sentence, the audit log the reasons."""

    def __init__(self, denial: AccessDenial) -> None:
        super().__init__(denial.public, hint=denial.hint)
        self.reasons = f"{denial.code}: {'; '.join(denial.reasons)}"


def on_record(error: TeleportError) -> str:
    """What the audit log says of a refusal: more than the user hears."""
    if isinstance(error, Forbidden):
        return error.reasons
    return f"{error.message} {getattr(error, 'detail', '')}".strip()

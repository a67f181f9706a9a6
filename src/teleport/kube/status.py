"""Refusals as the API server itself words them, so that kubectl prints the sentence: a `Status` of `v1`. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

_REASONS: Final = {
    400: "BadRequest",
    403: "Forbidden",
    404: "NotFound",
    406: "NotAcceptable",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    502: "ServiceUnavailable",
    503: "ServiceUnavailable",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is answered in place of the API server."""

    code: int
    message: str
    hint: str = ""

    @property
    def sentence(self) -> str:
        """All that somebody reads."""
        return f"{self.message} ({self.hint})" if self.hint else self.message

    @property
    def body(self) -> bytes:
        """JSON; the hint is part of the sentence, because kubectl prints nothing else."""
        return json.dumps(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": self.sentence,
                "reason": _REASONS.get(self.code, "InternalError"),
                "code": self.code,
            }
        ).encode()

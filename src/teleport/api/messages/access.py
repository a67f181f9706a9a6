"""Messages about decisions and their reasons."""

from __future__ import annotations

from teleport.api.messages.base import Message, Request


class ExplainRequest(Request, frozen=True, kw_only=True):
    """Whether a user may log in as `login` on `host`: a UUID, a name, `name.cluster` or an address."""

    user: str
    login: str
    host: str
    cluster: str = ""  # of the certificate; empty: this one


class ExplainReason(Message, frozen=True, kw_only=True):
    """One thing that refuses the session; codes as in denials on record, and `ambiguous`."""

    code: str
    reason: str


class ExplainPart(Message, frozen=True, kw_only=True):
    """One term of a permit, and the roles (or settings) that it comes from."""

    name: str
    value: str
    sources: list[str]


class Explanation(Message, frozen=True, kw_only=True):
    """A permit with its parts, or everything that refuses it."""

    allowed: bool
    user: str
    login: str
    host: str  # as asked
    node_id: str = ""
    hostname: str = ""
    roles: list[str] = []  # those that let the user in
    parts: list[ExplainPart] = []
    reasons: list[ExplainReason] = []
    told: str = ""  # what the user reads
    hint: str = ""

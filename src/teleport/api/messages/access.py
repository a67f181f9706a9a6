"""Messages about decisions and their reasons."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Document, Message, Request


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


class AccessDiffRequest(Request, frozen=True, kw_only=True):
    """What would become of access if these roles were stored."""

    roles: Document  # a JSON list of them
    sessions_only: bool = False  # leave out who gains and loses what


class AccessChange(Message, frozen=True, kw_only=True):
    """A login on a host that a user would gain or lose."""

    user: str
    login: str
    node_id: str
    hostname: str
    gained: bool
    reasons: list[str] = []


class EndingSession(Message, frozen=True, kw_only=True):
    """An open session that would end."""

    sid: str
    user: str
    login: str
    node_id: str
    hostname: str
    started: datetime
    reasons: list[str]


class AccessDiff(Message, frozen=True, kw_only=True):
    """What the roles would change."""

    users: list[str]  # who has one of them
    open_sessions: int  # of these users
    ending: list[EndingSession]
    changes: list[AccessChange] = []
    more: bool = False  # there are more changes than a reply holds
    hosts_left_out: int = 0  # that the caller may not list

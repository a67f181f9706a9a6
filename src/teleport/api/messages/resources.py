"""Messages about resources of every kind, presence and watches."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Document, Message, Request


class ListRequest(Request, frozen=True, kw_only=True):
    """A page of a kind, ordered by name."""

    start_key: str = ""
    limit: int = 1000
    with_secrets: bool = False


class GetRequest(Request, frozen=True, kw_only=True):
    name: str
    with_secrets: bool = False


class Unreadable(Message, frozen=True, kw_only=True):
    """Something that is stored and that this version of auth cannot read."""

    name: str
    problem: str


class Page(Message, frozen=True, kw_only=True):
    items: list[Document]
    next_key: str = ""
    logins: list[list[str]] = []  # of nodes, for a user: the logins that it may use on each, in the order of `items`
    unreadable: list[Unreadable] = []  # among the names of this page: counts for nothing


class One(Message, frozen=True, kw_only=True):
    item: Document
    revision: int = 0  # for `StoreRequest`; 0: it has none


class StoreRequest(Request, frozen=True, kw_only=True):
    """Writes a resource; an existing one only with `force`, a setting that the configuration file decides, and what
    leaves nobody who may edit roles, only with `confirm`, too."""

    item: Document
    force: bool = False
    confirm: bool = False
    revision: int = 0  # replaces it only if it is still as it was then; 0: whatever it is
    check: bool = False  # says what storing it would refuse, and writes nothing; roles of a user may be missing still


class ExpelRequest(Request, frozen=True, kw_only=True):
    """Removes a resource. The certificates of a node are refused until it joins anew unless `keep_identity`; the last
    user who may edit roles goes with `force` only."""

    name: str
    keep_identity: bool = False
    force: bool = False


class CheckRemovalRequest(Request, frozen=True, kw_only=True):
    """What removing a resource would refuse once other changes were made. Nothing is removed."""

    kind: str
    name: str
    along: Document  # users, roles and locks that will have been stored by then, in a list
    removed: list[str] = []  # users that will have been removed by then


class HeartbeatRequest(Request, frozen=True, kw_only=True):
    """A service announces itself. The host must be the caller."""

    item: Document


class Heard(Message, frozen=True, kw_only=True):
    """An announcement was heard; the next one is due within so many seconds."""

    within: int = 60


class LostTunnelsRequest(Request, frozen=True, kw_only=True):
    """A proxy names the hosts whose last tunnel ended there and that made no other: all of them, each time."""

    hosts: list[str]


class WatchRequest(Request, frozen=True, kw_only=True):
    """Everything of some kinds, then every change, one JSON value a line (`WatchLine`)."""

    kinds: list[str]
    start: int = 0
    patient: bool = False  # the caller heeds `WatchLine.within`


class WatchLine(Message, frozen=True, kw_only=True):
    """A line of a watch: first one snapshot, then changes; an empty change is a sign of life.

    With `answer` it is none of these, but what became of the announcement that the caller made in the watch; with
    `within`, too, it is a sign of life as well.
    `within`: the seconds within which the next line comes, also if nothing happens; 0: as before, 40 at first. Who is
    not `patient` is told nothing of it, and hears something every 40 s.
    """

    revision: int = 0
    snapshot: bool = False
    put: list[WatchItem] = []
    deleted: list[str] = []
    within: int = 0
    answer: Answer | None = None


class Answer(Message, frozen=True, kw_only=True):
    """As a call of its own would be answered: HTTP's status, and the body."""

    status: int
    body: Document


class WatchItem(Message, frozen=True, kw_only=True):
    key: str
    value: Document
    revision: int
    expires: datetime | None = None

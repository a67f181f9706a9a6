"""Messages about lists of nodes as people look through them: searched, sorted and cut into pages by auth."""

from __future__ import annotations

from teleport.api.messages.base import Message, Request


class FindNodesRequest(Request, frozen=True, kw_only=True):
    """A page of the nodes that the caller may know of and that fit.

    Each word of `search` has to stand, in whatever case, in the name, the address, the id or a `key=value`; each of
    `labels` is such a pair, which has to be there as it is.
    """

    search: str = ""
    labels: list[str] = []
    sort: str = "hostname"  # hostname, addr, or the name of a label after `label:`
    descending: bool = False
    start: int = 0  # nodes that come before the page
    limit: int = 50


class FoundNode(Message, frozen=True, kw_only=True):
    """A node, as far as a list shows it."""

    id: str
    hostname: str
    addr: str
    labels: dict[str, str]
    tunnel: bool  # it is reached by a tunnel that it keeps
    agentless: bool  # a plain sshd
    silent_for: int  # seconds since it was lost; 0: it is here
    logins: list[str]  # that the caller may use there
    tunnel_lost_for: int = 0  # seconds since when its proxies say that they have no tunnel of it; 0: they do not


class FoundNodes(Message, frozen=True, kw_only=True):
    """A page, which may be shorter than was asked: it stays below 96 kB."""

    items: list[FoundNode]
    total: int  # nodes that fit
    next_start: int  # where the next page begins; 0: there is none

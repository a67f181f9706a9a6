"""Messages about the Kubernetes clusters that a person may use, as auth lists them."""

from __future__ import annotations

from teleport.api.messages.base import Message, Request


class FindKubeClustersRequest(Request, frozen=True, kw_only=True):
    """A page of the caller's, by name. Each word of `search` has to stand, in whatever case, in the name or a
    `key=value`."""

    search: str = ""
    start: int = 0  # clusters that come before the page
    limit: int = 50


class FoundKubeCluster(Message, frozen=True, kw_only=True):
    """A Kubernetes cluster of this cluster of ours. A name may stand for several with other labels: those of one that
    the caller may use are said."""

    name: str
    labels: dict[str, str]
    silent_for: int  # seconds since the last of its services was lost; 0: one is here


class FoundKubeClusters(Message, frozen=True, kw_only=True):
    """A page, which may be shorter than was asked: it stays below 96 kB."""

    items: list[FoundKubeCluster]
    total: int  # clusters that fit
    next_start: int  # where the next page begins; 0: there is none

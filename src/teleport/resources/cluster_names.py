"""Names of clusters: those of this one, and those under which another one may be known here. Pure."""

from __future__ import annotations

import re
from typing import Final

MAX_COMMON_NAME_BYTES: Final = 64  # RFC 5280 appendix A.1, ub-common-name: they stand in the subject's CN
HOST_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


def cluster_problem(name: str) -> str:
    """What keeps `name` from being a cluster's name; empty when it is one."""
    if len(name) > MAX_COMMON_NAME_BYTES:
        return f"is longer than {MAX_COMMON_NAME_BYTES} characters"
    return "" if name.isascii() and HOST_NAME.fullmatch(name.lower()) else "is not made like a host name"


_PUBLIC = frozenset(
    re.split(" ", "app arpa biz cloud com corp dev edu gov home info int internal lan local localhost mil net org xyz")
)


def foreign_cluster_problem(name: str) -> str:
    """What keeps another cluster from going by this name here; empty when nothing does.

    Clients believe its host authority for all names that end so: it must not be what others' names and addresses end
    with, and there is one spelling.
    """
    last = name.rpartition(".")[2]
    if name != name.lower():
        return "has letters in upper case: it could not be told from one in lower case"
    if last.isdecimal():
        return "ends like an IP address"
    if name in _PUBLIC or (last == name and len(name) < 3):
        return "is what names of everybody end with"
    return ""

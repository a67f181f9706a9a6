"""How often another cluster may change its keys here. Pure.

Each change is a write, an event that is never left out, and for the listener a new set of those whom it believes. A
rotation takes a handful, and goes through them quickly; `BURST` of them may come at once, after that one in `EVERY`
seconds. What comes too soon is left for the next exchange: a statement says all that holds, so nothing is lost. What
only takes keys away always counts, so that a stolen key is gone at once: each key goes once, and those that are added
are counted. The count is kept with the link, so that it holds for all auth services together, and
across restarts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from teleport.resources.authority import Authority
from teleport.store.records import ClusterLink

EVERY: Final = 30.0  # seconds
BURST: Final = 10.0  # two rotations, of users' and hosts' authorities apart
TOO_OFTEN: Final = "its authorities changed too often; what they are now is taken at a later exchange"


def counted(link: ClusterLink, now: datetime) -> ClusterLink | None:
    """The link with one more change counted; None when there were too many of late."""
    since = max((now - link.changed).total_seconds(), 0.0) if link.changed is not None else 0.0
    changes = max(link.changes - since / EVERY, 0.0)
    return msgspec.structs.replace(link, changes=changes + 1, changed=now) if changes + 1 <= BURST else None


def only_withdraws(former: Authority | None, made: Authority) -> bool:
    """Whether the other cluster trusts fewer keys than before, and otherwise what it did."""
    if former is None:
        return False
    was = {*former.trusted_ssh_keys, *former.trusted_tls_certs}
    now = {*made.trusted_ssh_keys, *made.trusted_tls_certs}
    gone = {line for one in former.spec.retired_keys for line in one.ssh} | was
    known = {line for one in made.spec.retired_keys for line in one.ssh}
    return now < was and known <= gone

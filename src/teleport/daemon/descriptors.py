"""How many files, and so connections, this process may have open at once."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

WANTED = 65_536
ENOUGH = 8192  # for all that strangers may hold, and some hundred sessions


def raise_limit() -> None:
    """Takes as many as the system allows, up to `WANTED`; says so in the log when these are few.

    Sessions get the usual limit: the launcher, forked before this is called, sets it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < ENOUGH:
        log.warning("only %d files may be open: many connections at once can use them up; raise LimitNOFILE", most)

"""The decision whether a browser's session goes on. Pure.

Auth asks it when a session is taken up or renewed, proxies whenever something changed for those that they serve.

A session stands for a login. What it may do is decided elsewhere, for each call and each session on a host; here is
only what ends it. A role that was taken away ends it, unlike a certificate of tsh, which goes on with what is left:
a browser logs in again in a moment, and nothing that was shown with more rights stays on a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from teleport.authz.locks import user_lock_denial
from teleport.identity import UserIdentity
from teleport.resources.lock import Lock


def why_ended(
    identity: UserIdentity, present: UserIdentity | None, locks: Sequence[Lock], now: datetime, expires: datetime
) -> str:
    """Why the session of `identity` is over, for the record; empty when it goes on.

    `present` is what is left of the identity (`store.standing.user_present`), `expires` the session's own end.
    """
    if expires <= now:
        return "the session has expired"
    if present is None:
        return "the user is gone, or was made anew"
    lost = sorted(set(identity.roles) - set(present.roles))
    if lost:
        return f"roles were taken away: {', '.join(lost)}"
    locked = user_lock_denial(present, locks, now)
    return "; ".join(locked.reasons) if locked is not None else ""

"""The lockout after failed logins: five failures within 30 minutes, and no login of that user is taken for 20. Pure.

Who knows a name can fail at it, so a lockout from everywhere would be a way to keep somebody out (threat T23). An
address from which the user has logged in within a month is therefore counted, and locked, by itself: failures from
elsewhere do not close it, and its own do not close other places. All places together from which the user never logged
in are counted as one, so that guessing from many addresses is no faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from teleport.store.records import LoginPlace, UserSecret
from teleport.transport.limits import who_tries

MAX_FAILURES: Final = 5
REMEMBERED: Final = timedelta(minutes=30)
LOCK_TIME: Final = timedelta(minutes=20)
PLACE_KEPT: Final = timedelta(days=30)
MOST_PLACES: Final = 8  # of one user; the newest


def place_of(client: str) -> str:
    """What counts as one place, of a client's `host:port` or address; empty when it is not known."""
    host = client.rpartition(":")[0] if client.count(":") == 1 or client.startswith("[") else client
    return who_tries(host.strip("[]"))


def known_place(secret: UserSecret, place: str, now: datetime) -> LoginPlace | None:
    """The place, if the user has logged in from there within a month."""
    return next((one for one in secret.places if place and one.place == place and now - one.last < PLACE_KEPT), None)


def locked_at(secret: UserSecret, place: str | None, now: datetime) -> bool:
    """Whether logins from `place` are not taken; None: of somebody who holds a certificate of the user."""
    known = known_place(secret, place or "", now)
    return secret.locked(now) if known is None else known.locked(now)


def locked_until(secret: UserSecret, now: datetime) -> datetime | None:
    """When the last lockout of the user ends, wherever it holds; None when there is none."""
    ends = [end for end in (secret.locked_until, *(one.locked_until for one in secret.places)) if end and now < end]
    return max(ends, default=None)


def count_failure(secret: UserSecret, now: datetime, place: str | None) -> UserSecret:
    """The record after one more failure at `now`. A failure while locked does not lengthen the lock.

    None for `place`: somebody failed who holds a certificate of the user, which no stranger does. Too many of these
    lock every place.
    """
    if place is None:
        if secret.locked(now):
            return secret
        failures, end = _counted(secret.failures, now)
        places = [msgspec.structs.replace(one, locked_until=end) if end else one for one in secret.places]
        return msgspec.structs.replace(secret, failures=failures, locked_until=end, places=places)
    if locked_at(secret, place, now):
        return secret
    known = known_place(secret, place, now)
    if known is None:
        failures, end = _counted(secret.failures, now)
        return msgspec.structs.replace(secret, failures=failures, locked_until=end)
    failures, end = _counted(known.failures, now)
    changed = msgspec.structs.replace(known, failures=failures, locked_until=end)
    return msgspec.structs.replace(secret, places=[changed if one is known else one for one in secret.places])


def _counted(failures: Sequence[datetime], now: datetime) -> tuple[list[datetime], datetime | None]:
    recent = [*(when for when in failures if now - when < REMEMBERED), now]
    return ([], now + LOCK_TIME) if len(recent) >= MAX_FAILURES else (recent, None)


def forgiven(secret: UserSecret) -> UserSecret:
    """The record after a success of somebody who is known already: failures are forgotten, and so is the lock."""
    return msgspec.structs.replace(secret, failures=[], locked_until=None)


def logged_in(secret: UserSecret, now: datetime, place: str) -> UserSecret:
    """The record after a login from `place`. What others failed at elsewhere meanwhile is not forgotten with it."""
    if known_place(secret, place, now) is None:
        secret = forgiven(secret)
    if not place:
        return secret
    others = [one for one in secret.places if one.place != place and now - one.last < PLACE_KEPT]
    return msgspec.structs.replace(secret, places=[*others[-(MOST_PLACES - 1) :], LoginPlace(place=place, last=now)])


def unlocked(secret: UserSecret) -> UserSecret:
    """The record without any lockout or failure; places stay known."""
    places = [LoginPlace(place=one.place, last=one.last) for one in secret.places]
    return msgspec.structs.replace(forgiven(secret), places=places)

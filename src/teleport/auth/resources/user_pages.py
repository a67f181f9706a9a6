"""The list of users as an administrator looks through it: who sees whom is decided as for every list, then searched and
sorted. What is told of a user's second factors are their names and times, never what proves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.factors.lockout import locked_until
from teleport.auth.resources.found_pages import MAX_SEARCH, MOST, Remembered, cut
from teleport.auth.state import ClusterState
from teleport.backend.interface import Item
from teleport.errors import BadRequest
from teleport.resources.codec import from_json
from teleport.resources.kinds import Kind
from teleport.resources.lock import Lock
from teleport.resources.user import User
from teleport.store import records
from teleport.store.records import UserSecret, UserTokenRecord


@dataclass(frozen=True, slots=True)
class _Known:
    """A user, read from one revision."""

    revision: int
    user: User
    text: str  # what is searched
    order: str


class UserPages:
    """The handler of `find_users`."""

    def __init__(self, state: ClusterState, authorizer: Authorizer) -> None:
        self._state = state
        self._authorizer = authorizer
        self._known = Remembered(_known)

    async def find(self, caller: Caller, request: m.FindUsersRequest) -> m.FoundUsers:
        """A page of what the caller may see. Raises `BadRequest`, `AccessDenied`."""
        if not 1 <= request.limit <= MOST or request.start < 0:
            raise BadRequest(f"a page has 1 to {MOST} users")
        if len(request.search) > MAX_SEARCH:
            raise BadRequest(f"a search has at most {MAX_SEARCH} characters")
        if request.sort not in ("name", "login"):
            raise BadRequest(f"users are sorted by name or login, not by {request.sort[:64]!r}")
        words = request.search.lower().split()
        found = [one for one in await self._visible(caller) if all(word in one.text for word in words)]
        moments = {one.order: await self._moment(one) for one in found} if request.sort == "login" else {}
        found.sort(key=lambda one: (moments.get(one.order, ""), one.order), reverse=request.descending)
        chosen = found[request.start : request.start + request.limit]
        page = cut(await self._shown(caller, chosen))
        end = request.start + len(page)
        return m.FoundUsers(items=page, total=len(found), next_start=end if page and end < len(found) else 0)

    async def _visible(self, caller: Caller) -> list[_Known]:
        known = self._known.of(await self._state.backend.range(records.USERS))
        if await self._authorizer.lists_alike(caller, Kind.USER):
            await self._authorizer.require_listing(caller, Kind.USER)
            return known
        listed = await self._authorizer.listable(caller, Kind.USER, [one.user for one in known])
        names = {one.metadata.name for one in listed}
        return [one for one in known if one.user.name in names]

    async def _shown(self, caller: Caller, chosen: Sequence[_Known]) -> list[m.FoundUser]:
        now = self._state.clock.now()
        in_force = [lock for lock in await self._state.locks() if lock.in_force(now)]
        visible = await self._authorizer.listable(caller, Kind.LOCK, in_force)
        locks = [lock for lock in visible if isinstance(lock, Lock)]
        links = await self._links(now)
        shown = []
        for one in chosen:
            user, secret, link = one.user, await self._secret(one.user.name), links.get(one.user.name)
            shown.append(
                m.FoundUser(
                    name=user.name,
                    roles=list(user.roles),
                    traits={name: list(values) for name, values in user.traits.items()},
                    revision=one.revision,
                    created=user.spec.created_by.time,
                    created_by=user.spec.created_by.user.name,
                    expires=min(
                        (end for end in (user.spec.expires, user.metadata.expires) if end is not None), default=None
                    ),
                    password=bool(secret.password_hash),
                    factors=[
                        m.FoundFactor(
                            name=device.name,
                            kind=device.kind,
                            added=device.added,
                            last_used=device.last_used,
                            passwordless=device.passwordless,
                        )
                        for device in secret.devices
                    ],
                    last_login=last_login(secret),
                    locked_out_until=locked_until(secret, now),
                    link=link.kind if link is not None else "",
                    link_expires=link.expires if link is not None else None,
                    locks=[lock.name for lock in locks if _stops(lock, user)],
                )
            )
        return shown

    async def _moment(self, one: _Known) -> str:
        """By what users are sorted: those that never logged in come first."""
        when = last_login(await self._secret(one.user.name))
        return when.isoformat() if when is not None else ""

    async def _secret(self, name: str) -> UserSecret:
        found = await self._state.record(records.USER_SECRETS + name, UserSecret)
        return found[0] if found is not None else UserSecret()

    async def _links(self, now: datetime) -> dict[str, UserTokenRecord]:
        """The links that were handed out and are not used yet, by user."""
        items = await self._state.backend.range(records.USER_TOKENS)
        found = [msgspec.json.decode(item.value, type=UserTokenRecord) for item in items]
        return {link.user: link for link in found if now < link.expires}


def last_login(secret: UserSecret) -> datetime | None:
    """When the user last logged in with a password or a passkey, as far back as places are kept."""
    return max((place.last for place in secret.places), default=None)


def _stops(lock: Lock, user: User) -> bool:
    target = lock.spec.target
    return target.user == user.name or (target.kind == "role" and target.role in user.roles)


def _known(item: Item) -> _Known:
    user = from_json(item.value)
    assert isinstance(user, User)
    traits = (f"{name}={value}" for name, values in user.traits.items() for value in values)
    return _Known(
        item.revision, user, "\n".join((user.name, *user.roles, *traits)).lower(), f"{user.name.lower()}\n{user.name}"
    )

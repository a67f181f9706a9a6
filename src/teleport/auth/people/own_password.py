"""A user's own password: changed by whoever proves the old one and, of those who have one that counts, a second factor.

The user's other browsers are logged out in the same transaction. So the sessions are read after the record that
a login writes, which must be unchanged then: none begins in between.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from teleport.api import messages as m
from teleport.audit.events import UserPasswordChange
from teleport.auth.caller import Caller
from teleport.auth.factors import passwords
from teleport.auth.factors.lockout import forgiven
from teleport.auth.people.devices import DEVICES, Devices
from teleport.auth.people.logins import Logins
from teleport.auth.people.web_sessions import ending_all
from teleport.auth.state import ClusterState
from teleport.backend.interface import Exists, PutOp
from teleport.errors import AccessDenied, CompareFailed
from teleport.store import records
from teleport.store.records import UserSecret


class OwnPasswords:
    """The handler of `change_password`."""

    def __init__(self, state: ClusterState, devices: Devices, logins: Logins) -> None:
        self._state = state
        self._devices = devices
        self._factors = devices.factors
        self._logins = logins

    async def change(self, caller: Caller, request: m.ChangePasswordRequest) -> m.Done:
        """Sets the new password. Raises `AccessDenied`, and `BadRequest` for one that is too weak; what is wrong counts
        as a failed login."""
        user = await self._devices.own_name(caller)
        passwords.check_new_password(request.new, user)
        key = records.USER_SECRETS + user
        found = await self._state.record(key, UserSecret)
        held, revision = found if found is not None else (UserSecret(), 0)
        stored = held.password_hash if not held.locked(self._state.clock.now()) else ""
        if not stored or not await self._logins.hashed(lambda: passwords.verify_password(stored, request.old)):
            await self._factors.failed(user, known=found is not None, events=())
            raise AccessDenied("the old password is wrong", hint="after several failures a user is locked")
        hashed: list[str] = []
        await self._logins.hashed(lambda: hashed.append(passwords.hash_password(request.new)))
        change = _changed(stored, hashed[0])
        ended = await ending_all(self._state, user, "password change", caller.address, keep=request.keep)
        events = [self._state.event(UserPasswordChange, caller), *ended[1]]
        rule = await self._factors.rule()
        if not rule.kinds.isdisjoint(device.kind for device in held.devices):
            await self._factors.prove(
                user,
                request.factor or m.FactorResponse(),
                DEVICES,
                writes=lambda _: ended[0],
                conditions=[Exists(key, revision)],
                events=lambda _: events,
                change=change,
            )
            return m.Done()
        try:
            await self._state.commit(
                [PutOp(key, forgiven(change(held)).encode()), *ended[0]],
                conditions=[Exists(key, revision), Exists(records.USERS + user)],
                events=events,
            )
        except CompareFailed:
            raise CompareFailed("your password is being changed from elsewhere", hint="try again") from None
        return m.Done()


def _changed(old_hash: str, new_hash: str) -> Callable[[UserSecret], UserSecret]:
    """Puts the new password where the old one still is. Raises `AccessDenied` when another one was set meanwhile."""

    def change(secret: UserSecret) -> UserSecret:
        if secret.password_hash != old_hash:
            raise AccessDenied("the password was changed from elsewhere at this moment", hint="log in again")
        return msgspec.structs.replace(secret, password_hash=new_hash)

    return change

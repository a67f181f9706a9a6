"""How often somebody may try: by address, and slower after failures."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Coroutine
from typing import TypeVar

from aiohttp import web

from teleport.clock import Clock
from teleport.errors import AccessDenied, BadRequest, LimitExceeded, NotFound
from teleport.transport.limits import Patience, RateLimit, is_own, who_tries

FREE_FAILURES = 5  # of one user's logins from one address, before the next attempts have to wait
FREE_OF_ADDRESS = 30  # of all logins from one address

T = TypeVar("T")


class Attempts:
    """What was tried at this proxy, and failed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._passwords = RateLimit()
        self._patience = Patience(free=FREE_FAILURES, forgiven=1 / 60, longest=60)  # with a user, from an address
        self._with_address = Patience(free=FREE_OF_ADDRESS, forgiven=1 / 10, longest=10)

    def limit(self, request: web.Request) -> None:
        """Raises `LimitExceeded` when this address asks too often."""
        if not self._passwords.allow(who_tries(request.remote or ""), self._clock.monotonic()):
            raise LimitExceeded("too many attempts from this address; wait a moment")

    async def tried(self, request: web.Request, name: str, attempt: Awaitable[T], *, proves: bool = True) -> T:
        """Does `attempt` with what belongs to `name` (a user, a link), unless too many have failed just now.

        Who fails waits longer and longer before the next attempt on the same name; and a little after many failures on
        whatever names, since many people may share the address. A success clears both, unless it `proves` nothing of
        whoever asks. This host is never kept waiting.
        """
        address, now = who_tries(request.remote or ""), self._clock.monotonic()
        keys = ((self._patience, f"{address} {name[:256]}"), (self._with_address, address))
        wait = 0.0 if is_own(address) else max(patience.wait(key, now) for patience, key in keys)
        if wait:
            if isinstance(attempt, Coroutine):
                attempt.close()
            raise LimitExceeded(f"too many failed attempts from this address; try again in {math.ceil(wait)} s")
        try:
            done = await attempt
        except (AccessDenied, NotFound):
            for patience, key in keys:
                patience.failed(key, self._clock.monotonic())
            raise
        for patience, key in keys if proves else ():
            patience.succeeded(key)
        return done


def named(user: str, password: str, *, passwordless: bool) -> str:
    """On whose attempts a login counts. Raises `BadRequest` when a name comes with a passkey."""
    if not passwordless:
        return user
    if user or password:
        raise BadRequest("a passkey says who it is: no user and no password go with it")
    return "a passkey"

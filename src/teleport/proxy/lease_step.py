"""The question that plain ssh is asked at the proxy: a second factor, which gives a lease for a while.

It is asked of people whose roles or cluster can require a second factor for a session, whose roles give leases, and
who have none for this key and address. It opens nothing by itself: what the lease covers is decided for each target, by
the proxy and by the node. So our own client, which proves a factor for each session in its own way, is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from teleport.audit.events import AuthFailed
from teleport.clock import how_long
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.identity import UserIdentity
from teleport.ssh.handlers import ConnectionHandler, Question
from teleport.ssh.surface import Peer, Refusal

if TYPE_CHECKING:
    from teleport.proxy.ssh_router import SshRouter

MAX_TRIES: Final = 3  # at one connection; auth counts them, too
APPROVED: Final = "Enter once approved: "
OWN_CLIENT: Final = "Teleport-"  # as our client begins its version


class Entrance(Protocol):
    """Lets in whoever proved a certificate."""

    def enter(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal: ...


class LeaseStep:
    """Asks one person (`ssh.handlers.SecondStep`)."""

    def __init__(
        self,
        router: SshRouter,
        entrance: Entrance,
        identity: UserIdentity,
        key: str,
        certificate: bytes,
        login: str,
        peer: Peer,
        lifetime: timedelta,
    ) -> None:
        self._router = router
        self._entrance = entrance
        self._identity = identity
        self._key = key
        self._certificate = certificate
        self._login = login
        self._peer = peer
        self._tries = 0
        self._link = ""
        self._over = False
        lasts = how_long(lifetime.total_seconds())
        self.notice = (
            f"A second factor is needed. ssh asks for it now, once for {lasts}; with BatchMode it cannot: "
            "run ssh without BatchMode first, or tsh ssh."
        )

    def skip(self, client_version: str) -> ConnectionHandler | None:
        if not client_version.removeprefix("SSH-2.0-").startswith(OWN_CLIENT):
            return None
        entered = self._entrance.enter(self._login, self._certificate)
        return None if isinstance(entered, Refusal) else entered

    async def begin(self) -> Question | ConnectionHandler | Refusal:
        if self._tries >= MAX_TRIES:
            return self._refused("too many wrong codes", Refusal.told("Too many wrong codes.", "connect again"))
        try:
            coded, self._link = await self._router.leases.ways(self._certificate, self._peer.host)
        except TeleportError as error:
            return self._failed(error)
        whose = f"Second factor of {self._identity.name}"
        if not self._link:
            return Question(whose, (("One-time code: ", False),))
        told = f"{whose}: approve with your security key at {self._link}"
        return Question(told, (("One-time code, or Enter once approved: " if coded else APPROVED, False),))

    async def answer(self, answers: Sequence[str]) -> Question | ConnectionHandler | Refusal:
        self._tries += 1
        code = answers[0].replace(" ", "")
        if self._link and not code:
            if not await self._router.leases.approved(self._identity, self._key, self._peer.host):
                return self._refused(
                    "second factor: the link was not approved",
                    Refusal.told("Nobody approved it at the link.", "connect again: ssh shows a new link"),
                )
        else:
            try:
                await self._router.leases.obtain(self._identity, self._certificate, self._peer.host, code)
            except TeleportError as error:
                return self._failed(error)
        self._over = True
        return self._entrance.enter(self._login, self._certificate)

    def _failed(self, error: TeleportError) -> Refusal:
        known = isinstance(error, AccessDenied | BadRequest)
        told = _sentence(error) if known else "The second factor cannot be checked now."
        return self._refused(
            f"second factor: {error.message}", Refusal.told(told, error.hint if known else "try again")
        )

    def _refused(self, reason: str, told: Refusal) -> Refusal:
        self._router.put_on_record(AuthFailed, self._identity, self._login, self._peer, error=reason)
        return told

    def abandoned(self, reason: str) -> None:
        if not self._over and not self._tries:
            self._refused("mfa_required: a second factor was asked for and not given", Refusal(reason))


def _sentence(error: TeleportError) -> str:
    return f"{error.message[:1].upper()}{error.message[1:].rstrip('.')}."

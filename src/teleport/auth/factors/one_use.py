"""A second factor that is proved for one thing: a session, calls to the API, a lease.

A factor that is wrong counts as a failed login, and locks the user as one does; it is good once, for what it was asked
for (threats T22, T36).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from teleport.api import messages as m
from teleport.audit.events import Event, SessionMfa
from teleport.auth.factors.checking import Factors, event_device, refused_factor
from teleport.auth.factors.lockout import forgiven
from teleport.auth.state import ClusterState
from teleport.authz.session_mfa import kube_target
from teleport.backend.interface import Condition, Exists, PutOp, Write
from teleport.errors import CompareFailed
from teleport.identity import MFA_API
from teleport.store import records
from teleport.store.records import FactorDevice, UserSecret


@dataclass(frozen=True, slots=True)
class Asked:
    """For what a second factor is proved, as events say it."""

    purpose: str  # session, api, lease
    user: str
    addr: str
    login: str = ""
    server_id: str = ""
    key: str = ""  # fingerprint, of a lease
    kube_cluster: str = ""
    joins: bool = False  # with kube_cluster: for sessions in its pods, not for calls

    @property
    def target(self) -> str:
        """What a certificate is marked with that the factor gives: the one thing that it counts for."""
        return self.server_id or kube_target(self.kube_cluster) or MFA_API

    @property
    def purpose_of_challenge(self) -> str:
        """What a hardware key's signature is good for: this session, or this lease, and nothing else."""
        where = self.server_id or kube_target(self.kube_cluster)  # which may have blanks, so all words stand before it
        purpose = f"{self.purpose}-join" if self.joins else self.purpose
        return " ".join((purpose, where, self.login, self.key, self.addr if self.key else "")).strip()


@dataclass(frozen=True, slots=True)
class Proof:
    """A second factor that was right. It counts once what is written here has been committed."""

    device: FactorDevice
    writes: tuple[Write, ...]
    conditions: tuple[Condition, ...]


class SessionFactor:
    """Checks what a device answered, and has it count."""

    def __init__(self, state: ClusterState, factors: Factors) -> None:
        self._state = state
        self._factors = factors

    async def challenge(self, asked: Asked) -> m.FactorChallenge:
        """What the user's devices are asked. Raises `BadRequest` when none counts."""
        return await self._factors.challenge(asked.user, asked.purpose_of_challenge)

    async def prove(self, asked: Asked, answer: m.FactorResponse) -> Proof:
        """What is to be written for the answer to count. Raises `AccessDenied`, the failure being counted."""
        key = records.USER_SECRETS + asked.user
        found = await self._state.record(key, UserSecret)
        secret, revision = found if found is not None else (UserSecret(), 0)
        checked = await self._factors.check(asked.user, secret, answer, asked.purpose_of_challenge)
        locked = secret.locked(self._state.clock.now())
        if checked.device is None or locked:
            reason = "the user is locked after too many failures" if locked else checked.reason
            await self._failed(asked, reason, checked.spent)
            raise refused_factor()
        return Proof(
            checked.device,
            (PutOp(key, forgiven(checked.secret).encode()), *checked.spent),
            (Exists(key, revision), *checked.conditions),
        )

    async def commit(
        self,
        asked: Asked,
        proof: Proof,
        writes: Sequence[Write],
        conditions: Sequence[Condition],
        events: Sequence[Event],
    ) -> None:
        """The use of the factor, what it gives and what tells of both, all of it or nothing."""
        try:
            await self._state.commit(
                [*proof.writes, *writes],
                conditions=[*proof.conditions, *conditions],
                events=[self._event(asked, device=proof.device), *events],
            )
        except CompareFailed:
            await self._failed(asked, "the factor was used at the same moment, or the user changed", ())
            raise refused_factor() from None

    async def _failed(self, asked: Asked, reason: str, spent: Sequence[Write]) -> None:
        """Counts the failure as that of a login, with its event, in one transaction."""
        events = [self._event(asked, error=reason)]
        await self._factors.failed(asked.user, known=True, events=events, spent=spent)

    def _event(self, asked: Asked, *, error: str = "", device: FactorDevice | None = None) -> SessionMfa:
        told: dict[str, Any] = {} if device is None else {"mfa_device": event_device(device)}
        return self._state.event(
            SessionMfa,
            user=asked.user,
            login=asked.login,
            purpose="join" if asked.joins else asked.purpose,
            server_id=asked.server_id,
            addr=asked.addr,
            kubernetes_cluster=asked.kube_cluster,
            success=not error,
            error=error,
            **told,
        )

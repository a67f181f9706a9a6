"""Signs a checkpoint over all chains every 10 s, while holding the lease (`chain.checkpoint` has the format).

The signed statement is saved before it is written as an event and marked written after; a crash in between writes
the same statement again, never another one of the same number. A step is taken while holding the store's lock, since
two processes of one host could else sign two statements of one number. A signature that fails is an error in the log
and in `problem`; nothing unsigned is ever written (threats T43).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import msgspec

from teleport.audit.chain import ChainKey, CheckpointState, Head, Signer, next_checkpoints, reference
from teleport.audit.chain.checkpoint import DOMAIN, Verify
from teleport.audit.events import AuditCheckpoint, Event
from teleport.clock import Clock
from teleport.errors import TeleportError
from teleport.pki import signing
from teleport.pki.keys import PublicKey

log = logging.getLogger(__name__)
INTERVAL = 10.0  # seconds between checkpoints (design decision 10)


def verifier(keys: Sequence[PublicKey]) -> Verify:
    """Believes checkpoints that one of `keys` signed."""
    known = {key.fingerprint(): key for key in keys}

    def verify(key_id: str, message: bytes, signature: bytes) -> bool:
        if key_id not in known:
            return False
        try:
            signing.verify(DOMAIN, message, signature, known[key_id])
        except TeleportError:
            return False
        return True

    return verify


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """The last checkpoint: its event's JSON, and whether it is known to be in the log."""

    event: bytes
    written: bool


class LeaseElsewhere(TeleportError):
    """Another auth server signs: nothing is wrong."""


class CheckpointStore(Protocol):
    """One record in auth's database."""

    async def load_checkpoint(self) -> SavedCheckpoint | None: ...

    async def save_checkpoint(self, saved: SavedCheckpoint) -> None: ...


class Heads(Protocol):
    """What is signed, and who is told: the intake."""

    checkpoint: str

    async def know_all(self) -> None:
        """Makes `heads` what they are now; for who holds the store's lock."""
        ...

    def heads(self) -> Mapping[ChainKey, Head]: ...


class Emits(Protocol):
    """Auth's own emitter."""

    @property
    def key(self) -> ChainKey: ...

    async def emit(self, event: Event) -> None: ...


class Checkpointer:
    """The task. `lease()` is entered for each step and must refuse (`TeleportError`) when another holds it."""

    def __init__(
        self,
        heads: Heads,
        emitter: Emits,
        records: CheckpointStore,
        signer: Signer,
        lease: Callable[[], AbstractAsyncContextManager[object]],
        clock: Clock,
        *,
        cluster: str,
        exclusive: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        """`exclusive` keeps other processes of this host from changing the store meanwhile."""
        self.problem = ""
        self._exclusive = exclusive or nullcontext()
        self._heads = heads
        self._emitter = emitter
        self._records = records
        self._signer = signer
        self._lease = lease
        self._clock = clock
        self._cluster = cluster
        self._state = CheckpointState()
        self._own_lines = 0  # checkpoint events of the last step that wrote any

    async def run(self) -> None:
        """A step every `INTERVAL` until cancelled."""
        while True:
            try:
                await self.step()
                self.problem = ""
            except LeaseElsewhere as error:
                self.problem = ""
                log.debug("not signing: %s", error)
            except TeleportError as error:
                self._failed(str(error))
            except Exception as error:  # a signer may fail in any way; the next step tries again, and this is seen
                self._failed(repr(error))
            await asyncio.sleep(INTERVAL)

    async def step(self) -> None:
        """Signs and writes what moved since the last checkpoint. Errors of lease, signer and stores pass through."""
        async with self._lease(), self._exclusive:
            state = await self._resume()
            await self._heads.know_all()
            planned = self._plan(state)
            self._own_lines = len(planned) or self._own_lines
            for event, after in planned:
                await self._write(event)
                self._state = after
                self._heads.checkpoint = str(after.last)

    async def _resume(self) -> CheckpointState:
        """Where the last checkpoint left off, whoever made it; writes it when that is not sure to have happened."""
        saved = await self._records.load_checkpoint()
        if saved is None:
            return CheckpointState()
        event = msgspec.json.decode(saved.event, type=AuditCheckpoint)
        if not saved.written:
            await self._emitter.emit(event)
            await self._records.save_checkpoint(SavedCheckpoint(saved.event, True))
        last = reference(event)
        self._heads.checkpoint = str(last)
        return self._state if self._state.last == last else CheckpointState(last)

    def _plan(self, state: CheckpointState) -> list[tuple[AuditCheckpoint, CheckpointState]]:
        heads = self._heads.heads()
        if state.heads is not None and not self._moved(state.heads, heads):
            return []
        return list(
            next_checkpoints(
                state,
                heads,
                self._signer,
                cluster=self._cluster,
                now=self._clock.now(),
                uid=lambda: str(uuid.uuid4()),
            )
        )

    def _moved(self, before: Mapping[ChainKey, Head], heads: Mapping[ChainKey, Head]) -> bool:
        """Whether anything but the last checkpoint's own event is new: else an idle cluster would sign for ever."""
        own = self._emitter.key
        for key, head in heads.items():
            known = before.get(key)
            if known != head and not (key == own and known is not None and head.seq <= known.seq + self._own_lines):
                return True
        return False

    async def _write(self, event: AuditCheckpoint) -> None:
        encoded = msgspec.json.encode(event)
        await self._records.save_checkpoint(SavedCheckpoint(encoded, False))
        await self._emitter.emit(event)
        await self._records.save_checkpoint(SavedCheckpoint(encoded, True))

    def _failed(self, text: str) -> None:
        if text != self.problem:
            log.error("the audit log is not being signed: %s", text)
        self.problem = text

"""A small audit pipeline: a store, auth's intake, emitters that deliver to it, a signing key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teleport.audit.chain import Linked, Signer
from teleport.audit.checkpoints import Checkpointer
from teleport.audit.emitter import Emitter
from teleport.audit.intake import Intake, LocalDelivery
from teleport.audit.memory import MemoryRecords
from teleport.audit.shipper import IntakeAck, Shipper
from teleport.audit.sinks import FileSink

AUTH = "auth-1"


@dataclass
class ManualClock:
    """Moves only when told."""

    when: datetime = datetime(2021, 5, 1, 10, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.when

    def monotonic(self) -> float:
        return self.when.timestamp()

    def forward(self, **parts: float) -> None:
        self.when += timedelta(**parts)


@dataclass
class HostDelivery:
    """A host's way to auth, which may be away and may lose answers."""

    intake_of: Intake
    host: str
    away: Exception | None = None
    lose_answers: int = 0
    calls: list[int] = field(default_factory=list)

    async def intake(self, emitter: str, epoch: int, lines: list[bytes]) -> IntakeAck:
        self.calls.append(len(lines))
        if self.away is not None:
            raise self.away
        ack = await self.intake_of.intake(emitter, epoch, lines, allowed_emitter=self.host)
        if self.lose_answers and lines:
            self.lose_answers -= 1
            raise ConnectionError("answer lost")
        return ack


@dataclass
class AuditLog:
    """Everything in one place, under `root`."""

    root: Path
    clock: ManualClock = field(default_factory=ManualClock)
    records: MemoryRecords = field(default_factory=MemoryRecords)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    _open: list[Emitter | FileSink] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sink = FileSink(self.root / "log", AUTH, self.clock)
        self.intake = Intake(self.sink, self.records, self.clock, cluster="c1")
        self._open.append(self.sink)

    def emitter(self, host: str, epoch: int = 1) -> Emitter:
        emitter = Emitter.open(self.root / "spool" / host, host, epoch, self.clock, cluster="c1")
        self._open.append(emitter)
        return emitter

    def delivery(self, host: str) -> HostDelivery:
        return HostDelivery(self.intake, host)

    def shipper(self, emitter: Emitter) -> Shipper:
        host = emitter.key.emitter
        return Shipper(emitter, LocalDelivery(self.intake, host) if host == AUTH else self.delivery(host))

    def checkpointer(self, emitter: Emitter) -> Checkpointer:
        def lease() -> AbstractAsyncContextManager[object]:
            return nullcontext()

        signer = Signer("key-1", self.key.sign)
        return Checkpointer(self.intake, emitter, self.records, signer, lease, self.clock, cluster="c1")

    def verify(self, key_id: str, message: bytes, signature: bytes) -> bool:
        if key_id != "key-1":
            return False
        try:
            self.key.public_key().verify(signature, message)
        except InvalidSignature:
            return False
        return True

    @property
    def store(self) -> Path:
        return self.root / "log"

    def delivered(self) -> list[bytes]:
        """The lines of the store as they were delivered: each without the receipt, which it must have."""
        found = []
        for line in self.lines():
            assert Linked.parse(line).received, line
            found.append(re.sub(rb',"received":"[^"]*","receipt":"[^"]*"', b"", line))
        return found

    def lines(self) -> list[bytes]:
        return b"".join(path.read_bytes() for path in sorted((self.store / AUTH).glob("*.log"))).splitlines()

    def close(self) -> None:
        for thing in reversed(self._open):
            thing.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def audit_log(tmp_path: Path) -> Iterator[AuditLog]:
    log = AuditLog(tmp_path)
    yield log
    log.close()

"""When certificates were last used: cheap, and so to the minute at best, to ten minutes for what is in use all day.

A use is a note in memory. Once a minute the notes are written, in few transactions, each certificate at most once in
ten minutes: a connection never costs a write. What a killed process had not written is lost, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from teleport.backend.interface import Backend, Write
from teleport.backend.interface import PutOp as Put
from teleport.errors import TeleportError
from teleport.identity import HostIdentity, Identity, UserIdentity
from teleport.store.issued import IssuedCert, LastUse, issued_key, last_use_key

log = logging.getLogger(__name__)

WRITE_EVERY: Final = 60.0  # seconds
GRAIN: Final = timedelta(minutes=10)
MOST: Final = 100_000  # certificates that are remembered between two writes, and as written
AT_ONCE: Final = 500  # writes in one transaction, so that those of others come in between


class Uses:
    """Notes of use, and the task that writes them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._noted: dict[tuple[str, str], datetime] = {}
        self._written: dict[tuple[str, str], datetime] = {}

    def note(self, identity: Identity, now: datetime) -> None:
        """Somebody showed the certificate of this identity."""
        if isinstance(identity, UserIdentity | HostIdentity) and identity.serial:
            self.note_serial("user" if isinstance(identity, UserIdentity) else "host", identity.serial, now)

    def note_serial(self, kind: str, serial: str, when: datetime) -> None:
        """As `note`, for what hosts tell of."""
        key = (kind, serial)
        written = self._written.get(key)
        if (written is None or when - written >= GRAIN) and len(self._noted) < MOST:
            self._noted[key] = max(when, self._noted.get(key, when))

    async def run(self) -> None:
        """Writes every minute until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY)
            try:
                await self.write()
            except TeleportError as error:
                log.warning("the last use of certificates could not be written: %s", error)

    async def write(self) -> None:
        """Writes what was noted since the last time, of certificates that are in the inventory."""
        noted = list(self._noted.items())
        for begin in range(0, len(noted), AT_ONCE):
            await self._write(noted[begin : begin + AT_ONCE])
        if len(self._written) > MOST:
            self._written.clear()  # some are written once too often

    async def _write(self, noted: Sequence[tuple[tuple[str, str], datetime]]) -> None:
        writes: list[Write] = []
        for (kind, serial), when in noted:
            item = await self._backend.get(issued_key(kind, serial))
            if item is not None:
                end = msgspec.json.decode(item.value, type=IssuedCert).expires
                writes.append(Put(last_use_key(kind, serial), LastUse(when=when).encode(), end))
        if writes:
            await self._backend.commit(writes)
        for key, when in noted:
            self._written[key] = when
            if self._noted.get(key) == when:
                del self._noted[key]

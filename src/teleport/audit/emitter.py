"""Where a daemon's events enter the log: `await emitter.emit(event)` returns when the event is on this host's disk.

Emitting is part of the audited operation: when it fails the operation fails (threats T46). Nothing here waits for
auth; `shipper.Shipper` delivers. One emitter is one chain: a daemon process, named by host UUID and epoch.
"""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any, TypeVar

from teleport import counted
from teleport.audit import spool
from teleport.audit.chain import ChainKey, ChainState
from teleport.audit.chain.link import EMITTER_ID
from teleport.audit.events import Event, UserLogin
from teleport.audit.events.base import event_name
from teleport.audit.groupcommit import GroupCommit
from teleport.clock import Clock
from teleport.errors import BadRequest, TeleportError

E_ = TypeVar("E_", bound=Event)


class Emitter:
    """One daemon's chain and its spool."""

    def __init__(self, writer: spool.Writer, state: ChainState, clock: Clock, cluster: str) -> None:
        """Use `open`."""
        self.checkpoint = ""  # last one that auth told of; goes into the next event
        self.cluster = cluster
        self._writer = writer
        self._state = state
        self._clock = clock
        self._told: asyncio.Event | None = None
        self._commit = GroupCommit(self._write, f"audit spool of epoch {state.key.epoch}")

    @classmethod
    def open(cls, directory: Path, emitter_id: str, epoch: int, clock: Clock, *, cluster: str = "") -> Emitter:
        """Starts the chain of (emitter_id, epoch) in `directory`, the host's spool; blocks for some file operations.

        Raises `BadRequest` for a bad id or epoch, `AlreadyExists` when the epoch has been used.
        """
        if not EMITTER_ID.fullmatch(emitter_id) or not 0 < epoch < 2**63:
            raise BadRequest(f"emitter {emitter_id!r} epoch {epoch}: an id of letters and digits and a positive epoch")
        former = spool.last_hash(directory, epoch)
        writer = spool.Writer.open(directory, epoch)
        return cls(writer, ChainState(ChainKey(emitter_id, epoch), 0, former), clock, cluster)

    @property
    def key(self) -> ChainKey:
        """Which chain this is."""
        return self._state.key

    @property
    def directory(self) -> Path:
        """The host's spool."""
        return self._writer.directory

    @property
    def durable_seq(self) -> int:
        """The last event that is on disk."""
        return self._state.seq

    @property
    def syncs(self) -> int:
        """How many times data was made durable."""
        return self._writer.syncs

    def new(self, cls: type[E_], **fields: Any) -> E_:
        """An event of now, with a fresh uid and this cluster's name."""
        return cls(time=self._clock.now(), uid=str(uuid.uuid4()), cluster_name=self.cluster, **fields)

    async def emit(self, event: Event) -> None:
        """Returns when `event` is durable here; raises `TeleportError` when it is not: the operation must fail then."""
        try:
            await self._commit.put(event)
        except TeleportError:
            counted.NOT_EMITTED.add()
            raise
        counted.EMITTED.add(event_name(event))
        if isinstance(event, UserLogin):
            (counted.LOGINS if event.success else counted.FAILED_LOGINS).add()
        if self._told is not None:
            self._told.set()

    def tell(self, event: asyncio.Event) -> None:
        """Sets `event` after each emitted event (the shipper's alarm)."""
        self._told = event

    def close(self) -> None:
        """Makes durable what waits and closes the spool. What auth does not have stays for the next process."""
        self._commit.close()
        self._writer.close()

    def _write(self, events: list[Event]) -> list[TeleportError | None]:
        """In the writer's thread: links and appends; one event that cannot be written does not spoil the others."""
        errors: list[TeleportError | None] = []
        lines: list[bytes] = []
        state, checkpoint = self._state, self.checkpoint
        for event in events:
            try:
                line, state = state.append(event, checkpoint)
            except (BadRequest, TypeError, ValueError) as error:
                message = error.message if isinstance(error, TeleportError) else str(error)
                errors.append(BadRequest(f"the event cannot be written: {message}"))
            else:
                lines.append(line)
                errors.append(None)
        if lines:
            self._writer.append(lines)
            self._state = state
        return errors

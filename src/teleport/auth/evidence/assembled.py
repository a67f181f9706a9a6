"""What auth does about audit events and recordings, put together: taken in, kept, told elsewhere, proved, pruned.

Order at start: copies begin where they were once intake has read the store on; checkpoints are signed with a key that
is there before anything runs. Order at the end: what waits in the outbox is moved, what this process told is delivered,
intake finishes, and only then do copies and searches end; the files are closed last. What writes to the store, prunes
it or signs for it holds the store's lock; what one auth server does for all of them is behind the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from teleport.audit.checkpoints import Checkpointer
from teleport.audit.emitter import Emitter
from teleport.audit.events import AuditPrune
from teleport.audit.intake import Intake, LocalDelivery
from teleport.audit.outbox import OutboxPump
from teleport.audit.shipper import Shipper
from teleport.audit.sinks import FileSink, MultiSink, Sink
from teleport.auth.authorizer import Authorizer
from teleport.auth.config import AuthConfig
from teleport.auth.evidence.api import Evidence
from teleport.auth.evidence.places import RecordingPlace
from teleport.auth.evidence.recorded import Recorded
from teleport.auth.evidence.store import EvidenceStore, Lease, signer
from teleport.auth.evidence.tailing import Tailing
from teleport.auth.evidence.waiting import Waiting
from teleport.auth.retention.holds import Holds
from teleport.auth.retention.pruner import Pruner, Said
from teleport.auth.retention.recordings import RecordingPruner
from teleport.auth.sessions.claims import Claims
from teleport.auth.sessions.opened import SessionTracker
from teleport.auth.state import ClusterState
from teleport.backend.interface import Backend
from teleport.clock import Clock
from teleport.copies.copier import Source
from teleport.copies.places import Copies
from teleport.recording.verify import SignatureCheck


class AssembledEvidence:
    """The evidence of one auth server. `begin`, then `start`; at the end `settle` and `abandon`."""

    def __init__(
        self,
        config: AuthConfig,
        backend: Backend,
        clock: Clock,
        emitter: Emitter,
        state: ClusterState,
        sink: FileSink,
        authorizer: Authorizer,
        claims: Claims,
        check: SignatureCheck,
        lease: Lease,
    ) -> None:
        """`check` says whose recordings count. Raises `TeleportError` when the place of recordings cannot be used."""
        self._config = config
        self._clock = clock
        self._emitter = emitter
        self._state = state
        self._sink = sink
        self._lease = lease
        records = EvidenceStore(backend, clock)
        self._records = records
        shared = config.shared_storage
        self.place = RecordingPlace(config.recordings_directory, config.recordings_s3, backend, check)
        self.recordings, self._indexer = self.place.store, self.place.indexer
        copies: list[Sink] = [SessionTracker(backend, state.uses, claims, auth=config.host_id)]
        self.intake = Intake(
            sink,
            records,
            state.clock,
            cluster=state.cluster,
            sink=MultiSink(sink, copies),
            gaps=records,
            shared=records if shared else None,
        )
        self.recorded = Recorded(state, authorizer, self.recordings, self._indexer)
        self.waiting = Waiting(records, sink.lock, self.intake, lambda: self.pump.problem, state.clock)
        self.tailing = Tailing(config.audit_directory, self._durable, self.waiting)
        source = Source(config.audit_directory, self._durable, config.host_id, emitter.key.epoch)
        self.copies = Copies(config.copies, source, backend, lease, config.node_name)
        first = config.searched
        first_searched = partial(self.copies.first_searched, first) if first is not None else None
        self.api = Evidence(
            state,
            authorizer,
            self.intake,
            records,
            self.recordings,
            config.audit_directory,
            self.recorded,
            self._indexer,
            self.waiting,
            claims,
            self.place.arrived,
            first_searched,
        )
        self.pump = OutboxPump(records, emitter, self._in_store, sink.lock, step=sink.lock if shared else None)
        if not shared:
            sink.lock.after_others(self.pump.look_again)
        records.on_event, records.cluster = self.pump.kick, state.cluster
        claims.on_event, claims.cluster = self.pump.kick, state.cluster
        self._checkpointer: Checkpointer | None = None
        self.shipper = Shipper(emitter, LocalDelivery(self.intake, config.host_id))
        self.holds = Holds(state, sink.lock)
        self._pruner = Pruner(
            config.audit_directory,
            config.retention,
            clock=state.clock,
            lease=lease,
            exclusive=sink.lock,
            holds=self.holds.all,
            durable=self._durable,
            copied=self.copies.cursors,
            prove=partial(self.api.proof, fetch=False),
            say=self._say_pruned,
            restored=records.load_restored,
        )
        self._recording_pruner = RecordingPruner(
            state,
            self.recordings,
            config.recordings_retention,
            lease=lease,
            exclusive=sink.lock,
            holds=self.holds.all,
            prove=self.api.proof,
            restored=records.load_restored,
        )

    async def begin(self) -> None:
        """Reads the store on, and finds how far the copies are."""
        await self.intake.start()
        await self.copies.begin()

    async def make_checkpointer(self) -> Checkpointer:
        """What `start` runs, with the key that the storage has for it."""
        self._checkpointer = Checkpointer(
            self.intake,
            self._emitter,
            self._records,
            signer(await self._records.checkpoint_key()),
            self._lease,
            self._clock,
            cluster=self._state.cluster,
            exclusive=self._sink.lock,
        )
        return self._checkpointer

    def start(self, tasks: asyncio.TaskGroup, checkpointer: Checkpointer) -> None:
        """What goes on for as long as the API is served."""
        tasks.create_task(self.pump.run(), name="audit outbox")
        tasks.create_task(self.shipper.run(), name="audit delivery")
        tasks.create_task(self.copies.run(), name="copies of audit events")
        tasks.create_task(self._pruner.run(), name="pruning of audit events")
        tasks.create_task(self._recording_pruner.run(), name="pruning of recordings")
        tasks.create_task(checkpointer.run(), name="audit checkpoints")
        tasks.create_task(self._indexer.run(), name="searchable recordings")
        tasks.create_task(self.place.run(), name="recordings to S3")

    def problems(self) -> Mapping[str, Callable[[], str]]:
        """Parts that can have trouble while the API is served, each with what says why; empty when it has none."""
        return {
            "recordings": lambda: self.place.problem,
            "audit intake": lambda: self.pump.problem or self.shipper.problem or self._held_up(),
            "audit checkpoints": lambda: self._checkpointer.problem if self._checkpointer is not None else "",
            "copies of audit events": lambda: self.copies.problem,
        }

    def _held_up(self) -> str:
        held = self.waiting.lock.held_up()
        return str(held) if held is not None else ""

    async def settle(self) -> None:
        """Brings what is told of to the store, and ends what reads it. Raises `TeleportError`, `OSError`."""
        await self.pump.pump()
        await self.shipper.deliver_all()
        await self.intake.close()
        await self.copies.finish()
        await self.api.close()

    def abandon(self) -> None:
        """Closes the files."""
        self.recordings.close()
        self._sink.close()

    async def _say_pruned(self, said: Said) -> None:
        await self._state.tell(self._state.event(AuditPrune, **said.fields))

    async def _durable(self) -> Mapping[str, str]:
        return await self._records.durable(self._config.host_id, shared=self._config.shared_storage)

    async def _in_store(self, uids: set[str]) -> set[str]:
        return await self.api.searcher.find_uids(uids, self._clock.now() - timedelta(days=2))

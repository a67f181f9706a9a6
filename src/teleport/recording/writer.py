"""Recording a session from the event loop, at next to no cost per byte there.

The loop only notes references to the bytes it relays anyway, with their times. Batches of about 2 MiB, or whatever
came in 0.3 s, go to a few threads that all sessions of the process share; they pack, compress, hash, write and sync,
outside the interpreter's lock for nearly all of it. Threads are shared because most sessions are idle most of the
time, and there are several because one `fdatasync` takes as long for a byte as for a megabyte.

Promises:
- `acknowledged_bytes` are on disk, and nothing recorded is older than about 0.5 s (at most 1 s) without being so;
- order is kept over all streams; times never go back;
- memory is bounded: `drain` holds the caller back, and a caller that does not drain makes the recording fail;
- a recording that cannot go on says so at once (`failed`), ends at a whole chunk, and counts what it lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from teleport.clock import Clock
from teleport.errors import BadRequest, LimitExceeded, TeleportError
from teleport.recording.directory import RecordingDirectory
from teleport.recording.format import (
    BYTE_KINDS,
    ExecDetail,
    FileDetail,
    ForwardDetail,
    Frame,
    FrameKind,
    RecordingHeader,
    SignFunction,
    encode_detail,
    encode_size,
    plain_text,
)
from teleport.recording.spool_file import RecordingSummary, SpoolFile

BATCH_BYTES = 2 * 1024 * 1024  # handed to a thread at once; each time threads wait for one another
FLUSH_AFTER = 0.3  # seconds after which a smaller batch is handed over
SYNC_AFTER = 0.3  # seconds after which written bytes are synced
SYNC_BYTES = 16 * 1024 * 1024  # or this many
HIGH_WATER = 16 * 1024 * 1024  # bytes in memory above which `drain` waits
LOW_WATER = 4 * 1024 * 1024
UNSYNCED_LIMIT = 64 * 1024 * 1024  # bytes in the system's cache above which `drain` waits
HARD_LIMIT = 256 * 1024 * 1024  # bytes in memory at which the recording fails
LONG_SEAL = 16 * 1024 * 1024  # bytes left to seal above which ending a recording gets a thread of another kind
_FRAME_COST = 160  # what Python keeps in memory beside the bytes of a frame


_frame = partial(tuple.__new__, Frame)  # half the time of Frame(...), for what happens with every piece


class RecordingSpool:
    """The folder where this process records, and the threads that do it. One for each daemon."""

    def __init__(self, path: Path, *, clock: Clock, sign: SignFunction | None = None, threads: int = 4) -> None:
        """`sign` is called in a thread, once for each recording as it ends. Raises `TeleportError` when `path`
        cannot be used."""
        self.directory = RecordingDirectory(path)
        self.clock = clock
        self.sign = sign
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="recording")
        # sealing gigabytes takes seconds: not in the threads that keep the promise to all other sessions
        self.sealers = ThreadPoolExecutor(2, thread_name_prefix="recording-seal")
        self._open: set[Recorder] = set()
        self._making: set[Future[SpoolFile]] = set()
        self._closed = False

    async def start(self, header: RecordingHeader) -> Recorder:
        """Begins a recording; when this returns its header is on disk, so the session may begin.

        `AlreadyExists`, `BadRequest` (the session id) or `TeleportError` (the disk) mean that nothing is recorded.
        """
        if self._closed:
            raise self._stopped()
        begun = self.clock.monotonic()
        making = self.pool.submit(SpoolFile, self.directory, header)
        self._making.add(making)
        try:
            file = await asyncio.wrap_future(making)
        except asyncio.CancelledError:
            making.add_done_callback(_discard)
            raise
        finally:
            self._making.discard(making)
        if self._closed:
            raise self._stopped()  # `close` removes the file
        recorder = Recorder(file, self, begun)
        self._open.add(recorder)
        return recorder

    def forget(self, recorder: Recorder) -> None:
        """Called by a recorder that has ended."""
        self._open.discard(recorder)

    async def close(self, reason: str = "service stopped") -> None:
        """Ends what still records, with `reason`, and the threads. Recordings that fail here are left to recovery.

        Sessions that go on for a moment learn of it by `Recorder.failed`; nothing is recorded any more.
        """
        self._closed = True
        for making in list(self._making):
            with suppress(TeleportError):
                (await asyncio.wrap_future(making)).discard()
        for recorder in list(self._open):
            recorder.stopped(self._stopped())
        for recorder in list(self._open):
            with suppress(TeleportError):
                await recorder.close(reason)
        await asyncio.to_thread(self.pool.shutdown)
        await asyncio.to_thread(self.sealers.shutdown)
        self.directory.close()

    def _stopped(self) -> TeleportError:
        return TeleportError(
            "nothing is recorded any more: the service stops", hint="connect again when the node is back"
        )


def _discard(making: Future[SpoolFile]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().discard()


class Recorder:
    """One session's recording. Made by `RecordingSpool.start`; used from the event loop only."""

    def __init__(self, file: SpoolFile, spool: RecordingSpool, begun: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._file = file
        self._spool = spool
        self._monotonic = spool.clock.monotonic
        self._begun = begun
        self._pending: list[Frame] = []
        self._cost = 0  # memory of the pending frames
        self._in_thread = 0  # memory of the frames being written
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sync_timer: asyncio.TimerHandle | None = None
        self._writing = False
        self._syncing = False
        self._handed = (0, 0)  # frames and payload bytes, up to what was handed to a thread ...
        self._written = (0, 0)  # ... up to what is in the file ...
        self._synced = (0, 0)  # ... and up to what is on disk
        self._sync_target = 0  # frames that somebody waits for
        self._oldest = 0.0  # loop time of the oldest pending frame ...
        self._batch_oldest = 0.0  # ... of the oldest frame being written ...
        self._unsynced_since: float | None = None  # ... and of the oldest handed over but not in a sync yet
        self._waiters: list[asyncio.Future[None]] = []
        self._closing: tuple[str, int] | None = None  # reason and time
        self._ending = False
        self._refusing = False  # closing or failed
        self._finished: asyncio.Future[RecordingSummary | Exception] = self._loop.create_future()
        self.sid = file.sid
        self.failure: TeleportError | None = None
        self.failed: asyncio.Future[TeleportError] = self._loop.create_future()
        """Done, with the error as its *result*, once the recording cannot go on. Strict mode ends the session then."""

    # What happened. Plain and cheap: call these before the bytes go on to the client.

    def record_output(self, data: bytes, stream: FrameKind = FrameKind.OUTPUT) -> None:
        """Notes bytes of the session: OUTPUT, STDERR or INPUT. The object is kept, not copied: it must be `bytes`."""
        if data:
            self._append(stream, data)

    def record_stderr(self, data: bytes) -> None:
        self.record_output(data, FrameKind.STDERR)

    def record_input(self, data: bytes) -> None:
        self.record_output(data, FrameKind.INPUT)

    def resize(self, width: int, height: int) -> None:
        """The terminal now has `width` columns and `height` rows (each cut to 65,535)."""
        self._append(FrameKind.RESIZE, encode_size(min(max(width, 0), 0xFFFF), min(max(height, 0), 0xFFFF)))

    def exec(self, detail: ExecDetail) -> None:
        self._append(FrameKind.EXEC, encode_detail(detail))

    def file(self, detail: FileDetail) -> None:
        self._append(FrameKind.FILE, encode_detail(detail))

    def forward(self, detail: ForwardDetail) -> None:
        self._append(FrameKind.FORWARD, encode_detail(detail))

    def note(self, text: str) -> None:
        """A sentence of ours about the session."""
        self._append(FrameKind.NOTE, plain_text(text, 64 * 1024).encode())

    @property
    def acknowledged_bytes(self) -> int:
        """Payload bytes, of all frames from the first on, that are on disk."""
        return self._synced[1]

    @property
    def must_drain(self) -> bool:
        """Whether `drain` would wait. Cheaper than calling it for every piece."""
        memory = self._cost + self._in_thread
        return self.failure is None and (memory > HIGH_WATER or self._written[1] - self._synced[1] > UNSYNCED_LIMIT)

    async def drain(self) -> None:
        """Waits while too much is in memory or not yet on disk. Returns at once after a failure."""
        if self.must_drain:
            await self._wait_until(
                lambda: (
                    self._cost + self._in_thread <= LOW_WATER
                    and self._written[1] - self._synced[1] <= UNSYNCED_LIMIT // 2
                )
            )

    async def sync(self) -> None:
        """Waits until all that was recorded before this call is on disk; raises the failure if there is one."""
        target = self._sync_target = self._recorded()[0]
        self._hand_over()
        self._consider_sync()
        await self._wait_until(lambda: self._synced[0] >= target)
        if self.failure is not None:
            raise self.failure

    @property
    def over(self) -> bool:
        """Whether it has ended, or goes no further."""
        return self._closing is not None or self.failure is not None

    async def sealed(self) -> int:
        """Bytes of the file that never change again, with all that was recorded before this call.

        Raises `TeleportError` when the recording failed or has ended.
        """
        target = self._recorded()[0]
        self._hand_over()
        await self._wait_until(lambda: self._written[0] >= target and not self._writing)
        if self.over:
            raise self.failure or TeleportError(f"the recording of session {self.sid} has ended")
        sizes: list[int] = []
        done = self._loop.create_future()

        def sealed(error: Exception | None) -> None:
            self._writing = False
            if error is not None:
                self._fail(error)
            if not done.done():
                done.set_result(None)
            self._next_step()

        self._writing = True  # sealing and writing are one at a time
        self._submit(lambda: sizes.append(self._file.seal_all()), sealed)
        await done
        if not sizes:
            raise self.failure or TeleportError(f"the recording of session {self.sid} has ended")
        return sizes[0]

    async def read(self, offset: int, size: int) -> bytes:
        """A part of what is in the file; nothing once it has ended."""
        return await asyncio.to_thread(self._file.read, offset, size)

    @property
    def slow_to_close(self) -> bool:
        """Whether much is left to seal, so that `close` takes seconds and a client had better wait for `sync` only."""
        return self._file.backlog + self._in_thread + self._cost > LONG_SEAL

    async def close(self, reason: str) -> RecordingSummary:
        """Ends the recording: signed, synced, `<sid>.rec`. Asked twice it gives the same answer.

        After a bulk transfer this takes seconds for each GiB (sealing): let no client wait for it.

        Raises what prevented it (`TeleportError`, or what the signing function raised); then the part that is on
        disk stays and recovery ends it. Cancelling the wait does not stop the ending.
        """
        if self._closing is None:
            self._refusing = True
            self._closing = (reason, int((self._monotonic() - self._begun) * 1_000_000))
            self._next_step()
        outcome = await asyncio.shield(self._finished)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    # How it is done

    def _append(self, kind: FrameKind, payload: bytes) -> None:
        # The only code that runs for every piece of every session: counters are derived from the cost elsewhere.
        if self._refusing:
            self._refuse(kind, payload)
            return
        pending = self._pending
        if not pending:
            self._oldest = self._loop.time()
            self._timer = self._loop.call_later(FLUSH_AFTER, self._on_timer)
        pending.append(_frame((int((self._monotonic() - self._begun) * 1_000_000), kind, payload)))
        self._cost += len(payload) + _FRAME_COST
        if self._cost >= BATCH_BYTES:
            self._hand_over()
            if self._cost > HARD_LIMIT:
                self._fail(
                    LimitExceeded(
                        f"the recording of session {self.sid} is behind by {self._cost} bytes",
                        hint=f"the disk of {self._spool.directory.path} is too slow or stuck",
                    )
                )

    def stopped(self, error: TeleportError) -> None:
        """The service stops: what was noted is still kept, what comes from now on is not, and the session ends."""
        if not self.failed.done():
            self.failed.set_result(error)

    def _refuse(self, kind: FrameKind, payload: bytes) -> None:
        if self._closing is not None and not self.failed.done():
            raise BadRequest(f"the recording of session {self.sid} has ended", hint="this is a fault of the service")
        self._lost += len(payload) if kind in BYTE_KINDS else 0

    def _recorded(self) -> tuple[int, int]:
        """Frames and payload bytes noted so far."""
        frames, size = self._handed
        waiting = len(self._pending)
        return frames + waiting, size + self._cost - waiting * _FRAME_COST

    def _on_timer(self) -> None:
        self._timer = None
        self._hand_over()

    def _hand_over(self) -> None:
        """Gives all pending frames to a thread, unless one is at work: then they follow when it is done."""
        if self._writing or not self._pending:
            return
        self._stop_timer()
        target = self._handed = self._recorded()
        batch, self._pending = self._pending, []
        self._in_thread, self._cost = self._cost, 0
        self._writing = True
        self._batch_oldest = self._oldest
        if self._unsynced_since is None:
            self._unsynced_since = self._oldest
        self._submit(lambda: self._file.write(batch), lambda error: self._wrote(batch, target, error))

    def _wrote(self, batch: list[Frame], target: tuple[int, int], error: Exception | None) -> None:
        self._writing = False
        self._in_thread = 0
        if error is not None:
            self._fail(error, batch)
        else:
            self._written = target
        self._next_step()

    def _synced_to(self, target: tuple[int, int], error: Exception | None) -> None:
        self._syncing = False
        if error is not None:
            self._fail(error)
        else:
            self._synced = target
        self._next_step()

    def _next_step(self) -> None:
        """Starts whatever is due now; called after every change."""
        overdue = self._timer is None or self._closing is not None or self._synced[0] < self._sync_target
        if overdue or self._cost >= BATCH_BYTES:
            self._hand_over()
        self._consider_sync()
        if self._closing is not None and not self._ending and not self._writing:
            self._ending = True
            self._stop_timer()
            if self._sync_timer is not None:
                self._sync_timer.cancel()
            self._finish(*self._closing)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _consider_sync(self) -> None:
        """Syncs beside the next write, so that the disk and the processor work at the same time."""
        since = self._unsynced_since
        if self._syncing or self._ending or self.failure or since is None or self._written == self._synced:
            return
        age = self._loop.time() - since
        wanted = self._synced[0] < self._sync_target or self._written[1] - self._synced[1] >= SYNC_BYTES
        if wanted or age >= SYNC_AFTER:
            self._syncing = True
            self._unsynced_since = self._batch_oldest if self._writing else None
            target = self._written
            self._submit(self._file.sync, lambda error: self._synced_to(target, error))
        elif self._sync_timer is None:
            self._sync_timer = self._loop.call_later(SYNC_AFTER - age, self._on_sync_timer)

    def _on_sync_timer(self) -> None:
        self._sync_timer = None
        self._consider_sync()

    def _finish(self, reason: str, time: int) -> None:
        outcome: list[RecordingSummary] = []

        def finish() -> None:
            outcome.append(self._file.finish(reason, time, self._spool.sign, self._lost))

        def finished(error: Exception | None) -> None:
            if error is None:
                self._synced = self._written
            self._spool.forget(self)
            self._finished.set_result(error if error is not None else outcome[0])

        pool = self._spool.sealers if self._file.backlog > LONG_SEAL else self._spool.pool
        self._submit(finish, finished, pool)

    def _fail(self, error: Exception, batch: Sequence[Frame] = ()) -> None:
        """The recording goes no further. What it had not written is counted as lost."""
        dropped = [*batch, *self._pending]
        self._lost += sum(len(frame.payload) for frame in dropped if frame.kind in BYTE_KINDS)
        self._pending, self._cost = [], 0
        self._refusing = True
        self._stop_timer()
        if self.failure is None:
            if not isinstance(error, TeleportError):
                error = TeleportError(f"recording session {self.sid} failed: {error!r}")
            self.failure = error
            if not self.failed.done():
                self.failed.set_result(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _submit(
        self,
        work: Callable[[], None],
        done: Callable[[Exception | None], None],
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        """Runs `work` in a thread and `done` with its error in the loop."""
        loop = self._loop

        def run() -> None:
            problem: Exception | None = None
            try:
                work()
            except Exception as error:
                problem = error
            with suppress(RuntimeError):  # the loop has ended, and everybody who wanted to know with it
                loop.call_soon_threadsafe(done, problem)

        (pool or self._spool.pool).submit(run)

    async def _wait_until(self, reached: Callable[[], bool]) -> None:
        while not reached() and self.failure is None and not self._finished.done():
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

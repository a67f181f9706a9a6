"""What a service tells, kept in lists: its events, and recordings of its sessions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from teleport.audit.events import Event, event_name
from teleport.errors import TeleportError
from teleport.node.needs import Unrecorded
from teleport.recording.format import FileDetail, RecordingHeader


class Events:
    """An emitter that keeps what it was given, and wakes who waits."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.failing = False
        self._more = asyncio.Event()

    async def emit(self, event: Event) -> None:
        if self.failing:
            raise TeleportError("the disk is full")
        self.all.append(event)
        self._more.set()

    def named(self, name: str) -> list[Event]:
        return [event for event in self.all if event_name(event) == name]

    async def wait_for(self, name: str, count: int = 1, seconds: float = 30.0) -> list[Event]:
        """The events called `name`, once there are `count`."""
        async with asyncio.timeout(seconds):
            while len(self.named(name)) < count:
                self._more.clear()
                await self._more.wait()
        return self.named(name)


@dataclass
class MemoryRecording(Unrecorded):
    """Keeps a recording's bytes."""

    header: RecordingHeader
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[FileDetail] = field(default_factory=list)
    reason: str | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        super().__init__()
        self.sha256 = "00" * 32

    def record_output(self, data: bytes) -> None:
        if self.keep:
            self.stdout += data

    def record_stderr(self, data: bytes) -> None:
        if self.keep:
            self.stderr += data

    def resize(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def file(self, detail: FileDetail) -> None:
        self.files.append(detail)

    async def close(self, reason: str) -> MemoryRecording:
        self.reason = reason
        return self


class MemoryRecordings:
    """Sessions recorded in memory."""

    def __init__(self, *, keep: bool = True) -> None:
        self.all: list[MemoryRecording] = []
        self.failing = False
        self.on_record_of: list[str] = []  # sessions whose end is on record
        self.unended_of: list[str] = []  # sessions whose end could not be kept
        self._keep = keep

    async def start(self, header: RecordingHeader) -> MemoryRecording:
        if self.failing:
            raise TeleportError("no room for recordings")
        recording = MemoryRecording(header, keep=self._keep)
        self.all.append(recording)
        return recording

    async def unrecorded(self, header: RecordingHeader) -> None: ...

    def unended(self, sid: str) -> None:
        self.unended_of.append(sid)

    def on_record(self, sid: str) -> None:
        self.on_record_of.append(sid)

"""Copying files from one side to another: this machine, a host, or a host and another host. Knows neither paths nor
protocols (`here.py`, `there.py`); blocks of a file are under way together, and so are small files.

A file's failure concerns that file: it is told, and the others go on. A lost connection ends it all.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.transfer.sftp import Flight
from teleport.wire.sftp_client import Attributes

MAX_DEPTH = 64  # folders in folders
_AT_ONCE = 16  # files
_UNSIZED = 1024 * 1024 * 1024  # bytes of a file that says it has none, such as those in /proc


@dataclass(frozen=True, slots=True)
class Item:
    """A file or folder of a source. `name` is what it is called at the target, empty for a folder that stands for what
    it holds; `attributes` are those of what a link leads to."""

    path: str
    name: str
    attributes: Attributes
    trail: tuple[object, ...] = ()  # what it lies in, so that a link to that is seen

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.attributes.mode or 0)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.attributes.mode or 0)


class Reading(Protocol):
    """An open file of a source."""

    async def read(self, offset: int, size: int) -> bytes | memoryview | None: ...

    async def close(self) -> None: ...


class Source(Protocol):
    """Where files come from."""

    block: int  # bytes in one piece

    def limit(self) -> int: ...

    async def find(self, path: str) -> Sequence[Item]: ...

    def children(self, folder: Item, note: Callable[[str], None]) -> AsyncIterator[Item]: ...

    async def open(self, item: Item) -> Reading: ...

    def shown(self, path: str) -> str: ...


class Writing(Protocol):
    """An open file of a target."""

    async def write(self, offset: int, data: bytes | memoryview) -> None: ...

    async def finish(self, kept: Attributes | None) -> None: ...

    async def abandon(self) -> None: ...


class Into(Protocol):
    """An open folder of a target. Names are single components, checked before."""

    async def folder(self, name: str, mode: int) -> Into: ...

    async def file(self, name: str, mode: int) -> Writing: ...

    async def finish(self, kept: Attributes | None) -> None: ...


class Sink(Protocol):
    """Where files go."""

    block: int

    def limit(self) -> int: ...

    async def into(self, path: str) -> Into | None:
        """The folder at `path`; None when there is none."""
        ...

    async def make(self, path: str, mode: int) -> Into: ...

    async def file(self, path: str, mode: int) -> Writing: ...

    def name(self, name: str) -> str:
        """`name` if it can be one component there. Raises `BadRequest`."""
        ...


@dataclass(frozen=True, slots=True)
class Ways:
    """How to copy."""

    folders: bool = False  # -r
    keep: bool = False  # -p: times and modes


class Copier:
    """One transfer. `moved` counts bytes; `failed` gets each thing that could not be copied."""

    def __init__(
        self, sink: Sink, ways: Ways, moved: Callable[[int], None], failed: Callable[[str, TeleportError], None]
    ) -> None:
        self._sink = sink
        self._ways = ways
        self._moved = moved
        self._failed = failed
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._limits: list[Callable[[], int]] = [sink.limit]
        self._flight = Flight(lambda: max(limit() for limit in self._limits))
        self.files = 0

    async def copy(self, sources: Sequence[tuple[Source, str]], target: str) -> None:
        """Copies every path. Raises `TeleportError` for what concerns all of it."""
        found: list[tuple[Source, Item]] = []
        for source, path in sources:
            if source.limit not in self._limits:
                self._limits.append(source.limit)
            try:
                found += [(source, item) for item in await source.find(path)]
            except ConnectionProblem:
                raise
            except TeleportError as error:
                self._failed(source.shown(path), error)
        if not found:
            return
        into = await self._sink.into(target)
        if into is None and (len(sources) > 1 or len(found) > 1 or target.endswith("/")):
            raise BadRequest(f"{target[:200]!r} is no folder, and one is needed here", hint="make it first: mkdir")
        tasks = _Tasks()
        try:
            for source, item in found:
                await self._one(source, item, into, item.name, tasks, 0, target)
            await tasks.all()
        finally:
            await tasks.cancel()
            if into is not None:
                await into.finish(None)

    async def _one(
        self, source: Source, item: Item, into: Into | None, name: str, tasks: _Tasks, depth: int, target: str = ""
    ) -> None:
        """Copies an item into a folder, under `name`; or, without a folder, to the path `target`."""
        try:
            if item.is_folder:
                await self._folder(source, item, into, name, depth, target)
            elif item.is_file:
                if into is not None:
                    name = self._sink.name(name)
                await self._slots.acquire()
                tasks.add(self._file(source, item, into, name, target), self._slots.release)
            else:
                raise BadRequest("is neither a file nor a folder", hint="only those are copied")
        except ConnectionProblem:
            raise
        except TeleportError as error:
            self._failed(source.shown(item.path), error)

    async def _folder(self, source: Source, item: Item, into: Into | None, name: str, depth: int, target: str) -> None:
        if not self._ways.folders:
            raise BadRequest("is a folder", hint="-r copies folders")
        if depth > MAX_DEPTH:
            raise BadRequest(f"lies deeper than {MAX_DEPTH} folders", hint="copy parts of it")
        mode = (item.attributes.mode or 0o755) & 0o777
        if into is None:
            inner, own = await self._sink.make(target, mode), True
        elif name:
            inner, own = await into.folder(self._sink.name(name), mode), True
        else:  # `.`: what it holds goes into the folder itself
            inner, own = into, False
        tasks = _Tasks()
        try:

            def note(text: str) -> None:
                self._failed(text, BadRequest("is left out: it leads back to a folder that it lies in", hint="-"))

            async for child in source.children(item, note):
                await self._one(source, child, inner, child.name, tasks, depth + 1)
            await tasks.all()
        finally:
            await tasks.cancel()
            if own:
                await inner.finish(_kept(item.attributes) if self._ways.keep else None)

    async def _file(self, source: Source, item: Item, into: Into | None, name: str, target: str) -> None:
        try:
            reading = await source.open(item)
            try:
                mode = (item.attributes.mode or 0o644) & 0o777
                writing = await (self._sink.file(target, mode) if into is None else into.file(name, mode))
                done = False
                try:
                    await self._blocks(source, item, reading, writing)
                    done = True
                finally:
                    if not done:
                        with suppress(TeleportError):
                            await writing.abandon()
                await writing.finish(_kept(item.attributes) if self._ways.keep else None)
            finally:
                with suppress(TeleportError):
                    await reading.close()
        except ConnectionProblem:
            raise
        except TeleportError as error:
            self._failed(source.shown(item.path), error)
            return
        self.files += 1

    async def _blocks(self, source: Source, item: Item, reading: Reading, writing: Writing) -> None:
        block, size = min(source.block, self._sink.block), item.attributes.size or 0
        if not size:
            await self._unsized(block, reading, writing)
            return
        tasks = _Tasks()
        try:
            for offset in range(0, size, block):
                length = min(block, size - offset)
                await self._flight.enter(length)
                tasks.add(self._move(reading, writing, offset, length), partial(self._flight.leave, length))
                tasks.check()
            await tasks.all()
        finally:
            await tasks.cancel()

    async def _move(self, reading: Reading, writing: Writing, offset: int, length: int) -> None:
        while length:
            data = await reading.read(offset, length)
            if not data:
                raise BadRequest("became shorter while it was copied", hint="copy it again")
            await writing.write(offset, data)
            self._moved(len(data))
            offset, length = offset + len(data), length - len(data)

    async def _unsized(self, block: int, reading: Reading, writing: Writing) -> None:
        offset = 0
        while data := await reading.read(offset, block):
            await writing.write(offset, data)
            self._moved(len(data))
            offset += len(data)
            if offset > _UNSIZED:
                raise BadRequest("has no end: it says that it is empty, and goes on", hint="copy a part: head -c")


def _kept(attributes: Attributes) -> Attributes:
    """What `-p` keeps: times and the permissions; never set-user-ID and the like."""
    return replace(attributes, size=None, mode=(attributes.mode or 0o600) & 0o777)


class _Tasks:
    """Tasks of one thing: the first failure of any is the failure of all."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def add(self, work: Coroutine[Any, Any, None], over: Callable[[], object]) -> None:
        task = asyncio.create_task(work, name="tsh copy")
        self._running.add(task)

        def done(finished: asyncio.Task[None]) -> None:
            self._running.discard(finished)
            over()
            if not finished.cancelled() and (error := finished.exception()) is not None:
                self._failure = self._failure or error

        task.add_done_callback(done)

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def all(self) -> None:
        while self._running:
            self.check()
            await asyncio.wait(self._running, return_when=asyncio.FIRST_EXCEPTION)
            await asyncio.sleep(0)  # the callbacks of what has just finished
        self.check()

    async def cancel(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

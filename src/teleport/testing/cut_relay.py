"""A TCP relay on loopback that a test can cut: in the middle, at a word, or so that nothing is heard any more."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

CHUNK: Final = 65536


class CutRelay:
    """`async with CutRelay(port) as relay:` passes on what comes to `relay.port` to `port`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._word = b""
        self._passed = False
        self.cut_at_word = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._cut_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self) -> None:
        """Connections stay, and nothing comes through: a network that lost its way."""
        self._flows.clear()

    def cut(self) -> None:
        """All connections end, and new ones do at once."""
        self._refuses = True
        self._cut_all()

    def leave(self) -> None:
        """All connections end, and nobody listens any more: new ones are refused by the kernel."""
        assert self._server is not None
        self._server.close()
        self._cut_all()

    async def come_back(self) -> None:
        """Listens again, at the same port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    def mend(self) -> None:
        """As at first."""
        self._refuses = False
        self._flows.set()

    def cut_at(self, word: bytes, *, passed: bool) -> None:
        """End the next connection whose client sends `word`: after the server has answered it, or before it gets it."""
        self._word, self._passed = word, passed
        self.cut_at_word.clear()

    def _cut_all(self) -> None:
        ends, self._ends = self._ends, set()
        for end in ends:
            end.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._refuses:
            writer.transport.abort()
            return
        far: asyncio.StreamWriter | None = None
        answered = asyncio.Event()
        mute = asyncio.Event()
        try:
            with suppress(OSError):
                far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
                self._ends |= {writer, far}
                async with asyncio.TaskGroup() as group:
                    back = group.create_task(self._copy_back(far_reader, writer, answered, mute))
                    await self._copy_on(reader, far, answered, mute)
                    far.transport.abort()
                    back.cancel()
        finally:
            for end in (writer, far):
                if end is not None:
                    self._ends.discard(end)
                    end.transport.abort()

    async def _copy_on(
        self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, answered: asyncio.Event, mute: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flows.wait()
                if self._word and self._word in data:
                    self._word = b""
                    if self._passed:
                        mute.set()
                        answered.clear()
                        far.write(data)
                        await answered.wait()
                    self.cut_at_word.set()
                    return
                far.write(data)
                await far.drain()

    async def _copy_back(
        self, far: asyncio.StreamReader, writer: asyncio.StreamWriter, answered: asyncio.Event, mute: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await far.read(CHUNK):
                await self._flows.wait()
                answered.set()
                if not mute.is_set():
                    writer.write(data)
                    await writer.drain()
        answered.set()
        writer.transport.abort()

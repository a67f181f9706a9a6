"""What a client of sftp learns from a host behind a recording proxy: not before the recording has it for good."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.proxy.test_proxy_recording_connection import ANN, PERMIT, Stub, Taken, World, alone

from teleport.errors import ConnectionProblem
from teleport.proxy.recording.session import RecordedSession
from teleport.recording.format import FileDetail, RecordingHeader
from teleport.ssh.surface import Subsystem
from teleport.wire import sftp as wire
from teleport.wire.sftp import Packet, Status


class Disk(Taken):
    """A recording whose disk takes its time: what was noted is there once `written` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[FileDetail] = []
        self.syncing = asyncio.Event()
        self.written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def file(self, detail: FileDetail) -> None:
        self.files.append(detail)

    async def sync(self) -> None:
        self.syncing.set()
        await asyncio.shield(self.written)


class Reader(Stub):
    """The client's channel."""

    def __init__(self) -> None:
        super().__init__()
        self.got = b""
        self.came = asyncio.Event()

    def write(self, data: bytes, *, stderr: bool = False) -> None:
        if not stderr:
            self.got += data
            self.came.set()


class Behind(World):
    """A host that tells of files itself, behind a proxy that records in `mode`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        super().__init__(monkeypatch, ANN, agentless=False)
        self.decision = replace(PERMIT, record=True)
        self._mode = mode
        self.disk = Disk()
        self.reader = Reader()
        self.host_says: Callable[[bytes, bool], None] = lambda data, is_stderr: None

    def mode(self) -> str:
        return self._mode

    async def start(self, header: RecordingHeader | None = None, **asked: Any) -> Stub:
        if header is not None:
            return self.disk
        self.host_says = asked["on_output"]
        return await super().start(None, **asked)

    async def sftp(self) -> RecordedSession:
        session = await self.connection.open_session(cast("Any", self.reader))
        assert isinstance(session, RecordedSession)
        assert await session.start(Subsystem("sftp")) is None
        session.data_received(struct.pack(">IBI", 5, Packet.INIT, 3))
        self.host_says(struct.pack(">IBI", 5, Packet.VERSION, 3), False)
        return session


HELLO = struct.pack(">IBI", 5, Packet.VERSION, 3)
REMOVED = wire.status(7, Status.OK)
HOME = wire.names(8, [(b"/home/ann", b"/home/ann", wire.Attributes())])


def removal(session: RecordedSession) -> None:
    session.data_received(wire.packet(Packet.REMOVE, 7, wire.string(b"/srv/old")))


@pytest.mark.parametrize("mode", ["proxy-sync", "proxy"])
async def test_an_answer_leaves_once_what_it_tells_of_is_on_the_disk(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    async with alone(Behind(monkeypatch, mode)) as world:
        session = await world.sftp()
        assert world.reader.got == HELLO, "which tells of nothing that was done"
        removal(session)
        world.host_says(REMOVED, False)
        assert [one.path for one in world.disk.files] == ["/srv/old"]
        if mode == "proxy":  # sent afterwards: what a host tells by itself is on record there
            assert world.reader.got == HELLO + REMOVED
            return
        async with asyncio.timeout(5):
            await world.disk.syncing.wait()
        assert world.reader.got == HELLO, "the disk does not have it yet"
        session.data_received(wire.packet(Packet.REALPATH, 8, wire.string(b".")))
        world.host_says(HOME, False)
        assert world.reader.got == HELLO, "and nothing overtakes it"
        world.reader.came.clear()
        world.disk.written.set_result(None)
        await world.reader.came.wait()
        while len(world.reader.got) < len(HELLO + REMOVED + HOME):
            world.reader.came.clear()
            await world.reader.came.wait()
        assert world.reader.got == HELLO + REMOVED + HOME
        world.reader.got = b""
        session.data_received(wire.packet(Packet.REALPATH, 8, wire.string(b".")))
        world.host_says(HOME, False)
        assert world.reader.got == HOME, "what tells of nothing new waits for nothing"


async def test_what_the_disk_does_not_take_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with alone(Behind(monkeypatch, "proxy-sync")) as world:
        session = await world.sftp()
        removal(session)
        world.host_says(REMOVED, False)
        async with asyncio.timeout(5):
            await world.disk.syncing.wait()
        world.disk.written.set_exception(ConnectionProblem("the disk is full"))
        await world.settled()
        assert world.reader.got == HELLO
        assert {"signal", "close"} <= set(world.remote.called), "and the host is told to stop"

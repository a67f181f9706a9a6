"""A newer process of a host reaches an older one's node by a Unix socket."""

from __future__ import annotations

import asyncio
import logging
import stat
from pathlib import Path

import pytest

from teleport.daemon.former_node import connect_former, former_nodes, found_by_successors
from teleport.daemon.host import Host
from teleport.errors import ConnectionProblem


class Said(asyncio.Protocol):
    """Keeps what it hears, and says something once it is connected."""

    def __init__(self, says: bytes = b"") -> None:
        self.says = says
        self.heard = bytearray()
        self.done = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.says)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set()


def host(folder: Path, epoch: int) -> Host:
    return Host(folder, "00000000-0000-4000-8000-000000000001", epoch, -1)


async def test_the_line_goes_first_and_the_connection_is_from_here(tmp_path: Path) -> None:
    taken: list[tuple[asyncio.Transport, tuple[str, int], Said]] = []

    def accepted(transport: asyncio.Transport, client: tuple[str, int]) -> None:
        made = Said()
        transport.set_protocol(made)
        made.connection_made(transport)
        taken.append((transport, client, made))

    old, new = host(tmp_path, 3), host(tmp_path, 4)
    async with found_by_successors(old, accepted):
        assert former_nodes(old) == [], "a process is none of its own"
        (path,) = former_nodes(new)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        near = Said(b"SSH-2.0-x\r\n")
        await connect_former(path, b"the line\n", near)
        assert near.transport is not None
        near.transport.close()
        await near.done.wait()
        ((_, client, far),) = taken
        await far.done.wait()
        assert client == ("127.0.0.1", 0)
        assert bytes(far.heard) == b"the line\nSSH-2.0-x\r\n"
    assert former_nodes(new) == []


async def test_what_a_killed_process_left_behind_is_removed(tmp_path: Path) -> None:
    def accepted(transport: asyncio.Transport, client: tuple[str, int]) -> None:
        transport.abort()

    async with found_by_successors(host(tmp_path, 1), accepted):
        (path,) = former_nodes(host(tmp_path, 2))
        path.rename(path.with_name("7"))
    (left,) = former_nodes(host(tmp_path, 2))
    with pytest.raises(ConnectionProblem) as gone:
        await connect_former(left, b"", Said())
    assert gone.value.hint
    assert former_nodes(host(tmp_path, 2)) == []
    with pytest.raises(ConnectionProblem):
        await connect_former(left, b"", Said())


async def test_a_data_dir_with_a_long_name_has_no_such_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with caplog.at_level(logging.WARNING):
        async with found_by_successors(host(deep, 1), lambda transport, client: None):
            assert former_nodes(host(deep, 2)) == []
    assert "no socket for successors" in caplog.text

"""The process that moves files, as the daemon sees it: what it is told, and that it ends with the daemon."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from teleport.launcher import Kind, LauncherEnd, SpawnRequest
from teleport.launcher.client import Launcher
from teleport.launcher.transfer.paths import open_file
from teleport.launcher.values import Transfer
from teleport.testing.launching import forked_launcher


@pytest.fixture
def launcher_end() -> Iterator[LauncherEnd]:
    with forked_launcher() as end:
        yield end


async def test_it_ends_when_the_daemon_lets_go_of_its_socket(launcher_end: LauncherEnd) -> None:
    """Whatever it was doing: nothing moves without somebody who decides and keeps the record."""
    launcher = Launcher(launcher_end)
    request = SpawnRequest(getpass.getuser(), Kind.SFTP, transfer=Transfer(asks=False, looks=False))
    async with asyncio.timeout(20):
        process = await launcher.spawn(request)
        assert process.control is not None
        assert process.stdin is not None
        assert process.stdout is not None
        control = socket.socket(fileno=process.control)
        os.write(process.stdin, struct.pack(">IBI", 5, 1, 3))
        loop = asyncio.get_running_loop()
        assert json.loads(await loop.sock_recv(control, 65536))[0] == "home"
        control.close()
        ended = await process.wait()
        assert ended.status == 255
        for descriptor in (process.stdin, process.stdout, process.stderr):
            assert descriptor is not None
            os.close(descriptor)
        process.close()
    launcher.close()
    await launcher.wait_closed()


@pytest.mark.parametrize("path", ["/proc/self/mem", f"/proc/{os.getppid()}/environ", "/proc/version"])
def test_nothing_of_processes_is_opened_also_without_rules(path: str) -> None:
    """Who writes the memory of another process of the account runs what they like."""
    with pytest.raises(PermissionError):
        open_file(path.encode(), os.O_RDONLY, 0, None)
    with pytest.raises(PermissionError):
        open_file(path.encode(), os.O_RDONLY, 0, lambda _: 0)

"""The process that moves files, as the daemon sees it: what it is told, and that it ends with the daemon."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.launcher import Kind, LauncherEnd, SpawnRequest
from teleport.launcher.client import Launcher
from teleport.launcher.transfer.hashing import Hashing, Passing
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


def test_nothing_of_processes_is_opened_by_a_second_mount_of_procfs(tmp_path: Path) -> None:
    """Chroots and containers have one of their own: what lies on it counts, not where it is or its device."""
    code = (
        "import os, sys\n"
        "from teleport.launcher.transfer.paths import open_file, pinned\n"
        "for name in ('version', f'{os.getppid()}/mem', f'{os.getpid()}/fd'):\n"
        "    try:\n"
        "        open_file(os.fsencode(f'{sys.argv[1]}/{name}'), os.O_RDONLY, 0, None)\n"
        "    except (PermissionError, IsADirectoryError):\n"
        "        continue\n"
        "    sys.exit(f'{name} was opened')\n"
        "try:\n"
        "    with pinned(os.fsencode(f'{sys.argv[1]}/{os.getpid()}/fd')):\n"
        "        sys.exit('its own descriptors were listed')\n"
        "except PermissionError:\n"
        "    print('refused')\n"
    )
    script = 'mount -t proc proc "$1" || exit 77; exec "$2" -c "$3" "$1"'
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", tmp_path, sys.executable, code],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    if ran.returncode == 77 or "unshare failed" in ran.stderr:
        pytest.skip(f"no procfs can be mounted here: {ran.stderr.strip()}")
    assert ran.stdout == "refused\n", ran.stderr


def test_hashes_are_exact_however_much_goes_by_and_of_however_many_files(tmp_path: Path) -> None:
    """Large files are hashed by threads: of the bytes as they were, whole when it is asked for, and nothing stays."""
    before = threading.active_count()
    buffer, wanted = bytearray(200_000), hashlib.sha256()
    path = tmp_path / "file"
    passing = [Passing() for _ in range(12)]
    with path.open("wb") as file:
        for number in range(20):
            buffer[:] = bytes((number,)) * len(buffer)  # memory that is used again
            wanted.update(buffer)
            file.write(buffer)
            for one in passing:
                one.add(number * len(buffer), memoryview(buffer))
    assert before < threading.active_count() <= before + 8
    passing[1].add(0, b"again")
    passing[2].spoiled()
    with path.open("rb") as file:
        found = [one.result(file.fileno(), written=True) for one in passing]
        assert passing[0].result(file.fileno(), written=True) == found[0]
    assert {digest for digest, _ in found} == {wanted.hexdigest()}
    assert [bool(reason) for _, reason in found] == [False, True, True] + [False] * 9
    assert threading.active_count() == before


def test_no_more_waits_for_its_hash_than_a_few_pieces() -> None:
    """Memory stays bounded: who moves waits for who hashes."""
    held = threading.Event()

    class Slow:
        def update(self, piece: bytes) -> None:
            held.wait()

    hashing = Hashing(Slow())
    put: list[int] = []

    def move() -> None:
        for number in range(100):
            hashing.put(b"x")
            put.append(number)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        mover.join(0.2)
        assert mover.is_alive()
        assert len(put) <= 17
    finally:
        held.set()
        mover.join()
        hashing.end()
    assert len(put) == 100

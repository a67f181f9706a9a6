"""A node whose disk is very slow: sessions go on in bounded memory, none holds up another, nothing is lost (T41).

The disk is an ext4 without journal on a loop device; the kernel lets the node's cgroup write a megabyte and 20 times a
second to it. Where that cannot be had the tests are skipped with the reason.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from teleport.recording.format import FrameKind
from teleport.recording.player import RecordingReader
from teleport.recording.writer import HIGH_WATER
from teleport.testing.cluster import Cluster, Host, Person, wait_until

BYTES, TIMES = 1 << 20, 20  # that may be written in a second
SLOW_FOR = 4.0  # seconds
SLACK = 5  # times a limit that is promised


def must(*arguments: str | Path) -> str:
    """What a command printed; the test is skipped when it does not work here."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"a slow disk needs {error.filename}")
    if done.returncode != 0:
        pytest.skip(f"no slow disk: {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


class SlowDisk:
    """A mounted file system that is slow for the processes in `slowed`, for as long as `slow` is on."""

    def __init__(self, path: Path, device: str, group: Path) -> None:
        self.path = path
        number = os.stat(device).st_rdev
        self._device = f"{os.major(number)}:{os.minor(number)}"
        self._group = group

    def add(self, pid: int) -> None:
        (self._group / "cgroup.procs").write_text(str(pid))

    def slow(self, on: bool) -> None:
        for name, limit in (("bps", BYTES), ("iops", TIMES)):
            file = self._group / f"blkio.throttle.write_{name}_device"
            file.write_text(f"{self._device} {limit if on else 0}\n")


@contextmanager
def slow_disk(folder: Path, size: int = 1 << 30) -> Iterator[SlowDisk]:
    """Of `size` bytes."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a file system on a loop device")
    root = Path("/sys/fs/cgroup/blkio")
    if not (root / "blkio.throttle.write_bps_device").exists():
        pytest.skip(f"the kernel offers no {root}/blkio.throttle.write_bps_device to slow a disk with")
    image, path, group = folder / "disk.img", folder / "disk", root / f"teleport-test-{uuid.uuid4().hex[:8]}"
    with image.open("wb") as file:
        file.truncate(size)
    must("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image)
    with ExitStack() as stack:
        device = must("losetup", "--find", "--show", image)
        stack.callback(lambda: subprocess.run(["losetup", "--detach", device], check=True))
        path.mkdir()
        must("mount", device, path)
        stack.callback(lambda: subprocess.run(["umount", path], check=True))
        group.mkdir()
        stack.callback(lambda: wait_until("the cgroup is empty and gone", lambda: gone(group)))
        yield SlowDisk(path, device, group)


def gone(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


class Client:
    """An ssh client whose output is kept."""

    def __init__(self, person: Person, where: str, command: str) -> None:
        self.process = subprocess.Popen(
            person.ssh_arguments(where, command),
            env=person.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.command = command
        self.output = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 1 << 20):
            self.output += data

    def type(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def memory(pid: int) -> int:
    """Bytes that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def output_of(cluster: Cluster, sid: str) -> bytes:
    """What the stored recording of a session holds."""
    (path,) = (cluster.data_dir / "log" / "records").rglob(f"{sid}.rec")
    with path.open("rb") as file:
        return b"".join(frame.payload for frame in RecordingReader(file).frames() if frame.kind is FrameKind.OUTPUT)


@pytest.mark.parametrize(
    "killed", [pytest.param(False, id="goes on", marks=pytest.mark.long), pytest.param(True, id="killed meanwhile")]
)
def test_on_a_slow_disk_sessions_go_on_in_bounded_memory_and_nothing_is_lost(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path, killed: bool
) -> None:
    name = f"slow-{int(killed)}"
    token = tmp_path / "token"
    cluster.tctl("tokens", "add", "--type=node", f"--out={token}").ok()
    with slow_disk(tmp_path) as disk:
        data = disk.path / "data"
        config = cluster.node_config(name, auth_token=str(token), ca_pin=cluster.ca_pin(), data_dir=str(data))
        with Host(tmp_path / name, config) as host:
            disk.add(host.daemon.pid)
            wait_until("it is listed", lambda: name in alice.tsh("ls", "--format=names").ok().stdout.split())
            where = f"{login}@{name}.{cluster.name}"
            clients = [Client(alice, where, "cat"), Client(alice, where, "cat /dev/urandom")]
            echo, bulk = clients
            try:
                echo.type(b"0\n")
                wait_until("both run", lambda: bool(echo.output and bulk.output))
                before = memory(host.daemon.pid)
                disk.slow(True)
                clients.append(begun := Client(alice, where, "echo begun"))
                most = check_echoes(echo, host, lambda: memory(host.daemon.pid))
                assert most - before < SLACK * HIGH_WATER, f"{(most - before) >> 20} MiB more than before"
                assert len(bulk.output) < SLACK * HIGH_WATER, "the client waits for the disk"
                if killed:
                    host.daemon.kill()
                disk.slow(False)
                status = begun.process.wait(20)
                assert killed or (status, bytes(begun.output)) == (0, b"begun\n"), "a session begins, though slowly"
            finally:
                disk.slow(False)
                for client in clients:
                    client.end()
            if killed:
                host.daemon.start()
            for client in clients:
                if client.output:
                    check_kept(cluster, name, client, whole=not killed)
            alice.ssh(where, "true").ok()
    cluster.tctl("audit", "verify").ok()


def check_echoes(echo: Client, host: Host, measure: Callable[[], int]) -> int:
    """For as long as the disk is to be slow another session answers, and the daemon is ready; the most memory."""
    most, number, until = 0, 1, time.monotonic() + SLOW_FOR
    while time.monotonic() < until:
        line = b"%d\n" % number
        echo.type(line)
        wait_until(f"line {number} comes back while the disk is slow", partial(echo.output.endswith, line), 5.0)
        assert host.daemon.ready()
        most, number = max(most, measure()), number + 1
    assert number > 10
    return most


def check_kept(cluster: Cluster, name: str, client: Client, *, whole: bool) -> None:
    """The session's end is on record once, and its recording has what the client received, at least what came before
    the last moments when the daemon was killed."""
    start = cluster.wait_event("session.start", server_hostname=name, initial_command=[client.command])
    cluster.wait_event("session.end", sid=start["sid"])
    cluster.wait_event("session.upload", sid=start["sid"])
    assert [event["sid"] for event in cluster.events("--type=session.end")].count(start["sid"]) == 1
    kept = output_of(cluster, start["sid"])
    received = bytes(client.output)
    if whole:
        assert kept.startswith(received), (len(kept), len(received))
    else:
        assert received.startswith(kept) or kept.startswith(received), (len(kept), len(received))

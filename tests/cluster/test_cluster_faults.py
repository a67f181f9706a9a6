"""A disk that is full or cannot be written, under real daemons: nothing acknowledged is lost or half done (T41).

A small tmpfs is the disk. Where none can be mounted these tests are skipped with the reason. A disk that becomes
read-only under a running daemon cannot be had that way (the kernel refuses while files are open for writing): the
daemon is started on one instead.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.sync_client import SyncAuthClient, direct
from teleport.errors import TeleportError
from teleport.pki.x509cert import auth_server_name
from teleport.testing.cluster import NODE, Cluster, Person, wait_until
from teleport.testing.survival import Evidence, Ledger, Ran, problems
from teleport.transport.tls import cluster_client_context

SIZE = 48 << 20  # bytes of the disk


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts a tmpfs as a small disk")
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", path], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode(errors='replace').strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as path:
        yield path


@contextmanager
def filled(disk: Path, leave: int = 0) -> Iterator[None]:
    """The disk, but for `leave` bytes, is used up by somebody else."""
    filler = disk / "filler"
    found = os.statvfs(disk)
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with suppress(OSError):
        os.posix_fallocate(descriptor, 0, max(found.f_bavail * found.f_frsize - leave, 1))
    with suppress(OSError):
        while not leave:
            os.write(descriptor, b"\0" * 4096)
    os.close(descriptor)
    try:
        yield
    finally:
        filler.unlink()


class OnDisk:
    """A cluster whose data_dir lies on a disk, and what it acknowledged."""

    def __init__(self, folder: Path, disk: Path, login: str) -> None:
        self.cluster = Cluster(folder, authentication={"type": "local", "second_factor": "off"})
        self.data = disk / "data"
        self.cluster.config["teleport"]["data_dir"] = str(self.data)
        self.cluster.write()
        self.ledger = Ledger()
        self.login = login
        self._count = 0

    def person(self) -> Person:
        person = self.cluster.add_person("erin", logins=[self.login])
        person.log_in()
        return person

    def _role(self, size: int) -> tuple[str, bytes]:
        """A role with `size` more logins, of which a thousand take about 30 KB."""
        self._count += 1
        name = f"kept-{self._count}"
        role = {
            "kind": "role",
            "version": "v4",
            "metadata": {"name": name, "description": name},
            "spec": {"allow": {"logins": ["nobody", *(f"nobody-{number:020d}" for number in range(size))]}},
        }
        return name, json.dumps(role).encode()

    def write(self, size: int = 0) -> str:
        """Writes a role by tctl; what it said on stderr when it failed."""
        name, role = self._role(size)
        done = self.cluster.tctl("create", stdin=role)
        if done.status == 0:
            self.ledger.wrote(name, name)
            return ""
        return done.stderr

    def write_until_refused(self) -> None:
        """Uses up the pages that the storage has already."""
        proc = self.data / "proc"
        cas = json.loads((proc / "cas.json").read_text())
        context = cluster_client_context(cas["tls_ca_certs"], proc / "admin" / "tls.crt", proc / "admin" / "tls.key")
        connect = direct("127.0.0.1", self.cluster.auth_port, context, auth_server_name(cas["cluster"]))
        with SyncAuthClient(connect, "auth") as client:
            for _ in range(2000):
                name, role = self._role(999)
                try:
                    client.call(routes.STORE["role"], m.StoreRequest(item=m.Document(role)))
                except TeleportError:
                    return
                self.ledger.wrote(name, name)
        raise AssertionError("a full disk takes 60 MB")

    def session(self, person: Person) -> str:
        """Runs a command; what ssh said on stderr when it did not end well."""
        self._count += 1
        tag = f"session-{self._count}"
        done = person.ssh(f"{self.login}@{NODE}.{self.cluster.name}", f"seq 1 100; echo {tag}")
        if done.status == 0:
            self.ledger.ran(Ran(tag, done.out, finished=True))
            return ""
        return done.stderr

    def refused_start(self) -> str:
        """Starts the daemon, which must end by itself; its log."""
        self.cluster.daemon.begin()
        assert self.cluster.daemon.ended() == 1
        return self.cluster.daemon.log()

    def works(self, person: Person) -> None:
        """Changes and sessions succeed, and with those before them are all on record."""
        assert self.write() == ""
        assert self.session(person) == ""
        self.check()

    def check(self) -> None:
        """Everything is delivered, proved, and there."""

        def wrong() -> list[str]:
            return problems(self.ledger, Evidence.read(self.data, [self.data]))

        try:
            wait_until("everything is delivered", lambda: not wrong(), 30.0)
        except AssertionError:
            raise AssertionError("\n".join(wrong())) from None
        self.cluster.tctl("audit", "verify").ok()


def test_a_full_disk_refuses_with_a_reason_and_everything_works_again_without_a_restart(
    tmp_path: Path, disk: Path, login: str
) -> None:
    at = OnDisk(tmp_path / "cluster", disk, login)
    with at.cluster:
        person = at.person()
        at.works(person)
        with filled(disk):
            at.write_until_refused()
            said = at.write(999)
            assert "disk is full" in said
            assert "df -h" in said
            assert "cannot record sessions now" in at.session(person)
            assert person.tsh("ls").status == 0, "what writes nothing goes on"
            assert at.cluster.daemon.ready()
        wait_until("writes work again", lambda: at.write() == "")
        wait_until("sessions work again", lambda: at.session(person) == "")
        at.check()
    assert problems(at.ledger, Evidence.read(at.data, [at.data])) == []


def test_recordings_leave_the_last_room_to_events(tmp_path: Path, disk: Path, login: str) -> None:
    """A disk that fills refuses sessions, and there is still room to put that on record; a running session ends."""
    at = OnDisk(tmp_path / "cluster", disk, login)
    with at.cluster:
        person = at.person()
        command = f"{login}@{NODE}.{at.cluster.name}"
        arguments = person.ssh_arguments(command, "while :; do echo running; sleep 0.05; done")
        running = subprocess.Popen(arguments, env=person.environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"running\n"
            with filled(disk, leave=900 << 10):  # less than half of what is kept: 2.4 MiB of 48
                assert "cannot record sessions now" in at.session(person)
                assert at.write() == ""
                denied = at.cluster.wait_event("session.request_denied")
                assert "kept for audit events" in denied["reason"]
                running.communicate(timeout=20)
                end = at.cluster.wait_event("session.end", reason="the recording failed")
        finally:
            running.kill()
            running.wait()
        at.cluster.wait_event("session.upload", sid=end["sid"])
        assert at.session(person) == ""
        at.check()


def test_a_session_that_ends_on_a_full_disk_is_no_success_and_has_its_end_when_there_is_room(
    tmp_path: Path, disk: Path, login: str
) -> None:
    """Once, without a restart; the client is not told that all is well when the recording lacks what it saw."""
    at = OnDisk(tmp_path / "cluster", disk, login)
    with at.cluster:
        person = at.person()
        command = "echo begun; read line; seq 1 30000"
        arguments = person.ssh_arguments(f"{login}@{NODE}.{at.cluster.name}", command)
        running = subprocess.Popen(
            arguments, env=person.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"begun\n"
            with filled(disk):
                _, said = running.communicate(b"go on\n", timeout=30)
            assert (running.returncode, b"This session was ended" in said) == (255, True), said
        finally:
            running.kill()
            running.wait()
        end = at.cluster.wait_event("session.end", initial_command=[command])
        at.cluster.wait_event("session.upload", sid=end["sid"])
        assert [one["sid"] for one in at.cluster.events("--type=session.end")].count(end["sid"]) == 1
        at.works(person)


def test_above_the_quota_of_recordings_no_session_starts_and_that_is_on_record_once(
    tmp_path: Path, disk: Path, login: str
) -> None:
    at = OnDisk(tmp_path / "cluster", disk, login)
    at.cluster.config["ssh_service"]["recording_quota_mib"] = 2
    at.cluster.write()
    with at.cluster:
        person = at.person()
        assert at.session(person) == ""
        command = f"{login}@{NODE}.{at.cluster.name}"
        arguments = person.ssh_arguments(
            command, "head -c 3000000 /dev/urandom; echo; echo done; read line; echo $line"
        )
        large = subprocess.Popen(arguments, env=person.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert large.stdout is not None
            while large.stdout.readline() != b"done\n":
                assert large.poll() is None
            refusal = wait_until("the quota refuses", lambda: at.session(person) or None)
            assert "cannot record sessions now" in refusal
            assert "of the 2 that ssh_service.recording_quota_mib gives them" in refusal
            assert "recording_quota_mib" in at.session(person), "and goes on refusing"
            denied = at.cluster.wait_event("session.request_denied")
            assert "recording_quota_mib" in denied["reason"]
            told = at.cluster.wait_event("recording.spool_full")
            assert "recording_quota_mib" in told["reason"]
            assert large.communicate(b"whole\n", timeout=20)[0] == b"whole\n", "what runs goes on"
        finally:
            large.kill()
            large.wait()
        wait_until("sessions start again when auth has the recording", lambda: at.session(person) == "")
        assert len(at.cluster.events("--type=recording.spool_full")) == 1
        assert at.cluster.daemon.log().count("no session starts:") == 1
        at.check()


def test_a_daemon_killed_on_a_full_disk_starts_when_there_is_room_and_has_lost_nothing(
    tmp_path: Path, disk: Path, login: str
) -> None:
    at = OnDisk(tmp_path / "cluster", disk, login)
    with at.cluster:
        person = at.person()
        assert at.session(person) == ""
        with filled(disk):
            at.write()
            at.cluster.daemon.kill()
            said = at.refused_start()
        assert "No space left" in said or "disk is full" in said
        at.cluster.daemon.start()
        at.works(person)


def test_a_daemon_refuses_a_disk_that_cannot_be_written_and_starts_when_it_can(
    tmp_path: Path, disk: Path, login: str
) -> None:
    at = OnDisk(tmp_path / "cluster", disk, login)
    with at.cluster:
        person = at.person()
        at.works(person)
        at.cluster.daemon.stop()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        try:
            assert "Read-only file system" in at.refused_start()
        finally:
            subprocess.run(["mount", "-o", f"remount,rw,size={SIZE}", disk], check=True)
        at.cluster.daemon.start()
        at.works(person)

"""The unit of all services under a systemd that booted: start, reload, crash, broken configuration, stop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from tests.cluster.cluster_sessions import Newcomers, Sessions
from tests.cluster.systemd_machine import Machine, why_not

import teleport
from teleport.daemon.systemd.units import Unit as UnitKind
from teleport.daemon.systemd.units import Values, unit_text
from teleport.testing.cluster import BIN, NODE, RUNNING, Cluster, DaemonProcess, Person, wait_until

UNIT = "teleport.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
BAD_UNIT = "/etc/systemd/system/bad.service"
PID_FILE = "/run/teleport.pid"


def combined_unit() -> str:
    return unit_text(Values(UnitKind.COMBINED))


class Unit(DaemonProcess):
    """The daemon as the unit of a container."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        super().__init__(folder, [])
        self.machine = machine

    def start(self) -> Self:
        self.machine.systemctl("start", UNIT).ok()
        RUNNING.append(self)
        self.wait_serving()
        return self

    def stop(self, seconds: float = 60.0) -> None:
        log = self.log()
        self.abandon()
        assert "Traceback" not in log, log

    def abandon(self) -> None:
        self.machine.systemctl("stop", UNIT)
        RUNNING.remove(self)

    def log(self) -> str:
        return self.machine.run("journalctl", "--unit", UNIT, "--output=cat").stdout

    def main_pid(self) -> int:
        """As systemd sees it; 0 when there is none."""
        return int(self.machine.show(UNIT, "MainPID"))

    def serving(self) -> int:
        """As the pid file has it; 0 when there is none."""
        text = self.machine.run("cat", PID_FILE).stdout.strip()
        return int(text) if text else 0

    def state(self) -> str:
        return self.machine.show(UNIT, "ActiveState")

    def wait_serving(self, other_than: int = 0) -> int:
        """The pid of the process that serves, once it is there."""
        wait_until("a process serves", lambda: self.serving() not in (0, other_than), 40)
        return self.serving()

    def processes(self) -> list[int]:
        """All of the unit."""
        listed = self.machine.run("systemd-cgls", "--no-pager", "--full", "--unit", UNIT).stdout
        return [int(number) for number in re.findall(r"[├└]─ *(\d+) ", listed)]


class InContainer(Cluster):
    """A cluster whose daemon systemd runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.good = self.config_path.read_text()
        here = Path(teleport.__file__).parents[2]
        machine_folder = folder / "machine"
        # What this machine's own start files of shells do (pyenv's take a lock of a minute) is not part of this.
        start_files = {str(Path.home() / name): "" for name in (".bashrc", ".bash_profile", ".bash_login", ".profile")}
        bad = combined_unit().replace("Restart=", "Restrt=")
        self.machine = Machine(
            machine_folder,
            {UNIT_PATH: combined_unit(), BAD_UNIT: bad, **start_files},
            {"/etc/teleport.yaml": self.config_path, "/usr/local/bin/teleport": BIN / "teleport"},
            [folder, here],
        )
        self.unit = Unit(self.machine, folder)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InContainer]:
    """One container and one cluster for all tests here."""
    if why := why_not():
        pytest.skip(why)
    cluster = InContainer(tmp_path_factory.mktemp("systemd"))
    with cluster.machine, cluster.unit:
        yield cluster


@pytest.fixture(scope="module")
def sysa(cluster: InContainer, login: str) -> Person:
    person = cluster.add_person("sysa", logins=[login])
    person.log_in()
    return person


def check_serves(cluster: InContainer, person: Person, login: str) -> None:
    assert cluster.unit.state() == "active"
    assert person.ssh(f"{login}@{NODE}.{cluster.name}", "echo here").ok().stdout == "here\n"


def test_systemd_finds_nothing_wrong_with_the_unit(cluster: InContainer) -> None:
    """And finds a word that it does not know, so that finding nothing means something."""
    good = cluster.machine.run("systemd-analyze", "verify", UNIT_PATH).ok()
    assert good.stdout + good.stderr == ""
    bad = cluster.machine.run("systemd-analyze", "verify", BAD_UNIT)
    assert "Restrt" in bad.stderr


def test_the_daemon_says_itself_that_it_has_started(cluster: InContainer) -> None:
    """And how it stands; reading the units again restarts nothing."""
    machine, main = cluster.machine, cluster.unit.main_pid()
    assert machine.show(UNIT, "Type") == "notify"
    machine.systemctl("daemon-reload").ok()
    assert cluster.unit.main_pid() == main
    status = machine.systemctl("status", UNIT).ok().stdout
    assert f"Main PID: {main} " in status
    assert f"pid {main} serves" in status


# Says that it is the main process, and ends when systemd has dealt with that.
IMPOSTOR = """\
import os, socket
done, given = os.pipe()
talk = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
talk.connect("/run/systemd/notify")
talk.send(b"MAINPID=%d\\nSTATUS=taken over" % os.getpid())
socket.send_fds(talk, [b"BARRIER=1"], [given])
os.close(given)
os.read(done, 1)
print("heard")
"""


def test_no_process_of_a_session_speaks_for_the_daemon(cluster: InContainer, sysa: Person, login: str) -> None:
    main, file = cluster.unit.main_pid(), cluster.folder / "impostor.py"
    file.write_text(IMPOSTOR)
    ran = sysa.ssh(f"{login}@{NODE}.{cluster.name}", f"python3 {file}").ok()
    assert ran.stdout == "heard\n"
    assert cluster.unit.main_pid() == main
    assert "taken over" not in cluster.machine.show(UNIT, "StatusText")
    assert "reception only permitted for main PID" in cluster.machine.run("journalctl", "--output=cat").stdout


def test_reload_cuts_nobody_off_and_systemd_follows(cluster: InContainer, sysa: Person, login: str) -> None:
    """Twice while the first process still has its sessions: the newest one is what is replaced."""
    unit = cluster.unit
    first = unit.main_pid()
    assert first == unit.serving() > 0
    assert cluster.machine.show(UNIT, "StatusText") == f"pid {first} serves: auth, proxy, node"
    with Sessions(cluster, sysa, login).open(2) as sessions:
        coming = Newcomers(sysa, login, 16, at_once=2)
        wait_until("some connect before", lambda: coming.done >= 2, 60)
        cluster.machine.systemctl("reload", UNIT).ok()
        second = unit.wait_serving(first)
        cluster.machine.systemctl("reload", UNIT).ok()
        third = unit.wait_serving(second)
        coming.join()
        assert coming.failures == []
        sessions.go_on()
        assert unit.state() == "active"
        # systemd looks at the pid file when a reload is over, and when the main process ends
        assert unit.main_pid() in (first, second)
        sessions.end()
        wait_until("systemd follows", lambda: unit.main_pid() == third, 40)
    assert unit.state() == "active"
    said = f"pid {third} serves: auth, proxy, node"
    wait_until("it says so", lambda: cluster.machine.show(UNIT, "StatusText") == said)
    assert cluster.machine.show(UNIT, "NRestarts") == "0"
    wait_until("the others are gone", lambda: not {first, second} & set(unit.processes()))
    check_serves(cluster, sysa, login)
    assert NODE in cluster.tctl("nodes", "ls").ok().stdout


def test_a_broken_configuration_at_reload_changes_nothing(cluster: InContainer, sysa: Person, login: str) -> None:
    unit = cluster.unit
    serving = unit.serving()
    cluster.config_path.write_text(cluster.good.replace("ssh_service:", "ssh_servise:"))
    try:
        cluster.machine.systemctl("reload", UNIT).ok()
        wait_until("the journal says why", lambda: re.search(r"the new process failed.*ssh_servise", unit.log()))
    finally:
        cluster.config_path.write_text(cluster.good)
    assert unit.serving() == unit.main_pid() == serving
    assert "the new process failed" in cluster.machine.show(UNIT, "StatusText")
    check_serves(cluster, sysa, login)


def test_a_killed_daemon_is_started_again_and_its_sessions_are_on_record(
    cluster: InContainer, sysa: Person, login: str
) -> None:
    unit = cluster.unit
    killed = unit.main_pid()
    with Sessions(cluster, sysa, login).open(1) as sessions:
        (lost,) = sessions.sids()
        cluster.machine.run("kill", "-KILL", str(killed)).ok()
        wait_until("another one is the main process", lambda: unit.main_pid() not in (0, killed), 40)
        assert unit.wait_serving(killed) == unit.main_pid()
        assert cluster.wait_event("session.end", 60, sid=lost)["reason"] == "node lost"
    assert cluster.machine.show(UNIT, "NRestarts") == "1"
    check_serves(cluster, sysa, login)


@pytest.mark.long
def test_a_main_process_killed_while_it_leaves_is_followed_by_the_new_one(
    cluster: InContainer, sysa: Person, login: str
) -> None:
    """systemd goes on with the process that the pid file names, and starts none."""
    unit = cluster.unit
    former, restarts = unit.main_pid(), cluster.machine.show(UNIT, "NRestarts")
    with Sessions(cluster, sysa, login).open(1) as of_former:
        (lost,) = of_former.sids()
        cluster.machine.systemctl("reload", UNIT).ok()
        successor = unit.wait_serving(former)
        with Sessions(cluster, sysa, login).open(1) as of_successor:
            cluster.machine.run("kill", "-KILL", str(former)).ok()
            wait_until("systemd follows", lambda: unit.main_pid() == successor, 40)
            of_successor.go_on()
            assert cluster.wait_event("session.end", 60, sid=lost)["reason"] == "node lost"
    assert cluster.machine.show(UNIT, "NRestarts") == restarts
    check_serves(cluster, sysa, login)


@pytest.mark.long
def test_a_death_that_systemd_cannot_see_does_not_end_the_restarts(
    cluster: InContainer, sysa: Person, login: str
) -> None:
    """The main process is another one's child when it dies; later everything else dies. The host comes back."""
    unit = cluster.unit
    first = unit.main_pid()
    with Sessions(cluster, sysa, login).open(1):
        cluster.machine.systemctl("reload", UNIT).ok()
        second = unit.wait_serving(first)
        cluster.machine.systemctl("reload", UNIT).ok()
        third = unit.wait_serving(second)
        assert unit.main_pid() == second
        for pid in (second, first, third):
            cluster.machine.run("kill", "-KILL", str(pid)).ok()
    wait_until("another one is the main process", lambda: unit.main_pid() not in (0, first, second, third), 40)
    unit.wait_serving(third)
    check_serves(cluster, sysa, login)


def test_quit_stays_stopped(cluster: InContainer, sysa: Person, login: str) -> None:
    unit = cluster.unit
    cluster.machine.run("kill", "-QUIT", str(unit.serving())).ok()
    wait_until("it has ended", lambda: unit.state() == "inactive")
    assert cluster.machine.show(UNIT, "SubState") == "dead", "no start is due"
    unit.abandon()
    unit.start()
    check_serves(cluster, sysa, login)


def test_stop_ends_old_and_new_process_with_their_sessions(cluster: InContainer, sysa: Person, login: str) -> None:
    """While one leaves: both end cleanly, nothing of them is left, and what was recorded is whole."""
    unit = cluster.unit
    former = unit.main_pid()
    with Sessions(cluster, sysa, login).open(1) as of_former:
        cluster.machine.systemctl("reload", UNIT).ok()
        unit.wait_serving(former)
        with Sessions(cluster, sysa, login).open(1) as of_newest:
            sids = [*of_former.sids(), *of_newest.sids()]
            cluster.machine.systemctl("stop", UNIT).ok()
    assert unit.state() == "inactive"
    assert cluster.machine.show(UNIT, "Result") == "success"
    assert unit.processes() == []
    assert unit.serving() == 0, "the pid file is gone"
    unit.abandon()
    unit.start()
    for sid in sids:
        cluster.wait_event("session.end", sid=sid)
        cluster.wait_event("session.upload", sid=sid)
    check_serves(cluster, sysa, login)
    cluster.tctl("audit", "verify").ok()

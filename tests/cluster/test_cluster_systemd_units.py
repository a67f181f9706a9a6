"""Auth and proxy under the unit that closes them off, as a user of their own, in a systemd that booted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.systemd_machine import Machine, why_not

import teleport
from teleport.daemon.systemd.units import Unit, Values, unit_text
from teleport.testing.cluster import BIN, Cluster, Ran, wait_until

UNIT = "teleport.service"
FOLDERS = "/etc/systemd/system"
PLACE = "/etc/teleport.yaml"


class Guarded(Cluster):
    """A cluster whose auth and proxy are of the user `teleport`; everything of it is in the container."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config["teleport"]["data_dir"] = "/var/lib/teleport"
        self.config["ssh_service"] = {"enabled": False}
        # The program under test lies where the unit hides everything (/root, /tmp); its own installation would not.
        here, python = Path(teleport.__file__).parents[2], Path(sys.base_prefix)
        shown = f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={here} {python}\n"
        start_files = {str(Path.home() / name): "" for name in (".bashrc", ".bash_profile", ".bash_login", ".profile")}
        self.machine = Machine(
            folder / "machine",
            {
                f"{FOLDERS}/{UNIT}": unit_text(Values(Unit.SERVICE)),
                f"{FOLDERS}/{UNIT}.d/program.conf": shown,
                PLACE: yaml.safe_dump(self.config),
                **start_files,
            },
            {"/usr/local/bin/teleport": BIN / "teleport"},
            [folder, here],
        )

    def tctl(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 30.0) -> Ran:
        """As root of the container."""
        return self.machine.run(str(BIN / "tctl"), "--config", PLACE, *map(str, arguments), seconds=seconds)

    def show(self, name: str) -> str:
        return self.machine.show(UNIT, name)

    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def status(self, name: str) -> dict[str, Any]:
        """A file of the main process in /proc, by its lines."""
        lines = self.machine.run("cat", f"/proc/{self.main_pid()}/{name}").ok().stdout.splitlines()
        return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if why := why_not():
        pytest.skip(why)
    cluster = Guarded(tmp_path_factory.mktemp("guarded"))
    with cluster.machine as machine:
        words = ("--system", "--user-group", "--no-create-home", "--shell=/usr/sbin/nologin", "teleport")
        machine.run("useradd", *words).ok()
        machine.run("chown", "root:teleport", PLACE).ok()
        machine.run("chmod", "0640", PLACE).ok()
        started = machine.systemctl("enable", "--now", UNIT, seconds=90)
        assert started.status == 0, started.stderr + machine.run("journalctl", "--unit", UNIT, "--output=cat").stdout
        yield cluster
        log = machine.run("journalctl", "--unit", UNIT, "--output=cat").stdout
        assert "Traceback" not in log, log


def test_it_runs_as_its_user_with_no_right_of_root(guarded: Guarded) -> None:
    assert guarded.show("ActiveState") == "active"
    assert guarded.show("StatusText") == f"pid {guarded.main_pid()} serves: auth, proxy"
    status = guarded.status("status")
    uid = guarded.machine.run("id", "-u", "teleport").ok().stdout.strip()
    assert status["Uid"].split() == [uid] * 4
    assert uid != "0"
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    owners = guarded.machine.run("find", "/var/lib/teleport", "!", "-user", "teleport").ok().stdout
    assert owners == ""
    modes = guarded.machine.run("stat", "--format=%a", "/var/lib/teleport").ok().stdout
    assert modes == "700\n"


def test_the_log_of_the_kernel_and_of_the_daemon_tell_of_nothing_that_is_missed(guarded: Guarded) -> None:
    """No call that the unit forbids was needed: the daemon would have warned, and did not."""
    log = guarded.machine.run("journalctl", "--unit", UNIT, "--output=cat").ok().stdout
    assert "Operation not permitted" not in log
    assert "Permission denied" not in log
    assert " ERROR " not in log, log


def test_the_administrator_works_and_leaves_nothing_that_the_daemon_cannot_open(guarded: Guarded) -> None:
    """`tctl` as root."""
    ann = guarded.add_person("ann")
    ann.log_in()
    assert "ann" in guarded.tctl("users", "ls").ok().stdout
    guarded.tctl("audit", "verify").ok()
    assert guarded.machine.run("find", "/var/lib/teleport", "!", "-user", "teleport").ok().stdout == ""


def test_reload_replaces_it_inside_the_same_walls(guarded: Guarded) -> None:
    former = guarded.main_pid()
    guarded.machine.systemctl("reload", UNIT).ok()
    wait_until("systemd follows", lambda: guarded.main_pid() not in (0, former), 60)
    said = f"pid {guarded.main_pid()} serves: auth, proxy"
    wait_until("the new one says that it serves", lambda: guarded.show("StatusText") == said)
    assert guarded.status("status")["NoNewPrivs"] == "1"
    assert guarded.machine.show(UNIT, "NRestarts") == "0"
    guarded.tctl("status").ok()


def test_it_starts_again_over_what_it_left(guarded: Guarded) -> None:
    guarded.machine.systemctl("restart", UNIT, seconds=90).ok()
    assert "ann" in guarded.tctl("users", "ls").ok().stdout
    log = guarded.machine.run("journalctl", "--unit", UNIT, "--output=cat").ok().stdout
    assert "cannot" not in log

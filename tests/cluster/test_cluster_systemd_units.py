"""Auth and proxy under the unit that closes them off, as a user of their own, in a systemd that booted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.systemd_machine import Machine, why_not

import teleport
from teleport.daemon.systemd.units import Unit, Values, unit_text
from teleport.testing.cluster import BIN, Cluster, Ran, at, wait_until

UNIT = "teleport.service"
NODE_UNIT = "teleport-node.service"
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


def test_a_host_joins_by_one_command_and_keeps_a_session_over_a_changed_configuration(guarded: Guarded) -> None:
    """Beside auth and proxy, by a tunnel: written, enabled, started, listed; again changes nothing."""
    machine, name = guarded.machine, "bravo"
    guarded.tctl("tokens", "add", "--type=node", "--out=/etc/join-token").ok()
    join = [
        *("/usr/local/bin/teleport", "join", "--systemd", f"--nodename={name}", "--token-file=/etc/join-token"),
        *(f"--auth-server={at(guarded.web_port)}", f"--ca-pin={guarded.ca_pin()}"),
    ]
    first = machine.run(*join, seconds=120).ok()
    assert f"{name} is part of the cluster {guarded.name} and takes sessions." in first.stdout
    assert first.stderr == ""
    assert machine.show(NODE_UNIT, "ActiveState") == "active"
    assert machine.show(NODE_UNIT, "UnitFileState") == "enabled"
    assert name in guarded.tctl("nodes", "ls").ok().stdout, "it is listed when the command comes back"
    machine.run("rm", "/etc/join-token").ok()
    assert "Nothing was changed." in machine.run(*join, seconds=120).ok().stdout
    bob = guarded.add_person("bob")
    bob.log_in()
    target = f"root@{name}.{guarded.name}"
    wait_until("a session begins", lambda: bob.ssh(target, "echo here").stdout == "here\n")
    assert machine.run(*join, "--labels=env=new").status == 4
    with subprocess.Popen(
        bob.ssh_arguments(target, "echo open; read line; echo $line"),
        env=bob.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        assert session.stdout.readline() == "open\n"
        changed = machine.run(*join, "--labels=env=new", "--force", seconds=120).ok()
        assert "Nothing was changed." not in changed.stdout
        wait_until("its label is new", lambda: "env=new" in guarded.tctl("nodes", "ls").ok().stdout)
        session.stdin.write("still here\n")
        session.stdin.flush()
        assert session.stdout.readline() == "still here\n"
        session.stdin.close()
        assert session.wait(30) == 0


def test_a_host_that_cannot_join_says_why(guarded: Guarded) -> None:
    """The daemon's own words, at once, and what to do; with a good token it joins while systemd still tries."""
    machine = guarded.machine
    machine.systemctl("disable", "--now", NODE_UNIT, seconds=90)
    machine.run("rm", "-rf", "/var/lib/teleport-node").ok()
    machine.run("sh", "-c", "umask 077; echo 0123456789abcdef0123456789abcdef > /etc/wrong-token").ok()
    join = ["/usr/local/bin/teleport", "join", "--systemd", "--force"]
    join += [f"--auth-server={at(guarded.web_port)}", f"--ca-pin={guarded.ca_pin()}"]
    done = machine.run(*join, "--token-file=/etc/wrong-token", seconds=120)
    assert done.status == 1
    assert "the daemon of teleport-node does not start" in done.stderr
    assert "token" in done.stderr
    assert "0123456789abcdef" not in done.stderr
    guarded.tctl("tokens", "add", "--type=node", "--out=/etc/right-token").ok()
    machine.run(*join, "--token-file=/etc/right-token", seconds=120).ok()
    machine.systemctl("disable", "--now", NODE_UNIT, seconds=90).ok()


def test_it_starts_again_over_what_it_left(guarded: Guarded) -> None:
    guarded.machine.systemctl("restart", UNIT, seconds=90).ok()
    assert "ann" in guarded.tctl("users", "ls").ok().stdout
    log = guarded.machine.run("journalctl", "--unit", UNIT, "--output=cat").ok().stdout
    assert "cannot" not in log

"""The units that the daemon prints: what stands in them, that systemd takes them, and what it leaves open in them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from tests.cluster.cluster_packages import ENVIRONMENT, install

from teleport.cli.teleport.command import teleport
from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.daemon.systemd.fitting import misfits
from teleport.daemon.systemd.ratings import OK, open_rows, reason
from teleport.daemon.systemd.units import Unit, Values, unit_text
from teleport.errors import BadRequest
from teleport.testing.cluster import BIN
from teleport.testing.commands import Ran, run_command

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "systemd"
PLACES = {
    Unit.SERVICE: EXAMPLES / "teleport.service",
    Unit.NODE: EXAMPLES / "teleport-node.service",
    Unit.COMBINED: EXAMPLES / "combined" / "teleport.service",
}


def run(*arguments: str) -> Ran:
    return run_command(teleport, "teleport", "install", "systemd", *arguments)


@pytest.fixture(scope="module")
def analyze() -> str:
    """The program, installed where that is possible."""
    if shutil.which("systemd-analyze") is None and (why := install("systemd", "systemd-analyze")):
        pytest.skip(why)
    return "systemd-analyze"


def analyzed(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60
    )


@pytest.mark.parametrize("unit", Unit)
def test_the_examples_are_what_the_command_prints(unit: Unit) -> None:
    """When this fails: teleport install systemd --unit=UNIT > FILE."""
    assert PLACES[unit].name == unit.file_name
    assert PLACES[unit].read_text() == run(f"--unit={unit}").ok().out


def test_there_is_no_example_that_no_command_prints() -> None:
    assert sorted(path for path in EXAMPLES.rglob("*") if path.is_file()) == sorted(PLACES.values())


def test_auth_and_proxy_are_what_is_printed_by_itself() -> None:
    assert run().ok().out == run("--unit=teleport").ok().out


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.usefixtures("analyze")
def test_systemd_finds_nothing_wrong(unit: Unit, tmp_path: Path) -> None:
    """And finds a word that it does not know, so that finding nothing means something."""
    text = unit_text(Values(unit, program=BIN / "teleport"))
    (tmp_path / unit.file_name).write_text(text)
    done = analyzed("verify", str(tmp_path / unit.file_name))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "bad.service").write_text(text.replace("Restart=", "Restrt="))
    assert "Restrt" in analyzed("verify", str(tmp_path / "bad.service")).stderr


@pytest.mark.parametrize("low_ports", [False, True], ids=["usual", "low ports"])
@pytest.mark.usefixtures("analyze")
def test_auth_and_proxy_are_closed_off_until_systemd_calls_it_ok(low_ports: bool, tmp_path: Path) -> None:
    """Or better; a threshold that they do not keep fails, so that keeping it means something."""
    file = tmp_path / "teleport.service"
    file.write_text(unit_text(Values(Unit.SERVICE, low_ports=low_ports)))
    words = ("security", "--offline=true", "--no-pager")
    done = analyzed(*words, f"--threshold={OK * 10:.0f}", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(word in done.stdout.splitlines()[-1] for word in (" OK ", " PERFECT "))
    assert analyzed(*words, "--threshold=1", str(file)).returncode != 0


@pytest.mark.parametrize("values", [*map(Values, Unit), Values(Unit.SERVICE, low_ports=True)], ids=str)
@pytest.mark.usefixtures("analyze")
def test_whatever_systemd_leaves_open_has_a_reason(values: Values, tmp_path: Path) -> None:
    file = tmp_path / values.unit.file_name
    file.write_text(unit_text(values))
    told = analyzed("security", "--offline=true", "--json=short", str(file))
    rows = open_rows(values.unit, told.stdout)
    assert rows
    assert [row.name for row in rows if not row.reason] == []


def test_a_row_that_nobody_has_thought_about_has_no_reason() -> None:
    assert reason(Unit.SERVICE, "ProtectFrobnication") == reason(Unit.NODE, "ProtectFrobnication") == ""
    assert reason(Unit.SERVICE, "CapabilityBoundingSet_CAP_SYS_ADMIN") == "", (
        "what concerns nodes is no reason for auth"
    )
    assert reason(Unit.NODE, "CapabilityBoundingSet_CAP_SYS_ADMIN")


@pytest.mark.usefixtures("analyze")
def test_the_rating_is_printed_with_the_reasons() -> None:
    lines = run("--unit=teleport-node", "--rating").ok().out.splitlines()
    assert lines[0].startswith("Overall exposure level for teleport-node.service: ")
    (row,) = [line for line in lines if line.startswith("NoNewPrivileges=")]
    assert row.endswith("sudo, su and ping would not work in sessions")
    assert "not known to this version" not in "\n".join(lines)
    assert run("--rating", "--output=file").status == 2


def lines_of(values: Values) -> list[str]:
    return unit_text(values).splitlines()


def test_a_port_below_1024_is_a_capability_of_auth_and_proxy_only_when_asked_for() -> None:
    assert {"CapabilityBoundingSet=", "AmbientCapabilities="} <= set(lines_of(Values(Unit.SERVICE)))
    name = "CAP_NET_BIND_SERVICE"
    low = lines_of(Values(Unit.SERVICE, low_ports=True))
    assert {f"CapabilityBoundingSet={name}", f"AmbientCapabilities={name}"} <= set(low)


@pytest.mark.parametrize("unit", [Unit.NODE, Unit.COMBINED])
def test_nothing_is_taken_from_sessions(unit: Unit) -> None:
    """No line of the unit of auth and proxy that would hold in a session stands in theirs."""
    names = {line.partition("=")[0] for line in lines_of(Values(unit)) if "=" in line and line[0] != "#"}
    closing = (
        "Protect",
        "Private",
        "Restrict",
        "Capability",
        "SystemCall",
        "NoNew",
        "Lock",
        "Memory",
        "Keyring",
        "User",
    )
    assert [name for name in names if name.startswith(closing)] == []
    assert "TasksMax=infinity" in lines_of(Values(unit))


def test_paths_and_limits_are_as_asked_for() -> None:
    text = run(
        *("--teleport-path=/opt/t/bin/teleport", "--config=/etc/t/t.yaml", "--env-file=/etc/sysconfig/teleport"),
        *("--pid-file=/run/t/pid", "--fd-limit=8192", "--user=access", "--data-dir=/srv/teleport"),
    ).ok()
    lines = text.out.splitlines()
    for line in (
        "ExecStart=/opt/t/bin/teleport start --config=/etc/t/t.yaml --pid-file=/run/t/pid",
        "EnvironmentFile=-/etc/sysconfig/teleport",
        "PIDFile=/run/t/pid",
        "RuntimeDirectory=t",
        "LimitNOFILE=8192",
        "User=access",
        "ReadWritePaths=/srv/teleport",
    ):
        assert line in lines
    assert "StateDirectory=access/x" in run("--data-dir=/var/lib/access/x").ok().out


@pytest.mark.parametrize(
    "words",
    [
        "--config=relative",
        "--config=/etc/a b",
        "--config=/etc/$HOME",
        "--config=/etc/%n",
        "--config=/etc/a\nUser=root",
        "--config=/etc/'x",
        "--teleport-path=/opt/../bin/teleport",
        "--pid-file=/run/teleport.pid",
        "--pid-file=/var/x/teleport.pid",
        "--user=root",
        "--user=a b",
        "--fd-limit=3",
        "--unit=other",
        "--output=somewhere",
        "--unit=teleport-node --low-ports",
        "--unit=teleport-node --user=access",
        "--unit=combined --data-dir=/srv/teleport",
    ],
)
def test_what_cannot_stand_in_a_unit_is_refused(words: str) -> None:
    """By exit status 2; nothing is printed."""
    ran = run(*words.split(" --")[:1], *(f"--{word}" for word in words.split(" --")[1:]))
    assert ran.status == 2
    assert ran.out == ""


def test_a_unit_is_written_whole_once_and_over_no_other(tmp_path: Path) -> None:
    place = tmp_path / "teleport.service"
    words = (f"--output=file://{place}", f"--teleport-path={BIN / 'teleport'}", f"--config={tmp_path / 'none.yaml'}")
    ran = run(*words).ok()
    assert "has been written" in ran.out
    assert "systemctl enable --now teleport" in ran.out
    assert f"there is no {tmp_path / 'none.yaml'} yet" in ran.err
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    first = place.stat()
    assert "is there already, as it should be" in run(*words).ok().out
    assert place.stat().st_mtime_ns == first.st_mtime_ns
    place.write_text("[Unit]\n")
    ran = run(*words)
    assert ran.status == 4
    assert "--force" in ran.err
    assert place.read_text() == "[Unit]\n"
    run(*words, "--force").ok()
    assert place.stat().st_size == first.st_size
    place.unlink()
    place.symlink_to(tmp_path / "elsewhere")
    assert run(*words, "--force").status == 4
    assert not (tmp_path / "elsewhere").exists()


def test_a_program_that_is_not_there_is_not_written_into_a_unit(tmp_path: Path) -> None:
    place = tmp_path / "teleport.service"
    ran = run(f"--output=file://{place}", f"--teleport-path={tmp_path / 'teleport'}")
    assert ran.status == 3
    assert "--teleport-path=" in ran.err
    assert not place.exists()


def found(values: Values, text: str) -> list[str]:
    return list(misfits(values, effective_config(load_config(text, "file"), StartFlags(), "host")))


NO_NODE = "ssh_service: {enabled: no}\n"
ONLY_NODE = "auth_service: {enabled: no}\nproxy_service: {enabled: no}\n"


def test_a_configuration_that_is_not_made_for_the_unit_is_named() -> None:
    assert found(Values(Unit.SERVICE), NO_NODE) == []
    (said,) = found(Values(Unit.SERVICE), "teleport: {nodename: a}\n")
    assert "ssh_service.enabled to no" in said
    assert found(Values(Unit.NODE), ONLY_NODE + "teleport: {auth_servers: ['a:3025'], auth_token: /t}\n") == []
    (said,) = found(Values(Unit.NODE), NO_NODE)
    assert "they would be root" in said
    assert found(Values(Unit.COMBINED), "teleport: {nodename: a}\n") == []
    low = NO_NODE + "proxy_service: {web_listen_addr: '0.0.0.0:443'}\n"
    (said,) = found(Values(Unit.SERVICE), low)
    assert "port 443: --low-ports" in said
    assert found(Values(Unit.SERVICE, low_ports=True), low) == []
    (said,) = found(Values(Unit.SERVICE, low_ports=True), NO_NODE)
    assert "leave --low-ports out" in said
    (said,) = found(Values(Unit.SERVICE), NO_NODE + "teleport: {data_dir: /srv/t}\n")
    assert "--data-dir=/srv/t" in said


def test_values_are_checked_wherever_they_come_from() -> None:
    with pytest.raises(BadRequest, match="cannot stand in a unit"):
        Values(Unit.NODE, program=Path("/x y"))
    assert os.fspath(Values(Unit.NODE).program) == "/usr/local/bin/teleport"

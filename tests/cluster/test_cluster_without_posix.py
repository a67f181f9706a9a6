"""tsh where POSIX's modules, functions and signals are missing (Windows): login, ls, config, status and exec work."""

from __future__ import annotations

import ast
import json
import stat
import sys
from pathlib import Path

import pytest
from tests.cluster.without_posix import HIDDEN_MODULES

import teleport
from teleport.testing.cluster import PASSWORD, Cluster, Person, Ran, run

PROGRAM = Path(__file__).with_name("without_posix.py")
SOURCE = Path(teleport.__file__).parent
CLIENT_SIDE = ("api", "authz", "cli/tsh", "client", "pki", "resources", "ssh", "transport", "wire")


class Elsewhere:
    """A person at a machine without POSIX."""

    def __init__(self, person: Person) -> None:
        self.person = person

    def tsh(self, *arguments: str, stdin: str = "", seconds: float = 60) -> Ran:
        return run(
            sys.executable,
            PROGRAM,
            *arguments,
            environment={**self.person.environment, "USERNAME": self.person.name},
            stdin=stdin,
            seconds=seconds,
        )


@pytest.fixture(scope="module")
def away(cluster: Cluster, login: str) -> Elsewhere:
    """Logged in from there."""
    person = cluster.add_person("wanda", logins=[login])
    found = Elsewhere(person)
    found.tsh(
        "login",
        f"--proxy={cluster.web_address}",
        "--user=wanda",
        f"--ca-pin={cluster.ca_pin()}",
        stdin=f"{PASSWORD}\n{person.code()}\n",
    ).ok()
    return found


def test_status_and_hosts(away: Elsewhere) -> None:
    assert json.loads(away.tsh("status", "--format=json").ok().stdout)["profiles"][0]["username"] == "wanda"
    assert json.loads(away.tsh("ls", "--format=json").ok().stdout)


def test_a_command_runs_with_its_input_and_its_status(away: Elsewhere, login: str) -> None:
    host = away.tsh("ls", "--format=names").ok().stdout.split()[0]
    assert away.tsh("ssh", f"{login}@{host}", "echo here").ok().stdout == "here\n"
    text = "line\n" * 20_000
    assert away.tsh("ssh", f"{login}@{host}", "cat", stdin=text).ok().stdout == text
    assert away.tsh("ssh", f"{login}@{host}", "exit 37").status == 37


def test_files_are_copied_both_ways(away: Elsewhere, login: str, tmp_path: Path) -> None:
    host = away.tsh("ls", "--format=names").ok().stdout.split()[0]
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "file").write_bytes(b"line\r\n\x1a" * 50_000)
    away.tsh("scp", "-r", "-p", str(tmp_path / "tree"), f"{login}@{host}:{tmp_path}/up").ok()
    away.tsh("scp", "-r", "-p", f"{login}@{host}:{tmp_path}/up", str(tmp_path / "back")).ok()
    assert (tmp_path / "back" / "inner" / "file").read_bytes() == (tmp_path / "tree" / "inner" / "file").read_bytes()
    (tmp_path / "back" / "inner" / "file").unlink()
    (tmp_path / "back" / "inner" / "file").symlink_to(tmp_path / "outside")
    refused = away.tsh("scp", "-r", f"{login}@{host}:{tmp_path}/up/inner", str(tmp_path / "back"))
    assert (refused.status, (tmp_path / "outside").exists()) == (1, False)


def test_configuration_is_printed_and_installed(away: Elsewhere) -> None:
    assert "ProxyCommand ssh" in away.tsh("config").ok().stdout
    away.tsh("config", "--install").ok()
    config = away.person.home / ".ssh" / "config"
    assert config.read_text().count("Include") == 1
    away.tsh("config", "--uninstall").ok()
    assert config.read_text() == ""


def test_what_is_written_there_is_read_here_and_private(away: Elsewhere) -> None:
    assert away.person.tsh("status").ok().stdout == away.tsh("status").ok().stdout
    for path in (away.person.home / ".tsh").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_link_in_the_way_is_refused_there_too(cluster: Cluster, tmp_path: Path) -> None:
    person = Elsewhere(Person(cluster, "nobody", tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    (person.person.home / ".tsh").mkdir(mode=0o700)
    (person.person.home / ".tsh" / "current-profile").symlink_to(tmp_path / "elsewhere")
    ran = person.tsh("status")
    assert ran.status == 1
    assert "symbolic link" in ran.stderr


def test_a_recording_is_played_from_its_file(away: Elsewhere) -> None:
    vector = str(PROGRAM.parent.parent / "vectors" / "recording" / "version-1.rec")
    assert (
        away.tsh("play", vector, "--format=text").ok().stdout
        == away.person.tsh("play", vector, "--format=text").ok().stdout
    )
    away.tsh("play", vector).ok()


def test_logging_out_removes_everything(away: Elsewhere) -> None:
    away.tsh("logout").ok()
    assert not (away.person.home / ".tsh" / "keys").exists()
    assert away.tsh("status").status == 1


def test_one_file_of_what_tsh_uses_imports_what_posix_alone_has() -> None:
    """Everything that tsh may import; the services' own packages are for Unix hosts."""
    found = set()
    for folder in CLIENT_SIDE:
        for path in (SOURCE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if HIDDEN_MODULES & {name.split(".")[0] for name in names}:
                    found.add(path.relative_to(SOURCE).as_posix())
    assert found == {"client/system.py"}

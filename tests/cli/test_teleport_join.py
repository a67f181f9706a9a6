"""teleport join as a script: what it writes, what it refuses, and that running it again changes nothing."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from teleport.cli.teleport.command import teleport
from teleport.daemon.config.file import read_config
from teleport.testing.commands import Ran, run_command

PIN = "sha256:" + "a" * 64
SECRET = "4f2d1c0b9a8877665544332211ffeedd"  # made up
ROLE = Path(__file__).resolve().parents[2] / "examples" / "ansible" / "roles" / "teleport_node"


class Joining:
    def __init__(self, folder: Path) -> None:
        self.config, self.token, self.data = folder / "node.yaml", folder / "token", folder / "data"
        self.token.write_text(SECRET + "\n")
        self.token.chmod(0o600)

    def __call__(self, *more: str, servers: tuple[str, ...] = ("auth.test",), pin: str = PIN) -> Ran:
        ran = run_command(
            teleport,
            "teleport",
            "join",
            *(f"--auth-server={server}" for server in servers),
            f"--token-file={self.token}",
            f"--ca-pin={pin}",
            f"--config={self.config}",
            f"--data-dir={self.data}",
            *more,
        )
        assert SECRET not in ran.out + ran.err
        return ran


@pytest.fixture
def joining(tmp_path: Path) -> Joining:
    return Joining(tmp_path)


def test_the_configuration_says_what_was_asked_for_and_not_the_token(joining: Joining) -> None:
    ran = joining('--labels=env=prod,on=[2h:"date -u"]', "--nodename=web-1", servers=("a.test", "[::1]:443")).ok()
    assert f"teleport start --config={joining.config}" in ran.out
    assert stat.S_IMODE(joining.config.stat().st_mode) == 0o600
    assert SECRET not in joining.config.read_text()
    found = read_config(joining.config)
    assert found is not None
    section = found.document.teleport
    assert [str(server) for server in section.auth_servers] == ["a.test:3025", "[::1]:443"]
    assert (section.nodename, section.data_dir, section.ca_pin) == ("web-1", joining.data, (PIN,))
    assert not found.document.auth_service.enabled
    assert not found.document.proxy_service.enabled
    assert found.document.ssh_service.labels == {"env": "prod"}
    (label,) = found.document.ssh_service.commands
    assert (label.name, label.command) == ("on", ("date", "-u"))
    assert "It runs: node" in run_command(teleport, "teleport", "configure", f"--test={joining.config}").ok().out


def test_labels_are_only_text_whatever_stands_in_them(joining: Joining) -> None:
    joining("--labels=a=x: {y: [z]} #,b=no").ok()
    assert yaml.safe_load(joining.config.read_text())["ssh_service"]["labels"] == {"a": "x: {y: [z]} #", "b": "no"}


def test_again_changes_nothing_and_another_configuration_is_kept(joining: Joining) -> None:
    joining().ok()
    first = joining.config.stat()
    assert "is as it should be" in joining().ok().out
    assert joining.config.stat().st_mtime_ns == first.st_mtime_ns
    ran = joining("--labels=env=other")
    assert ran.status == 4
    assert "--force" in ran.err
    assert "other" not in joining.config.read_text()
    joining("--labels=env=other", "--force").ok()
    assert "other" in joining.config.read_text()


def test_a_token_on_the_command_line_is_refused_and_not_repeated(joining: Joining) -> None:
    for words in ([f"--token={SECRET}"], [f"--token-file={SECRET}"]):
        ran = joining(*words)
        assert ran.status == 2
        assert "--token-file=/path" in ran.err
    assert not joining.config.exists()


@pytest.mark.parametrize("content", ["", "two words", "x" * 5000])
def test_a_file_without_a_token_is_refused_before_anything_is_written(joining: Joining, content: str) -> None:
    joining.token.write_text(content)
    assert joining().status == 2
    joining.token.unlink()
    assert joining().status == 3
    joining.token.mkdir()
    assert joining().status == 1
    assert not joining.config.exists()


def test_a_token_that_others_can_read_is_warned_of(joining: Joining) -> None:
    assert "warning" not in joining().ok().err
    joining.token.chmod(0o640)
    assert f"chmod 0600 {joining.token}" in joining().ok().err


def test_a_host_that_has_joined_needs_no_token(joining: Joining) -> None:
    (joining.data / "proc" / "node").mkdir(parents=True)
    (joining.data / "proc" / "node" / "ssh.cert").touch()
    joining.token.unlink()
    joining().ok()


def test_what_cannot_be_meant_is_refused(joining: Joining) -> None:
    assert joining(pin="sha256:12").status == 2
    assert joining(pin="").status == 2
    assert joining(servers=("a b",)).status == 2
    assert joining(servers=()).status == 2
    assert joining("--labels=nothing").status == 2
    assert joining("--config=node.yaml").status == 2
    assert not joining.config.exists()


def test_the_role_for_ansible_runs_the_command_with_words_that_it_has() -> None:
    """And keeps the token out of the log of ansible."""
    tasks = yaml.safe_load((ROLE / "tasks" / "main.yml").read_text())
    (task,) = [task for task in tasks if "ansible.builtin.command" in task]
    words = [word.split("=")[0] for word in task["ansible.builtin.command"]["argv"]]
    command = teleport.get_command(teleport.make_context("teleport", ["help"]), "join")
    assert command is not None
    known = {name for option in command.params for name in option.opts}
    assert words[:2] == ["{{ teleport_path }}", "join"]
    assert {word for word in words[2:] if word.startswith("--")} <= known
    assert "Nothing was changed." in task["changed_when"]
    (copied,) = [task for task in tasks if "ansible.builtin.copy" in task]
    assert (copied["no_log"], copied["ansible.builtin.copy"]["mode"]) == (True, "0600")
    given = set(yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()))
    assert {"teleport_path", "teleport_auth_servers", "teleport_ca_pins"} <= given

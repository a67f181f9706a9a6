"""Completion in real shells: commands, flags, hosts and logins; silent and harmless whatever the line and the names."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import click
import pytest

from teleport.cli import completion
from teleport.cli.tctl import complete as tctl_values
from teleport.cli.tctl.command import tctl
from teleport.cli.tsh import complete as tsh_values
from teleport.cli.tsh.root import tsh
from teleport.client import hosts_seen, keystore, profile
from teleport.client.home import Home
from teleport.client.keystore import KeyFiles
from teleport.client.profile import Profile
from teleport.pki.keys import generate_p256
from teleport.testing.terminal import Terminal
from teleport.testing.web_lab import LabCluster

HOSTILE = [
    "$(touch owned)",
    "`touch owned`",
    "a;touch owned",
    "a b",
    "a\nb",
    "a'b",
    'a"b',
    "a\\b",
    "a|b",
    "a&b",
    "é",
    "!1",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with the three commands, in which somebody is logged in who has seen some hosts."""
    folder = tmp_path_factory.mktemp("completion")
    programs = folder / "bin"
    programs.mkdir()
    for name in ("teleport", "tctl", "tsh"):
        program = programs / name
        program.write_text(f"#!{sys.executable}\nfrom teleport.cli.{name} import main\nmain()\n")
        program.chmod(0o755)
    home = Home(folder / "tsh")
    found = Profile("proxy.test", "proxy.test:3080", "proxy.test:3023", "ann", "lab.test", "lab.test")
    profile.save(home, found)
    key = generate_p256()
    certs = LabCluster(folder).user_certificates("ann", key.public.line(""), timedelta(hours=1), ("root", "ubuntu"))
    keystore.write_keys(
        home,
        KeyFiles("proxy.test", "ann"),
        key_pem=key.pkcs8_pem(),
        public_line=key.public.line(""),
        ssh=certs.cert,
        tls=certs.tls_cert,
        cluster="lab.test",
    )
    names = ["web1", "web2", "database", *HOSTILE]
    hosts_seen.remember(home, "proxy.test", "lab.test", [(name, "id") for name in names])
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "HOME": str(folder),
        "TELEPORT_HOME": str(home.root),
        "TELEPORT_CONFIG_FILE": "",
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
        "PS1": "ready> ",
    }


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$({0} completion bash)"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -Uz compinit && compinit -u -D && bindkey -e && eval "$({0} completion zsh)"',
    ),
}
TYPED = [
    ("tsh stat\t", "tsh status"),
    ("tsh ls --verb\t", "tsh ls --verbose"),
    ("tsh ls --format=js\t", "tsh ls --format=json"),
    ("tsh ls --format na\t", "tsh ls --format names"),
    ("tsh ssh dat\t", "tsh ssh database"),
    ("tsh ssh ub\tdat\t", "tsh ssh ubuntu@database"),
    ("tsh --proxy=pro\t", "tsh --proxy=proxy.test:3080"),
    ("tsh ls --cluster la\t", "tsh ls --cluster lab.test"),
    ("tctl audit ver\t", "tctl audit verify"),
    ("tctl audit ls --type=user.crea\t", "tctl audit ls --type=user.create"),
    ("teleport configure --te\t", "teleport configure --test"),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_pressing_tab_completes_in_a_real_shell(world: dict[str, str], shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell} (scripts/setup.sh names it)")
    start, load = SHELLS[shell]
    with Terminal(start, world, Path(world["HOME"]), columns=200) as terminal:
        terminal.expect("ready> ")
        for program in ("tsh", "tctl", "teleport"):
            terminal.type(load.format(program) + "; echo load''ed\n")
            terminal.expect("loaded\r\n.*ready> ")
        terminal.type('said() { echo "<$*>"; }\n')
        terminal.expect("ready> ")
        for typed, wanted in TYPED:
            # the shell completes at the tab; what then stands on the line is handed to a function that shows it
            terminal.type(f"{typed}\x01said \x05\n")
            terminal.expect(f"<{re.escape(wanted)}>")
            terminal.expect("ready> ")
    assert not (Path(world["HOME"]) / "owned").exists()


def test_fish_completes(world: dict[str, str]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("needs fish (scripts/setup.sh names it)")

    def offered(line: str) -> list[str]:
        asked = f"tsh completion fish | source; complete -C '{line}'"
        ran = subprocess.run(
            ["fish", "--no-config", "-c", asked], env=world, capture_output=True, text=True, timeout=60, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        return [one.partition("\t")[0] for one in ran.stdout.splitlines()]

    assert offered("tsh stat") == ["status"]
    assert offered("tsh ls --format=js") == ["--format=json"]
    assert offered("tsh ssh web") == ["web1", "web2"]
    assert offered("tsh ssh root@d") == ["root@database"]


def call(world: dict[str, str], program: str, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, "__complete", "fish", "", line], env=world, capture_output=True, text=True, timeout=30, check=False
    )


def test_names_that_a_shell_would_run_are_never_offered(world: dict[str, str]) -> None:
    ran = call(world, "tsh", "tsh ssh ")
    offered = [line.partition("\t")[0] for line in ran.stdout.splitlines()]
    hosts, logins = {"web1", "web2", "database"}, {"root@", "ubuntu@"}
    assert set(offered) == hosts | logins | {login + host for login in logins for host in hosts}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "tsh",
        "tsh nothing ",
        "tsh ssh 'open",
        'tsh ssh "',
        "tsh ssh \\",
        "tsh ls --no-such=",
        "tsh ls --format=json --format ",
        "tsh play --speed x ",
        "tsh -- ",
        "tsh \x00",
        "tsh \udcff",
    ],
)
def test_an_odd_line_is_no_error(world: dict[str, str], line: str) -> None:
    with pytest.raises(ValueError) if "\0" in line else _nothing():
        ran = call(world, "tsh", line)
        assert (ran.returncode, ran.stderr) == (0, "")


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_an_auth_server_that_does_not_answer_holds_nobody_up(world: dict[str, str]) -> None:
    """It takes connections and says nothing; there is no login either. Nothing is asked, nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        ran = call(world, "tctl", f"tctl --auth-server=127.0.0.1:{port} users rm ")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_who_is_logged_in_nowhere_gets_commands_and_no_complaint(world: dict[str, str], tmp_path: Path) -> None:
    nobody = {**world, "TELEPORT_HOME": str(tmp_path / "nowhere")}
    assert call(nobody, "tsh", "tsh ssh ").stdout == ""
    assert "status" in call(nobody, "tsh", "tsh sta").stdout
    assert not (tmp_path / "nowhere").exists()


def test_the_tables_name_parameters_that_exist() -> None:
    for root, table in ((tsh, tsh_values.TABLE), (tctl, tctl_values.TABLE)):
        known: set[str] = set()

        def walk(group: click.Command, path: str, known: set[str] = known) -> None:
            for one in group.params:
                known.update({str(one.name), f"{path} {one.name}".strip()})
            if isinstance(group, click.Group):
                context = click.Context(group)
                for name in group.list_commands(context):
                    command = group.get_command(context, name)
                    assert command is not None
                    walk(command, f"{path} {name}".strip())

        walk(root, "")
        assert set(table) <= known


def test_only_the_end_of_a_word_that_bash_breaks_is_given_to_it() -> None:
    assert completion._for_shell("--format=json", "bash", ' \t"=:@', "tsh ls --format=js") == "json"
    assert completion._for_shell("root@web1", "bash", " \t=:", "tsh ssh root@w") == "root@web1"
    assert completion._for_shell("root@web1", "bash", " \t=:@", "tsh ssh root@w") == "@web1"
    assert completion._for_shell("--format=json", "zsh", "", "tsh ls --format=js") == "--format=json"

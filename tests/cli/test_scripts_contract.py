"""What scripts rely on, for every command that has `--format=json`: stdout holds JSON and nothing else, and a failure
is one JSON object on stderr with code, message and hint, and an exit status that says which kind it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from teleport.cli import app, render
from teleport.cli.tctl.command import tctl
from teleport.cli.teleport.command import teleport
from teleport.cli.tsh import prompts
from teleport.cli.tsh.root import tsh
from teleport.errors import KINDS, NotFound
from teleport.testing.commands import run_command

PROGRAMS: dict[str, click.Group] = {"teleport": teleport, "tctl": tctl, "tsh": tsh}
STATUS = {kind.code: kind.exit_code for kind in KINDS.values()}
FILLED = {"labels": "a=b", "url": "https://127.0.0.1:1/web/invite/aaaaaaaaaaaa", "specs": "roles", "sid": "0" * 8}


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def gives_json(command: click.Command) -> bool:
    return any(
        isinstance(option.type, click.Choice) and "json" in option.type.choices
        for option in command.params
        if isinstance(option, click.Option)
    )


ALL = [found for name, group in PROGRAMS.items() for found in commands(group, (name,))]
JSON = [(path, command) for path, command in ALL if gives_json(command)]


def filled(command: click.Command) -> list[str]:
    """Arguments and options that the command cannot do without."""
    words = []
    for one in command.params:
        if isinstance(one, click.Argument) and one.required:
            words.append(FILLED.get(str(one.name), "x"))
        elif isinstance(one, click.Option) and one.required:
            words.append(f"{one.opts[-1]}=node")
    return words


def failure(ran: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The one object on stderr."""
    assert ran.stderr.endswith("\n"), ran.stderr
    found: dict[str, str] = json.loads(ran.stderr)
    assert sorted(found) == ["code", "hint", "message"], found
    assert ran.returncode == STATUS[found["code"]], found
    assert found["message"]
    assert "Traceback" not in ran.stderr
    return found


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One of the commands as somebody runs it who is logged in nowhere, on a host without a configuration."""
    program = f"from teleport.cli.{words[0]} import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *words[1:]],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TELEPORT_HOME": str(folder / "tsh"),
            "TELEPORT_CONFIG_FILE": "",
            "LC_ALL": "C.UTF-8",
        },
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_table_has_the_commands_that_scripts_need() -> None:
    names = {" ".join(path) for path, _ in JSON}
    assert {"tctl users ls", "tctl users add", "tctl tokens add", "tctl audit ls", "tctl get", "tsh ls"} <= names
    assert {"tsh status", "tsh version", "tctl version", "teleport version", "teleport status"} <= names
    assert len(JSON) >= 20


@pytest.mark.parametrize(("path", "command"), JSON, ids=[" ".join(path) for path, _ in JSON])
def test_json_is_all_there_is_on_stdout_and_a_failure_is_one_object(
    tmp_path: Path, path: tuple[str, ...], command: click.Command
) -> None:
    ran = run(tmp_path, *path, *filled(command), "--format=json")
    if ran.stdout:
        json.loads(ran.stdout)
    if ran.returncode:
        failure(ran)
    else:
        assert ran.stdout, path
    wrong = run(tmp_path, *path, *filled(command), "--format", "json", "--no-such-flag")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    found = failure(wrong)
    assert "--no-such-flag" in found["message"]
    assert found["hint"] == f"{' '.join(path)} --help"


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_text_that_fails_leaves_stdout_empty_and_says_why_on_stderr(
    tmp_path: Path, path: tuple[str, ...], command: click.Command
) -> None:
    if path[0] == "tsh" and path[1] in ("ssh", "config-proxy"):
        return  # what follows belongs to the remote command
    ran = run(tmp_path, *path, *filled(command), "--no-such-flag")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"{path[0]}: ")
    assert "hint: " in ran.stderr
    assert "\x1b" not in ran.stderr


@pytest.mark.parametrize(
    ("program", "words", "json_wanted"),
    [
        ("tctl", ["users", "ls", "--format=json"], True),
        ("tctl", ["users", "ls", "--format", "json"], True),
        ("tctl", ["-d", "users", "ls", "--format=json", "--nonsense"], True),
        ("tsh", ["ls", "-fjson"], True),
        ("tsh", ["ls", "-f", "json"], True),
        ("tctl", ["create", "-f", "json"], False),  # a file of that name, replaced
        ("tsh", ["ssh", "host", "tctl", "users", "ls", "--format=json"], False),
        ("tsh", ["ssh", "host", "--", "x", "--format=json"], False),
        ("tctl", ["users", "ls", "--", "--format=json"], False),
        ("tctl", ["users", "ls"], False),
    ],
)
def test_json_is_asked_for_by_the_commands_own_flag(program: str, words: list[str], json_wanted: bool) -> None:
    assert app.wants_json(PROGRAMS[program], words) is json_wanted


def test_notes_before_a_failure_are_part_of_it_and_of_a_success_come_at_the_end() -> None:
    @click.command()
    @click.option("--format", type=click.Choice(["text", "json"]))
    @click.option("--fail", is_flag=True)
    def work(format: str, fail: bool) -> None:
        render.note("one thing to know")
        if fail:
            raise NotFound("it is not there", hint="look elsewhere")
        render.out("{}\n")

    done = run_command(work, "work", "--format=json", "--fail")
    assert (done.status, done.out) == (3, "")
    assert json.loads(done.err) == {
        "code": "not_found",
        "message": "it is not there\none thing to know",
        "hint": "look elsewhere",
    }
    done = run_command(work, "work", "--format=json")
    assert (done.status, done.out, done.err) == (0, "{}\n", "one thing to know\n")


def test_what_a_question_is_about_is_read_before_it_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where notes wait for the end: nobody agrees to a fingerprint unseen."""
    shown: list[str] = []

    def yes(question: str) -> bool:
        shown.append(capsys.readouterr().err)
        return False

    monkeypatch.setattr(prompts, "interactive", lambda: True)
    monkeypatch.setattr(prompts, "yes", yes)
    with render.notes_kept(True):
        assert not prompts.Person().accept_certificate("proxy.test:3080", "sha256:abcdef")
    assert "sha256:abcdef" in shown[0]


def test_no_output_is_coloured_with_and_without_no_color(tmp_path: Path) -> None:
    """There are no colours to turn off; NO_COLOR is honoured because nothing ever sends them."""
    source = Path(render.__file__).parent
    coloured = [
        path for path in source.rglob("*.py") if "click.style" in path.read_text() or "secho" in path.read_text()
    ]
    assert coloured == []

"""Manual pages: whatever help shows stands in them, and the programs that read them find nothing wrong."""

from __future__ import annotations

import re
import shutil
import subprocess

import click
import pytest

from teleport.cli import manual
from teleport.cli.tctl.command import tctl
from teleport.cli.teleport.command import teleport
from teleport.cli.tsh.root import tsh
from teleport.testing.commands import run_command

PROGRAMS: dict[str, click.Group] = {"teleport": teleport, "tctl": tctl, "tsh": tsh}


def plain(text: str) -> str:
    for roff, letter in (("\\-", "-"), ("\\(dq", '"'), ("\\(aq", "'"), ("\\(ti", "~"), ("\\(ga", "`"), ("\\(ha", "^")):
        text = text.replace(roff, letter)
    return text.replace("\\&", "").replace("\\e", "\\")


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_and_every_flag_that_help_shows_is_in_the_page(program: str) -> None:
    page = plain(run_command(PROGRAMS[program], program, "man").ok().out)
    contexts = list(manual.visible(PROGRAMS[program], program))
    assert len(contexts) >= 4
    for context in contexts:
        assert f'.SS "{context.command_path} ' in page, context.command_path
        for option in context.command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert all(name in page for name in option.opts), (context.command_path, option.opts)
    _, _, commands = run_command(PROGRAMS[program], program, "--help").out.partition("Commands:")
    listed = re.findall(r"^  ([a-z-]+) ", commands, re.MULTILINE)
    assert len(listed) >= 4
    assert [name for name in listed if f'.SS "{program} {name} ' not in page] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_readers_of_manual_pages_find_nothing_wrong(program: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("needs mandoc (scripts/setup.sh names it)")
    page = run_command(PROGRAMS[program], program, "man").ok().out
    ran = subprocess.run(["mandoc", "-Tlint", "-Wwarning"], input=page, capture_output=True, text=True, check=False)
    found = [line for line in (ran.stdout + ran.stderr).splitlines() if "missing date" not in line]
    assert found == [], "a page bears no date, so that equal programs give equal pages"
    shown = subprocess.run(["mandoc", "-Tutf8"], input=page, capture_output=True, text=True, check=True).stdout
    assert re.sub(".\b", "", shown).count(f"{program.upper()}(") >= 2


def test_what_looks_like_an_instruction_is_text() -> None:
    page = manual.page(click.Group("tsh", help='.so /etc/passwd\n\n\'\\fBx -- "y"'), "tsh")
    assert "\n.so" not in page
    assert "\\efBx \\-\\- \\(dqy\\(dq" in page

"""docs/tsh.md names every command, flag and variable there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from teleport.cli.tsh.root import tsh

PAGE = (Path(__file__).parent.parent.parent / "docs" / "tsh.md").read_text()
CONTEXT = click.Context(tsh)
COMMANDS = {name: tsh.get_command(CONTEXT, name) for name in tsh.list_commands(CONTEXT)}
COMMANDS |= {
    f"{name} {inner}": command
    for name, group in [*COMMANDS.items()]
    if isinstance(group, click.Group)
    for inner, command in group.commands.items()
}


def options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_on_the_page(name: str) -> None:
    assert re.search(rf"`[^`]*\b{re.escape(name)}\b", PAGE)


@pytest.mark.parametrize("name", ["tsh", *sorted(COMMANDS)])
def test_every_flag_and_variable_is_on_the_page(name: str) -> None:
    command = COMMANDS.get(name, tsh)
    assert command is not None
    for option in options(command):
        if option.hidden and name != "tsh":
            continue
        assert any(f"`{flag}`" in PAGE for flag in option.opts), option.opts
        variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
        for variable in variables:
            assert variable in PAGE or option.hidden, variable


def test_every_flag_on_the_page_exists() -> None:
    known = {
        flag for command in [tsh, *COMMANDS.values()] if command for option in options(command) for flag in option.opts
    }
    named = set(re.findall(r"`(--?[a-z][a-z-]*|-[A-Z])[`=]", PAGE))
    assert named - known == {"--help"}


def test_listed_helps_are_the_commands_own() -> None:
    """The group's table speaks without importing; both must say something."""
    for name, command in COMMANDS.items():
        assert command is not None
        assert command.help, name

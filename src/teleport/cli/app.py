"""What the three commands share: late loading of subcommands, and errors turned into sentences and exit codes.

Exit codes (`ours.md`): 0 done, 1 failed, 2 usage, 3 not found, 4 exists, 5 denied, 6 unreachable; 130 interrupted.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn

import click

import teleport.quick_dataclasses  # noqa: F401 (before the modules that define such classes: a tenth of a start)
from teleport.cli import outcome, render
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from teleport.cli.completion import Table


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they run; their one-line helps stand in the table."""

    def __init__(
        self, *, lazy: Mapping[str, tuple[str, str]], aliases: Mapping[str, str] | None = None, **kwargs: object
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self._lazy = dict(lazy)  # name: ("module:attribute", "help")
        self._aliases = dict(aliases or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._lazy])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = self._aliases.get(cmd_name, cmd_name)
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute = self._lazy[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    @property
    def hidden_names(self) -> frozenset[str]:
        """Subcommands that help does not show."""
        return frozenset(name for name, (_, help_text) in self._lazy.items() if not help_text)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Names and flags, without importing the subcommands."""
        from click.shell_completion import CompletionItem

        found = click.Command.shell_complete(self, ctx, incomplete)
        rows = [(name, help_text) for name, (_, help_text) in self._lazy.items() if help_text]
        rows += [(name, one.get_short_help_str()) for name, one in self.commands.items() if not one.hidden]
        return found + [CompletionItem(name, help=told) for name, told in sorted(rows) if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The listing, without importing anything."""
        rows = [(name, help_text) for name, (_, help_text) in sorted(self._lazy.items()) if help_text]
        rows += [
            (name, command.get_short_help_str())
            for name, command in sorted(self.commands.items())
            if not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows))


def wants_json(command: click.Command, arguments: list[str]) -> bool:
    """Whether the command that the arguments name is asked for JSON by its own `--format`.

    Read apart from click, which may have failed over these very arguments; what is meant for a remote command, or is
    the name of a file, does not count.
    """
    if not any("json" in word for word in arguments):
        return False
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    context = click.Context(command, resilient_parsing=True)
    rest = words
    for at, word in enumerate(words):
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is not None:
            command, rest = found, words[at + 1 :]
            context = click.Context(command, parent=context, resilient_parsing=True)
    for option in command.params:
        if isinstance(option, click.Option) and isinstance(option.type, click.Choice) and "json" in option.type.choices:
            return any(_gives_json(rest, name) for name in option.opts)
    return False


def _gives_json(words: list[str], name: str) -> bool:
    joined = f"{name}=json" if name.startswith("--") else f"{name}json"
    return joined in words or any(pair == (name, "json") for pair in itertools.pairwise(words))


def _no_values() -> Table:
    return {}


def run(
    command: click.Command,
    program: str,
    arguments: list[str] | None = None,
    *,
    values: Callable[[], Table] = _no_values,
    context: object = None,
) -> NoReturn:
    """Runs `command` and ends the process with the exit code that the outcome has. `values` gives what completion
    offers for the command's words; commands get `context` by `click.pass_obj`."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["__complete"] and isinstance(command, click.Group):
        from teleport.cli import completion

        completion.answer(command, program, given[1:], values)
    debug = "-d" in given or "--debug" in given
    as_json = wants_json(command, given)
    try:
        with render.notes_kept(as_json):
            status = command.main(args=given, prog_name=program, standalone_mode=False, obj=context)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.exceptions.NoArgsIsHelpError as usage:
        sys.stderr.write(usage.format_message() + "\n")
        sys.exit(2)
    except click.Abort:
        sys.stderr.write("\n")
        sys.exit(130)
    except click.ClickException as usage:
        where = usage.ctx.command_path if isinstance(usage, click.UsageError) and usage.ctx else program
        wrong = BadRequest(usage.format_message(), hint=f"{where} --help")
        render.report(wrong, program, as_json_object=as_json)
        sys.exit(2)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(outcome.exit_code(error, program, debug=debug, as_json=as_json))

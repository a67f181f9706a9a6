"""What the three commands share: late loading of subcommands, and errors turned into sentences and exit codes.

Exit codes (`ours.md`): 0 done, 1 failed, 2 usage, 3 not found, 4 exists, 5 denied, 6 unreachable; 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

import click

from teleport.cli import render
from teleport.errors import BadRequest, TeleportError


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


def _wants_json(arguments: list[str]) -> bool:
    joined = " ".join(arguments)
    return "--format=json" in joined or "--format json" in joined or "-f json" in joined


def run(command: click.Command, program: str, arguments: list[str] | None = None) -> NoReturn:
    """Runs `command` and ends the process with the exit code that the outcome has."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "-d" in given or "--debug" in given
    as_json = _wants_json(given)
    try:
        status = command.main(args=given, prog_name=program, standalone_mode=False)
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
        error: TeleportError = BadRequest(usage.format_message(), hint=f"{where} --help")
        render.report(error, program, as_json_object=as_json)
        sys.exit(2)
    except TeleportError as error:
        if debug:
            import traceback

            traceback.print_exc()
        render.report(error, program, as_json_object=as_json)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        if debug:
            import traceback

            traceback.print_exc()
        problem = TeleportError(
            f"unexpected {type(error).__name__}: {error}",
            hint="this is a fault of ours: run it again with -d and report what it prints",
        )
        render.report(problem, program, as_json_object=as_json)
        sys.exit(problem.exit_code)

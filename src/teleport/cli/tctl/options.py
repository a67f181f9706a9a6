"""Flags that all subcommands share, and the forms of values that people type.

The global flags are taken before and after the subcommand, as operators write them either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from teleport.cli.app import LazyGroup

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Flags:
    """The global flags as they were given."""

    debug: bool = False
    config: str = ""
    auth_server: tuple[str, ...] = ()
    identity: str = ""
    insecure: bool = False


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        name = str(param.name)
        flags = flags_of(ctx)
        setattr(flags, name, (*getattr(flags, name), *value) if name == "auth_server" else value)


def flags_of(ctx: click.Context) -> Flags:
    """The flags of this run of the command."""
    root = ctx.find_root()
    if root.obj is None:
        root.obj = Flags()
    assert isinstance(root.obj, Flags)
    return root.obj


def global_options(*, hidden: bool) -> list[click.Parameter]:
    """The global flags, as parameters of one command; `hidden` below the top, where help would repeat them."""

    def option(*names: str, **kwargs: Any) -> click.Option:
        return click.Option(names, hidden=hidden, expose_value=False, callback=_remember, **kwargs)

    return [
        option("-d", "--debug", is_flag=True, help="Show more, and the whole trace of an error."),
        option(
            "-c",
            "--config",
            metavar="FILE",
            help="Configuration of the daemon on this host; TELEPORT_CONFIG_FILE, else /etc/teleport.yaml.",
        ),
        option("--auth-server", multiple=True, metavar="HOST:PORT", help="Address of an auth server or proxy."),
        option("-i", "--identity", metavar="FILE", help="Identity file to act with, from: tctl auth sign --user."),
        option("--insecure", is_flag=True, help="Do not check the web certificate of a proxy on the way to auth."),
    ]


class Command(click.Command):
    """A subcommand; it takes the global flags too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *global_options(hidden=True)]


class Group(LazyGroup):
    """A group of subcommands, with the global flags and the alias `del` for `rm`."""

    command_class = Command

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(lazy={}, aliases={"del": "rm"}, **kwargs)
        self.params = [*self.params, *global_options(hidden=True)]


class DurationType(click.ParamType[float]):
    """`1h30m` as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        from teleport.resources.values import Duration

        try:
            return Duration.parse(str(value)).seconds
        except ValueError as error:
            self.fail(f"{value!r} is no duration ({error}); write 30m, 1h or 1h30m", param, ctx)


DURATION = DurationType()


def comma_list(values: Sequence[str]) -> list[str]:
    """`a,b` and repeated flags as one list, each once, in order."""
    parts = [part.strip() for value in values for part in value.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def format_option(*formats: str) -> Callable[[F], F]:
    """`--format`; the first is the default."""
    return click.option("--format", "form", type=click.Choice(formats), default=formats[0], help="Form of the output.")

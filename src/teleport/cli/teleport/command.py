"""The command itself: its table of subcommands. Nothing else is imported until a subcommand runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import click

from teleport.cli import app

if TYPE_CHECKING:
    from teleport.cli.teleport.daemon import Order

_HERE = "teleport.cli.teleport"


@click.pass_context
def _help(ctx: click.Context, name: str | None) -> None:
    root = ctx.find_root()
    command = root.command
    if name is None or not isinstance(command, click.Group):
        click.echo(command.get_help(root))
        return
    found = command.get_command(root, name)
    if found is None:
        raise click.UsageError(f"there is no command {name!r}", root)
    click.echo(found.get_help(click.Context(found, info_name=name, parent=root)))


teleport = app.LazyGroup(
    name="teleport",
    help="The daemon of a cluster: auth, proxy and SSH node, any of them in one process.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    lazy={
        "start": (f"{_HERE}.start:start", "Start the services of this host."),
        "configure": (f"{_HERE}.configure:configure", "Print a configuration file, or check one."),
        "install": (f"{_HERE}.install:install", "Set this host up to run the daemon."),
        "doctor": (f"{_HERE}.doctor:doctor", "Look for what keeps this host from serving, and how to mend it."),
        "healthcheck": (f"{_HERE}.healthcheck:healthcheck", "Ask the daemon of this host whether it serves."),
        "ports": (f"{_HERE}.ports:ports", "Print each port that this host needs, and why."),
        "join": (f"{_HERE}.join:join", "Make this host one that takes sessions."),
        "kube": (f"{_HERE}.kube:kube", "Run a Kubernetes service inside a cluster."),
        "repair": (f"{_HERE}.repair:repair", "Give an administrator back to a cluster whose daemon is stopped."),
        "support-bundle": (
            f"{_HERE}.support_bundle:support_bundle",
            "Write what helps others to help, without secrets.",
        ),
        "status": (f"{_HERE}.status:status", "Show the session that this shell belongs to."),
        "completion": (f"{_HERE}.command:completion", "Print the completion for bash, zsh or fish."),
        "man": (f"{_HERE}.command:man", "Print the manual page."),
        "version": (f"{_HERE}.version:version", "Print the version."),
    },
)
teleport.add_command(
    click.Command(
        "help",
        callback=_help,
        params=[click.Argument(["name"], required=False, metavar="[COMMAND]")],
        short_help="Show the help of a command.",
    )
)


def __getattr__(name: str) -> click.Command:
    """`completion` and `man`, which are the same for every program and made when they run."""
    if name not in ("completion", "man"):
        raise AttributeError(name)
    from teleport.cli import completion, manual

    return completion.command("teleport") if name == "completion" else manual.command("teleport")


def _start(order: Order) -> None:
    """For `start` that is not the first word: in this very process."""
    from teleport.cli.teleport import daemon

    daemon.run(order)


def main() -> NoReturn:
    """The entry point of `teleport`."""
    app.run(teleport, "teleport", context=_start)

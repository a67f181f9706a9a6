"""The command itself: its table of subcommands, and `help`. Nothing else is imported until a subcommand runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import click

from teleport.cli import app
from teleport.cli.tctl.options import global_options

if TYPE_CHECKING:
    from teleport.cli.completion import Table

_HERE = "teleport.cli.tctl"


@click.pass_context
def _help(ctx: click.Context, names: tuple[str, ...]) -> None:
    root = ctx.find_root()
    command, shown = root.command, root
    for name in names:
        found = command.get_command(shown, name) if isinstance(command, click.Group) else None
        if found is None:
            raise click.UsageError(f"there is no command {' '.join(names)!r}", shown)
        command, shown = found, click.Context(found, info_name=name, parent=shown)
    click.echo(command.get_help(shown))


tctl = app.LazyGroup(
    name="tctl",
    help="Administers a cluster: users, roles, hosts, tokens, authorities, the audit log and recordings.",
    params=global_options(hidden=False),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    lazy={
        "status": (f"{_HERE}.status:status", "Show the cluster, its authorities and the CA pin."),
        "users": (f"{_HERE}.users:users", "Invite, list, change and remove users."),
        "nodes": (f"{_HERE}.nodes:nodes", "Add hosts, list and expel them."),
        "kube": (f"{_HERE}.kube:kube", "List Kubernetes clusters."),
        "tokens": (f"{_HERE}.tokens:tokens", "Make, list and remove join tokens."),
        "auth": (f"{_HERE}.authorities:auth", "Export and rotate authorities, sign certificates for users and hosts."),
        "access": (f"{_HERE}.access:access", "Explain who may reach what, and why."),
        "roles": (f"{_HERE}.roles:roles", "Look roles over before they are stored."),
        "certs": (f"{_HERE}.certs:certs", "List live certificates, and end one before its time."),
        "lock": (f"{_HERE}.locks:lock", "Stop a user, role, login, host or device at once."),
        "mfa": (f"{_HERE}.mfa:mfa", "List and take away what second factors gave."),
        "get": (f"{_HERE}.resources:get", "Print resources as YAML, JSON or tables."),
        "create": (f"{_HERE}.resources:create", "Create resources from YAML documents."),
        "apply": (f"{_HERE}.apply:apply", "Make the cluster as files say, and show what differs."),
        "update": (f"{_HERE}.clusters:update", "Change the labels of a remote cluster, or its lifetime."),
        "rm": (f"{_HERE}.resources:rm", "Remove resources."),
        "audit": (f"{_HERE}.audit:audit", "Search the audit log, and prove it complete."),
        "hold": (f"{_HERE}.hold:hold", "Keep events from being pruned: legal hold."),
        "backup": (f"{_HERE}.backup:backup", "Back the cluster up, prove a backup, restore it."),
        "migrate": (f"{_HERE}.migrate:migrate", "Move the state of a stopped cluster to another storage."),
        "sessions": (f"{_HERE}.sessions:sessions", "List sessions that run now, and end them."),
        "recordings": (f"{_HERE}.recordings:recordings", "List, search, export and verify recorded sessions."),
        "top": (f"{_HERE}.top:top", "Show the numbers of a daemon, as a screen that is drawn anew."),
        "completion": (f"{_HERE}.command:completion", "Print the completion for bash, zsh or fish."),
        "man": (f"{_HERE}.command:man", "Print the manual page."),
        "version": (f"{_HERE}.status:version", "Print the version."),
    },
    aliases={"del": "rm"},
)
tctl.add_command(
    click.Command(
        "help",
        callback=_help,
        params=[click.Argument(["names"], nargs=-1, metavar="[COMMAND]...")],
        short_help="Show the help of a command.",
    )
)


def _values() -> Table:
    from teleport.cli.tctl.complete import TABLE

    return TABLE


def __getattr__(name: str) -> click.Command:
    """`completion` and `man`, which are the same for every program and made when they run."""
    if name not in ("completion", "man"):
        raise AttributeError(name)
    from teleport.cli import completion, manual

    return completion.command("tctl") if name == "completion" else manual.command("tctl")


def main() -> NoReturn:
    """The entry point of `tctl`."""
    app.run(tctl, "tctl", values=_values)

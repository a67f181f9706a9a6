"""`tsh`: the group, its global flags, and the table of its commands, none of which is imported before it runs."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, NoReturn

import click

from teleport import __version__
from teleport.cli import render
from teleport.cli.app import LazyGroup, run
from teleport.cli.tsh.flags import GLOBAL, Flags

if TYPE_CHECKING:
    from teleport.cli.completion import Table

COMMANDS = {
    "login": ("teleport.cli.tsh.login:login", "Log in to a cluster and get certificates"),
    "logout": ("teleport.cli.tsh.logout:logout", "Forget keys and certificates"),
    "status": ("teleport.cli.tsh.status:status", "Show who you are logged in as"),
    "ls": ("teleport.cli.tsh.nodes:ls", "List the hosts that you may reach"),
    "ssh": ("teleport.cli.tsh.ssh:ssh", "Open a shell or run a command on a host"),
    "latency": ("teleport.cli.tsh.latency:latency", "Measure how long each hop to a host takes"),
    "sessions": ("teleport.cli.tsh.sessions:sessions", "List sessions that run now"),
    "join": ("teleport.cli.tsh.join:join", "Take part in a running session"),
    "scp": ("teleport.cli.tsh.scp:scp", "Copy files to, from and between hosts"),
    "proxy": ("teleport.cli.tsh.proxy:proxy", "Lead a connection of another program through the proxy"),
    "mfa": ("teleport.cli.tsh.mfa:mfa", "Manage your second factors"),
    "kube": ("teleport.cli.tsh.kube:kube", "Use Kubernetes clusters"),
    "play": ("teleport.cli.tsh.play:play", "Play a recorded session"),
    "recordings": ("teleport.cli.tsh.recordings:recordings", "List, search and export recorded sessions"),
    "config": ("teleport.cli.tsh.config:config", "Print configuration for OpenSSH"),
    "config-refresh": ("teleport.cli.tsh.config:config_refresh", ""),
    "config-proxy": ("teleport.cli.tsh.config:config_proxy", ""),
    "clusters": ("teleport.cli.tsh.nodes:clusters", "List clusters"),
    "env": ("teleport.cli.tsh.status:env", "Print shell commands that choose this profile"),
    "completion": ("teleport.cli.tsh.root:completion", "Print the completion for bash, zsh or fish"),
    "man": ("teleport.cli.tsh.root:man", "Print the manual page"),
    "accept": ("teleport.cli.tsh.accept:accept", "Accept an invitation: set password and second factor"),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@GLOBAL
@click.pass_context
def tsh(context: click.Context, flags: Flags) -> None:
    """Reach hosts with short-lived certificates."""
    context.obj = flags


@tsh.command()
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text", help="form of the output")
def version(form: str) -> None:
    """Print the version."""
    if form == "json":
        from teleport.cli.teleport.version import version_text

        render.out(version_text(form))
    else:
        render.out(f"Teleport v{__version__}\n")


@tsh.command(name="help", hidden=True)
@click.argument("command", required=False)
@click.pass_context
def help_(context: click.Context, command: str | None) -> None:
    """Help for a command."""
    parent = context.find_root()
    found = tsh.get_command(parent, command) if command else tsh
    if found is None:
        raise click.UsageError(f"there is no command {command!r}")
    with click.Context(found, info_name=command or parent.info_name, parent=parent if command else None) as inner:
        click.echo(found.get_help(inner))


def _values() -> Table:
    from teleport.cli.tsh.complete import TABLE

    return TABLE


def __getattr__(name: str) -> click.Command:
    """`completion` and `man`, which are the same for every program and made when they run."""
    if name not in ("completion", "man"):
        raise AttributeError(name)
    from teleport.cli import completion, manual

    return completion.command("tsh") if name == "completion" else manual.command("tsh")


def main() -> NoReturn:
    """The entry point."""
    gc.disable()  # the commands live for a moment; those that live longer turn it on again
    run(tsh, "tsh", values=_values)

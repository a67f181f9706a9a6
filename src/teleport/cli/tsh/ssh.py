"""`tsh ssh`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.errors import SECOND_FACTOR_DUE, BadRequest, TeleportError

if TYPE_CHECKING:
    pass

NOT_KNOWN = 255
# Options of OpenSSH that change nothing here; others are named as ignored, so that nobody relies on them.
_HARMLESS = frozenset(
    {"stricthostkeychecking", "requesttty", "addkeystoagent", "forwardagent", "loglevel", "batchmode"}
)


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("target")
@click.argument("command", nargs=-1)
@click.option("-p", "--port", type=click.IntRange(1, 65535), default=None, help="port, where a name fits several hosts")
@click.option("-t", "--tty", is_flag=True, help="a terminal also for a command")
@click.option("-o", "--option", "options", multiple=True, help="an option of OpenSSH, as Key=Value")
@click.option("-L", "--forward", "forwards", multiple=True, help="not available yet")
@click.option("-D", "--dynamic-forward", "dynamic", multiple=True, help="not available yet")
@click.option("-A", "--forward-agent", is_flag=True, help="not available yet")
@click.option("-N", "--no-remote-exec", is_flag=True, help="not available yet")
@click.option("--local", is_flag=True, hidden=True)
@click.option("--no-escape", "--enable-escape-sequences", "_escapes", is_flag=True, hidden=True)
@cluster_option
@takes_flags
def ssh(
    flags: Flags,
    target: str,
    command: tuple[str, ...],
    port: int | None,
    tty: bool,
    options: tuple[str, ...],
    forwards: tuple[str, ...],
    dynamic: tuple[str, ...],
    forward_agent: bool,
    no_remote_exec: bool,
    local: bool,
    _escapes: bool,
    cluster: str,
) -> int:
    """Open a shell on a host, or run a command there. TARGET: [user@]host.

    Exits with the command's status, with 255 when the connection fails.
    """
    for given, what in (
        (forwards, "-L: forwarding ports"),
        (dynamic, "-D: forwarding by SOCKS"),
        (forward_agent, "-A: forwarding the SSH agent"),
        (no_remote_exec, "-N: a connection without a command"),
        (local, "--local: running a command here"),
    ):
        if given:
            raise BadRequest(
                f"{what} is not available yet", hint="plain ssh with what tsh config prints has its own options"
            )
    wants_tty = tty or _options(options)
    if command[:1] == ("--",):  # as with ssh, it ends the options and is no part of the command
        command = command[1:]
    try:
        return _connect(flags, target, command, port, wants_tty, cluster)
    except TeleportError as error:
        render.report(error, "tsh", as_json_object=False)
        return NOT_KNOWN


def _options(options: tuple[str, ...]) -> bool:
    """Checks `-o` options; whether they ask for a terminal."""
    wants = False
    for option in options:
        name, equals, value = option.replace(" ", "=", 1).partition("=")
        if not equals:
            raise BadRequest(f"-o {option[:80]!r} is not Key=Value", hint="-o RequestTTY=yes")
        key, setting = name.strip().lower(), value.strip().lower()
        if key == "forwardagent" and setting != "no":
            raise BadRequest(
                "-o ForwardAgent: forwarding the SSH agent is not available yet", hint="-o ForwardAgent=no"
            )
        if key == "stricthostkeychecking" and setting == "no":
            raise BadRequest(
                "-o StrictHostKeyChecking=no is not available: hosts always prove who they are", hint="leave it away"
            )
        if key == "requesttty" and setting in ("yes", "force"):
            wants = True
        if key not in _HARMLESS:
            render.note(f"tsh: -o {render.printable(name[:80])} is ignored")
    return wants


def _connect(flags: Flags, target: str, command: tuple[str, ...], port: int | None, tty: bool, cluster: str) -> int:
    import asyncio
    import gc
    import os
    import sys

    found = access(flags, cluster)
    login, at, host = target.rpartition("@")
    if not host or (at and not login):
        raise BadRequest(f"{target[:80]!r} names no host", hint="tsh ssh [user@]host")
    login = login or flags.login or _local_user()
    _check_login(found.credentials.ssh_certificate, login)

    from teleport.client import system
    from teleport.client.session import Target, run

    gc.freeze()
    gc.enable()
    # as with ssh: a shell gets a terminal where there is one, a command only when asked
    with_terminal = sys.stdin.isatty() and (tty or not command)
    if with_terminal and not system.HAS_TERMINAL:
        raise BadRequest(
            "tsh cannot drive a terminal on this system", hint="tsh config --install, then ssh HOST, opens shells here"
        )
    if tty and not with_terminal:
        render.note("tsh: no terminal is asked for, because stdin is none")
    environment = {name: value for name, value in os.environ.items() if name == "LANG" or name.startswith("LC_")}
    wanted = Target(host, login, port or 0, " ".join(command) if command else None, with_terminal, environment)
    sys.stdout.flush()
    try:
        return asyncio.run(run(found, wanted, now()))
    except TeleportError as error:  # raised before a session began
        if SECOND_FACTOR_DUE not in error.message:
            raise
    from teleport.cli.tsh.prompts import second_factor
    from teleport.client.session_mfa import for_session

    render.note(f"tsh: the session on {render.printable(host)} needs a second factor")
    name = host.removesuffix(f".{found.cluster}")
    marked = for_session(found, name, port or 0, login, now(), second_factor(found.web))
    return asyncio.run(run(marked, wanted, now()))


def _check_login(certificate: str, login: str) -> None:
    """A login that the certificate does not have is refused by every host: say it before connecting."""
    from teleport.client.keystore import facts
    from teleport.errors import AccessDenied

    known = facts(certificate).logins
    if login not in known:
        raise AccessDenied(
            f"you may not log in as {login}: your roles give you {', '.join(known) or 'no login at all'}",
            hint="tsh ssh LOGIN@HOST; after a change of your roles: tsh logout, then tsh login",
        )


def _local_user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise BadRequest("this machine has no name for you", hint="tsh ssh LOGIN@HOST") from None

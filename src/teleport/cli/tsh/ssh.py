"""`tsh ssh`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.errors import SECOND_FACTOR_DUE, BadRequest, TeleportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from teleport.client.access import Access
    from teleport.client.session import Target
    from teleport.client.ssh_options import SshOptions

NOT_KNOWN = 255
PARALLEL = 16  # hosts at once, of a command on many


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("target")
@click.argument("command", nargs=-1)
@click.option("-p", "--port", type=click.IntRange(1, 65535), default=None, help="port, where a name fits several hosts")
@click.option("-t", "--tty", count=True, help="a terminal also for a command; -tt: also where stdin is none")
@click.option("-T", "--no-tty", is_flag=True, help="no terminal")
@click.option("-N", "--no-remote-exec", is_flag=True, help="no command: forwards alone")
@click.option("-n", "--no-stdin", is_flag=True, help="send nothing of stdin")
@click.option("-o", "--option", "options", multiple=True, help="an option of OpenSSH, as Key=Value")
@click.option("-L", "--forward", "local_forwards", multiple=True, help="listen here, connect there: 8080:localhost:80")
@click.option("-R", "--remote-forward", "remote_forwards", multiple=True, help="listen there, connect here")
@click.option("-D", "--dynamic-forward", "dynamic_forwards", multiple=True, help="listen here for SOCKS: 1080")
@click.option("-W", "--stdio-forward", default="", help="lead stdin and stdout to host:port, as seen from the host")
@click.option("-A", "--forward-agent", is_flag=True, help="let the host ask this machine's SSH agent")
@click.option("-X", "-Y", "--forward-x11", is_flag=True, help="show windows of the host here")
@click.option("-s", "--subsystem", is_flag=True, help="the command is the name of a subsystem")
@click.option("-e", "--escape-char", default="", help="escape character of the terminal: one, ^X, or none")
@click.option("-q", "--quiet", is_flag=True, help="say less")
@click.option("--detach", metavar="TIME", default="", help="a shell lives on for so long when the link ends: tsh join")
@click.option("--local", is_flag=True, help="run the command on this machine, while the forwards stand")
@click.option("--parallel", type=click.IntRange(1, 48), default=PARALLEL, help="hosts at once, where labels name many")
@click.option("--serial", is_flag=True, help="one host after another")
@click.option("--no-escape", is_flag=True, hidden=True)
@click.option("--enable-escape-sequences", is_flag=True, hidden=True)
@cluster_option
@takes_flags
def ssh(
    flags: Flags,
    target: str,
    command: tuple[str, ...],
    port: int | None,
    tty: int,
    no_tty: bool,
    no_remote_exec: bool,
    no_stdin: bool,
    options: tuple[str, ...],
    local_forwards: tuple[str, ...],
    remote_forwards: tuple[str, ...],
    dynamic_forwards: tuple[str, ...],
    stdio_forward: str,
    forward_agent: bool,
    forward_x11: bool,
    subsystem: bool,
    escape_char: str,
    quiet: bool,
    detach: str,
    local: bool,
    parallel: int,
    serial: bool,
    no_escape: bool,
    enable_escape_sequences: bool,
    cluster: str,
) -> int:
    """Open a shell on a host, or run a command there. TARGET: [user@]host, or labels, [user@]k=v[,k=v]: then the
    command runs on every host that has them, and each line of output begins with the host's name.

    Exits with the command's status, with 255 when the connection fails; on many hosts with 0 when all are, with the
    status that those which failed agree upon, else 1.
    """
    said = _read_options(options)
    _read_forwards(said, local_forwards, remote_forwards, dynamic_forwards)
    said.no_command = said.no_command or no_remote_exec
    said.subsystem = said.subsystem or subsystem
    said.no_input = said.no_input or no_stdin
    said.quiet = said.quiet or quiet
    if forward_agent:
        said.agent = True
    if forward_x11:
        said.x11 = True
    if detach:
        said.environment["TELEPORT_DETACH"] = _lingering(detach)
    if no_tty and tty:
        raise BadRequest("-t and -T ask for opposite things", hint="leave one away")
    said.tty = "no" if no_tty else ("yes", "force")[min(tty, 2) - 1] if tty else said.tty
    if no_escape:
        said.escape = None
    elif escape_char:
        from teleport.wire.escapes import escape_character

        said.escape = escape_character(escape_char)
    if command[:1] == ("--",):  # as with ssh, it ends the options and is no part of the command
        command = command[1:]
    login, at, host = target.rpartition("@")
    if not host or (at and not login):
        raise BadRequest(f"{target[:80]!r} names no host", hint="tsh ssh [user@]host")
    _check(said, command, stdio_forward, local)
    many = "=" in host
    if many and (said.forwards or said.no_command or stdio_forward or local or said.agent or said.x11):
        raise BadRequest(
            "labels name many hosts: there a command runs, without forwards and terminal", hint="tsh ssh [user@]host"
        )
    login = login or flags.login or said.user or local_user()
    try:
        if many:
            from teleport.cli.tsh.ssh_many import run_on_labels

            return run_on_labels(
                flags, login, host, command, said, port=port or said.port or 0, cluster=cluster,
                parallel=1 if serial else parallel,
            )  # fmt: skip
        return _connect(flags, login, host, command, said, port, stdio_forward, local, cluster)
    except TeleportError as error:
        render.report(error, "tsh", as_json_object=False)
        return NOT_KNOWN


def _lingering(text: str) -> str:
    """The time as nodes take it. Raises `BadRequest`."""
    from teleport.resources.values import Duration

    try:
        time = Duration.parse(text)
    except ValueError:
        time = Duration(0)
    if not Duration.of(seconds=1) <= time <= Duration.of(hours=24):
        raise BadRequest(f"--detach: {text[:40]!r} is no time from 1s to 24h", hint="--detach=30m")
    return str(time)


def _read_options(options: tuple[str, ...]) -> SshOptions:
    from teleport.client.ssh_options import SshOptions

    said = SshOptions()
    for option in options:
        said.apply(option)
    return said


def _read_forwards(said: SshOptions, local: tuple[str, ...], remote: tuple[str, ...], dynamic: tuple[str, ...]) -> None:
    if local or remote or dynamic:
        from teleport.wire.forward_spec import Direction, parse

        pairs = ((Direction.LOCAL, local), (Direction.REMOTE, remote), (Direction.DYNAMIC, dynamic))
        said.forwards += [parse(direction, text) for direction, texts in pairs for text in texts]


def _check(said: SshOptions, command: tuple[str, ...], stdio: str, local: bool) -> None:
    """What contradicts itself, or cannot be had here, is refused before anything is asked."""
    if said.agent and not os.environ.get("SSH_AUTH_SOCK"):
        raise BadRequest("-A: no SSH agent runs here (SSH_AUTH_SOCK is not set)", hint='eval "$(ssh-agent)"; ssh-add')
    if said.x11 and not os.environ.get("DISPLAY"):
        raise BadRequest("-X: there is no X display here (DISPLAY is not set)", hint="leave -X away")
    if local and not command:
        raise BadRequest("--local needs a command to run here", hint="tsh ssh --local -L ... host COMMAND")
    if said.subsystem and len(command) != 1:
        raise BadRequest("-s needs the name of a subsystem", hint="tsh ssh -s host sftp")
    if said.no_command and (command or stdio):
        raise BadRequest("-N means no command, and there is one", hint="leave one away")
    if stdio and (command or local):
        raise BadRequest("-W leads stdin and stdout elsewhere; there is no command then", hint="leave one away")


def _connect(
    flags: Flags,
    login: str,
    host: str,
    command: tuple[str, ...],
    said: SshOptions,
    port: int | None,
    stdio: str,
    local: bool,
    cluster: str,
) -> int:
    found = access(flags, cluster)
    if not cluster:
        from teleport.client.other_clusters import towards

        found = towards(found, host)
    check_login(found.credentials.ssh_certificate, login)
    if said.add_keys:
        add_to_agent(flags)
    wanted = _wanted(login, host, command, said, port, stdio, local)
    sys.stdout.flush()
    return connected(found, wanted, batch=said.batch)


def _wanted(
    login: str, host: str, command: tuple[str, ...], said: SshOptions, port: int | None, stdio: str, local: bool
) -> Target:
    from teleport.client import system
    from teleport.client.session import CONNECT_SECONDS, KEEPALIVE, Target
    from teleport.ssh.surface import KeepAlive
    from teleport.wire.forward_spec import Direction, parse

    # as with ssh: a shell gets a terminal where there is one, a command only when asked
    no_session = bool(said.no_command or stdio or local or said.subsystem)
    asked = said.tty in ("yes", "force")
    at_terminal = sys.stdin.isatty() and not said.no_input
    with_terminal = not no_session and said.tty != "no" and (at_terminal or said.tty == "force")
    with_terminal = with_terminal and (asked or not command)
    if with_terminal and not system.HAS_TERMINAL:
        raise BadRequest(
            "tsh cannot drive a terminal on this system", hint="tsh config --install, then ssh HOST, opens shells here"
        )
    if asked and not with_terminal and not no_session and not said.quiet:
        render.note("tsh: no terminal is asked for, because stdin is none")
    keepalive = KEEPALIVE
    if said.alive_seconds is not None or said.alive_count is not None:
        seconds = KEEPALIVE.seconds if said.alive_seconds is None else said.alive_seconds
        keepalive = KeepAlive(seconds, said.alive_count or KEEPALIVE.count)
    target = Target(
        host,
        login,
        port or said.port or 0,
        " ".join(command) if command and not local and not said.subsystem else None,
        with_terminal,
        said.variables(os.environ),
        no_command=said.no_command,
        no_input=said.no_input,
        local=command if local else (),
        forwards=tuple(said.forwards),
        forwards_must=said.forwards_must is not False,
        agent=os.environ["SSH_AUTH_SOCK"] if said.agent else "",
        x11=bool(said.x11),
        escape=said.escape,
        keepalive=keepalive,
        connect_seconds=said.connect_seconds or CONNECT_SECONDS,
        quiet=said.quiet,
    )
    if said.subsystem:
        target = replace(target, subsystem=command[0])
    if stdio:
        target = replace(target, stream=parse(Direction.LOCAL, f"0:{stdio}").to)
    return target


def add_to_agent(flags: Flags) -> None:
    """`-o AddKeysToAgent=yes`: a connection does not fail for it."""
    from teleport.client import profile, ssh_agent
    from teleport.client.addresses import ProxyAddress

    if flags.identity:
        return
    try:
        found = profile.choose(flags.home, ProxyAddress.parse(flags.proxy).host if flags.proxy else "", flags.user)
        ssh_agent.add(os.environ, flags.home, found, now())
    except TeleportError as error:
        render.note(f"tsh: {render.printable(error.message)}")


def connected(found: Access, wanted: Target, *, batch: bool = False) -> int:
    """Does what `wanted` says; asks for a second factor where the session needs one."""
    import asyncio
    import gc

    from teleport.client.session import run

    gc.freeze()
    gc.enable()
    return with_factor(
        found, wanted.host, wanted.port, wanted.login, lambda way: asyncio.run(run(way, wanted, now())), batch=batch
    )


def with_factor(
    found: Access, host: str, port: int, login: str, go: Callable[[Access], int], *, batch: bool = False
) -> int:
    """`go` with `found`; once more with a certificate for this session where it needs a second factor of its own."""
    try:
        return go(found)
    except TeleportError as error:  # raised before a session began
        if SECOND_FACTOR_DUE not in error.message or batch:
            raise
    from teleport.cli.tsh.prompts import second_factor
    from teleport.client.session_mfa import for_session

    render.note(f"tsh: the session on {render.printable(host)} needs a second factor")
    name = host.removesuffix(f".{found.cluster}")
    return go(for_session(found, name, port, login, now(), second_factor(found.web)))


def check_login(certificate: str, login: str) -> None:
    """A login that the certificate does not have is refused by every host: say it before connecting."""
    from teleport.client.keystore import facts
    from teleport.errors import AccessDenied

    known = facts(certificate).logins
    if login not in known:
        raise AccessDenied(
            f"you may not log in as {login}: your roles give you {', '.join(known) or 'no login at all'}",
            hint="tsh ssh LOGIN@HOST; after a change of your roles: tsh logout, then tsh login",
        )


def local_user() -> str:
    """The login where none was said. Raises `BadRequest`."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise BadRequest("this machine has no name for you", hint="tsh ssh LOGIN@HOST") from None

"""`tsh ssh`: one command or shell on a node, through the proxy, with this terminal.

Everything is proved before a byte of the session flows: the proxy by a host certificate of role Proxy, the node by one
of role Node made out to the name that was asked for, both of the cluster's own authority.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from teleport.client import system, terminal
from teleport.client.access import Access
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PublicKey
from teleport.pki.sshverify import verify_host_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.ssh.client import ClientKey, HostCheck, RemoteExit, RemoteSession, SshClient, connect
from teleport.ssh.surface import TerminalRequest, TerminalSize

NOT_KNOWN = 255  # what ssh exits with when there is no exit status to pass on
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and what to run there. Port 0 fits any."""

    host: str
    login: str
    port: int = 0
    command: str | None = None  # None: a shell
    with_terminal: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def trusted_authorities(lines: Sequence[str]) -> dict[str, TrustedSSHAuthority]:
    """The host authorities that known_hosts lines name, by cluster. Raises `CertificateRefused` for what is no key."""
    keys: dict[str, list[PublicKey]] = {}
    for line in lines:
        words = line.split()
        if len(words) > 3 and words[0] == "@cert-authority" and words[1].startswith("*."):
            keys.setdefault(words[1].removeprefix("*."), []).append(PublicKey.parse(" ".join(words[2:4])))
    return {cluster: TrustedSSHAuthority(AuthorityKind.HOST, cluster, tuple(found)) for cluster, found in keys.items()}


def host_check(
    authority: TrustedSSHAuthority, role: SystemRole, name: str | None, now: datetime, what: str
) -> HostCheck:
    """Believes a host certificate of `authority` with `role`, made out to `name` unless that is None."""

    def check(certificate: bytes) -> None:
        try:
            found = verify_host_cert(certificate, (authority,), now, hostname=name)
        except TeleportError as error:
            raise ConnectionProblem(f"{what} did not prove who it is: {error.message}", hint=error.hint) from error
        if found.role is not role:
            raise ConnectionProblem(
                f"{what} shows the certificate of a {found.role}, not of a {role}",
                hint="check --proxy and the name of the host: tsh ls",
            )

    return check


async def run(access: Access, target: Target, now: datetime) -> int:
    """Connects, runs, and gives the exit status. Raises `TeleportError` when it does not come to that."""
    credentials = access.credentials
    authorities = trusted_authorities(credentials.known_hosts)
    own, theirs = authorities.get(credentials.cluster), authorities.get(access.cluster)
    if own is None or theirs is None:
        raise BadRequest(f"no authority of {access.cluster} is known here", hint="tsh login")
    key = ClientKey(credentials.private_key.reveal(), credentials.ssh_certificate)
    name = target.host.removesuffix(f".{access.cluster}")
    proxy = await connect(
        access.ssh,
        login=target.login,
        key=key,
        check=host_check(own, SystemRole.PROXY, None, now, f"the proxy at {access.ssh[0]}"),
    )
    connection: SshClient | None = None
    try:
        connection = await proxy.through(
            name,
            target.port,
            cluster=access.cluster,
            login=target.login,
            check=host_check(theirs, SystemRole.NODE, name, now, f"the host {name}"),
        )
        return await _session(connection, target)
    finally:
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(1):
                await (connection or proxy).close()


async def _session(connection: SshClient, target: Target) -> int:
    request = None
    if target.with_terminal:
        columns, rows = terminal.terminal_size(terminal.STDIN)
        modes = terminal.terminal_modes(terminal.STDIN)
        request = TerminalRequest(os.environ.get("TERM", "xterm"), TerminalSize(columns, rows), modes)
    gone = asyncio.Event()  # whoever reads our output has gone

    def show(data: bytes, is_stderr: bool) -> None:
        try:
            terminal.write_all(terminal.STDERR if is_stderr else terminal.STDOUT, data)
        except OSError:
            gone.set()

    session = await connection.start(
        command=target.command, terminal=request, environment=target.environment, on_output=show
    )
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    system.on_signals(loop, ("SIGTERM", "SIGHUP"), ended.set)
    if request is not None:
        system.on_signals(loop, ("SIGWINCH",), functools.partial(_resized, session))
    with contextlib.ExitStack() as stack:
        if request is not None and terminal.is_terminal(terminal.STDIN):
            stack.enter_context(terminal.raw(terminal.STDIN))
        found = await _until_over(session, gone, ended)
    return exit_status(found)


async def _until_over(session: RemoteSession, gone: asyncio.Event, ended: asyncio.Event) -> RemoteExit | None:
    """The session's end; None when it was ended from this side."""
    typing = asyncio.create_task(_send_input(session), name="tsh input")
    over = asyncio.create_task(session.wait(), name="tsh session")
    stops = [asyncio.create_task(event.wait(), name="tsh stop") for event in (gone, ended)]
    try:
        await asyncio.wait([over, *stops], return_when=asyncio.FIRST_COMPLETED)
        return over.result() if over.done() else None
    finally:
        session.close()
        for task in (typing, over, *stops):
            task.cancel()
        await asyncio.gather(typing, over, *stops, return_exceptions=True)


def _resized(session: RemoteSession) -> None:
    columns, rows = terminal.terminal_size(terminal.STDIN)
    session.resize(TerminalSize(columns, rows))


async def _send_input(session: RemoteSession) -> None:
    """Copies stdin to the session until its end."""
    try:
        waits = system.has_to_be_waited_for(terminal.STDIN)
    except OSError:
        session.write_eof()
        return
    while True:
        if waits and system.LOOPS_TELL:
            await system.readable(terminal.STDIN)
        try:
            if waits and not system.LOOPS_TELL:
                data = await system.read_in_thread(terminal.STDIN, _CHUNK)
            else:
                data = os.read(terminal.STDIN, _CHUNK)
        except BlockingIOError:
            continue
        except OSError:  # the terminal is gone
            data = b""
        if not data:
            session.write_eof()
            return
        session.write(data)
        await session.drain()
        if not waits:
            await asyncio.sleep(0)  # a file is always ready; others get their turn


def exit_status(found: RemoteExit | None) -> int:
    """What tsh exits with. A signal or a lost connection is told on stderr and gives 255, as with ssh."""
    if found is None:
        return NOT_KNOWN
    if found.status is not None:
        return found.status
    if found.signal:
        message = f": {found.message}" if found.message else ""
        terminal.say(f"tsh: the command was ended by signal {_word(found.signal)}{_word(message)}\n")
        return NOT_KNOWN
    terminal.say(f"tsh: {_word(found.message) or 'the connection was lost'}\n")
    return NOT_KNOWN


def _word(text: str) -> str:
    """The node's own words, fit for a terminal."""
    from teleport.recording.sanitise import one_line

    return one_line(text)

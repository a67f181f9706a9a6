"""`tsh ssh`: one command, shell or set of forwards on a node, through the proxy, with this terminal.

Everything is proved before a byte of the session flows: the proxy by a host certificate of role Proxy, the node by one
of role Node made out to the name that was asked for, both of the cluster's own authority. When the link is lost, the
terminal is put back, and what is said names the hop that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from teleport.client import system, terminal
from teleport.client.access import Access
from teleport.client.addresses import join
from teleport.client.session_input import Typing
from teleport.errors import BadRequest, ConnectionLost, ConnectionProblem, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PublicKey
from teleport.pki.sshverify import verify_host_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.ssh.client import KEEPALIVE as KEEPALIVE
from teleport.ssh.client import SshClient, connect
from teleport.ssh.client_connection import ClientKey, HostCheck
from teleport.ssh.client_forwards import Forwards
from teleport.ssh.client_session import RemoteExit, RemoteSession
from teleport.ssh.surface import KeepAlive, TerminalRequest, TerminalSize
from teleport.transport.site_proxy import site_proxy
from teleport.wire.forward_spec import End, Forward, SocketEnd
from teleport.wire.pod_sessions import proxy_of
from teleport.wire.screen import Screen

NOT_KNOWN = 255  # what ssh exits with when there is no exit status to pass on
CONNECT_SECONDS = 20.0
AGAIN: Final = (0.1, 0.4, 1.0)  # seconds before a connection that was lost is made anew
T = TypeVar("T")
_LATE = 0.3  # seconds after the inner connection's end in which the outer one's end, its cause, is told


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and what to do there. Port 0 fits any."""

    host: str
    login: str
    port: int = 0
    command: str | None = None  # None: a shell
    with_terminal: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    subsystem: str = ""  # in place of a command
    no_command: bool = False  # forwards alone
    no_input: bool = False
    stream: End | None = None  # stdin and stdout lead there, in place of a session
    local: Sequence[str] = ()  # a command of this machine, while the forwards stand
    forwards: Sequence[Forward] = ()
    forwards_must: bool = True  # one that cannot be had ends it all
    agent: str = ""  # the socket of the agent that is offered to the host
    x11: bool = False
    escape: int | None = ord("~")
    keepalive: KeepAlive = KEEPALIVE
    connect_seconds: float = CONNECT_SECONDS
    quiet: bool = False


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


@dataclass(frozen=True, slots=True)
class Way:
    """A connection to the proxy, by which hosts are reached."""

    proxy: SshClient
    access: Access
    theirs: TrustedSSHAuthority
    now: datetime

    @property
    def proxy_name(self) -> str:
        return f"the proxy {join(*self.access.ssh)}"

    async def to(self, host: str, port: int, login: str) -> SshClient:
        """A connection to a host. Raises `TeleportError`."""
        name = host.removesuffix(f".{self.access.cluster}")
        check = host_check(self.theirs, SystemRole.NODE, name, self.now, f"the host {name}")
        if keeper := proxy_of(name):  # a session in a pod, which ends at the proxy that leads there
            check = host_check(self.theirs, SystemRole.PROXY, keeper, self.now, f"the proxy {keeper}")
        return await self.proxy.through(name, port, cluster=self.access.cluster, login=login, check=check)

    async def lost_hop(self, node: SshClient, host: str) -> str:
        """Which connection was lost, and why; empty when both are there."""
        if node.lost and not self.proxy.lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LATE):
                    await self.proxy.wait_lost()
        if not node.lost and not self.proxy.lost:
            return ""
        if self.proxy.lost:
            return _because(f"the connection to {self.proxy_name} was lost", await self.proxy.wait_lost())
        why = await node.wait_lost()
        if not await self.proxy.answers():
            return f"the connection to {self.proxy_name} was lost: it does not answer"
        return _because(f"the connection between {self.proxy_name} and the host {host} was lost", why)


def _because(what: str, why: str) -> str:
    return f"{what}: {why}" if why and why != "Connection lost" else what


@asynccontextmanager
async def way(
    access: Access,
    login: str,
    now: datetime,
    *,
    seconds: float = CONNECT_SECONDS,
    keepalive: KeepAlive = KEEPALIVE,
) -> AsyncIterator[Way]:
    """The proxy, proved; a connection that is lost before that is made anew. Raises `TeleportError`."""
    credentials = access.credentials
    authorities = trusted_authorities(credentials.known_hosts)
    own, theirs = authorities.get(credentials.cluster), authorities.get(access.cluster)
    if own is None or theirs is None:
        from teleport.client.other_clusters import unknown

        raise unknown(access.cluster, sorted(authorities))
    reach: Callable[[asyncio.Protocol], Awaitable[None]] | None = None
    if access.tls_routing:
        from teleport.client import one_port

        reach = one_port.reach(access.tls_routing, access.web, access.trust)
    elif site_proxy(*access.ssh) is not None:
        from teleport.transport.site_connect import connect_out

        reach = lambda protocol: connect_out(protocol, *access.ssh)  # noqa: E731 - one of two ways, by a condition
    proxy = await _unless_lost(
        lambda: connect(
            access.ssh,
            login=login,
            key=ClientKey(credentials.private_key.reveal(), credentials.ssh_certificate),
            check=host_check(own, SystemRole.PROXY, None, now, f"the proxy at {access.ssh[0]}"),
            seconds=seconds,
            keepalive=keepalive,
            reach=reach,
        )
    )
    if access.trace:
        proxy.traced(access.trace)
    try:
        yield Way(proxy, access, theirs, now)
    finally:
        await closed(proxy)


async def _unless_lost(make: Callable[[], Awaitable[T]]) -> T:
    """What `make` gives; done again when a connection is lost meanwhile, some times."""
    for pause in AGAIN:
        try:
            return await make()
        except ConnectionLost:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads attempts, guards nothing
    return await make()


@asynccontextmanager
async def reached(
    access: Access,
    host: str,
    port: int,
    login: str,
    now: datetime,
    *,
    seconds: float = CONNECT_SECONDS,
    keepalive: KeepAlive = KEEPALIVE,
) -> AsyncIterator[tuple[Way, SshClient]]:
    """A connection to a host, proved, on which nothing has been asked for.

    Until then a connection that is lost, be it on the way to the proxy or behind it, is made anew: a proxy behind a
    balancer may have ended, and another one serves. Raises `TeleportError`.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def make() -> tuple[Way, SshClient]:
            await stack.aclose()
            found = await stack.enter_async_context(way(access, login, now, seconds=seconds, keepalive=keepalive))
            return found, await found.to(host, port, login)

        found, node = await _unless_lost(make)
        try:
            yield found, node
        finally:
            await closed(node, alone=True)


async def closed(client: SshClient, *, alone: bool = False) -> None:
    """Closes a connection and, unless `alone`, those it goes through; does not wait for a peer that says nothing."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(1):
            await client.close(alone=alone)


async def run(access: Access, target: Target, now: datetime) -> int:
    """Connects, does what `target` says, and gives the exit status. Raises `TeleportError` when it does not come to
    that. What was begun is never done again: it is not known how far it came."""
    async with reached(
        access,
        target.host,
        target.port,
        target.login,
        now,
        seconds=target.connect_seconds,
        keepalive=target.keepalive,
    ) as (found, node):
        return await _Run(found, node, target).run()


class _Run:
    """One connection to a node, in use."""

    def __init__(self, way: Way, node: SshClient, target: Target) -> None:
        self._way = way
        self._node = node
        self._target = target
        self._forwards: Forwards | None = None
        self._ended = asyncio.Event()  # by a signal, or by the person
        self._screen = Screen()

    async def run(self) -> int:
        system.on_signals(asyncio.get_running_loop(), ("SIGTERM", "SIGHUP"), self._ended.set)
        try:
            await self._listen()
            if self._target.local:
                return await self._here()
            if self._target.no_command:
                return await self._wait()
            return await self._session()
        finally:
            if self._forwards is not None:
                await self._forwards.close()

    def _tell(self, text: str) -> None:
        if not self._target.quiet:
            end = "\r\n" if self._target.with_terminal else "\n"
            terminal.say(f"tsh: {_word(text)}{end}")

    async def _listen(self) -> None:
        if not self._target.forwards:
            return
        self._forwards = self._node.forwards(self._tell)
        for forward in self._target.forwards:
            try:
                port = await self._forwards.add(forward)
            except TeleportError as error:
                if self._target.forwards_must:
                    raise
                self._tell(error.message)
                continue
            if not isinstance(forward.listen, SocketEnd) and not forward.listen.port:
                self._tell(f"{forward.direction} {forward.listen} is port {port}")

    async def _here(self) -> int:
        """Runs a command of this machine until it ends, or the link is lost."""
        import subprocess

        try:
            process = subprocess.Popen(list(self._target.local))  # noqa: ASYNC220  # starting it waits for nothing
        except OSError as error:
            raise BadRequest(
                f"{self._target.local[0]!r} cannot be run here: {error.strerror}", hint="check the command's name"
            ) from None
        over = asyncio.create_task(asyncio.to_thread(process.wait), name="tsh local command")
        lost = asyncio.create_task(self._node.wait_lost(), name="tsh link")
        stop = asyncio.create_task(self._ended.wait(), name="tsh stop")
        try:
            await asyncio.wait([over, lost, stop], return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                process.terminate()
                if lost.done():
                    self._tell(await self._way.lost_hop(self._node, self._target.host))
                await asyncio.wait([over], timeout=5)
                return NOT_KNOWN
            status = over.result()
            return status if status >= 0 else 128 - status
        finally:
            if process.poll() is None:
                process.kill()
            for task in (lost, stop):
                task.cancel()
            await asyncio.gather(over, lost, stop, return_exceptions=True)

    async def _wait(self) -> int:
        """Until the link is lost or somebody ends it: what `-N` does."""
        lost = asyncio.create_task(self._node.wait_lost(), name="tsh link")
        stop = asyncio.create_task(self._ended.wait(), name="tsh stop")
        try:
            await asyncio.wait([lost, stop], return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                self._tell(await self._way.lost_hop(self._node, self._target.host))
            return NOT_KNOWN
        finally:
            for task in (lost, stop):
                task.cancel()
            await asyncio.gather(lost, stop, return_exceptions=True)

    async def _session(self) -> int:
        target, gone = self._target, asyncio.Event()  # whoever reads our output has gone
        request = None
        if target.with_terminal:
            columns, rows = terminal.terminal_size(terminal.STDIN)
            modes = terminal.terminal_modes(terminal.STDIN)
            request = TerminalRequest(os.environ.get("TERM", "xterm"), TerminalSize(columns, rows), modes)

        def show(data: bytes, is_stderr: bool) -> None:
            if request is not None:
                self._screen.feed(data)
            try:
                terminal.write_all(terminal.STDERR if is_stderr else terminal.STDOUT, data)
            except OSError:
                gone.set()

        if target.stream is not None:
            session = await self._node.stream(target.stream, on_output=show)
        else:
            session = await self._node.start(
                command=target.command,
                subsystem=target.subsystem or None,
                terminal=request,
                environment=target.environment,
                agent=target.agent,
                x11=target.x11,
                on_output=show,
            )
        if session.agent_refused:
            self._tell("-A: the host does not take your agent; your roles, or its own settings, do not allow it")
        if request is not None:
            system.on_signals(asyncio.get_running_loop(), ("SIGWINCH",), functools.partial(_resized, session))
        at_terminal = request is not None and terminal.is_terminal(terminal.STDIN)
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(terminal.raw(terminal.STDIN)) if at_terminal else None
            typing = Typing(session, self._node, raw, target.escape if at_terminal else None, self._ended)
            found = await self._until_over(session, gone, typing)
            unended = found is None or found.status is None  # what ran there could not tidy up
            cut_off = unended and not (found is not None and found.signal)
            if at_terminal and unended and (left := self._screen.restore()):
                with contextlib.suppress(OSError):
                    terminal.write_all(terminal.STDOUT, left)
        if target.stream is not None and found is not None and not self._node.lost:
            return 0
        return exit_status(found, await self._told(found) if cut_off else "")

    async def _told(self, found: RemoteExit | None) -> str:
        if found is None:
            return ""
        return await self._way.lost_hop(self._node, self._target.host)

    async def _until_over(self, session: RemoteSession, gone: asyncio.Event, typing: Typing) -> RemoteExit | None:
        """The session's end; None when it was ended from this side."""
        if self._target.no_input:
            session.write_eof()
        work = None if self._target.no_input else asyncio.create_task(typing.run(), name="tsh input")
        over = asyncio.create_task(session.wait(), name="tsh session")
        stops = [asyncio.create_task(event.wait(), name="tsh stop") for event in (gone, self._ended)]
        try:
            await asyncio.wait([over, *stops], return_when=asyncio.FIRST_COMPLETED)
            return over.result() if over.done() else None
        finally:
            session.close()
            tasks = [task for task in (work, over, *stops) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _resized(session: RemoteSession) -> None:
    columns, rows = terminal.terminal_size(terminal.STDIN)
    session.resize(TerminalSize(columns, rows))


def exit_status(found: RemoteExit | None, hop: str = "") -> int:
    """What tsh exits with. A signal or a lost connection is told on stderr and gives 255, as with ssh; `hop` says
    which connection was lost."""
    if found is None:
        return NOT_KNOWN
    if found.status is not None:
        return found.status
    if found.signal:
        message = f": {found.message}" if found.message else ""
        terminal.say(f"tsh: the command was ended by signal {_word(found.signal)}{_word(message)}\n")
        return NOT_KNOWN
    terminal.say(f"tsh: {_word(hop or found.message) or 'the connection was lost'}\n")
    return NOT_KNOWN


def _word(text: str) -> str:
    """The node's own words, fit for a terminal."""
    from teleport.recording.sanitise import one_line

    return one_line(text)

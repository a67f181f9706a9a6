"""People in the sessions of a lab (`ssh_lab`), each with our own SSH client and a terminal that keeps what it shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from teleport.ssh.client import SshClient, connect
from teleport.ssh.client_connection import ClientKey
from teleport.ssh.client_session import RemoteSession
from teleport.ssh.surface import TerminalRequest, TerminalSize
from teleport.testing.running import wait_until
from teleport.testing.ssh_lab import Lab


@dataclass
class Terminal:
    """One person's session channel."""

    client: SshClient
    session: RemoteSession
    shown: bytearray

    def type(self, text: str) -> None:
        self.session.write(text.encode())

    async def sees(self, text: str, seconds: float = 30.0) -> None:
        """Waits until it shows `text`; fails with what it shows instead."""
        try:
            await wait_until(lambda: text.encode() in self.shown, seconds)
        except TimeoutError:
            raise AssertionError(f"{text!r} is not in {bytes(self.shown)!r}") from None

    async def leave(self) -> None:
        """Drops the connection."""
        await self.client.close()


class People:
    """Makes terminals, and closes them."""

    def __init__(self, lab: Lab, login: str, stack: AsyncExitStack) -> None:
        self._lab = lab
        self._login = login
        self._stack = stack

    async def client(self, name: str, *roles: str, recorded_by: str = "") -> SshClient:
        """A connection of somebody with these roles (`access` is always among them)."""
        user = self._lab.authorities.user([self._login], user=name, roles=("access", *roles), recorded_by=recorded_by)
        key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())

        def check(certificate: bytes) -> None:
            self._lab.authorities.verify_host(certificate)

        client = await connect(("127.0.0.1", self._lab.node_port), login=self._login, key=key, check=check)
        self._stack.push_async_callback(client.close)
        return client

    async def terminal(
        self,
        name: str,
        *roles: str,
        command: str | None = None,
        environment: Mapping[str, str] | None = None,
        size: TerminalSize | None = TerminalSize(80, 24),  # noqa: B008  # a frozen value
    ) -> Terminal:
        """A session in a terminal; the login shell unless a command is given."""
        client = await self.client(name, *roles)
        shown = bytearray()
        session = await client.start(
            command=command,
            terminal=TerminalRequest("xterm", size) if size is not None else None,
            environment=environment,
            on_output=lambda data, stderr: shown.extend(data),
        )
        return Terminal(client, session, shown)

    async def joined(
        self,
        name: str,
        *roles: str,
        sid: str,
        mode: str = "",
        size: TerminalSize | None = TerminalSize(80, 24),  # noqa: B008
    ) -> Terminal:
        """Somebody who asks to take part in a session."""
        environment = {"TELEPORT_SESSION": sid} | ({"TELEPORT_JOIN_MODE": mode} if mode else {})
        return await self.terminal(name, *roles, environment=environment, size=size)

    async def sid(self, count: int = 1) -> str:
        """The id of the session that began last, of `count`."""
        starts = await self._lab.events.wait_for("session.start", count)
        return str(getattr(starts[-1], "sid", ""))


@asynccontextmanager
async def people(lab: Lab, login: str) -> AsyncIterator[People]:
    """Makes people for one lab."""
    async with AsyncExitStack() as stack:
        yield People(lab, login, stack)


async def ended(terminal: Terminal, seconds: float = 10.0) -> int | None:
    """Waits for the end of somebody's part; the exit status, None when there is none."""
    async with asyncio.timeout(seconds):
        return (await terminal.session.wait()).status

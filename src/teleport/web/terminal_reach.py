"""How a web terminal reaches a host: as tsh does, by the SSH service of this very proxy.

The proxy is an SSH client of itself, over a connection within the process, with the key and certificate of the
browser's session and from the browser's address. So a terminal is led, refused and put on record just as `tsh ssh` is:
to hosts behind tunnels, with a plain sshd, or of other clusters; the host is proved by its certificate, and it decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from teleport.errors import ConnectionProblem, TeleportError
from teleport.identity import SystemRole
from teleport.ssh.client import SshClient, connect_by
from teleport.ssh.client_connection import ClientKey
from teleport.transport import memory_pair
from teleport.web.session import WebSession
from teleport.wire.pod_sessions import name_of, proxy_of

log = logging.getLogger(__name__)

SECONDS: Final = 20.0  # for a host to answer; meanwhile the page is not listened to
CLOSING: Final = 1.0  # seconds for a connection to close in order


Way = Callable[[asyncio.Protocol], Awaitable[None]]  # connects the protocol that it is given


class ShellWays(Protocol):
    """What the proxy's SSH service gives."""

    def accept(self, transport: asyncio.Transport) -> None:
        """Takes a connection, as its listener would."""
        ...

    def prove(self, certificate: bytes, role: SystemRole, cluster: str, name: str) -> str:
        """The id of the host that shows this certificate, which has to be made out to `name` unless that is empty.
        Raises `TeleportError` when it is not believed."""
        ...

    def former(self, host_id: str, peer: tuple[str, int]) -> Sequence[Way]:
        """The ways to older processes of this very host, if it is that, which left and still run sessions."""
        ...


@dataclass(frozen=True, slots=True)
class Destination:
    """Where to, and as whom. Port 0 means any."""

    cluster: str
    host: str
    port: int
    login: str


@dataclass(frozen=True, slots=True)
class Reached:
    """A host that was reached and proved."""

    client: SshClient
    proxy: SshClient | None  # None: no proxy is between
    host_id: str
    certificate: str  # that it was reached with

    def cut(self) -> None:
        """Ends the connection as a lost one ends: the host waits for its terminal to come back."""
        self.client.abort()
        if self.proxy is not None:
            self.proxy.abort()

    async def close(self) -> None:
        """Ends it in order; does not wait for who says nothing."""
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(CLOSING):
                await self.client.close()
        self.cut()


async def reach(
    ways: ShellWays,
    session: WebSession,
    certificate: str,
    to: Destination,
    peer: tuple[str, int],
    by: Way | None = None,
) -> Reached:
    """Connects with a host, through the proxy's SSH service, or `by` this way. `certificate` is an OpenSSH line of the
    session's key. Raises `TeleportError`."""
    key = ClientKey(session.key.pkcs8_pem().reveal(), certificate)
    seen: list[str] = []

    async def within(protocol: asyncio.Protocol) -> None:
        memory_pair.connect(lambda: protocol, ways.accept, peername=peer)

    def is_proxy(shown: bytes) -> None:
        ways.prove(shown, SystemRole.PROXY, "", "")

    def is_host(shown: bytes) -> None:
        try:
            keeper = proxy_of(to.host)  # of a session in a pod, which ends at the proxy that leads there
            role = SystemRole.PROXY if keeper else SystemRole.NODE
            found = ways.prove(shown, role, to.cluster, keeper or to.host)
            seen.append(name_of(found) if keeper else found)
        except TeleportError as error:
            log.warning("host not believed host=%r cluster=%s: %s", to.host, to.cluster, error.message)
            raise ConnectionProblem(
                f"The host {to.host} did not prove who it is: {error.message}", hint="ask its administrator"
            ) from error

    proxy: SshClient | None = None
    client: SshClient | None = None
    try:
        async with asyncio.timeout(SECONDS):
            if by is not None:
                client = await connect_by(by, f"the host {to.host}", login=to.login, key=key, check=is_host)
                return Reached(client, None, seen[0], certificate)
            proxy = await connect_by(within, "this proxy", login=to.login, key=key, check=is_proxy)
            client = await proxy.through(to.host, to.port, cluster=to.cluster, login=to.login, check=is_host)
    except TimeoutError:
        raise ConnectionProblem(
            f"The host {to.host} does not answer within {SECONDS:.0f} s.", hint="try again"
        ) from None
    finally:
        if proxy is not None and client is None:
            proxy.abort()
    return Reached(client, proxy, seen[0], certificate)


def parsed_host(text: str) -> tuple[str, int]:
    """Host and port of `host`, `host:port` or `[address]:port`; port 0 where none is said."""
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1], 0
    if not colon or not port.isascii() or not port.isdecimal() or len(port) > 5 or (":" in host and host[:1] != "["):
        return text, 0
    return host.removeprefix("[").removesuffix("]"), int(port)

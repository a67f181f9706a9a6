"""SSH servers: they make a certificate-only connection (`server_connection`) for each client of a service.

Rules it keeps (each has a contract test, `tests/ssh/test_ssh_contract.py`): every option of asyncssh is given, and none
comes from a configuration file; no compression (a peer could inflate without bound); no reverse look-ups; of asyncssh's
callbacks none lets anybody in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import asyncssh
from asyncssh import SSHServer, SSHServerConnectionOptions
from asyncssh.connection import SSHServerConnection

from teleport import __version__
from teleport.ssh.handlers import Gate
from teleport.ssh.listener import NoSlot, Slot
from teleport.ssh.packets import key_exchanges
from teleport.ssh.server_connection import ServerConnection
from teleport.ssh.surface import (
    CIPHERS,
    MACS,
    SIGNATURES,
    KeepAlive,
    Peer,
    ServerLimits,
    Surface,
)


@dataclass(frozen=True, slots=True)
class HostKey:
    """What a server proves itself with: an OpenSSH private key (PEM) and its certificate line, if it has one."""

    private_key: bytes
    certificate: str = ""

    def __repr__(self) -> str:
        return "HostKey(...)"


class _Owner(SSHServer):
    """asyncssh's callbacks: every answer is no; `ServerConnection` decides before they are asked."""

    def __init__(self) -> None:
        self.connection: ServerConnection | None = None

    def connection_made(self, conn: SSHServerConnection) -> None:
        self.connection = conn if isinstance(conn, ServerConnection) else None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.connection is not None:
            self.connection.ended(exc)


class SshServer:
    """Makes connections for one service. Reloading keys concerns new connections only."""

    def __init__(
        self,
        options: SSHServerConnectionOptions,
        surface: Surface,
        limits: ServerLimits,
    ) -> None:
        self._options = options
        self._surface = surface
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._keep_alive = KeepAlive(limits.keepalive_seconds, limits.keepalive_count)
        self._open = WeakSet[ServerConnection]()

    @classmethod
    async def create(
        cls,
        host_keys: Sequence[HostKey],
        surface: Surface,
        *,
        limits: ServerLimits | None = None,
        ciphers: Sequence[str] = CIPHERS,
    ) -> SshServer:
        """A server that proves itself with `host_keys`; at least one is needed."""
        limits = limits or ServerLimits()
        return cls(await _options(host_keys, limits, ciphers), surface, limits)

    async def reload(self, host_keys: Sequence[HostKey], *, ciphers: Sequence[str] = CIPHERS) -> None:
        """New connections use these host keys."""
        self._options = await _options(host_keys, self._limits, ciphers)

    def connection(
        self, make_gate: Callable[[Peer], Gate], slot: Slot | None = None, *, greeted: bool = False
    ) -> asyncio.Protocol:
        """A protocol for one client, to be given to a transport (also one whose first bytes were already read).

        `make_gate` gets the transport's peer; behind a proxy that vouched, it knows better. `slot` learns whether the
        client authenticates. `greeted` says that `greeting` was already sent.
        """
        made = ServerConnection(
            self._loop, self._options, make_gate, self._surface, self._limits, slot or NoSlot(), greeted
        )
        made.keep_alive(self._keep_alive)
        self._open.add(made)
        return made

    def keep_alive(self, every: KeepAlive) -> None:
        """How often clients are asked whether they are there; from now on, also those that are connected."""
        if every == self._keep_alive:
            return
        self._keep_alive = every
        for connection in list(self._open):
            connection.keep_alive(every)

    @property
    def greeting(self) -> bytes:
        """The version line that every connection begins with (RFC 4253 section 4.2)."""
        return b"SSH-2.0-" + self._options.version + b"\r\n"


async def _options(
    host_keys: Sequence[HostKey], limits: ServerLimits, ciphers: Sequence[str]
) -> SSHServerConnectionOptions:
    if not host_keys:
        raise ValueError("an SSH server needs a host key")
    pairs: list[Any] = []
    for host_key in host_keys:
        key = asyncssh.import_private_key(host_key.private_key)
        # With its certificate a key is offered both ways: plain too, for clients that know no certificates.
        pairs.append((key, asyncssh.import_certificate(host_key.certificate)) if host_key.certificate else key)
    options: SSHServerConnectionOptions = await SSHServerConnectionOptions.construct(
        None,
        config=None,
        server_factory=_Owner,
        server_version=f"Teleport-{__version__}",
        server_host_keys=pairs,
        encryption_algs=list(ciphers),
        mac_algs=list(MACS),
        kex_algs=key_exchanges(),
        signature_algs=list(SIGNATURES),
        compression_algs=None,
        host_based_auth=False,
        public_key_auth=True,
        kbdint_auth=False,
        password_auth=False,
        gss_host=None,
        allow_pty=False,
        line_editor=False,
        rdns_lookup=False,
        x11_forwarding=False,
        agent_forwarding=False,
        encoding=None,
        login_timeout=limits.login_seconds,
        keepalive_interval=limits.keepalive_seconds,
        keepalive_count_max=limits.keepalive_count,
        window=limits.window,
        max_pktsize=limits.packet,
    )
    return options

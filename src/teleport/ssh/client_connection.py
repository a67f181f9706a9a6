"""The client's end of an SSH connection: with what it proves itself, and whom it believes.

Rules it keeps: asyncssh reads no file, asks no agent and takes no name from the environment; keys are shown with their
certificates alone; a server is believed by our own check of its host certificate and by nothing of asyncssh's; who
checks nothing says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncssh
from asyncssh import SSHClient, SSHClientConnectionOptions
from asyncssh.connection import SSHClientConnection
from asyncssh.misc import HostKeyNotVerifiable
from asyncssh.public_key import KeyImportError, SSHKey, decode_ssh_public_key

from teleport import __version__
from teleport.errors import TeleportError
from teleport.pki.sshformat import parse_certificate
from teleport.ssh.client_forwards import ForwardPath
from teleport.ssh.packets import PacketPath, key_exchanges
from teleport.ssh.surface import (
    CIPHERS,
    MACS,
    SIGNATURES,
    KeepAlive,
    X11Request,
)

HostCheck = Callable[[bytes], None]  # gets the raw host certificate; raises `TeleportError` when it is not believed


HOST_CERTIFICATES = tuple(
    f"{name.removesuffix('@openssh.com')}-cert-v01@openssh.com" for name in SIGNATURES if not name.startswith(("sk-",))
)
HOST_KEYS = tuple(name for name in SIGNATURES if not name.startswith("sk-"))


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A user's private key (OpenSSH or PKCS#8 PEM, not encrypted) and its certificate line."""

    private_key: bytes = field(repr=False)
    certificate: str


class ClientOwner(SSHClient):
    """Keeps the server's banners: the reason of a refusal stands there."""

    def __init__(self) -> None:
        self.banners: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def auth_banner_received(self, msg: str, lang: str) -> None:
        if len(self.banners) < 16:
            self.banners.append(msg[:4096])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(exc)


class ClientConnection(PacketPath, ForwardPath, SSHClientConnection):
    """Believes host certificates by our own check, and nothing else."""

    async def attach_x11_listener(
        self, chan: Any, display: str | None, auth_path: str | None, single_connection: bool
    ) -> tuple[bytes, bytes, int]:
        handed: X11Request | None = getattr(chan, "display", None)
        if handed is None:
            return await super().attach_x11_listener(chan, display, auth_path, single_connection)
        return handed.protocol.encode(), handed.cookie, handed.screen

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: SSHClientConnectionOptions, check: HostCheck | None
    ) -> None:
        """`check` None believes every host key."""
        super().__init__(loop, options, wait="auth")
        self._check = check
        self.refusal: TeleportError | None = None

    def validate_server_host_key(self, key_data: bytes) -> SSHKey:
        # Replaces asyncssh's known_hosts: our own verification is strict where asyncssh's is not (decision 3).
        try:
            if self._check is None:
                self._server_host_key = key = _any_key(key_data)
                return key
            self._check(key_data)
            key = decode_ssh_public_key(parse_certificate(key_data).body.public_key.blob)
        except TeleportError as error:
            self.refusal = error
            raise HostKeyNotVerifiable(error.message) from None
        self._server_host_key = key
        return key


def _any_key(data: bytes) -> SSHKey:
    """The key that a server shows, also in a certificate that nobody looks at. Raises `HostKeyNotVerifiable`."""
    try:
        return decode_ssh_public_key(data)
    except KeyImportError:
        pass
    try:
        return decode_ssh_public_key(parse_certificate(data).body.public_key.blob)
    except (TeleportError, KeyImportError) as error:
        raise HostKeyNotVerifiable("the host key is of an unknown kind") from error


def banners_of(options: Any) -> list[str]:
    owner = options.owner
    return owner.banners if isinstance(owner, ClientOwner) else []


def client_options(host: str, login: str, key: ClientKey, keepalive: KeepAlive) -> Any:
    """Everything explicit: asyncssh reads no file, asks no agent and takes no name from the environment."""
    owner = ClientOwner()
    private = asyncssh.import_private_key(key.private_key)
    options: Any = SSHClientConnectionOptions(
        loop=asyncio.get_running_loop(),
        config=None,
        host=host,
        username=login,
        client_factory=lambda: owner,
        client_version=f"Teleport-{__version__}",
        client_keys=[(private, asyncssh.import_certificate(key.certificate))],
        agent_path=None,
        agent_forwarding=False,
        known_hosts=None,
        server_host_key_algs=list(HOST_CERTIFICATES),
        encryption_algs=list(CIPHERS),
        mac_algs=list(MACS),
        kex_algs=key_exchanges(),
        signature_algs=list(SIGNATURES),
        compression_algs=None,
        preferred_auth=("publickey",),
        host_based_auth=False,
        public_key_auth=True,
        kbdint_auth=False,
        password_auth=False,
        gss_host=None,
        pkcs11_provider=None,
        x509_trusted_certs=None,
        keepalive_interval=keepalive.seconds,
        keepalive_count_max=keepalive.count,
        login_timeout=0,
    )
    # asyncssh would try the key without its certificate too, which no server of ours takes.
    options.client_keys = [pair for pair in options.client_keys if b"-cert-" in pair.algorithm]
    options.agent_path = None  # asyncssh makes an empty path of it, and then an agent client
    options.owner = owner
    return options

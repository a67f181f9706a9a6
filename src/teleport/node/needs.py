"""What the node service asks of the rest of the system, each as small as its use (the daemon hands them in)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from teleport.authz.decision import Policy
from teleport.errors import TeleportError
from teleport.identity import HostIdentity, UserIdentity
from teleport.launcher.errand_client import Found, Made
from teleport.launcher.values import Exit, SpawnRequest
from teleport.node.pam import PamSettings
from teleport.recording.format import FileDetail, RecordingHeader
from teleport.resources.lock import Lock
from teleport.resources.mfa_lease import MfaLease
from teleport.ssh.surface import KeepAlive, ServerLimits
from teleport.transport.entrance import ConnectionLimits


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node is told once."""

    cluster: str
    host_id: UUID
    hostname: str
    address: str = ""  # as others reach it, host:port
    web_proxy: str = ""  # for SSH_SESSION_WEBPROXY_ADDR, host:port
    recording_mode: Callable[[], str] = lambda: "node"  # as sessions that begin now say it
    permit_user_env: bool = False
    port_forwarding: bool = True  # the host's own switch for forwards, beside the roles
    pam: PamSettings | None = None  # None: off
    host_users: str = ""  # folder in which is told what accounts are made for sessions
    unproved: int = 1000  # connections that have not authenticated yet
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    limits: ServerLimits = field(default_factory=ServerLimits)
    probe: KeepAlive = field(default_factory=lambda: KeepAlive(5.0, 3))  # of who has to be in a session


class Rules(Protocol):
    """What a decision rests on, as it is now: read for every decision, also those about open connections."""

    def policy(self) -> Policy:
        """The roles there are, and the cluster's defaults."""
        ...

    def locks(self) -> Sequence[Lock]: ...

    def leases(self, user: str, key: str, client_address: str) -> Sequence[MfaLease]:
        """The lease of a second factor that a user has for a key and an address, if one is in view."""
        ...


class Certificates(Protocol):
    """Verifies certificates against the authorities that count now; raises `CertificateRefused`."""

    def verify_user(self, certificate: bytes) -> UserIdentity: ...

    def verify_host(self, certificate: bytes) -> HostIdentity: ...

    def trusts_user_authority(self, signer: bytes) -> bool:
        """Whether user certificates that this key (SSH blob) signed are still believed."""
        ...

    def let_go(self, signer: bytes) -> bool:
        """Whether this key (SSH blob) was one of the user authority until a rotation ended it, phase by phase: nothing
        new is begun with its certificates, but what is open stays."""
        ...


class Labels(Protocol):
    """The node's labels, static and dynamic."""

    def current(self) -> Mapping[str, str]: ...


class Process(Protocol):
    """A started session process (`launcher.client.Process`)."""

    @property
    def tty(self) -> str | None: ...
    @property
    def pty(self) -> int | None: ...
    @property
    def stdin(self) -> int | None: ...
    @property
    def stdout(self) -> int | None: ...
    @property
    def stderr(self) -> int | None: ...
    @property
    def control(self) -> int | None:
        """The socket of a process that moves files."""
        ...

    async def wait(self) -> Exit: ...
    def signal(self, name: str) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class Launcher(Protocol):
    """Starts processes as Unix users; raises `LauncherRefused`."""

    def spawn(self, request: SpawnRequest, *, held: Callable[[int], None] | None = None) -> Awaitable[Process]:
        """`held` is called with the session's first process, from which everything of it descends, while it waits."""
        ...

    def errands(self, request: SpawnRequest) -> Awaitable[Errands]:
        """Starts the process that connects and listens as a login (`Kind.ERRANDS`)."""
        ...


class Errands(Protocol):
    """Connects and listens as a login (`launcher.errand_client.Errands`); raises `ErrandFailed`. Descriptors are the
    caller's to close."""

    @property
    def gone(self) -> bool: ...
    async def connect(self, address: str, port: int) -> int: ...
    async def addresses(self, host: str, port: int) -> tuple[list[str], str]: ...
    async def find(self, path: str) -> Found: ...
    async def connect_found(self, found: Found) -> int: ...
    async def listen(self, addresses: list[str], port: int) -> tuple[tuple[int, ...], int]: ...
    async def place(self, path: str) -> Found: ...
    async def listen_at(self, found: Found) -> int: ...
    async def agent(self) -> Made: ...
    async def x11(self, protocol: str, cookie: bytes) -> Made: ...
    def forget(self, token: int) -> None: ...
    def close(self) -> None: ...


class Summary(Protocol):
    """A finished recording."""

    @property
    def sha256(self) -> str: ...


class Recording(Protocol):
    """One session's recording. What is noted here is noted before it goes on to the client."""

    failed: asyncio.Future[TeleportError]

    def record_output(self, data: bytes) -> None: ...
    def record_stderr(self, data: bytes) -> None: ...
    def resize(self, width: int, height: int) -> None: ...
    def note(self, text: str) -> None: ...
    def file(self, detail: FileDetail) -> None: ...
    @property
    def must_drain(self) -> bool: ...
    async def drain(self) -> None: ...
    @property
    def slow_to_close(self) -> bool:
        """Whether `close` takes so long that nobody should wait for it; `sync` does not."""
        ...

    async def sync(self) -> None:
        """Waits until everything noted is on disk; `TeleportError` when it cannot be."""
        ...

    async def close(self, reason: str) -> Summary: ...


class Recordings(Protocol):
    """Where sessions are recorded; when `start` returns, the recording exists on disk."""

    async def start(self, header: RecordingHeader) -> Recording: ...

    async def unrecorded(self, header: RecordingHeader) -> None:
        """A session that is told of and not recorded here is about to begin: should this process be killed, the next
        one tells its end. Raises `TeleportError` when that cannot be kept."""
        ...

    def on_record(self, sid: str) -> None:
        """The end of the session is on record, or its beginning never was: its recording may leave this host."""
        ...

    def unended(self, sid: str) -> None:
        """The session is over, and its recording could not be closed or its end not be put on record: tried again."""
        ...


class Unrecorded:
    """The recording of a session that the cluster does not record."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[TeleportError] = asyncio.get_running_loop().create_future()
        self.sha256 = ""

    def record_output(self, data: bytes) -> None:
        return

    def record_stderr(self, data: bytes) -> None:
        return

    def resize(self, width: int, height: int) -> None:
        return

    def note(self, text: str) -> None:
        return

    def file(self, detail: FileDetail) -> None:
        return

    @property
    def must_drain(self) -> bool:
        return False

    async def drain(self) -> None:
        return

    @property
    def slow_to_close(self) -> bool:
        return False

    async def sync(self) -> None:
        return

    async def close(self, reason: str) -> Unrecorded:
        return self

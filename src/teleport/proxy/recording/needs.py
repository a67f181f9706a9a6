"""What recording at the proxy asks of the rest of the system, each as small as its use (the daemon hands them in)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from teleport.audit.emits import Emits
from teleport.authz.decision import Policy
from teleport.clock import Clock
from teleport.errors import TeleportError
from teleport.identity import UserIdentity
from teleport.pki.live_proof import Evidence
from teleport.recording.format import FileDetail, RecordingHeader
from teleport.resources.destinations import Address
from teleport.resources.lock import Lock
from teleport.resources.mfa_lease import MfaLease
from teleport.resources.server import Server
from teleport.ssh.client_connection import HostCheck
from teleport.ssh.surface import ServerLimits


@dataclass(frozen=True, slots=True)
class RecordingConfig:
    """What is told once."""

    cluster: str
    proxy_id: UUID
    hostname: str
    limits: ServerLimits


class View(Protocol):
    """What the proxy knows of its cluster now."""

    def policy(self) -> Policy: ...

    def locks(self) -> Sequence[Lock]: ...

    def leases(self, user: str, key: str, client_address: str) -> Sequence[MfaLease]: ...

    def present(self, identity: UserIdentity) -> UserIdentity | None:
        """What of an identity still holds; None: nothing."""
        ...

    def verify_user(self, certificate: bytes) -> UserIdentity: ...

    def trusts_user_authority(self, signer: bytes) -> bool: ...

    def let_go(self, signer: bytes) -> bool: ...

    def node(self, host_id: str) -> Server | None:
        """A registered host."""
        ...

    @property
    def everything(self) -> bool:
        """Whether that is so of every host."""
        ...

    def records(self, node: Server) -> bool:
        """Whether what leads to this host ends and is recorded here."""
        ...

    def host_check(self, node: Server) -> HostCheck | None:
        """What believes the host key of this host; None where the cluster says that nobody looks."""
        ...

    def reserved(self, node: Server, host: str, address: Address, port: int) -> str:
        """What of the cluster stands at an address, which `host` led to, as seen from `node`; empty for nothing."""
        ...

    def mode(self) -> str:
        """The recording mode, as sessions that are recorded here say it."""
        ...


class Auth(Protocol):
    """What auth gives a proxy that speaks for hosts. Raises `TeleportError`."""

    async def name(self, host_id: str, public_key: str) -> tuple[str, datetime]:
        """A host certificate (line) of a registered host's names for the proxy's key, and its end."""
        ...

    async def certificate(self, certificate: bytes, client_address: str, evidence: Evidence, public_key: str) -> str:
        """A certificate (line) to enter the host for who is connected."""
        ...


class Summary(Protocol):
    """A finished recording."""

    @property
    def sha256(self) -> str: ...


class Recording(Protocol):
    """One session's recording. What is noted here is noted before it goes on."""

    failed: asyncio.Future[TeleportError]

    def record_output(self, data: bytes) -> None: ...
    def record_stderr(self, data: bytes) -> None: ...
    def resize(self, width: int, height: int) -> None: ...
    def file(self, detail: FileDetail) -> None: ...
    @property
    def must_drain(self) -> bool: ...
    async def drain(self) -> None: ...
    async def sync(self) -> None: ...
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


@dataclass(frozen=True, slots=True)
class Tools:
    """Handed to each connection and session."""

    config: RecordingConfig
    view: View
    recordings: Recordings
    emitter: Emits
    clock: Clock
    new_id: Callable[[], UUID]
    in_background: Callable[[Coroutine[Any, Any, None], str], None]

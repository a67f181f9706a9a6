"""What the Kubernetes service asks of the daemon that runs it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from teleport.audit.emits import Emits
from teleport.authz.decision import AccessDenial
from teleport.authz.kube import ActAs, KubeAccessPermit
from teleport.authz.kube_resources import KubeCall
from teleport.clock import Clock
from teleport.errors import TeleportError
from teleport.identity import UserIdentity
from teleport.kube.credentials import KubeCluster
from teleport.kube.live import LiveSessions
from teleport.recording.format import RecordingHeader

Context = Callable[[], ssl.SSLContext]
"""The TLS context of the next connection; it asks for a client certificate of the user authorities that count now."""


class Elsewhere(Protocol):
    """The way to other clusters of ours, for people whose certificates lead there."""

    def meant(self, identity: UserIdentity) -> bool:
        """Whether another cluster is meant."""
        ...

    async def connect(
        self, certificate: bytes, identity: UserIdentity, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a proxy over there, which judges the person by itself. Raises `TeleportError`."""
        ...

    def still(self, certificate: bytes, host: str) -> bool:
        """Whether somebody who proved this certificate may still be led there."""
        ...


class Rules(Protocol):
    """Who somebody is, and what they may do now."""

    def verify_user_tls(self, certificate: bytes, *, opened: bool = False) -> UserIdentity:
        """Whose certificate (DER) it is. Raises `AccessDenied` for what is not let in, whatever TLS said. `opened`: for
        a call that is open already, which a certificate for one session lets go on after its own end
        (`authz.session_mfa.once_open`)."""
        ...

    def permit_kube(
        self,
        identity: UserIdentity,
        cluster: KubeCluster | None,
        name: str,
        client_address: str,
        act_as: ActAs,
        call: KubeCall | None = None,
    ) -> KubeAccessPermit | AccessDenial:
        """The decision of `authz.kube`, for what is left of the identity. `name` is what was asked for, empty when
        nothing was; `cluster` None: there is none of that name; `call` None: whether anything may be asked there."""
        ...

    def session_locked(self, sid: str) -> bool:
        """Whether somebody stopped this very session."""
        ...


class Summary(Protocol):
    """A finished recording."""

    @property
    def sha256(self) -> str: ...


class Recording(Protocol):
    """The recording of one session in a pod. What is noted here is noted before it goes on."""

    failed: asyncio.Future[TeleportError]

    def record_output(self, data: bytes) -> None: ...
    def record_stderr(self, data: bytes) -> None: ...
    def resize(self, width: int, height: int) -> None: ...
    def note(self, text: str) -> None: ...
    @property
    def must_drain(self) -> bool: ...
    async def drain(self) -> None: ...
    async def sync(self) -> None: ...
    async def close(self, reason: str) -> Summary: ...


class Recordings(Protocol):
    """Where sessions in pods are recorded; when `start` returns, the recording exists on disk."""

    async def start(self, header: RecordingHeader) -> Recording: ...

    def on_record(self, sid: str) -> None:
        """The end of the session is on record, or its beginning never was: its recording may leave this host."""
        ...

    def unended(self, sid: str) -> None:
        """The session is over, and its recording could not be closed or its end not be put on record: tried again."""
        ...


@dataclass(frozen=True, slots=True)
class Sessions:
    """What sessions in pods are recorded with."""

    recordings: Recordings
    mode: Callable[[], str]  # the recording mode, as events say it
    emitter: Emits
    clock: Clock
    cluster: str  # of ours
    host_id: UUID  # of the daemon that records
    hostname: str
    new_id: Callable[[], UUID]
    live: LiveSessions | None = None  # where those that run are found by who joins them; None: nobody does

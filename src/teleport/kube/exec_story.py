"""What of a session in a pod goes on record: the header of its recording, and its events from start to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from teleport.audit.events import (
    Exec,
    Resize,
    SessionData,
    SessionEnd,
    SessionJoin,
    SessionLeave,
    SessionStart,
    new_event,
)
from teleport.audit.events.sessions import PodEvent
from teleport.authz.kube import KubeAccessPermit
from teleport.identity import UserIdentity
from teleport.kube.calls import Call
from teleport.kube.credentials import KubeCluster
from teleport.kube.exec_request import PodCommand
from teleport.kube.needs import Sessions
from teleport.recording.format import RecordingHeader
from teleport.sharing.parties import Party
from teleport.ssh.surface import Peer

E_ = TypeVar("E_", bound=PodEvent)
FIRST_SIZE: Final = (80, 24)  # of a terminal, until the client says its own


@dataclass(frozen=True, slots=True)
class Who:
    """Who asked for what."""

    identity: UserIdentity
    client: Peer
    permit: KubeAccessPermit
    kube_cluster: str
    call: Call
    named: str = ""  # the Kubernetes cluster, as it was chosen
    cluster_now: Callable[[], KubeCluster | None] = lambda: None  # as it is reached now


class PodStory:
    """One session, as the audit log and its recording tell it. Every call returns once its event is durable."""

    def __init__(self, tools: Sessions, who: Who, what: PodCommand, sid: UUID, mode: str) -> None:
        self._tools = tools
        self._who = who
        self._what = what
        self._sid = sid
        self._next = 0  # index of the next event
        self.began = tools.clock.now()
        self._common: dict[str, Any] = {
            "initial_command": [what.command] if what.command else [],
            "session_recording": mode,
            "interactive": what.terminal,
        }

    def header(self) -> RecordingHeader:
        """What the recording begins with."""
        tools, who, what = self._tools, self._who, self._what
        return RecordingHeader(
            sid=str(self._sid),
            started=self.began,
            user=who.identity.name,
            login=who.permit.kube_user,
            node_id=str(tools.host_id),
            node_name=tools.hostname,
            cluster=tools.cluster,
            command=what.command,
            interactive=what.terminal,
            width=FIRST_SIZE[0] if what.terminal else 0,
            height=FIRST_SIZE[1] if what.terminal else 0,
            client=str(who.client),
            kube_cluster=who.kube_cluster,
            pod_namespace=who.call.namespace,
            pod=who.call.name,
            container=what.container,
        )

    async def started(self) -> None:
        """The API server is about to be asked."""
        size = f"{FIRST_SIZE[0]}:{FIRST_SIZE[1]}" if self._what.terminal else ""
        device = self._who.permit.mfa_device
        proved: dict[str, Any] = {"with_mfa": device} if device else {}
        await self._emit(SessionStart, size=size, cert_serial=self._who.identity.serial, **proved, **self._common)

    async def resized(self, width: int, height: int) -> None:
        await self._emit(Resize, size=f"{width}:{height}")

    async def joined(self, party: Party, granted_by: str) -> None:
        """Somebody else is about to take part."""
        await self._emit(SessionJoin, party, mode=str(party.mode), granted_by=granted_by)

    async def left(self, party: Party) -> None:
        """Somebody takes part no more, and the session goes on."""
        await self._emit(SessionLeave, party, mode=str(party.mode))

    async def ended(
        self, code: str, error: str, reason: str, people: Sequence[str], *, sent: int, typed: int, digest: str
    ) -> None:
        """The session is over. `code` and `error`: how its command ended, as far as that is known."""
        if self._what.command:
            await self._emit(Exec, command=self._what.command, exit_code=code, exit_error=error)
        await self._emit(SessionData, numbered=False, tx=sent, rx=typed)
        await self._emit(
            SessionEnd,
            participants=list(people),
            session_start=self.began,
            session_stop=self._tools.clock.now(),
            reason=reason,
            recording_hash=digest,
            **self._common,
        )

    async def _emit(self, cls: type[E_], party: Party | None = None, *, numbered: bool = True, **fields: Any) -> None:
        """Puts an event on record. `party` did it, if it was not who began the session; `numbered` false: its class has
        an index of its own."""
        tools, who = self._tools, self._who
        facts = party.connection.facts if party is not None else None
        user = facts.user if facts is not None and facts.user is not None else who.identity
        if numbered:
            fields["ei"], self._next = self._next, self._next + 1
        event = new_event(
            cls,
            tools.clock.now(),
            str(uuid4()),
            cluster_name=tools.cluster,
            user=user.name,
            impersonator=user.impersonator,
            login=who.permit.kube_user,
            sid=str(self._sid),
            server_id=str(tools.host_id),
            server_hostname=tools.hostname,
            addr_remote=str(facts.client if facts is not None else who.client),
            proto="kube",
            kubernetes_cluster=who.kube_cluster,
            kubernetes_users=[who.permit.kube_user],
            kubernetes_groups=list(who.permit.kube_groups),
            kubernetes_pod_name=who.call.name,
            kubernetes_pod_namespace=who.call.namespace,
            kubernetes_container_name=self._what.container,
            **fields,
        )
        await tools.emitter.emit(event)

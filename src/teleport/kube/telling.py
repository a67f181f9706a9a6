"""What is put on record of calls, and by whom."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from teleport.authz.kube import KubeAccessPermit
from teleport.identity import UserIdentity
from teleport.kube.calls import Call
from teleport.kube.http import Request
from teleport.ssh.surface import Peer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is put on record of a call."""

    request: Request
    call: Call | None  # None: it could not be read
    cluster: str
    permit: KubeAccessPermit | None
    code: int
    error: str = ""
    made: bool = False  # the API server may have carried it out

    @property
    def fields(self) -> dict[str, Any]:
        """Those of the event."""
        call, permit = self.call, self.permit
        return {
            "verb": call.verb if call else self.request.method[:20],
            "request_path": (call.told if call else ascii(self.request.target)),
            "resource_api_group": call.api_group if call else "",
            "resource_kind": call.kind if call else "",
            "resource_name": call.name if call else "",
            "resource_namespace": call.namespace if call else "",
            "response_code": self.code,
            "kubernetes_cluster": self.cluster,
            "kubernetes_users": [permit.kube_user] if permit else [],
            "kubernetes_groups": list(permit.kube_groups) if permit else [],
            **({"with_mfa": permit.mfa_device} if permit and permit.mfa_device else {}),
            "success": not self.error,
            "error": self.error,
        }


class Tells(Protocol):
    """Puts calls on record."""

    async def tell(self, outcome: Outcome, identity: UserIdentity, client: Peer) -> None:
        """Returns once it is durable. Of a call that was made it is kept otherwise, and told later."""
        ...

    async def settle(self) -> None:
        """Tells of the calls that were made and could not be told of. Raises what `tell` does."""
        ...

    async def rejected(self, identity: UserIdentity, client: Peer, most: int) -> None:
        """Puts on record that somebody has as many connections as they may."""
        ...

    def disconnected(self, identity: UserIdentity, client: Peer, reason: str) -> None:
        """Puts on record, some time, that we ended a call, and why."""
        ...


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Does the work whatever cancels the caller meanwhile; that comes through afterwards."""
    doing = asyncio.create_task(work, name="a Kubernetes call's record")
    cancelled: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        failure(doing)
        raise cancelled
    doing.result()


def failure(done: asyncio.Task[None]) -> BaseException | None:
    """What a task that is over ended with, which is thereby taken note of."""
    return None if done.cancelled() else done.exception()

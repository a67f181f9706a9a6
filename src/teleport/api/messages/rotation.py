"""Messages about the rotation of authorities (`certificates.md` 7)."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.api.messages.cluster import AuthorityStatus


class RotateRequest(Request, frozen=True, kw_only=True):
    """One step. Without `types`: of all authorities, or for a rollback of those that are being rotated."""

    types: list[str] = []  # user, host, jwt
    phase: str = "init"
    mode: str = "manual"  # auto: auth takes the further steps by itself
    grace_period: float = 48 * 3600.0  # seconds, of a rotation that begins; 0: keys are replaced at once
    force: bool = False  # go on although live services have not reached the phase before
    seen: str = ""  # the phase that the caller saw them in; nothing is done when one is in another


class RotateReply(Message, frozen=True, kw_only=True):
    """How the authorities that were meant stand now."""

    authorities: list[AuthorityStatus]


class WaitedFor(Message, frozen=True, kw_only=True):
    """A live service that has not reached the phase which an authority is in."""

    authority: str  # its kind
    host_id: str
    hostname: str
    service: str  # node, proxy, auth_server, kube_service
    reached: str  # the phase it reports; empty when it reports none


class RotationPlanRequest(Request, frozen=True, kw_only=True):
    """Who would be left behind. Without `types`: by the rotation of all authorities."""

    types: list[str] = []
    grace_period: float = 48 * 3600.0  # seconds, of a rotation that has not begun


class LeftBehind(Message, frozen=True, kw_only=True):
    """A certificate that does not count any more when the rotation ends, if nothing else happens; or a host whose sshd
    trusts keys that end, which has no `serial` then."""

    authority: str  # which rotation ends it: user, host
    type: str  # of the certificate: user, host
    subject: str  # user name, host UUID
    name: str = ""  # host name, or names of a plain sshd
    role: str = ""  # system role of a host
    serial: str = ""
    expires: datetime | None = None
    why: str = ""
    remedy: str = ""  # what to run


class RotationPlan(Message, frozen=True, kw_only=True):
    """`ends` is when each authority's old keys end, if that is known."""

    authorities: list[AuthorityStatus]
    ends: dict[str, datetime] = {}
    left_behind: list[LeftBehind] = []
    more: int = 0  # that are not listed


class RotationProgress(Message, frozen=True, kw_only=True):
    """How far the services have followed."""

    authorities: list[AuthorityStatus]
    waiting: list[WaitedFor]

"""Messages about the rotation of authorities (`certificates.md` 7)."""

from __future__ import annotations

from teleport.api.messages.base import Message, Request
from teleport.api.messages.cluster import AuthorityStatus


class RotateRequest(Request, frozen=True, kw_only=True):
    """One step. Without `types`: of all authorities, or for a rollback of those that are being rotated."""

    types: list[str] = []  # user, host, jwt
    phase: str = "init"
    mode: str = "manual"  # auto: auth takes the further steps by itself
    grace_period: float = 48 * 3600.0  # seconds, of a rotation that begins; 0: keys are replaced at once
    force: bool = False  # go on although live services have not reached the phase before


class RotateReply(Message, frozen=True, kw_only=True):
    """How the authorities that were meant stand now."""

    authorities: list[AuthorityStatus]


class WaitedFor(Message, frozen=True, kw_only=True):
    """A live service that has not reached the phase which an authority is in."""

    authority: str  # its kind
    host_id: str
    hostname: str
    service: str  # node, proxy, auth_server
    reached: str  # the phase it reports; empty when it reports none


class RotationProgress(Message, frozen=True, kw_only=True):
    """How far the services have followed."""

    authorities: list[AuthorityStatus]
    waiting: list[WaitedFor]

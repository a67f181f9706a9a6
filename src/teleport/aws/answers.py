"""What a service answers when it does not do what was asked, and what a person reads of it. Pure: loads no library.

Each service has codes of its own, and more to say of some answers (`refusals`); what all of them answer is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from teleport.errors import AccessDenied, ConnectionProblem, TeleportError


class Kind(StrEnum):
    """What to do about an answer."""

    AGAIN = "again"  # the service or the way to it is away; it may or may not have happened
    SLOWER = "slower"  # throttled, or another transaction had it in hand. It has not happened
    CONDITION = "condition"  # something is not as it was expected. It has not happened
    EXISTS = "exists"  # it is there already, or being made or changed. Nothing has happened
    ABSENT = "absent"  # there is no such thing
    NO_BUCKET = "no bucket"
    KEPT = "kept"  # the bucket does not let go what it has
    TOO_LARGE = "too large"
    NOT_ALLOWED = "not allowed"
    KMS = "kms"  # the key with which the service encrypts cannot be used
    NO_LOGIN = "no login"  # no credentials, or such as are not known
    CLOCK = "clock"  # our clock and theirs differ
    TLS = "tls"  # the other end was not believed
    REGION = "region"  # none is named, or another one than where it lies
    REFUSED = "refused"  # anything else


@dataclass(frozen=True, slots=True)
class Words:
    """How a service is spoken of in hints."""

    thing: str  # that a policy is about: the bucket, the table
    setting: str  # that names the endpoint
    who: str = ""  # the command that says as whom AWS knows this machine; empty: others than AWS are asked, too


def explain(what: str, kind: Kind, details: str, words: Words) -> TeleportError | None:
    """The error for an answer that means the same for all services; None for others. `what` could not be done."""
    match kind:
        case Kind.TLS:
            return ConnectionProblem(
                f"{what}: the certificate of the other end was not accepted: {details}",
                hint=f"check endpoint of {words.setting} and the certificates that this machine trusts (AWS_CA_BUNDLE)",
            )
        case Kind.NO_LOGIN:
            return AccessDenied(
                f"{what}: these credentials are not known there, or there are none: {details}",
                hint="give the machine a role, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                + (f": {words.who}" if words.who else ""),
            )
        case Kind.CLOCK:
            return AccessDenied(
                f"{what}: the clock of this machine is not right: {details}",
                hint="set it by time servers: timedatectl set-ntp true",
            )
        case Kind.NOT_ALLOWED:
            return AccessDenied(
                f"{what}: the role or user of this machine may not do that: {details}",
                hint=f"let its policy allow what docs/operations.md lists for the {words.thing}",
            )
    return None

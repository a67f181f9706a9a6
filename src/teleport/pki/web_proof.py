"""Who asks a proxy's web page for the way to another cluster: an SSH certificate, and a signature by its key.

The session with another cluster's auth is TLS that ends there, so that this proxy never sees the client's certificate
of it. What it relays is nobody's business but of users who may go there: so the request carries a proof, made for one
purpose at one proxy's cluster, good for a minute. It is no credential: nothing is issued for it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from teleport.errors import AccessDenied, BadRequest
from teleport.pki import sshsig
from teleport.pki.sshformat import parse_certificate

HEADER: Final = "X-Teleport-Proof"
DOMAIN: Final = b"teleport web proof v1\x00"  # what else the key signs is never read as one
VALID: Final = timedelta(seconds=60)
MAX_PROOF: Final = 16 * 1024  # bytes
CLUSTERS: Final = "clusters"  # the purpose of who lists them


def to_auth_of(cluster: str) -> str:
    """The purpose of who wants to speak with that cluster's auth."""
    return f"auth of {cluster}"


class _Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    audience: str
    purpose: str
    time_ms: int
    certificate: str


class _Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    claim: str
    signature: str


@dataclass(frozen=True, slots=True)
class WebProof:
    """A proof that was read, and is not believed yet."""

    audience: str
    purpose: str
    time: datetime
    certificate: bytes
    signed: bytes
    signature: bytes


def encode(certificate: bytes, sign: Callable[[bytes], bytes], *, audience: str, purpose: str, now: datetime) -> str:
    """The header's value. `audience` is the cluster of the proxy that is asked."""
    claim = msgspec.json.encode(
        _Claim(audience, purpose, int(now.timestamp() * 1000), base64.b64encode(certificate).decode())
    )
    made = _Signed(base64.b64encode(claim).decode(), base64.b64encode(sign(DOMAIN + claim)).decode())
    return base64.b64encode(msgspec.json.encode(made)).decode()


def parse(text: str) -> WebProof:
    """Reads a header's value. Raises `BadRequest`, never anything else."""
    if len(text) > MAX_PROOF:
        raise BadRequest(f"a proof has at most {MAX_PROOF} bytes")
    try:
        made = msgspec.json.decode(_plain(text), type=_Signed)
        signed = _plain(made.claim)
        claim = msgspec.json.decode(signed, type=_Claim)
        time = datetime.fromtimestamp(claim.time_ms / 1000, UTC)
        return WebProof(claim.audience, claim.purpose, time, _plain(claim.certificate), signed, _plain(made.signature))
    except (msgspec.MsgspecError, ValueError, OverflowError, OSError) as error:
        raise BadRequest(f"the proof cannot be read: {error}") from None


def _plain(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def check(proof: WebProof, *, audience: str, purpose: str, now: datetime) -> bytes:
    """The SSH certificate whose key made the proof; whether the certificate counts is for the caller to find out.

    Raises `AccessDenied` (`CertificateRefused` among it) for a proof that was made for something else, or not by it.
    """
    if (proof.audience, proof.purpose) != (audience, purpose):
        raise AccessDenied("the proof was made for something else")
    if abs(now - proof.time) > VALID:
        raise AccessDenied(
            f"the proof is of {proof.time:%Y-%m-%d %H:%M:%S}, here it is {now:%Y-%m-%d %H:%M:%S} UTC",
            hint="check the clock of your machine (timedatectl)",
        )
    sshsig.verify(parse_certificate(proof.certificate).body.public_key, DOMAIN + proof.signed, proof.signature)
    return proof.certificate

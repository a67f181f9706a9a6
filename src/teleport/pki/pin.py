"""CA pins: how a host or user proves the cluster before it says anything secret (`certificates.md` 5, threat T13).

A pin is `sha256:` and the lower-case hex of SHA-256 over the DER SubjectPublicKeyInfo of a host authority's TLS
certificate. The authority's certificate is public, so whoever shows it has proved nothing yet: a pin only says which
certificates to verify the connection against.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

from teleport.errors import BadRequest
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.x509verify import load_certificate

_PIN = re.compile(r"sha256:[0-9a-f]{64}")


def ca_pin(certificate: bytes) -> str:
    """The pin of an authority's certificate (DER or PEM)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = load_certificate(certificate).public_key()
    return "sha256:" + hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def parse_pin(text: str) -> str:
    """`text` as a whole pin. Raises `BadRequest` for anything else, a truncated one above all."""
    pin = text.strip()
    if not _PIN.fullmatch(pin):
        raise BadRequest(
            f"{text[:80]!r} is not a CA pin: it must be sha256: and 64 hexadecimal digits.",
            hint="tctl status prints the pin",
        )
    return pin


def check_pin(pins: Sequence[str], certificates: Sequence[bytes]) -> tuple[bytes, ...]:
    """Those of `certificates` that a pin names: only these may be trusted further, the rest proved nothing.

    Any one match is enough (there are two authorities during a rotation). No pins at all is an error of the caller
    (`BadRequest`): joining without pins is a decision of its own, never a consequence of an empty list. A malformed
    pin is an error even beside one that fits. Raises `CertificateRefused` when nothing fits.
    """
    if not pins:
        raise BadRequest("No CA pin was given to check.", hint="tctl status prints the pin")
    wanted = [parse_pin(pin) for pin in pins]
    matched: list[bytes] = []
    for certificate in certificates:
        found = ca_pin(certificate)
        # every pin is compared in full, so that timing says nothing about how much of one was right
        if sum(hmac.compare_digest(found, pin) for pin in wanted):
            matched.append(certificate)
    if not matched:
        shown = ", ".join(ca_pin(certificate) for certificate in certificates) or "none"
        raise CertificateRefused(
            Refusal.WRONG_PIN,
            f"The cluster's authority does not have the pin that was given (it has {shown}).",
            hint="compare with what tctl status prints on the auth server; do not go on if they differ",
        )
    return tuple(matched)

"""Signatures of ours over bytes of ours: vouch lines, recording ends, checkpoints.

Each use names its domain, which is signed too, so that a signature made for one purpose never fits another, nor a
TLS or SSH handshake made with the same key. Format 1: the signed bytes are the magic, then domain and message as SSH
strings; the signature is 64 bytes, Ed25519 as RFC 8032 says, P-256 with SHA-256 as r and s of 32 bytes each.
"""

from __future__ import annotations

from teleport.errors import BadRequest
from teleport.pki.keys import KeyKind, PrivateKey, PublicKey
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.sshwire import string

_MAGIC = b"teleport-signature-v1\x00"
_SIGNATURE_BYTES = 64


def _covered(domain: str, message: bytes) -> bytes:
    if not domain:
        raise BadRequest("A signature needs the name of its purpose.")
    return _MAGIC + string(domain.encode("utf-8")) + string(message)


def sign(domain: str, message: bytes, private: PrivateKey) -> bytes:
    """64 bytes: the signature over `message` for the purpose `domain`. Keys are Ed25519 or P-256, else `BadRequest`."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

    covered = _covered(domain, message)
    key = private.crypto()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(covered)
    if isinstance(key, ec.EllipticCurvePrivateKey) and private.public.kind is KeyKind.P256:
        r, s = utils.decode_dss_signature(key.sign(covered, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    raise BadRequest(f"Keys of type {private.public.kind} do not sign here; Ed25519 and P-256 do.")


def verify(domain: str, message: bytes, signature: bytes, public: PublicKey) -> None:
    """Returns when `signature` is `public`'s over `message` for `domain`; else raises `CertificateRefused`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

    covered = _covered(domain, message)
    if len(signature) != _SIGNATURE_BYTES:
        raise CertificateRefused(Refusal.MALFORMED, "The signature has not the right size.")
    if public.kind not in {KeyKind.ED25519, KeyKind.P256}:
        raise CertificateRefused(Refusal.WEAK_ALGORITHM, f"Keys of type {public.kind} do not sign here.")
    key = public.crypto()
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, covered)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(utils.encode_dss_signature(r, s), covered, ec.ECDSA(hashes.SHA256()))
        else:
            raise CertificateRefused(Refusal.WEAK_ALGORITHM, f"Keys of type {public.kind} do not sign here.")
    except (InvalidSignature, ValueError) as error:
        raise CertificateRefused(Refusal.BAD_SIGNATURE, "The signature does not fit.") from error

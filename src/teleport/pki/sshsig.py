"""SSH signatures: made by a private key, checked against a public key, algorithm included.

Which algorithm a key may sign with follows from the key alone, so nobody can talk us into a weaker one: RSA signs
with SHA-2 only (`ssh-rsa`, which is SHA-1, is refused, threat T07). Formats: RFC 8709 section 6 (Ed25519), RFC 5656
section 3.1.2 (ECDSA), RFC 8332 section 3 (RSA).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from teleport.pki.keys import KeyKind, PrivateKey, PublicKey
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.sshwire import Reader, WireError, mpint, string

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

_ALGORITHMS: dict[KeyKind, tuple[str, ...]] = {
    KeyKind.ED25519: ("ssh-ed25519",),
    KeyKind.P256: ("ecdsa-sha2-nistp256",),
    KeyKind.P384: ("ecdsa-sha2-nistp384",),
    KeyKind.P521: ("ecdsa-sha2-nistp521",),
    KeyKind.RSA: ("rsa-sha2-512", "rsa-sha2-256"),
}


def _hash(algorithm: str) -> HashAlgorithm:
    from cryptography.hazmat.primitives import hashes

    match algorithm:
        case "ecdsa-sha2-nistp256" | "rsa-sha2-256":
            return hashes.SHA256()
        case "ecdsa-sha2-nistp384":
            return hashes.SHA384()
        case _:
            return hashes.SHA512()


def sign(private: PrivateKey, message: bytes) -> bytes:
    """The signature blob over `message`, with the strongest algorithm of the key's kind."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, utils

    algorithm = _ALGORITHMS[private.public.kind][0]
    key = private.crypto()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = key.sign(message)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(_hash(algorithm))))
        raw = mpint(r) + mpint(s)
    else:
        raw = key.sign(message, padding.PKCS1v15(), _hash(algorithm))
    return string(algorithm.encode()) + string(raw)


def verify(public: PublicKey, message: bytes, signature: bytes) -> None:
    """Returns when `signature` is `public`'s over `message`; else raises `CertificateRefused`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, utils

    try:
        reader = Reader(signature)
        algorithm = reader.text()
        raw = reader.string()
        reader.finish()
    except WireError as error:
        raise CertificateRefused(Refusal.MALFORMED, "The signature is malformed.", detail=str(error)) from error
    if algorithm not in _ALGORITHMS.get(public.kind, ()):
        raise CertificateRefused(
            Refusal.WEAK_ALGORITHM, "The signature is of a kind that is not accepted.", detail=ascii(algorithm[:64])
        )
    key = public.crypto()
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(raw, message)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            numbers = Reader(raw)
            encoded = utils.encode_dss_signature(numbers.natural(), numbers.natural())
            numbers.finish()
            key.verify(encoded, message, ec.ECDSA(_hash(algorithm)))
        else:
            key.verify(raw, message, padding.PKCS1v15(), _hash(algorithm))
    except (InvalidSignature, ValueError) as error:
        raise CertificateRefused(Refusal.BAD_SIGNATURE, "The signature does not fit.") from error

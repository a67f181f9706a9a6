"""What an ACME client signs and shows (RFC 8555, RFC 7515, RFC 7638, RFC 8737); the account's key is ECDSA P-256.

Only what a proxy needs: requests signed by the account, the digest that answers a TLS-ALPN-01 challenge, the
certificate that carries it, and the request for a certificate of one name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from teleport.errors import BadRequest
from teleport.pki.secret import Secret

ACME_IDENTIFIER: Final = "1.3.6.1.5.5.7.1.31"  # id-pe-acmeIdentifier, RFC 8737 section 3
CHALLENGE: Final = "tls-alpn-01"
_NAME: Final = re.compile(r"(?=.{4,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,256}")
_LIFE: Final = timedelta(days=7)  # of a certificate that answers a challenge


def is_public_name(name: str) -> bool:
    """Whether a directory may be asked for a certificate of this name: a host name in lower case, below some domain;
    no address, no wildcard."""
    return _NAME.fullmatch(name) is not None


def b64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def new_key() -> Secret:
    """A key in PEM, of an account or of a certificate."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    made = ec.generate_private_key(ec.SECP256R1())
    return Secret(made.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))


class AccountKey:
    """The key of an account. Raises `BadRequest` for anything but a P-256 key in PEM."""

    def __init__(self, pem: Secret) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem.reveal(), None)
        except (ValueError, TypeError):
            raise BadRequest("the key of the ACME account cannot be read") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise BadRequest("the key of the ACME account is of no kind that is made here")
        self._key = key
        numbers = key.public_key().public_numbers()
        self._jwk = {
            "crv": "P-256",
            "kty": "EC",
            "x": b64url(numbers.x.to_bytes(32, "big")),
            "y": b64url(numbers.y.to_bytes(32, "big")),
        }

    def thumbprint(self) -> str:
        """RFC 7638 section 3."""
        members = json.dumps(self._jwk, separators=(",", ":"), sort_keys=True)
        return b64url(hashlib.sha256(members.encode()).digest())

    def challenge_digest(self, token: str) -> bytes:
        """SHA-256 of the key authorization for a challenge's token (RFC 8555 section 8.1). Raises `BadRequest` for what
        is no token."""
        if not _TOKEN.fullmatch(token):
            raise BadRequest("the directory sent a challenge whose token is none")
        return hashlib.sha256(f"{token}.{self.thumbprint()}".encode()).digest()

    def signed(self, url: str, nonce: str, payload: Mapping[str, Any] | None, account: str = "") -> bytes:
        """A request's body (RFC 8555 section 6.2), signed with ES256. `payload` None is POST-as-GET; without the URL of
        an account the key itself is named."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        who: dict[str, Any] = {"kid": account} if account else {"jwk": self._jwk}
        head = b64url(json.dumps({"alg": "ES256", "nonce": nonce, "url": url, **who}).encode())
        body = "" if payload is None else b64url(json.dumps(dict(payload)).encode())
        r, s = decode_dss_signature(self._key.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256())))
        signature = b64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return json.dumps({"protected": head, "payload": body, "signature": signature}).encode()


def signing_request(name: str, key: Secret) -> bytes:
    """The request (DER, PKCS #10) for a certificate of one name."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
    private = load_pem_private_key(key.reveal(), None)
    made = builder.sign(private, hashes.SHA256())  # type: ignore[arg-type]  # the kind that `new_key` makes
    return made.public_bytes(Encoding.DER)


def challenge_pair(name: str, digest: bytes, now: datetime) -> Secret:
    """The self-signed certificate that answers a challenge (RFC 8737 section 3), with its key, PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
    from cryptography.x509.oid import NameOID

    if len(digest) != 32:
        raise BadRequest("the answer to a challenge is a digest of 32 bytes")
    pem = new_key()
    key = load_pem_private_key(pem.reveal(), None)
    common = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    made = (
        x509.CertificateBuilder()
        .subject_name(common)
        .issuer_name(common)
        .public_key(key.public_key())  # type: ignore[arg-type]  # the kind that `new_key` makes
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(ACME_IDENTIFIER), b"\x04\x20" + digest), critical=True
        )
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    return Secret(pem.reveal() + made.public_bytes(Encoding.PEM))

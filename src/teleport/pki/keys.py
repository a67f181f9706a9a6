"""Public and private keys: which are accepted, how they are made, written and named.

Weak keys are refused wherever a key enters (threat T07): RSA below 2048 bits, DSA, and any curve but the three of
NIST that SSH names and Ed25519. A certificate is never taken for a plain key (threat T01). Formats: RFC 4253
section 6.6, RFC 5656, RFC 8709, OpenSSH's PROTOCOL.u2f (security keys), PKCS#8 (RFC 5958).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from teleport.errors import BadRequest
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.secret import Secret
from teleport.pki.sshwire import Reader, WireError, mpint, string

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as ECPublic
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as EdPublic
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey as RSAPublic

    CryptoPublicKey = ECPublic | EdPublic | RSAPublic
    CryptoPrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192  # a larger modulus only makes us work
MAX_KEY_BYTES = 8192
_CERTIFICATE_SUFFIX = "-cert-v01@openssh.com"


class KeyKind(StrEnum):
    """The kinds of public key that are accepted, by their SSH names."""

    ED25519 = "ssh-ed25519"
    P256 = "ecdsa-sha2-nistp256"
    P384 = "ecdsa-sha2-nistp384"
    P521 = "ecdsa-sha2-nistp521"
    RSA = "ssh-rsa"
    SK_ED25519 = "sk-ssh-ed25519@openssh.com"
    SK_P256 = "sk-ecdsa-sha2-nistp256@openssh.com"


_CURVE_OF = {
    KeyKind.P256: "nistp256",
    KeyKind.P384: "nistp384",
    KeyKind.P521: "nistp521",
    KeyKind.SK_P256: "nistp256",
}
_SECURITY_KEYS = frozenset({KeyKind.SK_ED25519, KeyKind.SK_P256})


def _curve(kind: KeyKind) -> EllipticCurve:
    from cryptography.hazmat.primitives.asymmetric import ec

    match _CURVE_OF[kind]:
        case "nistp256":
            return ec.SECP256R1()
        case "nistp384":
            return ec.SECP384R1()
        case _:
            return ec.SECP521R1()


def _weak(message: str) -> CertificateRefused:
    return CertificateRefused(
        Refusal.WEAK_KEY, message, hint="make a key with: ssh-keygen -t ed25519 (or -t ecdsa, or -t rsa -b 3072)"
    )


def read_key_fields(kind: KeyKind, reader: Reader) -> None:
    """Reads the fields of a key of `kind` off `reader` and checks their form and strength.

    They stand alike in a plain key and in a certificate (PROTOCOL.certkeys). Whether a point lies on its curve is
    found out by `PublicKey.crypto`. Raises `WireError`, or `CertificateRefused` for a weak key.
    """
    match kind:
        case KeyKind.RSA:
            exponent, modulus = reader.natural(), reader.natural()
            bits = modulus.bit_length()
            if bits < MIN_RSA_BITS:
                raise _weak(f"RSA keys need at least {MIN_RSA_BITS} bits, this one has {bits}.")
            if bits > MAX_RSA_BITS:
                raise _weak(f"RSA keys may have at most {MAX_RSA_BITS} bits, this one has {bits}.")
            if exponent < 3 or not exponent & 1 or exponent.bit_length() > 64 or not modulus & 1:
                raise _weak("This RSA key has an impossible exponent or modulus.")
        case KeyKind.ED25519 | KeyKind.SK_ED25519:
            if len(reader.string()) != 32:
                raise WireError("an Ed25519 key that has not 32 bytes")
        case KeyKind.P256 | KeyKind.P384 | KeyKind.P521 | KeyKind.SK_P256:
            if reader.text() != _CURVE_OF[kind]:
                raise _weak("This ECDSA key names another curve than its type.")
            size = {"nistp256": 32, "nistp384": 48, "nistp521": 66}[_CURVE_OF[kind]]
            point = reader.string()
            if len(point) != 1 + 2 * size or point[0] != 4:
                raise WireError("an ECDSA point that is not in its uncompressed form")
    if kind in _SECURITY_KEYS and not reader.text():
        raise WireError("a security key that names no application")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A plain public key of an accepted kind and strength; two are the same when their `blob` is."""

    kind: KeyKind
    blob: bytes  # RFC 4253 section 6.6: what the base64 text of an OpenSSH line says
    comment: str = field(default="", compare=False)

    @classmethod
    def from_blob(cls, blob: bytes, comment: str = "") -> PublicKey:
        """Raises `CertificateRefused` for certificates, for weak, unknown and malformed keys."""
        if len(blob) > MAX_KEY_BYTES:
            raise CertificateRefused(Refusal.TOO_LARGE, f"A public key may have at most {MAX_KEY_BYTES} bytes.")
        reader = Reader(blob)
        try:
            kind = key_kind(reader.text())
            read_key_fields(kind, reader)
            reader.finish()
        except WireError as error:
            raise CertificateRefused(Refusal.MALFORMED, f"This is not a public key: {error}.") from error
        key = cls(kind, bytes(blob), comment)
        key.crypto()
        return key

    @classmethod
    def parse(cls, line: str) -> PublicKey:
        """From an OpenSSH line `type base64 comment`. Raises as `from_blob` does."""
        parts = line.strip().split(None, 2)
        if len(parts) < 2 or "\n" in line.strip():
            raise CertificateRefused(Refusal.MALFORMED, "A public key is one line: type, base64, comment.")
        key_kind(parts[0])
        try:
            blob = base64.b64decode(parts[1].encode("ascii", "replace"), validate=True)
        except binascii.Error as error:
            raise CertificateRefused(Refusal.MALFORMED, "The key's second word is not base64.") from error
        key = cls.from_blob(blob, parts[2] if len(parts) > 2 else "")
        if key.kind != parts[0]:
            raise CertificateRefused(Refusal.MALFORMED, "The key's first word names another type than the key itself.")
        return key

    @classmethod
    def from_crypto(cls, key: CryptoPublicKey, comment: str = "") -> PublicKey:
        """From a `cryptography` key. Raises `CertificateRefused` for weak or unknown ones."""
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        match key:
            case ed25519.Ed25519PublicKey():
                fields = string(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
                kind = KeyKind.ED25519
            case ec.EllipticCurvePublicKey():
                named = {"secp256r1": KeyKind.P256, "secp384r1": KeyKind.P384, "secp521r1": KeyKind.P521}
                if key.curve.name not in named:
                    raise _weak(f"Keys on the curve {key.curve.name} are not accepted.")
                kind = named[key.curve.name]
                point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
                fields = string(_CURVE_OF[kind].encode()) + string(point)
            case rsa.RSAPublicKey():
                numbers = key.public_numbers()
                fields, kind = mpint(numbers.e) + mpint(numbers.n), KeyKind.RSA
            case _:
                raise _weak("Keys of this kind are not accepted.")
        return cls.from_blob(string(kind.encode()) + fields, comment)

    @classmethod
    def from_spki(cls, data: bytes) -> PublicKey:
        """From a SubjectPublicKeyInfo, PEM or DER (RFC 5280 section 4.1.2.7). Raises as `from_blob` does."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

        if len(data) > 4 * MAX_KEY_BYTES:
            raise CertificateRefused(Refusal.TOO_LARGE, "This public key is too large.")
        try:
            key = load_pem_public_key(data) if data.lstrip().startswith(b"-----") else load_der_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CertificateRefused(Refusal.MALFORMED, "This is not a public key of an accepted kind.") from error
        return cls.from_crypto(key)  # type: ignore[arg-type]  # other kinds are refused there

    def fields(self) -> bytes:
        """The key's own fields: the blob after its type, as they stand inside a certificate."""
        return self.blob[4 + len(self.kind) :]

    def crypto(self) -> CryptoPublicKey:
        """The key for `cryptography`; a security key gives the key that it signs with.

        Raises `CertificateRefused` when the numbers are no key (a point that is not on its curve).
        """
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        reader = Reader(self.blob)
        reader.string()
        try:
            match self.kind:
                case KeyKind.RSA:
                    exponent = reader.natural()
                    return rsa.RSAPublicNumbers(exponent, reader.natural()).public_key()
                case KeyKind.ED25519 | KeyKind.SK_ED25519:
                    return ed25519.Ed25519PublicKey.from_public_bytes(reader.string())
                case _:
                    reader.string()
                    return ec.EllipticCurvePublicKey.from_encoded_point(_curve(self.kind), reader.string())
        except ValueError as error:
            raise CertificateRefused(Refusal.WEAK_KEY, "The numbers of this key are no key of its kind.") from error

    def line(self, comment: str | None = None) -> str:
        """The OpenSSH line, without newline."""
        text = f"{self.kind} {base64.b64encode(self.blob).decode()}"
        comment = self.comment if comment is None else comment
        return f"{text} {comment}" if comment else text

    def fingerprint(self) -> str:
        """`SHA256:` and unpadded base64, as ssh shows it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    def spki_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self.crypto().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def spki_pem(self) -> bytes:
        """SubjectPublicKeyInfo, PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self.crypto().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def is_security_key(self) -> bool:
        """Whether the private key is held by a FIDO device (PROTOCOL.u2f)."""
        return self.kind in _SECURITY_KEYS


def key_kind(name: str) -> KeyKind:
    """The kind with this SSH name. Raises `CertificateRefused` for certificates, DSA and everything unknown."""
    try:
        return KeyKind(name)
    except ValueError:
        pass
    if name.endswith(_CERTIFICATE_SUFFIX):
        raise CertificateRefused(Refusal.SIGNER_IS_CERTIFICATE, "A certificate stands where a plain key belongs.")
    if name == "ssh-dss":
        raise _weak("DSA keys are not accepted.")
    shown = name if name.isascii() and name.isprintable() and len(name) <= 64 else "this kind"
    raise CertificateRefused(Refusal.WEAK_KEY, f"Keys of type {shown} are not accepted.")


class PrivateKey:
    """A private key held in memory; its repr names the public half only."""

    __slots__ = ("_key", "public")

    def __init__(self, key: CryptoPrivateKey) -> None:
        self._key = key
        self.public = PublicKey.from_crypto(key.public_key())

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.kind}, {self.public.fingerprint()})"

    def __reduce__(self) -> str:
        raise TypeError("a PrivateKey is not pickled or copied; hand the object itself on")

    @classmethod
    def load(cls, data: Secret | bytes) -> PrivateKey:
        """From PEM (PKCS#8 or the older forms) or OpenSSH's format, without pass phrase.

        Raises `BadRequest` when it is neither, `CertificateRefused` when the key is weak.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

        raw = data.reveal() if isinstance(data, Secret) else data
        openssh = b"BEGIN OPENSSH PRIVATE KEY" in raw[:200]
        try:
            key = load_ssh_private_key(raw, None) if openssh else load_pem_private_key(raw, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadRequest("This is not a private key in PEM or OpenSSH form without pass phrase.") from error
        return cls(key)  # type: ignore[arg-type]  # other kinds are refused by PublicKey.from_crypto

    def crypto(self) -> CryptoPrivateKey:
        """The key for `cryptography`."""
        return self._key

    def pkcs8_pem(self) -> Secret:
        """PEM, PKCS#8, not encrypted."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return Secret(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def openssh_pem(self) -> Secret:
        """OpenSSH's own format (PROTOCOL.key), not encrypted."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return Secret(self._key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def generate_ed25519() -> PrivateKey:
    """For SSH authorities and SSH host keys."""
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return PrivateKey(ed25519.Ed25519PrivateKey.generate())


def generate_p256() -> PrivateKey:
    """For TLS, and for users, whose one key serves SSH and TLS."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return PrivateKey(ec.generate_private_key(ec.SECP256R1()))


def generate_rsa(bits: int = MIN_RSA_BITS) -> PrivateKey:
    """For tokens signed with RS256; takes a tenth of a second and more."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    return PrivateKey(rsa.generate_private_key(public_exponent=65537, key_size=bits))

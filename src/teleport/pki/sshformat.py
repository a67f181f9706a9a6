"""OpenSSH certificates as bytes: encoding and strict parsing, no policy (OpenSSH's PROTOCOL.certkeys).

Own code and not `cryptography`'s builder for three reasons: the signer's key must be compared as the exact bytes
that stand in the certificate, security keys are certified too, and a program that only shows a certificate need not
load a crypto library. The tests compare both ways with `cryptography` and with ssh-keygen.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from teleport.pki.keys import KeyKind, PublicKey, key_kind, read_key_fields
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.sshwire import Reader, WireError, string, uint32, uint64

USER = 1
HOST = 2
MAX_CERTIFICATE_BYTES = 64 * 1024
MAX_PRINCIPALS = 256  # OpenSSH refuses more
MAX_OPTIONS = 256

_SUFFIX = "-cert-v01@openssh.com"
CERTIFICATE_NAMES = {
    (f"{kind.removesuffix('@openssh.com')}{_SUFFIX}" if kind.startswith("sk-") else f"{kind}{_SUFFIX}"): kind
    for kind in KeyKind
}
_NAME_OF = {kind: name for name, kind in CERTIFICATE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class CertificateBody:
    """Everything that is signed but the key of the signer. Times are Unix seconds; option values are as stored."""

    public_key: PublicKey
    nonce: bytes
    serial: int
    type: int  # USER or HOST
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical_options: Mapping[str, bytes]
    extensions: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class SSHCertificate:
    """A parsed certificate. Parsed is not believed: `pki.sshcert` verifies."""

    body: CertificateBody
    signer: bytes  # the signer's key blob, exactly as it stands in the certificate
    signed: bytes  # what the signature covers
    signature: bytes
    blob: bytes

    def line(self, comment: str = "") -> str:
        """The OpenSSH line of a `-cert.pub` file, without newline."""
        text = f"{_NAME_OF[self.body.public_key.kind]} {base64.b64encode(self.blob).decode()}"
        return f"{text} {comment}" if comment else text


def flag() -> bytes:
    """The stored value of an option that is only present or absent."""
    return b""


def value(text: str) -> bytes:
    """The stored form of an option's text: a string inside the option's data string."""
    return string(text.encode("utf-8"))


def value_text(data: bytes) -> str:
    """The text in an option's stored value. Raises `WireError` when there is none."""
    reader = Reader(data)
    text = reader.text()
    reader.finish()
    return text


def _options(options: Mapping[str, bytes]) -> bytes:
    pairs = sorted((name.encode("utf-8"), data) for name, data in options.items())
    return b"".join(string(name) + string(data) for name, data in pairs)


def encode_signed(body: CertificateBody, signer: PublicKey) -> bytes:
    """The bytes to sign: every field up to and including the signer's key."""
    return b"".join(
        (
            string(_NAME_OF[body.public_key.kind].encode()),
            string(body.nonce),
            body.public_key.fields(),
            uint64(body.serial),
            uint32(body.type),
            string(body.key_id.encode("utf-8")),
            string(b"".join(string(principal.encode("utf-8")) for principal in body.principals)),
            uint64(body.valid_after),
            uint64(body.valid_before),
            string(_options(body.critical_options)),
            string(_options(body.extensions)),
            string(b""),
            string(signer.blob),
        )
    )


def _read_options(data: bytes) -> dict[str, bytes]:
    """Options in order of name, each once, as the format demands."""
    reader = Reader(data)
    found: dict[str, bytes] = {}
    last: bytes | None = None
    while not reader.done:
        name = reader.string()
        if last is not None and name <= last:
            raise WireError("options out of order or twice")
        if len(found) == MAX_OPTIONS:
            raise WireError("too many options")
        last = name
        try:
            found[name.decode("utf-8")] = reader.string()
        except UnicodeDecodeError as error:
            raise WireError("an option's name that is not UTF-8") from error
    return found


def _read_principals(data: bytes) -> tuple[str, ...]:
    reader = Reader(data)
    found: list[str] = []
    while not reader.done:
        if len(found) == MAX_PRINCIPALS:
            raise WireError("too many principals")
        found.append(reader.text())
    return tuple(found)


def _parse(blob: bytes) -> SSHCertificate:
    reader = Reader(blob)
    name = reader.text()
    if name not in CERTIFICATE_NAMES:
        key_kind(name.removesuffix(_SUFFIX))  # says what is wrong with DSA and unknown kinds
        raise WireError("a plain key, not a certificate")
    kind = CERTIFICATE_NAMES[name]
    nonce = reader.string()
    start = reader.position
    read_key_fields(kind, reader)
    public_key = PublicKey(kind, string(kind.encode()) + blob[start : reader.position])
    serial, cert_type = reader.uint64(), reader.uint32()
    key_id = reader.text()
    principals = _read_principals(reader.string())
    valid_after, valid_before = reader.uint64(), reader.uint64()
    critical, extensions = _read_options(reader.string()), _read_options(reader.string())
    if reader.string():
        raise WireError("the reserved field is in use")
    signer = reader.string()
    signed = blob[: reader.position]
    signature = reader.string()
    reader.finish()
    body = CertificateBody(
        public_key, nonce, serial, cert_type, key_id, principals, valid_after, valid_before, critical, extensions
    )
    return SSHCertificate(body, signer, signed, signature, blob)


def parse_certificate(blob: bytes) -> SSHCertificate:
    """Reads a certificate without believing it. Raises `CertificateRefused` when it is malformed or its key weak."""
    if len(blob) > MAX_CERTIFICATE_BYTES:
        raise CertificateRefused(Refusal.TOO_LARGE, f"A certificate may have at most {MAX_CERTIFICATE_BYTES} bytes.")
    try:
        return _parse(bytes(blob))
    except WireError as error:
        raise CertificateRefused(Refusal.MALFORMED, "This is not an SSH certificate.", detail=str(error)) from error


def parse_certificate_line(line: str) -> SSHCertificate:
    """Reads the line of a `-cert.pub` file without believing it. Raises as `parse_certificate` does."""
    parts = line.strip().split(None, 2)
    if len(parts) < 2 or "\n" in line.strip() or parts[0] not in CERTIFICATE_NAMES:
        raise CertificateRefused(Refusal.MALFORMED, "An SSH certificate is one line: type, base64, comment.")
    try:
        blob = base64.b64decode(parts[1].encode("ascii", "replace"), validate=True)
    except binascii.Error as error:
        raise CertificateRefused(Refusal.MALFORMED, "The certificate's second word is not base64.") from error
    cert = parse_certificate(blob)
    if _NAME_OF[cert.body.public_key.kind] != parts[0]:
        raise CertificateRefused(Refusal.MALFORMED, "The first word names another type than the certificate itself.")
    return cert

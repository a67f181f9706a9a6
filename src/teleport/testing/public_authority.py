"""An authority as browsers know them: a root, an intermediate, and certificates of servers below it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """PEM."""

    leaf: bytes
    intermediate: bytes
    root: bytes
    key: bytes

    @property
    def chain(self) -> bytes:
        return self.leaf + self.intermediate

    def write(self, folder: Path, name: str = "web") -> tuple[Path, Path]:
        """Files of the chain and of the key."""
        folder.mkdir(parents=True, exist_ok=True)
        chain, key = folder / f"{name}.crt", folder / f"{name}.key"
        key.touch(mode=0o600)
        chain.write_bytes(self.chain)
        key.write_bytes(self.key)
        return chain, key


class PublicAuthority:
    """Issues certificates of servers."""

    def __init__(self, name: str = "Test") -> None:
        self._root_key, self._key = _new(), _new()
        self._root = _signed(f"{name} Root", self._root_key, f"{name} Root", self._root_key, authority=True)
        self._intermediate = _signed(f"{name} Intermediate", self._key, f"{name} Root", self._root_key, authority=True)
        self._name = f"{name} Intermediate"

    @property
    def root(self) -> bytes:
        return _pem(self._root)

    def issue(
        self, *names: str, begin: datetime | None = None, end: datetime | None = None, key: bytes = b""
    ) -> Issued:
        own = _new()
        leaf = _signed(names[0], own, self._name, self._key, names=names, begin=begin, end=end)
        pem = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Issued(_pem(leaf), _pem(self._intermediate), self.root, key or pem)


def _new() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _signed(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    names: Sequence[str] = (),
    authority: bool = False,
    begin: datetime | None = None,
    end: datetime | None = None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin or now - DAY)
        .not_valid_after(end or now + 90 * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)

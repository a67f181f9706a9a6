"""What a proxy shows to browsers: a private key and the chain of its certificate, as files hold them.

Both are PEM: the server's own certificate first, then those that lead from it towards a root, in any order; what does
not belong to the way is left alone. Whether clients know the root at its end is not said here (`transport`). Which pair
a client gets is chosen by the name that it asks for: a pair with that very name, else one with a wildcard for it
(RFC 6125 section 6.4.3: one whole label), else the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from teleport.errors import BadRequest
from teleport.pki.secret import Secret
from teleport.resources.names import canonical_address, canonical_host

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

LAST: Final = timedelta(days=14)  # before its end a certificate is spoken of; less for those that live shortly
SHORT: Final = 5  # of such a part of its life


@dataclass(frozen=True, slots=True)
class WebPair:
    """A key and its chain, which belong together. `pem` is both, as OpenSSL loads them."""

    pem: Secret
    names: tuple[str, ...]  # host names in lower case, wildcards too, and addresses
    not_before: datetime
    not_after: datetime
    self_signed: bool  # the server's own certificate is its own authority
    top: str  # who signed the last certificate of the chain; empty when that is a root
    first: str  # of whom the server's own certificate is
    digest: str = field(repr=False)  # SHA-256 of what `pem` holds, hex: others differ

    @property
    def soon(self) -> datetime:
        """From when its end is spoken of."""
        return self.not_after - min(LAST, (self.not_after - self.not_before) / SHORT)

    def fits(self, host: str) -> bool:
        """Whether a client that asks for this name or address finds it here."""
        return _exact(self.names, host) or _wildcard(self.names, host)


class HasNames(Protocol):
    """What is chosen by name."""

    @property
    def names(self) -> Sequence[str]: ...


N = TypeVar("N", bound=HasNames)


def _exact(names: Sequence[str], host: str) -> bool:
    return canonical_host(host) in names


def _wildcard(names: Sequence[str], host: str) -> bool:
    _, dot, rest = canonical_host(host).partition(".")
    return bool(dot and rest) and not canonical_address(host) and f"*.{rest}" in names


def chosen(pairs: Sequence[N], name: str) -> N:
    """The one that a client gets who asks for `name`, which may be empty; `pairs` are not."""
    if name:
        for fits in (_exact, _wildcard):
            for pair in pairs:
                if fits(pair.names, name):
                    return pair
    return pairs[0]


def read_pair(chain: bytes, key: bytes, *, chain_name: str, key_name: str) -> WebPair:
    """Reads two files. Raises `BadRequest` that says which of them is wrong and how; the names are for that."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization as form

    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError:
        raise BadRequest(
            f"{chain_name} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
            hint="write the server's certificate there, then those of its authorities",
        ) from None
    try:
        private = form.load_pem_private_key(key, None)
    except TypeError:
        raise BadRequest(
            f"the private key in {key_name} is locked by a passphrase, which nobody types when a daemon starts",
            hint=f"openssl pkey -in {key_name} -out UNLOCKED.pem, and chmod 600 UNLOCKED.pem",
        ) from None
    except Exception:  # of many kinds, for what is no key at all and for kinds that OpenSSL does not know
        raise BadRequest(
            f"{key_name} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)",
            hint="https_keypairs: key_file is the key, cert_file the chain",
        ) from None
    leaf = certificates[0]
    public = _public(private.public_key())
    if _public(leaf.public_key()) != public:
        if any(_public(one.public_key()) == public for one in certificates):
            raise BadRequest(
                f"the first certificate in {chain_name} is that of {_called(leaf)}, and the key is of another in it",
                hint="put the server's own certificate first",
            )
        raise BadRequest(
            f"the key in {key_name} does not belong to the certificate of {_called(leaf)} in {chain_name}",
            hint="one of the two files is of another pair, or is being replaced just now",
        )
    way, top = _way(certificates)
    plain = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    shown = [one.public_bytes(form.Encoding.PEM) for one in way]
    pem = plain + b"".join(shown)
    return WebPair(
        Secret(pem),
        _names(leaf),
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        _signed_by(leaf, leaf),
        top,
        _called(leaf),
        hashlib.sha256(pem).hexdigest(),
    )


def _public(key: object) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return key.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]  # every kind of public key has it


def _called(certificate: Certificate) -> str:
    return certificate.subject.rfc4514_string() or ", ".join(_names(certificate)) or "nobody"


def _signed_by(certificate: Certificate, issuer: Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # a signature that does not hold, and kinds of keys that sign nothing
        return False
    return True


def _way(certificates: Sequence[Certificate]) -> tuple[list[Certificate], str]:
    """The server's certificate and those above it, in order; and who signed the last, empty for a root."""
    way, rest = [certificates[0]], list(certificates[1:])
    while not _signed_by(way[-1], way[-1]):
        above = next((one for one in rest if _signed_by(way[-1], one)), None)
        if above is None:
            return way, way[-1].issuer.rfc4514_string()
        way.append(above)
        rest.remove(above)
    return way, ""


def _names(certificate: Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    hosts = [canonical_host(name) for name in found.get_values_for_type(x509.DNSName)]
    return tuple(dict.fromkeys([*hosts, *map(str, found.get_values_for_type(x509.IPAddress))]))

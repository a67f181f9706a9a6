"""Whose signatures are believed: authorities as those who verify see them, public halves only.

An authority is of one kind and one cluster. Both follow from the key that signed and never from what a certificate
says about itself (trap T-3).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from teleport.errors import BadRequest
from teleport.pki.keys import PublicKey
from teleport.pki.names import cluster_problem
from teleport.pki.refusal import CertificateRefused, Refusal

BACKDATE = timedelta(minutes=1)  # every certificate begins so long before its issue, for clocks that are a little late


class AuthorityKind(StrEnum):
    """What an authority signs (`certificates.md` 1)."""

    USER = "user"
    HOST = "host"
    JWT = "jwt"
    OPENSSH = "openssh"  # for proxies alone, towards hosts with a plain sshd


def check_cluster_name(cluster: str) -> str:
    """`cluster` when it may be a cluster's name; raises `BadRequest` otherwise."""
    problem = cluster_problem(cluster)
    if problem:
        raise BadRequest(f"The cluster name {cluster!r} {problem}.", hint="set cluster_name under auth_service")
    return cluster


def login_end(text: str) -> datetime | None:
    """The end of the login, as certificates for one session say it (Unix seconds); None where none is said.

    Raises `CertificateRefused`.
    """
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 10:
        raise CertificateRefused(Refusal.MALFORMED, "The certificate's end of the login is malformed.")
    return datetime.fromtimestamp(int(text), UTC)


@dataclass(frozen=True, slots=True)
class TrustedSSHAuthority:
    """The plain SSH keys of one authority that count now: active ones and, during a rotation, additional ones."""

    kind: AuthorityKind
    cluster: str
    keys: tuple[PublicKey, ...]

    def __post_init__(self) -> None:
        for key in self.keys:
            PublicKey.from_blob(key.blob)  # a certificate never becomes an authority (threat T01)
        if any(key.is_security_key for key in self.keys):
            raise BadRequest("A security key cannot be an authority: nobody is there to touch it.")


@dataclass(frozen=True, slots=True)
class TrustedTLSAuthority:
    """One TLS certificate of an authority that counts now; `x509cert.trusted_tls_authority` checks and builds it."""

    kind: AuthorityKind
    cluster: str
    certificate: bytes  # DER
    key: PublicKey
    not_before: datetime
    not_after: datetime

"""The authorities of a cluster as values: what they hold, what others trust of them, how they are written down.

An authority has *active* keys, which sign and are trusted, and *additional* ones, which are only trusted (before or
after their turn in a rotation). `certificates.md` 1 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from teleport.errors import BadRequest
from teleport.pki.keys import PrivateKey, PublicKey, generate_ed25519, generate_p256, generate_rsa
from teleport.pki.pin import ca_pin, check_pin, parse_pin
from teleport.pki.secret import Secret
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority, TrustedTLSAuthority, check_cluster_name
from teleport.pki.x509cert import new_tls_authority, pem_of
from teleport.pki.x509verify import trusted_tls_authority

__all__ = [
    "Authority",
    "KeySet",
    "SSHPair",
    "TLSPair",
    "TokenPair",
    "authorized_keys_line",
    "ca_pin",
    "check_pin",
    "known_hosts_line",
    "new_authority",
    "parse_known_hosts_line",
    "parse_pin",
    "trusted_user_keys_line",
]


@dataclass(frozen=True, slots=True)
class SSHPair:
    """An SSH key of an authority; without the private half it can only be trusted."""

    public: PublicKey
    private: Secret | None = None  # PEM, PKCS#8


@dataclass(frozen=True, slots=True)
class TLSPair:
    """A TLS certificate of an authority and its key."""

    certificate: bytes  # PEM
    private: Secret | None = None


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A key that signs tokens (JWT): RSA for RS256, as applications expect."""

    public: bytes  # PEM, SubjectPublicKeyInfo
    private: Secret | None = None


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one generation of an authority."""

    ssh: tuple[SSHPair, ...] = ()
    tls: tuple[TLSPair, ...] = ()
    jwt: tuple[TokenPair, ...] = ()

    def public_only(self) -> KeySet:
        """The same without private halves."""
        return KeySet(
            tuple(replace(pair, private=None) for pair in self.ssh),
            tuple(replace(pair, private=None) for pair in self.tls),
            tuple(replace(pair, private=None) for pair in self.jwt),
        )


@dataclass(frozen=True, slots=True)
class Authority:
    """One authority of one cluster."""

    kind: AuthorityKind
    cluster: str
    active: KeySet
    additional: KeySet = KeySet()

    def public_only(self) -> Authority:
        """The same without private halves: what may leave the auth service."""
        return replace(self, active=self.active.public_only(), additional=self.additional.public_only())

    def trusted_ssh(self) -> TrustedSSHAuthority:
        """The SSH keys that count now, active ones first."""
        pairs = (*self.active.ssh, *self.additional.ssh)
        return TrustedSSHAuthority(self.kind, self.cluster, tuple(pair.public for pair in pairs))

    def trusted_tls(self) -> tuple[TrustedTLSAuthority, ...]:
        """The TLS certificates that count now, active ones first."""
        pairs = (*self.active.tls, *self.additional.tls)
        return tuple(trusted_tls_authority(self.kind, self.cluster, pair.certificate) for pair in pairs)

    def ssh_signer(self) -> PrivateKey:
        """The active SSH key. Raises `BadRequest` when its private half is not here."""
        return _private([pair.private for pair in self.active.ssh], self)

    def tls_signer(self) -> tuple[bytes, PrivateKey]:
        """The active TLS certificate (PEM) and its key. Raises `BadRequest` when the private half is not here."""
        key = _private([pair.private for pair in self.active.tls], self)
        return self.active.tls[0].certificate, key

    def pins(self) -> tuple[str, ...]:
        """The CA pins of the certificates that count now (`certificates.md` 5), active ones first."""
        return tuple(ca_pin(pair.certificate) for pair in (*self.active.tls, *self.additional.tls))


def _private(secrets: list[Secret | None], authority: Authority) -> PrivateKey:
    if not secrets or secrets[0] is None:
        raise BadRequest(f"The {authority.kind} authority of {authority.cluster} has no signing key here.")
    return PrivateKey.load(secrets[0])


def new_authority(kind: AuthorityKind, cluster: str, now: datetime, *, jwt_key: PrivateKey | None = None) -> Authority:
    """A new authority with fresh keys: SSH Ed25519 and TLS P-256, or for `jwt` an RSA key of 2048 bits; `openssh` signs
    nothing but SSH certificates.

    Making the RSA key takes a tenth of a second and more; `jwt_key` hands in one made elsewhere.
    """
    check_cluster_name(cluster)
    if kind is AuthorityKind.JWT:
        key = jwt_key or generate_rsa()
        return Authority(kind, cluster, KeySet(jwt=(TokenPair(key.public.spki_pem(), key.pkcs8_pem()),)))
    if kind is AuthorityKind.OPENSSH:
        key = generate_ed25519()
        return Authority(kind, cluster, KeySet((SSHPair(key.public, key.pkcs8_pem()),)))
    ssh, tls = generate_ed25519(), generate_p256()
    certificate = pem_of(new_tls_authority(cluster, tls, now))
    keys = KeySet((SSHPair(ssh.public, ssh.pkcs8_pem()),), (TLSPair(certificate, tls.pkcs8_pem()),))
    return Authority(kind, cluster, keys)


def known_hosts_line(cluster: str, key: PublicKey) -> str:
    """The line of known_hosts that trusts a cluster's host authority, without newline (`certificates.md` 8)."""
    return f"@cert-authority *.{check_cluster_name(cluster)} {key.line('')} type=host"


def parse_known_hosts_line(line: str) -> tuple[str, PublicKey]:
    """Cluster and key of a line that `known_hosts_line` wrote. Raises `BadRequest` or `CertificateRefused`."""
    parts = line.split()
    if len(parts) < 4 or parts[0] != "@cert-authority" or not parts[1].startswith("*."):
        raise BadRequest("This is not a line of a host authority: @cert-authority *.CLUSTER KEY type=host.")
    return check_cluster_name(parts[1].removeprefix("*.")), PublicKey.parse(" ".join(parts[2:4]))


def authorized_keys_line(cluster: str, key: PublicKey) -> str:
    """The line of authorized_keys that trusts a cluster's user authority, without newline (`certificates.md` 8)."""
    return f"cert-authority {key.line('')} clustername={check_cluster_name(cluster)}&type=user"


def trusted_user_keys_line(cluster: str, key: PublicKey) -> str:
    """The line of an sshd's TrustedUserCAKeys that trusts a cluster's `openssh` authority, without newline."""
    return key.line(f"{check_cluster_name(cluster)}-openssh")


def old_user_line(cluster: str, key: PublicKey) -> str:
    """The line for a user authority in the form of known_hosts, as the first release had it (`--compat=1.0`)."""
    return f"@cert-authority *.{check_cluster_name(cluster)} {key.line('')} type=user"

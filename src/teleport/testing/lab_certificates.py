"""Certificates by a user and a host authority that are made here, for tests with real SSH clients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from teleport.clock import Clock, SystemClock
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki import sshsig
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256
from teleport.pki.sshcert import (
    HostCertRequest,
    UserCertRequest,
    host_principals,
    issue_host_cert,
    issue_user_cert,
)
from teleport.pki.sshformat import SSHCertificate
from teleport.pki.sshverify import ENFORCED, verify_host_cert, verify_user_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.ssh.server import HostKey

CLUSTER = "lab.test"


class Authorities:
    """A user and a host authority, and certificates by them."""

    def __init__(self, cluster: str = CLUSTER) -> None:
        self.cluster = cluster
        self.user_key = generate_ed25519()
        self.host_key = generate_ed25519()
        self.clock: Clock = SystemClock()
        self.rotated: set[bytes] = set()  # former user keys (blobs) that a rotation let go

    @property
    def trusted(self) -> tuple[TrustedSSHAuthority, TrustedSSHAuthority]:
        return (
            TrustedSSHAuthority(AuthorityKind.USER, self.cluster, (self.user_key.public,)),
            TrustedSSHAuthority(AuthorityKind.HOST, self.cluster, (self.host_key.public,)),
        )

    def verify_user(self, certificate: bytes) -> UserIdentity:
        return verify_user_cert(certificate, self.trusted, self.clock.now(), enforced_critical_options=ENFORCED)

    def verify_host(self, certificate: bytes) -> HostIdentity:
        return verify_host_cert(certificate, self.trusted, self.clock.now(), hostname=None)

    def trusts_user_authority(self, signer: bytes) -> bool:
        return signer == self.user_key.public.blob

    def let_go(self, signer: bytes) -> bool:
        return signer in self.rotated

    def user(self, logins: Iterable[str], *, key: PrivateKey | None = None, **changes: object) -> LabUser:
        """A user called alice with these logins; `changes` are of `UserCertRequest`."""
        key = key or generate_p256()
        request = UserCertRequest(key.public, "alice", tuple(logins), ("access",), timedelta(hours=1))
        request = replace(request, **changes)  # type: ignore[arg-type]
        return LabUser(key, issue_user_cert(request, self.user_key, self.cluster, self.clock.now()))

    def host(self, role: SystemRole, hostname: str, *, host_id: UUID | None = None) -> LabHost:
        key, host_id = generate_ed25519(), host_id or uuid4()
        names = host_principals(str(host_id), hostname, self.cluster)
        request = HostCertRequest(key.public, str(host_id), role, names)
        return LabHost(host_id, hostname, key, issue_host_cert(request, self.host_key, self.cluster, self.clock.now()))

    def known_hosts_line(self) -> str:
        return f"@cert-authority * {self.host_key.public.line()}\n"


@dataclass(frozen=True)
class LabUser:
    """A user's key and certificate."""

    key: PrivateKey
    certificate: SSHCertificate

    def write(self, folder: Path, name: str = "id") -> Path:
        """Writes the key and `-cert.pub` as OpenSSH wants them."""
        path = folder / name
        path.write_bytes(self.key.openssh_pem().reveal())
        path.chmod(0o600)
        (folder / f"{name}.pub").write_text(self.key.public.line() + "\n")
        (folder / f"{name}-cert.pub").write_text(self.certificate.line() + "\n")
        return path


@dataclass(frozen=True)
class LabHost:
    """A host's key and certificate; also the proxy's `ProxyIdentity`."""

    host_id: UUID
    hostname: str
    key: PrivateKey
    cert: SSHCertificate

    @property
    def certificate(self) -> bytes:
        return self.cert.blob

    def sign(self, message: bytes) -> bytes:
        return sshsig.sign(self.key, message)

    @property
    def host_key(self) -> HostKey:
        return HostKey(self.key.openssh_pem().reveal(), self.cert.line())

"""Keys and certificates in `~/.tsh/keys/<proxy>` (`cli.md` 4), and what the commands act with, wherever it came from.

One P-256 key serves SSH and TLS. It is made here, written as PEM that `ssh -i` and TLS libraries both read, and never
leaves. Host authorities stand in `certs.pem`, each under a comment that names its cluster: an authority speaks for its
own cluster only, so that a leaf cluster cannot answer as the root's proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from teleport.client.addresses import check_host
from teleport.client.home import Home
from teleport.client.profile import Profile
from teleport.clock import how_long
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.pki.secret import Secret
from teleport.pki.sshformat import SSHCertificate, parse_certificate_line

if TYPE_CHECKING:
    from teleport.client.webapi import Signer

_PEM = re.compile(
    r"(?:# cluster ([A-Za-z0-9_.-]+)\n)?(-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n)"
)
_OWN_NAMES = frozenset({"certs.pem"})
SOON: Final = timedelta(minutes=30)


class LoginEnded(AccessDenied):
    """The certificates have expired; logging in again is all it takes."""


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where the files of one user at one proxy lie, below the home."""

    proxy: str
    user: str

    def __post_init__(self) -> None:
        check_host(self.proxy)
        if self.user in _OWN_NAMES or self.user.startswith("."):
            raise BadRequest(f"{self.user!r} cannot be a user's name", hint="--user=NAME")

    @property
    def folder(self) -> tuple[str, ...]:
        return ("keys", self.proxy)

    @property
    def key(self) -> tuple[str, ...]:
        return (*self.folder, self.user)

    @property
    def public(self) -> tuple[str, ...]:
        return (*self.folder, f"{self.user}.pub")

    @property
    def tls(self) -> tuple[str, ...]:
        return (*self.folder, f"{self.user}-x509.pem")

    @property
    def authorities(self) -> tuple[str, ...]:
        return (*self.folder, "certs.pem")

    @property
    def ssh_folder(self) -> tuple[str, ...]:
        return (*self.folder, f"{self.user}-ssh")

    @property
    def kube_folder(self) -> tuple[str, ...]:
        return (*self.folder, f"{self.user}-kube")

    @property
    def kube_authorities(self) -> tuple[str, ...]:
        return (*self.folder, f"{self.user}-kube-cas.pem")

    def ssh(self, cluster: str) -> tuple[str, ...]:
        return (*self.ssh_folder, f"{cluster}-cert.pub")


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What the user's own certificate says. It is read, not verified: the servers do that."""

    user: str
    logins: tuple[str, ...]
    roles: tuple[str, ...]
    traits: dict[str, list[str]]
    valid_after: datetime
    expires: datetime
    extensions: tuple[str, ...]

    def expired(self, now: datetime) -> bool:
        return now >= self.expires

    def ends_soon(self, now: datetime) -> bool:
        """Whether it is time to say that the end is near: half an hour before it, or in the last quarter of a short
        life."""
        return self.expires - now <= min(SOON, (self.expires - self.valid_after) / 4)


def facts(line: str) -> CertificateFacts:
    """Reads an SSH certificate line. Raises `TeleportError` when it is damaged."""
    import json

    body = parse_certificate_line(line).body
    texts: dict[str, object] = {}
    for name in ("teleport-roles", "teleport-traits"):
        stored = body.extensions.get(name, b"")
        try:
            texts[name] = json.loads(stored[4:]) if stored else {}
        except (ValueError, RecursionError):
            texts[name] = {}
    roles, traits = texts["teleport-roles"], texts["teleport-traits"]
    listed = roles.get("roles", []) if isinstance(roles, dict) else []
    return CertificateFacts(
        user=body.key_id,
        logins=tuple(login for login in body.principals if not login.startswith("-teleport-nologin-")),
        roles=tuple(str(role) for role in listed) if isinstance(listed, list) else (),
        traits={
            str(key): [str(value) for value in values]
            for key, values in (traits.items() if isinstance(traits, dict) else ())
            if isinstance(values, list)
        },
        valid_after=_moment(body.valid_after),
        expires=_moment(body.valid_before),
        extensions=tuple(name for name in sorted(body.extensions) if name.startswith("permit-")),
    )


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(min(seconds, 253402300799), UTC)


def write_keys(
    home: Home, files: KeyFiles, *, key_pem: Secret, public_line: str, ssh: str, tls: str, cluster: str
) -> None:
    """Writes a fresh login. The certificates of the key that was there before are removed first."""
    home.remove(*files.ssh_folder)
    home.remove(*files.kube_folder)
    home.write(key_pem.reveal(), *files.key)
    home.write(f"{public_line}\n".encode(), *files.public)
    home.write(tls.encode(), *files.tls)
    home.write(f"{ssh.strip()}\n".encode(), *files.ssh(cluster))


def write_authorities(home: Home, files: KeyFiles, signers: Iterable[Signer]) -> None:
    """Writes `certs.pem`: what a login said of the clusters replaces all that was known.

    Certificates are written anew: whatever else stands in the text of one cluster would be read as another's."""
    from teleport.pki.x509verify import pem_of

    known = {signer.cluster: [pem_of(pem) for pem in signer.tls_certs] for signer in signers}
    text = "".join(f"# cluster {cluster}\n{pem}" for cluster, pems in known.items() for pem in pems)
    home.write(text.encode(), *files.authorities)


def _authorities(home: Home, files: KeyFiles) -> list[tuple[str, str]]:
    text = (home.read(*files.authorities) or b"").decode("ascii", "replace")
    return [(match.group(1) or "", match.group(2)) for match in _PEM.finditer(text)]


def authorities_of(home: Home, files: KeyFiles, cluster: str) -> tuple[str, ...]:
    """The TLS certificates (PEM) of the host authority of one cluster."""
    return tuple(pem for name, pem in _authorities(home, files) if name == cluster)


def write_kube_authorities(home: Home, files: KeyFiles, cluster: str) -> Path:
    """Writes whom kubectl is to believe at the proxy: the authority of its cluster, and of no other."""
    return home.write("".join(authorities_of(home, files, cluster)).encode(), *files.kube_authorities)


def clusters_of(home: Home, files: KeyFiles) -> list[str]:
    """The clusters whose authorities are known by this proxy."""
    return list(dict.fromkeys(name for name, _ in _authorities(home, files) if name))


def remove_keys(home: Home, files: KeyFiles) -> bool:
    """Removes a user's files; whether there were any. The authorities go with the last user."""
    found = [
        home.remove(*names)
        for names in (files.key, files.public, files.tls, files.ssh_folder, files.kube_folder, files.kube_authorities)
    ]
    if home.names(*files.folder) in ([], ["certs.pem"]):
        home.remove(*files.folder)
    return any(found)


def ssh_certificate_line(home: Home, profile: Profile) -> str:
    """The certificate of the profile's cluster. Raises `AccessDenied` when there is none."""
    files = KeyFiles(profile.name, profile.user)
    data = home.read(*files.ssh(profile.cluster)) or home.read(*files.ssh(profile.root_cluster))
    if data is None:
        raise AccessDenied(
            f"{profile.user} has no certificate for {profile.cluster}",
            hint=f"{profile.login_command} {profile.cluster}",
        )
    return data.decode("ascii", "replace").strip()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a command proves itself with, from a profile or from an identity file."""

    user: str
    cluster: str  # whose authority signed
    tls_file: Path  # certificate and
    key_file: Path  # key, as TLS libraries load them
    private_key: Secret
    ssh_certificate: str
    ca_pems: tuple[str, ...]  # of the cluster's host authority
    known_hosts: tuple[str, ...]  # lines
    authorities: tuple[tuple[str, str], ...] = ()  # cluster and PEM, of every cluster that is known

    def parsed(self) -> SSHCertificate:
        return parse_certificate_line(self.ssh_certificate)


def credentials_of(home: Home, profile: Profile, now: datetime) -> Credentials:
    """A profile's. Raises `AccessDenied` when they have expired or are missing, with the command to renew them."""
    from teleport.client.known_hosts import lines_of

    files = KeyFiles(profile.name, profile.user)
    line = ssh_certificate_line(home, profile)
    check_valid(facts(line), now, hint=profile.login_command)
    key = home.read(*files.key, private=True)
    pems = authorities_of(home, files, profile.root_cluster)
    if key is None or not pems or home.read(*files.tls) is None:
        raise AccessDenied(f"the profile of {profile.user} is incomplete", hint=profile.login_command)
    return Credentials(
        user=profile.user,
        cluster=profile.root_cluster,
        tls_file=home.path(*files.tls),
        key_file=home.path(*files.key),
        private_key=Secret(key),
        ssh_certificate=line,
        ca_pems=pems,
        known_hosts=tuple(lines_of(home)),
        authorities=tuple(_authorities(home, files)),
    )


def check_valid(found: CertificateFacts, now: datetime, *, hint: str) -> None:
    """Raises `LoginEnded` or `AccessDenied` when the certificate is not valid at `now`."""
    if found.expired(now):
        raise LoginEnded(f"your login expired at {found.expires:%Y-%m-%d %H:%M:%S} UTC", hint=hint)
    if now < found.valid_after:
        raise AccessDenied(
            f"your login is not valid before {found.valid_after:%Y-%m-%d %H:%M:%S} UTC, and the clock here says "
            f"{now:%Y-%m-%d %H:%M:%S} UTC: this clock or the cluster's is off by "
            f"{how_long((found.valid_after - now).total_seconds())} or more",
            hint="check the clock of this machine (timedatectl)",
        )


def credentials_of_identity(path: Path, now: datetime) -> Credentials:
    """Those in an identity file (`certificates.md` 9, format `file`). Raises `TeleportError`."""
    from teleport.pki.identity_file import MAX_FILE_BYTES, read_identity_file
    from teleport.pki.x509subject import decode_user
    from teleport.pki.x509verify import load_certificate

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TeleportError(
            f"cannot read the identity file {path}: {error.strerror}",
            hint="check the path; tsh login -o FILE or tctl auth sign -o FILE makes one",
        ) from None
    identity = read_identity_file(data)
    if not identity.ssh_certificate or not identity.tls_certificate:
        raise BadRequest(f"{path} lacks a certificate", hint="tsh login -o FILE or tctl auth sign -o FILE makes one")
    found = facts(identity.ssh_certificate)
    check_valid(found, now, hint=f"make a new one in place of {path}")
    try:
        cluster = decode_user(load_certificate(identity.tls_certificate).subject).cluster
    except ValueError as error:
        raise BadRequest(
            f"the certificate in {path} names no user: {error}",
            hint="check the path; tsh login -o FILE or tctl auth sign -o FILE makes one",
        ) from None
    return Credentials(
        user=found.user,
        cluster=cluster,
        tls_file=path,
        key_file=path,
        private_key=identity.private_key,
        ssh_certificate=identity.ssh_certificate,
        ca_pems=_of_cluster(identity.tls_authorities, cluster),
        known_hosts=identity.known_hosts,
        authorities=tuple(_named(identity.tls_authorities)),
    )


def _of_cluster(pems: Sequence[bytes], cluster: str) -> tuple[str, ...]:
    return tuple(pem for name, pem in _named(pems) if name == cluster)


def _named(pems: Sequence[bytes]) -> list[tuple[str, str]]:
    """Each authority with the cluster that it names."""
    from cryptography.x509.oid import NameOID

    from teleport.pki.x509verify import load_certificate

    found = []
    for pem in pems:
        names = load_certificate(pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        found += [(str(name.value), pem.decode()) for name in names]
    return found

"""The keys and certificates of this host, one folder for each system role: `<data_dir>/proc/<role>/`.

    ssh.key  ssh.cert  tls.key  tls.crt      keys 0600, OpenSSH and PEM
    server-ssh.cert  server-tls.crt          what listeners show: other certificates of the same keys while a rotation
                                             has reached clients only, else the same ones
    ../cas.json                              the cluster and its host authorities, as learned when joining and followed
                                             since

Private keys are made here and never leave. Certificates are asked for by a function, so that joining, registering
locally and renewing are one path: make keys, ask, write everything beside the folder, then replace the folder's files.
A crash leaves the old identity or the new one, whole: `<role>.next` exists only when everything is in it, and whoever
finds it finishes the replacing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from teleport.api.messages import HostCredentials
from teleport.daemon.host import sync_folder, write_private
from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, PublicKey, generate_ed25519, generate_p256
from teleport.pki.secret import Secret
from teleport.pki.sshformat import SSHCertificate, parse_certificate_line

RENEW_BEFORE: Final = timedelta(days=30)  # of 90; a host may be off for a while
FILES: Final = (  # in the order in which they are replaced
    "ssh.key", "tls.key", "server-tls.crt", "server-ssh.cert", "tls.crt", "ssh.cert"
)  # fmt: skip

Ask = Callable[[str, str], Awaitable[HostCredentials]]
"""Gets certificates for an SSH public key (a line) and a TLS public key (PEM)."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """What this host knows of its cluster before it has spoken to it."""

    cluster: str
    tls_ca_certs: list[str]
    ssh_ca_keys: list[str]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The identity of this host in one role."""

    role: SystemRole
    folder: Path
    ssh_key: PrivateKey
    ssh_cert: SSHCertificate
    server_ssh_cert: SSHCertificate
    cluster: Cluster

    @property
    def tls_cert_file(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def server_tls_cert_file(self) -> Path:
        """What listeners show."""
        found = self.folder / "server-tls.crt"
        return found if found.exists() else self.tls_cert_file  # of a version that knew no difference

    @property
    def tls_key_file(self) -> Path:
        return self.folder / "tls.key"

    @property
    def expires(self) -> datetime:
        from datetime import UTC

        return datetime.fromtimestamp(self.ssh_cert.body.valid_before, UTC)

    @property
    def principals(self) -> tuple[str, ...]:
        return self.ssh_cert.body.principals

    def wants_renewal(self, now: datetime) -> bool:
        return self.expires - now < RENEW_BEFORE

    def ssh_authorities(self) -> list[PublicKey]:
        return [PublicKey.parse(line) for line in self.cluster.ssh_ca_keys]


def role_folder(proc_dir: Path, role: SystemRole) -> Path:
    return proc_dir / role.value.lower()


def load_cluster(proc_dir: Path) -> Cluster | None:
    """What joining left; None on a host that has not joined."""
    try:
        return msgspec.json.decode((proc_dir / "cas.json").read_bytes(), type=Cluster)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise TeleportError(f"{proc_dir}/cas.json is damaged: {error}", hint="restore it from a backup") from None


def load(proc_dir: Path, role: SystemRole, *, only_look: bool = False) -> Credentials | None:
    """The stored identity in `role`; None when this host has none.

    With `only_look` a replacing that is under way is left alone: it is another process's.
    """
    folder, cluster = role_folder(proc_dir, role), load_cluster(proc_dir)
    try:
        if not only_look:
            _replace(folder)
        if cluster is None or not (folder / "ssh.cert").exists():
            return None
        shown = folder / "server-ssh.cert"
        found = Credentials(
            role=role,
            folder=folder,
            ssh_key=PrivateKey.load(Secret((folder / "ssh.key").read_bytes())),
            ssh_cert=parse_certificate_line((folder / "ssh.cert").read_text()),
            server_ssh_cert=parse_certificate_line((shown if shown.exists() else folder / "ssh.cert").read_text()),
            cluster=cluster,
        )
        for certificate, name in ((found.ssh_cert, "ssh.cert"), (found.server_ssh_cert, shown.name)):
            if certificate.body.public_key != found.ssh_key.public:
                raise TeleportError(
                    f"{name} is for another key than ssh.key",
                    hint="stop the daemon, remove this folder, and join again with a new token",
                )
        return found
    except (OSError, UnicodeDecodeError, TeleportError) as error:
        raise TeleportError(
            f"the identity in {folder} cannot be used: {error}",
            hint="restore it from a backup, or remove the folder and join again with a new token",
        ) from None


async def obtain(
    proc_dir: Path, role: SystemRole, ask: Ask, *, keep_keys: bool = False, same_keys: bool = False
) -> Credentials:
    """Makes new keys, asks for certificates, and stores both. What was there stays until everything is written.

    With `keep_keys` the keys are on disk before they are certified, and those of an attempt that a crash ended are
    taken up again: who asks with a token cannot ask for the same host with other keys (`auth.joining`).

    With `same_keys` the keys are those that the identity has. Then each file may be read at any moment while they are
    replaced one after another: every certificate fits the key (`tctl` reads them beside the daemon).
    """
    folder = role_folder(proc_dir, role)
    new, whole = _beside(folder, "new"), _beside(folder, "next")
    found = _kept_keys(new) if keep_keys else _kept_keys(folder) if same_keys else None
    ssh, tls = found if found is not None else (generate_ed25519(), generate_p256())
    if keep_keys and found is None:
        _write_keys(proc_dir, folder, new, ssh, tls)
        sync_folder(new)
        sync_folder(proc_dir)
    granted = await ask(ssh.public.line(), tls.public.spki_pem().decode())
    _replace(folder)
    if not keep_keys:
        _write_keys(proc_dir, folder, new, ssh, tls)
    write_private(new / "tls.crt", granted.tls_cert, 0o644, sync_name=False)
    write_private(new / "ssh.cert", granted.ssh_cert + "\n", 0o644, sync_name=False)
    write_private(new / "server-tls.crt", granted.server_tls_cert or granted.tls_cert, 0o644, sync_name=False)
    shown = granted.server_ssh_cert or granted.ssh_cert
    write_private(new / "server-ssh.cert", shown + "\n", 0o644, sync_name=False)
    sync_folder(new)
    store_cluster(
        proc_dir,
        Cluster(cluster=granted.cluster, tls_ca_certs=granted.tls_ca_certs, ssh_ca_keys=granted.ssh_ca_keys),
    )
    new.rename(whole)
    sync_folder(proc_dir)
    loaded = load(proc_dir, role)
    assert loaded is not None
    return loaded


def store_cluster(proc_dir: Path, cluster: Cluster) -> None:
    """Keeps what this host believes of its cluster, unless it is what is kept already."""
    if load_cluster(proc_dir) != cluster:
        write_private(proc_dir / "cas.json", msgspec.json.format(msgspec.json.encode(cluster)))


def show_newest(proc_dir: Path, role: SystemRole) -> None:
    """Listeners show from here on what clients show already: certificates of the same keys, so that it does not matter
    at which of the two files a crash ends this."""
    folder = role_folder(proc_dir, role)
    for source, shown in (("tls.crt", "server-tls.crt"), ("ssh.cert", "server-ssh.cert")):
        write_private(folder / shown, (folder / source).read_bytes(), 0o644, sync_name=False)
    sync_folder(folder)


def _write_keys(proc_dir: Path, folder: Path, new: Path, ssh: PrivateKey, tls: PrivateKey) -> None:
    shutil.rmtree(new, ignore_errors=True)  # of an attempt that a crash ended
    for directory in (proc_dir, folder, new):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(new / "ssh.key", ssh.openssh_pem().reveal(), sync_name=False)
    write_private(new / "tls.key", tls.pkcs8_pem().reveal(), sync_name=False)


def _kept_keys(new: Path) -> tuple[PrivateKey, PrivateKey] | None:
    """The keys of an attempt that did not come to its end; None when there are not both, whole."""
    try:
        ssh, tls = (PrivateKey.load(Secret((new / name).read_bytes())) for name in ("ssh.key", "tls.key"))
    except (OSError, TeleportError):
        return None
    return ssh, tls


def _beside(folder: Path, state: str) -> Path:
    return folder.with_name(f"{folder.name}.{state}")


def _replace(folder: Path) -> None:
    """Takes over what lies whole in `<role>.next`; goes on where a crash ended it."""
    whole = _beside(folder, "next")
    if not whole.is_dir():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in FILES:
        with contextlib.suppress(FileNotFoundError):  # replaced before the crash
            (whole / name).replace(folder / name)
    sync_folder(folder)
    shutil.rmtree(whole)


def names_changed(credentials: Credentials, wanted: Sequence[str]) -> bool:
    """Whether the certificate lacks a name that the configuration asks for."""
    from teleport.pki.names import canonical_host

    return not {canonical_host(name) for name in wanted} <= set(credentials.principals)


def has_any(proc_dir: Path) -> bool:
    """Whether this host has joined in any role."""
    return proc_dir.is_dir() and any(
        (proc_dir / name / "ssh.cert").exists() for name in os.listdir(proc_dir) if not name.endswith(".new")
    )

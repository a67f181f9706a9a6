"""A plain sshd with the revocation list that a node of the cluster keeps beside it, and ssh with one of its own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from teleport.testing.cluster import LOOPBACK, Cluster, Ran, free_port, plain_environment, run, wait_until

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
pytestmark = pytest.mark.skipif(not Path(SSHD).exists(), reason="needs OpenSSH's server")
HOST = "plain.example.test"


@contextmanager
def plain_sshd(cluster: Cluster, folder: Path) -> Iterator[int]:
    """OpenSSH's own server: a host certificate of the cluster, users of the cluster, the list that the node keeps."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    cluster.tctl("auth", "sign", f"--host={HOST}", "--format=openssh", f"--out={folder / 'host'}").ok()
    line = cluster.tctl("auth", "export", "--type=user").ok().stdout.split()
    (folder / "users").write_text(f"{line[1]} {line[2]}\n")
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress {LOOPBACK}\nHostKey {folder}/host\nHostCertificate {folder}/host-cert.pub\n"
        f"TrustedUserCAKeys {folder}/users\nAuthorizedKeysFile none\nRevokedKeys {cluster.data_dir}/revoked_keys\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nLogLevel VERBOSE\n"
    )
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=log)

    def answers() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        wait_until("sshd answers", answers)
        yield port
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
def sshd(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("sshd")
    with plain_sshd(cluster, folder) as port:
        yield port, folder


Ssh = Callable[..., Ran]


@pytest.fixture
def ssh(cluster: Cluster, sshd: tuple[int, Path], tmp_path: Path, login: str) -> Ssh:
    """`ssh(user, *options)`: runs `true` on that server with a certificate signed for the user, once for all calls."""
    known = tmp_path / "known_hosts"
    line = cluster.tctl("auth", "export", "--type=host").ok().stdout
    known.write_text(line)

    def connect(user: str, *options: str) -> Ran:
        key = tmp_path / user
        if not key.exists():
            cluster.tctl("auth", "sign", f"--user={user}", "--format=openssh", f"--out={key}").ok()
        return run(
            *("ssh", "-F", "none", "-p", str(sshd[0]), "-i", str(key), "-l", login),
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"),
            *("-o", f"UserKnownHostsFile={known}", "-o", "GlobalKnownHostsFile=/dev/null"),
            *("-o", "StrictHostKeyChecking=yes", "-o", f"HostKeyAlias={HOST}", *options, LOOPBACK, "true"),
            environment=plain_environment(tmp_path),
        )

    return connect


def serial(certificate: Path) -> str:
    shown = subprocess.run(["ssh-keygen", "-Lf", certificate], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Serial: (\d+)", shown)
    assert found is not None, shown
    return found[1]


def is_revoked(krl: Path, certificate: Path) -> bool:
    """What OpenSSH itself says."""
    done = subprocess.run(["ssh-keygen", "-Q", "-f", krl, certificate], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done
    return done.returncode == 1


def exported(cluster: Cluster, path: Path) -> Path:
    done = cluster.tctl("auth", "export", "--type=krl").ok()
    path.write_bytes(done.out)
    return path


def test_sshd_refuses_a_revoked_certificate_and_takes_the_others(
    cluster: Cluster, ssh: Ssh, sshd: tuple[int, Path], tmp_path: Path, login: str
) -> None:
    kept = cluster.data_dir / "revoked_keys"
    for name in ("kim", "kai"):
        cluster.tctl("users", "add", name, "--roles=access", f"--logins={login}").ok()
        assert ssh(name).status == 0, (sshd[1] / "log").read_text()
    number = serial(tmp_path / "kim-cert.pub")
    lock = cluster.tctl("certs", "revoke", number).ok().stdout.split()[-1]
    wait_until("the node's list has it", lambda: is_revoked(kept, tmp_path / "kim-cert.pub"), 10)
    assert not is_revoked(kept, tmp_path / "kai-cert.pub")
    assert ssh("kim").status == 255
    assert re.search(r"revoked", (sshd[1] / "log").read_text(), re.IGNORECASE)
    assert ssh("kai").status == 0
    assert is_revoked(exported(cluster, tmp_path / "krl"), tmp_path / "kim-cert.pub")
    cluster.tctl("rm", f"lock/{lock}").ok()
    wait_until("access is back", lambda: ssh("kim").status == 0, 10)
    # what else ends certificates
    cluster.tctl("lock", "--user=kai", "--ttl=1h", "--format=json").json()
    wait_until("a locked user is out", lambda: ssh("kai").status == 255, 10)
    cluster.tctl("users", "rm", "kim").ok()
    wait_until("a deleted user is out", lambda: ssh("kim").status == 255, 10)
    for name in [one["metadata"]["name"] for one in cluster.tctl("get", "locks", "--format=json").json()]:
        cluster.tctl("rm", f"lock/{name}").ok()
    wait_until("and in again", lambda: ssh("kai").status == 0, 10)


def test_ssh_refuses_a_revoked_host_certificate(
    cluster: Cluster, ssh: Ssh, sshd: tuple[int, Path], tmp_path: Path, login: str
) -> None:
    cluster.tctl("users", "add", "kurt", "--roles=access", f"--logins={login}").ok()
    krl = exported(cluster, tmp_path / "krl")
    assert ssh("kurt", "-o", f"RevokedHostKeys={krl}").status == 0
    lock = cluster.tctl("certs", "revoke", serial(sshd[1] / "host-cert.pub")).ok().stdout.split()[-1]
    done = ssh("kurt", "-o", f"RevokedHostKeys={exported(cluster, krl)}")
    assert (done.status, "revoked" in done.stderr) == (255, True), done
    cluster.tctl("rm", f"lock/{lock}").ok()


def test_a_list_is_not_written_to_a_terminal_and_takes_no_other_options(cluster: Cluster) -> None:
    assert cluster.tctl("auth", "export", "--type=krl", "--keys").status == 2
    assert cluster.tctl("auth", "export", "--type=krl").ok().out.startswith(b"SSHKRL\n\x00")

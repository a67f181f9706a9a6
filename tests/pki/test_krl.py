"""Revocation lists are asked with OpenSSH's own ssh-keygen."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256
from teleport.pki.krl import Revoked, build_krl
from teleport.pki.sshcert import HostCertRequest, UserCertRequest, issue_host_cert, issue_user_cert

NOW = datetime.now(UTC).replace(microsecond=0)
CLUSTER = "example.com"


def _user(folder: Path, name: str, authority: PrivateKey, serial: int) -> Path:
    request = UserCertRequest(generate_p256().public, name, ("root",), ("access",), timedelta(hours=1), serial=serial)
    path = folder / f"{name}-{serial}-cert.pub"
    path.write_text(issue_user_cert(request, authority, CLUSTER, NOW).line() + "\n")
    return path


def _revoked(krl: Path, *certificates: Path) -> list[bool]:
    """What ssh-keygen says of each."""
    found = []
    for certificate in certificates:
        done = subprocess.run(["ssh-keygen", "-Q", "-f", krl, certificate], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done
        assert ("REVOKED" in done.stdout) == (done.returncode == 1), done
        found.append(done.returncode == 1)
    return found


def test_certificates_are_revoked_by_serial_number_and_by_key_id_of_one_authority(tmp_path: Path) -> None:
    ours, others = generate_ed25519(), generate_ed25519()
    most = (1 << 64) - 1
    certs = [
        _user(tmp_path, "ann", ours, 7),
        _user(tmp_path, "ann", ours, most),
        _user(tmp_path, "ann", ours, 8),
        _user(tmp_path, "bob", ours, 9),
        _user(tmp_path, "cora", others, 7),
        _user(tmp_path, "bob", others, 10),
    ]
    krl = tmp_path / "revoked"
    krl.write_bytes(build_krl([Revoked(ours.public, (most, 7, 1 << 70), ("bob",))], version=5, made=NOW))
    assert _revoked(krl, *certs) == [True, True, False, True, False, False]
    shown = subprocess.run(["ssh-keygen", "-Q", "-l", "-f", krl], capture_output=True, text=True, check=True).stdout
    assert "KRL version 5" in shown
    assert "serial: 7\n" in shown


def test_host_certificates_are_revoked_likewise(tmp_path: Path) -> None:
    authority = generate_ed25519()
    host_id = "0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40"
    paths = []
    for serial in (1, 2):
        request = HostCertRequest(generate_ed25519().public, host_id, SystemRole.NODE, (host_id,), serial=serial)
        paths.append(tmp_path / f"host{serial}-cert.pub")
        paths[-1].write_text(issue_host_cert(request, authority, CLUSTER, NOW).line() + "\n")
    krl = tmp_path / "revoked"
    krl.write_bytes(build_krl([Revoked(authority.public, (2,))], version=1, made=NOW))
    assert _revoked(krl, *paths) == [False, True]


def test_an_empty_list_revokes_nothing_and_is_a_list(tmp_path: Path) -> None:
    ours = generate_ed25519()
    krl = tmp_path / "revoked"
    krl.write_bytes(build_krl([Revoked(ours.public)], version=0, made=NOW))
    assert _revoked(krl, _user(tmp_path, "ann", ours, 7)) == [False]


def test_a_list_of_many_is_read(tmp_path: Path) -> None:
    ours = generate_ed25519()
    krl = tmp_path / "revoked"
    krl.write_bytes(build_krl([Revoked(ours.public, range(1, 50_001))], version=1, made=NOW, comment="many"))
    certs = [_user(tmp_path, "ann", ours, serial) for serial in (25_000, 60_000)]
    assert _revoked(krl, *certs) == [True, False]

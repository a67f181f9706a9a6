"""Authorities, pins, lines for OpenSSH and identity files."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.errors import AccessDenied, BadRequest
from teleport.identity import SystemRole
from teleport.pki.authority import (
    Authority,
    KeySet,
    authorized_keys_line,
    ca_pin,
    check_pin,
    known_hosts_line,
    new_authority,
    parse_known_hosts_line,
    parse_pin,
)
from teleport.pki.identity_file import IdentityFile, read_identity_file, write_identity_file
from teleport.pki.keys import KeyKind, PrivateKey, PublicKey, generate_ed25519, generate_p256, generate_rsa
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.secret import Secret
from teleport.pki.sshcert import (
    HostCertRequest,
    UserCertRequest,
    host_principals,
    issue_host_cert,
    issue_user_cert,
    verify_user_cert,
)
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509cert import UserTLSRequest, identity_from_tls, issue_user_tls, pem_of
from teleport.pki.x509subject import UserSubject
from teleport.testing.loopback import free_port

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
CLUSTER = "example.com"
USER = new_authority(AuthorityKind.USER, CLUSTER, NOW)
HOST = new_authority(AuthorityKind.HOST, CLUSTER, NOW)
KEY = generate_p256()


def user_cert(authority: Authority = USER, now: datetime = NOW, login: str = "root") -> str:
    request = UserCertRequest(KEY.public, "alice", (login,), ("access",), timedelta(hours=1))
    return issue_user_cert(request, authority.ssh_signer(), CLUSTER, now).line()


# --- authorities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AuthorityKind.USER, AuthorityKind.HOST])
def test_a_new_authority_signs_and_is_trusted(kind: AuthorityKind) -> None:
    authority = new_authority(kind, CLUSTER, NOW)
    assert authority.ssh_signer().public.kind is KeyKind.ED25519
    certificate, key = authority.tls_signer()
    trusted = authority.trusted_tls()
    assert [anchor.key for anchor in trusted] == [key.public]
    assert key.public.kind is KeyKind.P256
    assert trusted[0].not_after == NOW + timedelta(days=3650)
    assert authority.trusted_ssh().keys == (authority.ssh_signer().public,)
    assert authority.pins() == (ca_pin(certificate),)
    assert authority.additional == KeySet()


def test_the_token_authority_has_an_rsa_key_and_no_certificate() -> None:
    made = new_authority(AuthorityKind.JWT, CLUSTER, NOW)
    assert PublicKey.from_spki(made.active.jwt[0].public).kind is KeyKind.RSA
    assert not made.active.ssh
    assert not made.active.tls
    key = generate_rsa()
    given_key = new_authority(AuthorityKind.JWT, CLUSTER, NOW, jwt_key=key)
    assert given_key.active.jwt[0].public == key.public.spki_pem()
    with pytest.raises(BadRequest):
        made.ssh_signer()


def test_additional_keys_are_trusted_and_do_not_sign() -> None:
    """The middle of a rotation: certificates of both generations hold."""
    new = new_authority(AuthorityKind.USER, CLUSTER, NOW)
    rotating = replace(USER, additional=new.active.public_only())
    assert rotating.ssh_signer().public == USER.ssh_signer().public
    for signer in (USER, new):
        request = UserCertRequest(KEY.public, "alice", ("root",), ("access",), timedelta(hours=1))
        blob = issue_user_cert(request, signer.ssh_signer(), CLUSTER, NOW).blob
        assert verify_user_cert(blob, (rotating.trusted_ssh(),), NOW).name == "alice"
        subject = UserSubject("alice", CLUSTER, ("access",))
        tls = issue_user_tls(UserTLSRequest(KEY.public, subject, timedelta(hours=1)), *signer.tls_signer(), NOW)
        assert identity_from_tls(tls, rotating.trusted_tls(), NOW)
    assert len(rotating.pins()) == 2


def test_public_halves_hold_no_secret_and_sign_nothing() -> None:
    public = replace(USER, additional=HOST.active).public_only()
    for keys in (public.active, public.additional):
        assert not any(pair.private for pair in keys.ssh)
        assert not any(pair.private for pair in keys.tls)
        assert not any(pair.private for pair in keys.jwt)
    assert "PRIVATE" not in repr(USER)
    with pytest.raises(BadRequest):
        public.ssh_signer()
    with pytest.raises(BadRequest):
        public.tls_signer()
    assert public.trusted_ssh() == replace(USER, additional=HOST.active).trusted_ssh()


@pytest.mark.parametrize("cluster", ["", "a b", "*", "a\nb"])
def test_an_authority_has_a_cluster_with_a_proper_name(cluster: str) -> None:
    with pytest.raises(BadRequest):
        new_authority(AuthorityKind.USER, cluster, NOW)


# --- pins -------------------------------------------------------------------------------------------------------


def test_a_pin_is_the_hash_of_the_public_key_info(tmp_path: Path) -> None:
    """`certificates.md` 5, computed with openssl."""
    certificate = HOST.tls_signer()[0]
    (tmp_path / "ca").write_bytes(certificate)
    public = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "ca", "-noout", "-pubkey"], check=True, capture_output=True
    ).stdout
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=public, check=True, capture_output=True
    ).stdout
    digest = subprocess.run(["openssl", "sha256", "-r"], input=der, check=True, capture_output=True, text=False).stdout
    assert ca_pin(certificate) == "sha256:" + digest.decode().split()[0]


def test_any_fitting_pin_proves_its_own_certificate_only() -> None:
    """T13: what comes beside the proved certificate is not trusted with it."""
    ours, theirs = HOST.tls_signer()[0], USER.tls_signer()[0]
    assert check_pin([ca_pin(ours)], [ours]) == (ours,)
    assert check_pin([ca_pin(theirs), ca_pin(ours)], [ours]) == (ours,)
    assert check_pin([ca_pin(ours)], [theirs, ours]) == (ours,)
    assert check_pin([ca_pin(ours), ca_pin(theirs)], [theirs, ours]) == (theirs, ours)


def test_a_pin_of_another_authority_is_refused() -> None:
    """T13: a wrong pin, and the pin of the user authority."""
    certificate = HOST.tls_signer()[0]
    for pin in ("sha256:" + "0" * 64, *USER.pins()):
        with pytest.raises(AccessDenied) as caught:
            check_pin([pin], [certificate])
        assert isinstance(caught.value, CertificateRefused)
        assert caught.value.reason is Refusal.WRONG_PIN
        assert ca_pin(certificate) in caught.value.message
    with pytest.raises(AccessDenied):
        check_pin(HOST.pins(), [])


PIN = HOST.pins()[0]


@pytest.mark.parametrize(
    "pin",
    ["", "sha256:", PIN[:-1], PIN[:-2], PIN + "0", PIN.upper(), PIN.removeprefix("sha256:"), "md5:00", "sha256:*"],
)
def test_a_malformed_pin_is_an_error_even_beside_a_good_one(pin: str) -> None:
    """T13: a truncated pin never fits."""
    with pytest.raises(BadRequest):
        check_pin([pin], [HOST.tls_signer()[0]])
    with pytest.raises(BadRequest):
        check_pin([PIN, pin], [HOST.tls_signer()[0]])
    assert parse_pin(f" {PIN}\n") == PIN


def test_no_pins_never_pass_for_proof() -> None:
    with pytest.raises(BadRequest):
        check_pin([], [HOST.tls_signer()[0]])


# --- lines for OpenSSH ------------------------------------------------------------------------------------------


def test_lines_for_openssh_have_the_forms_that_operators_know() -> None:
    """`certificates.md` 8."""
    key = HOST.ssh_signer().public
    assert known_hosts_line(CLUSTER, key) == f"@cert-authority *.example.com {key.line()} type=host"
    assert parse_known_hosts_line(known_hosts_line(CLUSTER, key)) == (CLUSTER, key)
    assert authorized_keys_line(CLUSTER, key) == f"cert-authority {key.line()} clustername=example.com&type=user"
    commented = replace(key, comment="x\nroot ssh-ed25519 AAAA")
    assert "\n" not in known_hosts_line(CLUSTER, commented)
    with pytest.raises(BadRequest):
        known_hosts_line("*", key)


@pytest.mark.parametrize("line", ["", "@cert-authority", "host ssh-ed25519 AAAA", "@cert-authority * ssh-ed25519 A"])
def test_a_line_that_is_no_host_authority_is_said_so(line: str) -> None:
    with pytest.raises(BadRequest):
        parse_known_hosts_line(line)


@contextmanager
def sshd(folder: Path) -> Iterator[int]:
    """OpenSSH's own server with our host certificate, trusting our user authority by an authorized_keys line."""
    now = datetime.now(UTC)
    key = generate_ed25519()
    names = host_principals("0a0a0a0a-0000-4000-8000-000000000001", "node-1", CLUSTER)
    request = HostCertRequest(key.public, "0a0a0a0a-0000-4000-8000-000000000001", SystemRole.NODE, names)
    cert = issue_host_cert(request, HOST.ssh_signer(), CLUSTER, now)
    host_key, port = folder / "host", free_port()
    host_key.touch(0o600)
    host_key.write_bytes(key.openssh_pem().reveal())
    (folder / "host-cert.pub").write_text(cert.line() + "\n")
    (folder / "authorized").write_text(authorized_keys_line(CLUSTER, USER.ssh_signer().public) + "\n")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nHostCertificate {host_key}-cert.pub\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
    )
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, "-D", "-e", "-f", folder / "config"], stderr=log)
    try:
        deadline = time.monotonic() + 10
        while not answers(port):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
        yield port
    finally:
        server.terminate()
        server.wait(10)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not Path("/usr/sbin/sshd").exists(), reason="needs OpenSSH's server")
def test_openssh_accepts_our_certificates_on_both_ends(tmp_path: Path) -> None:
    """ssh trusts the host by the @cert-authority line, sshd the user by the cert-authority line; others are refused."""
    login = pwd.getpwuid(os.geteuid()).pw_name
    Path("/run/sshd").mkdir(exist_ok=True) if os.geteuid() == 0 else None
    user_key = tmp_path / "user"
    user_key.touch(0o600)
    user_key.write_bytes(KEY.pkcs8_pem().reveal())
    (tmp_path / "known").write_text(known_hosts_line(CLUSTER, HOST.ssh_signer().public) + "\n")
    (tmp_path / "others").write_text(known_hosts_line(CLUSTER, USER.ssh_signer().public) + "\n")
    now = datetime.now(UTC)

    def ssh(port: int, cert: str, *, known: str = "known", alias: str = "node-1.example.com") -> int:
        (tmp_path / "user-cert.pub").write_text(cert + "\n")
        options = {
            "IdentityFile": user_key, "CertificateFile": f"{user_key}-cert.pub", "IdentitiesOnly": "yes",
            "IdentityAgent": "none", "UserKnownHostsFile": tmp_path / known, "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes", "HostKeyAlias": alias, "BatchMode": "yes",
        }  # fmt: skip
        flags = [part for name, setting in options.items() for part in ("-o", f"{name}={setting}")]
        command = ["ssh", "-F", "none", "-p", str(port), *flags, f"{login}@127.0.0.1", "exit 7"]
        return subprocess.run(
            command, check=False, capture_output=True, timeout=30, stdin=subprocess.DEVNULL
        ).returncode

    with sshd(tmp_path) as port:
        good = user_cert(now=now, login=login)
        assert ssh(port, good) == 7, (tmp_path / "log").read_text()
        assert ssh(port, user_cert(now=now, login="somebody-else")) == 255
        assert ssh(port, user_cert(HOST, now=now, login=login)) == 255
        assert ssh(port, user_cert(now=now - timedelta(hours=2), login=login)) == 255
        assert ssh(port, good, known="others") == 255
        assert ssh(port, good, alias="node-2.example.com") == 255


# --- identity files ---------------------------------------------------------------------------------------------


def identity() -> IdentityFile:
    subject = UserSubject("alice", CLUSTER, ("access",))
    tls = issue_user_tls(UserTLSRequest(KEY.public, subject, timedelta(hours=1)), *USER.tls_signer(), NOW)
    return IdentityFile(
        private_key=KEY.pkcs8_pem(),
        ssh_certificate=user_cert(),
        tls_certificate=pem_of(tls),
        known_hosts=(known_hosts_line(CLUSTER, HOST.ssh_signer().public), known_hosts_line("leaf", KEY.public)),
        tls_authorities=(HOST.tls_signer()[0], USER.tls_signer()[0]),
    )


def test_an_identity_file_is_written_and_read_back() -> None:
    whole = identity()
    written = write_identity_file(whole)
    assert read_identity_file(written.reveal()) == whole
    order = [line for line in written.reveal().decode().splitlines() if not line.startswith(("M", "-----END"))]
    assert order[0] == "-----BEGIN PRIVATE KEY-----"
    assert "PRIVATE" not in repr(whole)


def test_an_identity_file_may_lack_one_certificate() -> None:
    for part in (replace(identity(), ssh_certificate=""), replace(identity(), tls_certificate=b"", tls_authorities=())):
        assert read_identity_file(write_identity_file(part).reveal()) == part


def test_an_identity_file_whose_parts_do_not_fit_is_refused() -> None:
    other = replace(identity(), private_key=generate_p256().pkcs8_pem())
    with pytest.raises(BadRequest):
        read_identity_file(write_identity_file(other).reveal())
    with pytest.raises(BadRequest):
        read_identity_file(write_identity_file(replace(other, ssh_certificate="")).reveal())


GOOD_FILE = write_identity_file(identity()).reveal()


@pytest.mark.parametrize(
    "data",
    [b"", b"x", GOOD_FILE + GOOD_FILE, GOOD_FILE + b"ProxyCommand x\n", GOOD_FILE[:-30], b"\xff", b"\n" * 2_000_000],
    ids=["empty", "text", "twice", "more", "cut", "binary", "large"],
)
def test_what_is_no_identity_file_is_said_so(data: bytes) -> None:
    with pytest.raises(BadRequest):
        read_identity_file(data)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_identity_files_raise_errors_of_ours_only(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD_FILE)))
    end = data.draw(st.integers(start, len(GOOD_FILE)))
    try:
        read_identity_file(GOOD_FILE[:start] + data.draw(st.binary(max_size=30)) + GOOD_FILE[end:])
    except (BadRequest, AccessDenied) as error:
        assert "MIGH" not in str(error)  # noqa: PT017  # how a P-256 key in PKCS#8 begins


def test_a_private_key_is_loaded_from_a_secret() -> None:
    assert PrivateKey.load(Secret(KEY.openssh_pem().reveal())).public == KEY.public

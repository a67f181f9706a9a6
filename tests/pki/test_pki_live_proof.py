"""Proofs of live connections: what is believed, and that every part of one is bound to the rest."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from teleport.errors import BadRequest
from teleport.pki import sshsig
from teleport.pki.agentless import LIFE, AgentlessCertRequest, bundle, issue_agentless_cert, sign_bundle
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256
from teleport.pki.live_proof import Evidence, check_evidence
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshcert import UserCertRequest, issue_user_cert
from teleport.pki.sshverify import verify_user_cert
from teleport.pki.sshwire import string
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
AUTHORITY, USER, HOST = generate_ed25519(), generate_p256(), generate_ed25519()
CERTIFICATE = issue_user_cert(
    UserCertRequest(USER.public, "ann", ("root", "ann"), ("access",), timedelta(hours=1)), AUTHORITY, "main", NOW
).blob


def evidence(
    *,
    login: str = "root",
    host_key: bytes = HOST.public.blob,
    certificate: bytes = CERTIFICATE,
    key: PrivateKey = USER,
    service: str = "ssh-connection",
    hash_name: str = "sha256",
) -> Evidence:
    """What a server has of a client that did everything right, but for what is asked."""
    exchange = b"".join(
        map(
            string,
            (
                b"SSH-2.0-OpenSSH_9.2",
                b"SSH-2.0-Teleport",
                b"\x14" + os.urandom(60),
                b"\x14" + os.urandom(60),
                host_key,
                os.urandom(32),
                os.urandom(32),
                b"\x01" + os.urandom(31),
            ),
        )
    )
    words = [login, service, "publickey"]
    request = b"\x32" + b"".join(string(word.encode()) for word in words)
    request += b"\x01" + string(b"ecdsa-sha2-nistp256-cert-v01@openssh.com") + string(certificate)
    session_id = hashlib.new(hash_name, exchange).digest()
    return Evidence(exchange, hash_name, request, sshsig.sign(key, string(session_id) + request))


def test_a_proof_says_which_account_over_a_connection_to_which_key() -> None:
    for name in ("sha256", "sha384", "sha512"):
        given = evidence(hash_name=name)
        proof = check_evidence(given, CERTIFICATE)
        assert proof.login == "root"
        assert proof.host_key.blob == HOST.public.blob
        assert proof.session_id == hashlib.new(name, given.exchange).digest()


def test_the_key_of_a_host_certificate_is_the_hosts_key() -> None:
    from teleport.identity import SystemRole
    from teleport.pki.sshcert import HostCertRequest, issue_host_cert

    shown = issue_host_cert(HostCertRequest(HOST.public, "abc", SystemRole.NODE, ("web",)), AUTHORITY, "main", NOW)
    assert check_evidence(evidence(host_key=shown.blob), CERTIFICATE).host_key.blob == HOST.public.blob


def changed(good: Evidence, field: str, data: bytes) -> Evidence:
    fields: dict[str, Any] = {field: data}
    return dataclasses.replace(good, **fields)


def test_nothing_of_a_proof_can_be_changed() -> None:
    good = evidence()
    for field in ("exchange", "request", "signature"):
        data = getattr(good, field)
        for at in range(0, len(data), max(1, len(data) // 97)):
            bent = bytearray(data)
            bent[at] ^= 1
            with pytest.raises(CertificateRefused):
                check_evidence(changed(good, field, bytes(bent)), CERTIFICATE)
    for field in ("exchange", "request", "signature"):
        for other in (getattr(good, field) + b"\0", getattr(good, field)[:-1], b""):
            with pytest.raises(CertificateRefused):
                check_evidence(changed(good, field, other), CERTIFICATE)
    with pytest.raises(CertificateRefused):
        check_evidence(dataclasses.replace(good, hash_name="sha512"), CERTIFICATE)
    with pytest.raises(CertificateRefused):
        check_evidence(dataclasses.replace(good, hash_name="md5"), CERTIFICATE)


def test_the_exchange_of_one_connection_does_not_go_with_the_signature_of_another() -> None:
    one, other = evidence(), evidence(host_key=generate_ed25519().public.blob)
    with pytest.raises(CertificateRefused):
        check_evidence(dataclasses.replace(one, exchange=other.exchange), CERTIFICATE)


def test_only_the_holder_of_the_certificates_key_proves_it() -> None:
    with pytest.raises(CertificateRefused):
        check_evidence(evidence(key=generate_p256()), CERTIFICATE)
    others = issue_user_cert(
        UserCertRequest(USER.public, "eve", ("root",), ("access",), timedelta(hours=1)), AUTHORITY, "main", NOW
    ).blob
    with pytest.raises(CertificateRefused, match="Another certificate"):
        check_evidence(evidence(), others)


def test_a_signature_for_another_service_or_method_is_no_proof() -> None:
    with pytest.raises(CertificateRefused):
        check_evidence(evidence(service="ssh-userauth"), CERTIFICATE)


def test_what_is_issued_is_for_one_login_on_one_host_for_minutes() -> None:
    authority = generate_ed25519()
    host = "0b3c6f0e-5d0b-4d1f-9d51-6f3d8a1c2b3d"
    request = AgentlessCertRequest(generate_ed25519().public, "ann", "root", host, port_forwarding=True)
    made = issue_agentless_cert(request, authority, NOW)
    assert made.body.principals == (f"root@{host}",)
    assert made.body.key_id == "ann"
    assert made.body.valid_before - int(NOW.timestamp()) == LIFE.total_seconds()
    assert set(made.body.extensions) == {"permit-pty", "permit-port-forwarding"}
    # it is nobody in the cluster: it names no roles, and its authority is no user authority
    for kind in (AuthorityKind.USER, AuthorityKind.OPENSSH):
        with pytest.raises(CertificateRefused):
            verify_user_cert(made.blob, (TrustedSSHAuthority(kind, "main", (authority.public,)),), NOW)


@pytest.mark.parametrize("login", ["", "root@other", "-oProxyCommand", "a b", "a\nb", "*", "root,admin"])
def test_no_other_login_can_be_written_into_a_login(login: str) -> None:
    request = AgentlessCertRequest(generate_ed25519().public, "ann", login, "abc")
    with pytest.raises(BadRequest):
        issue_agentless_cert(request, generate_ed25519(), NOW)


def test_the_pins_key_signs_bundles_and_nothing_else() -> None:
    authority = generate_p256()
    text = bundle("main", "abc", (generate_ed25519().public,), "ssh-ed25519-cert-v01@openssh.com AAAA")
    assert sign_bundle(text, authority)
    with pytest.raises(BadRequest):
        sign_bundle("0\x82" + text, authority)

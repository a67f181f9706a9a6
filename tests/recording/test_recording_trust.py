"""Whose signature of a recording is believed: the host's that it names, certified by the cluster when it ran."""

from __future__ import annotations

import struct
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_ed25519
from teleport.pki.sshcert import HostCertRequest, issue_host_cert
from teleport.pki.sshformat import SSHCertificate
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.recording.format import RecordingHeader, Signature
from teleport.recording.trust import signature_check, signer

CLUSTER = "example.com"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
MESSAGE = b"the last hash"


def certified(
    ca: PrivateKey, host_id: str, now: datetime = NOW, role: SystemRole = SystemRole.NODE
) -> tuple[PrivateKey, SSHCertificate]:
    key = generate_ed25519()
    return key, issue_host_cert(HostCertRequest(key.public, host_id, role, (host_id,)), ca, CLUSTER, now)


def header(host_id: str, started: datetime = NOW, recorder: str = "") -> RecordingHeader:
    return RecordingHeader(sid="s1", started=started, user="u", login="l", node_id=host_id, recorder=recorder)


def check(ca: PrivateKey, signature: Signature, message: bytes, of: Any) -> None:
    trusted = TrustedSSHAuthority(AuthorityKind.HOST, CLUSTER, (ca.public,))
    signature_check(lambda: [trusted])(signature, message, of)


def test_the_host_that_a_recording_names_is_believed_also_after_its_certificate_expired() -> None:
    ca, host_id = generate_ed25519(), str(uuid.uuid4())
    held = certified(ca, host_id)
    signature = signer(lambda: held)(MESSAGE)
    check(ca, signature, MESSAGE, header(host_id))
    check(ca, signature, MESSAGE, header(host_id, NOW + timedelta(days=89)))


def test_a_certificate_renewed_during_the_session_counts() -> None:
    ca, host_id = generate_ed25519(), str(uuid.uuid4())
    held = [certified(ca, host_id)]
    sign = signer(lambda: held[0])
    held[0] = certified(ca, host_id, NOW + timedelta(hours=2))
    check(ca, sign(MESSAGE), MESSAGE, header(host_id))


def test_what_does_not_fit_is_refused() -> None:
    ca, other_ca, host_id, other = generate_ed25519(), generate_ed25519(), str(uuid.uuid4()), str(uuid.uuid4())
    held, stranger = certified(ca, host_id), certified(ca, other)
    good = signer(lambda: held)(MESSAGE)
    mixed = signer(lambda: (stranger[0], held[1]))(MESSAGE)
    cases: list[tuple[PrivateKey, Signature, bytes, Any]] = [
        (ca, good, b"another hash", header(host_id)),
        (ca, signer(lambda: stranger)(MESSAGE), MESSAGE, header(host_id)),
        (ca, mixed, MESSAGE, header(host_id)),
        (other_ca, good, MESSAGE, header(host_id)),
        (ca, good, MESSAGE, header(host_id, NOW + timedelta(days=91))),
    ]
    for authority, signature, message, of in cases:
        with pytest.raises(TeleportError):
            check(authority, signature, message, of)


@pytest.mark.parametrize("begins", [2**64 - 1, 2**62, 10**13])
def test_an_impossible_time_in_a_forged_certificate_is_a_refusal_and_no_crash(begins: int) -> None:
    """The verifier reads what a host sent: one recording must not stop the walk over all others."""
    ca, host_id = generate_ed25519(), str(uuid.uuid4())
    key, certificate = certified(ca, host_id)
    signature = signer(lambda: (key, certificate))(MESSAGE)
    former = struct.pack(">Q", certificate.body.valid_after)
    forged = Signature(
        algorithm=signature.algorithm,
        key_id=signature.key_id,
        certificate=signature.certificate.replace(former, struct.pack(">Q", begins)),
        value=signature.value,
    )
    assert forged.certificate != signature.certificate
    with pytest.raises(TeleportError):
        check(ca, forged, MESSAGE, header(host_id))


def test_a_recording_that_a_proxy_made_is_signed_by_that_proxy() -> None:
    ca, node, proxy = generate_ed25519(), str(uuid.uuid4()), str(uuid.uuid4())
    made = header(node, recorder=proxy)
    assert made.made_by == proxy
    held = certified(ca, proxy, role=SystemRole.PROXY)
    check(ca, signer(lambda: held)(MESSAGE), MESSAGE, made)
    other = certified(ca, str(uuid.uuid4()), role=SystemRole.PROXY)
    a_node = certified(ca, proxy)
    the_node = certified(ca, node)
    for wrong in (other, a_node, the_node):
        with pytest.raises(TeleportError):
            check(ca, signer(lambda wrong=wrong: wrong)(MESSAGE), MESSAGE, made)  # type: ignore[misc]
    with pytest.raises(TeleportError):  # nor does a proxy sign in the name of a host's own service
        check(ca, signer(lambda: held)(MESSAGE), MESSAGE, header(node))

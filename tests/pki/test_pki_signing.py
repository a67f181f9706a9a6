"""Signatures of ours over bytes of ours."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.errors import AccessDenied, BadRequest
from teleport.pki import sshsig
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256, generate_rsa
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.signing import sign, verify

KEYS = {"ed25519": generate_ed25519(), "p256": generate_p256()}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_signature_fits_its_key_domain_and_message_only(key: PrivateKey) -> None:
    signature = sign("vouch", b"message", key)
    assert len(signature) == 64
    verify("vouch", b"message", signature, key.public)
    others = [
        ("recording", b"message", signature, key),
        ("vouch", b"messagE", signature, key),
        ("vouc", b"hmessage", signature, key),
        ("vouch", b"message", signature[::-1], key),
        ("vouch", b"message", bytes(64), key),
        ("vouch", b"message", b"\xff" * 64, key),
        ("vouch", b"message", signature, generate_ed25519()),
        ("vouch", b"message", signature, generate_p256()),
    ]
    for domain, message, wrong, public in others:
        with pytest.raises(AccessDenied) as caught:
            verify(domain, message, wrong, public.public)
        assert isinstance(caught.value, CertificateRefused)
        assert caught.value.reason is Refusal.BAD_SIGNATURE


@pytest.mark.parametrize("size", [0, 63, 65, 128])
def test_a_signature_has_64_bytes(size: int) -> None:
    with pytest.raises(CertificateRefused):
        verify("vouch", b"", bytes(size), KEYS["ed25519"].public)


def test_a_signature_without_purpose_or_with_another_kind_of_key_is_not_made() -> None:
    rsa = generate_rsa()
    with pytest.raises(BadRequest):
        sign("", b"message", KEYS["p256"])
    with pytest.raises(BadRequest):
        sign("vouch", b"message", rsa)
    with pytest.raises(CertificateRefused):
        verify("vouch", b"message", bytes(64), rsa.public)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_signature_of_ssh_is_none_of_ours(key: PrivateKey) -> None:
    """The same host key signs SSH handshakes: neither may pass for the other."""
    ours = sign("vouch", b"message", key)
    with pytest.raises(CertificateRefused):
        sshsig.verify(key.public, b"message", ours)
    with pytest.raises(CertificateRefused):
        verify("vouch", b"message", sshsig.sign(key, b"message")[-64:], key.public)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=0, max_size=80), st.sampled_from(sorted(KEYS)))
def test_no_other_bytes_are_a_signature(signature: bytes, name: str) -> None:
    with pytest.raises(AccessDenied):
        verify("vouch", b"message", signature, KEYS[name].public)

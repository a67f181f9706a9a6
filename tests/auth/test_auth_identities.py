"""Whose TLS certificate it is, is found out once, and remembered no longer than it holds."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from teleport.auth import state
from teleport.identity import SystemRole
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.refusal import CertificateRefused
from teleport.testing.auth import RunningAuth, running_auth
from teleport.testing.clock import FakeClock

HOSTS = ("7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e11", "7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e12")


async def certificate(auth: RunningAuth, host_id: str) -> bytes:
    spki = generate_p256().public.spki_pem().decode()
    key = generate_ed25519().public.line()
    given = await auth.service.local_host(host_id, "node", SystemRole.NODE, [], key, spki)
    return ssl.PEM_cert_to_DER_cert(given.tls_cert)


async def test_a_certificate_is_verified_once_and_refused_when_it_ends(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        cluster, shown = auth.service.state, await certificate(auth, HOSTS[0])
        identity = await cluster.tls_identity(shown)
        assert await cluster.tls_identity(bytes(bytearray(shown))) is identity
        forged = bytearray(shown)
        forged[-1] ^= 1
        with pytest.raises(CertificateRefused):
            await cluster.tls_identity(bytes(forged))
        auth.clock.jump((identity.expires - auth.clock.now()).total_seconds())
        with pytest.raises(CertificateRefused, match="expired"):
            await cluster.tls_identity(shown)


async def test_what_was_shown_longest_ago_is_forgotten_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state.MAX_IDENTITIES > 10_000, "hosts announce themselves in turn: of more than these none is remembered"
    async with running_auth(tmp_path) as auth:
        cluster = auth.service.state
        one, other = [await certificate(auth, host_id) for host_id in HOSTS]
        first = await cluster.tls_identity(one)
        monkeypatch.setattr(state, "MAX_IDENTITIES", 1)
        await cluster.tls_identity(other)
        again = await cluster.tls_identity(one)
        assert again == first
        assert again is not first

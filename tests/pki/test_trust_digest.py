"""The digest of what a client is to hold: alike for alike, however it is written; different for anything else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.trust_digest import trust_digest
from teleport.pki.x509cert import new_tls_authority, pem_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEYS = [generate_ed25519().public for _ in range(3)]
PEMS = [pem_of(new_tls_authority("c1", generate_p256(), NOW)).decode() for _ in range(2)]
LINES = [key.line("comment") for key in KEYS[:2]]
SIGNER = KEYS[2].blob
WHOLE = trust_digest(LINES, PEMS, SIGNER)


def test_order_comments_and_blanks_make_no_difference() -> None:
    lines, pems = [key.line("") for key in reversed(KEYS[:2])], [f"{pem}\n" for pem in reversed(PEMS)]
    assert trust_digest(lines, pems, SIGNER) == WHOLE
    assert trust_digest([*LINES, LINES[0]], PEMS, SIGNER) == WHOLE


@pytest.mark.parametrize(
    "other",
    [
        trust_digest(LINES[:1], PEMS, SIGNER),
        trust_digest(LINES, PEMS[:1], SIGNER),
        trust_digest(LINES, PEMS, KEYS[0].blob),
        trust_digest([*LINES, KEYS[2].line("")], PEMS, SIGNER),
        trust_digest([], [], b""),
        trust_digest(["nonsense"], ["nonsense"], b""),
    ],
)
def test_everything_else_does(other: str) -> None:
    assert other != WHOLE
    assert len(other) == 64

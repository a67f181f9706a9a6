"""Proofs for a proxy's web page: what one is good for, and what it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.errors import AccessDenied, BadRequest
from teleport.pki import sshsig, web_proof
from teleport.testing.lab_certificates import Authorities, LabUser

NOW = datetime.now(UTC)
USER = Authorities().user(["root"])


def made(by: LabUser = USER, shown: LabUser = USER, purpose: str = web_proof.CLUSTERS, now: datetime = NOW) -> str:
    blob = shown.certificate.blob
    return web_proof.encode(
        blob, lambda message: sshsig.sign(by.key, message), audience="root", purpose=purpose, now=now
    )


def checked(text: str, purpose: str = web_proof.CLUSTERS, audience: str = "root", now: datetime = NOW) -> bytes:
    return web_proof.check(web_proof.parse(text), audience=audience, purpose=purpose, now=now)


def test_a_proof_gives_the_certificate_whose_key_made_it() -> None:
    assert checked(made()) == USER.certificate.blob
    leaf = web_proof.to_auth_of("leaf")
    assert checked(made(purpose=leaf), purpose=leaf) == USER.certificate.blob


def test_it_counts_for_its_purpose_at_its_cluster_for_a_minute() -> None:
    for purpose, audience, now in (
        (web_proof.to_auth_of("leaf"), "root", NOW),
        (web_proof.CLUSTERS, "other", NOW),
        (web_proof.CLUSTERS, "root", NOW + timedelta(seconds=61)),
        (web_proof.CLUSTERS, "root", NOW - timedelta(seconds=61)),
    ):
        with pytest.raises(AccessDenied):
            checked(made(), purpose, audience, now)


def test_a_certificate_is_nothing_without_its_key() -> None:
    with pytest.raises(AccessDenied):
        checked(made(by=Authorities().user(["root"])))


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.hex()))
def test_what_is_no_proof_is_refused_and_nothing_else(text: str) -> None:
    with pytest.raises(BadRequest):
        web_proof.parse(text)


def test_a_proof_is_bounded() -> None:
    with pytest.raises(BadRequest, match="at most"):
        web_proof.parse("A" * (web_proof.MAX_PROOF + 1))

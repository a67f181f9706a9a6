"""Proofs by hardware keys: each check of Web Authentication 7.1 and 7.2 by what breaks it (threats T10, T36)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.pki.webauthn import (
    NOBODY_KEY,
    Assertion,
    AttestationPolicy,
    Credential,
    ProofRefused,
    RelyingParty,
    decode,
    encode,
    verify_assertion,
    verify_registration,
)
from teleport.testing.authenticator import CREATE, GET, Authenticator, Maker

PARTY = RelyingParty("proxy.example.com", frozenset({"proxy.example.com", "eu.proxy.example.com"}))
ORIGIN = "https://proxy.example.com:3080"
CHALLENGE = encode(b"c" * 32)
HANDLE = encode(b"h" * 32)
CREATION = m.WebauthnCreation(
    challenge=CHALLENGE, rp_id=PARTY.id, rp_name="c", user_id=HANDLE, user_name="ann", algorithms=[-7], exclude=[]
)


ANYBODY = AttestationPolicy()


def registered(key: Authenticator, policy: AttestationPolicy = ANYBODY, **change: Any) -> Credential:
    made = key.create(msgspec.structs.replace(CREATION, **change))
    return verify_registration(
        made.client_data, made.attestation_object, challenge=CHALLENGE, party=PARTY, policy=policy
    )


def asked(credential: Credential, challenge: str = CHALLENGE, rp_id: str = PARTY.id) -> m.WebauthnChallenge:
    return m.WebauthnChallenge(challenge=challenge, rp_id=rp_id, credentials=[credential.id])


def assertion(answer: m.WebauthnAssertion) -> Assertion:
    return Assertion(**msgspec.structs.asdict(answer))


def check(answer: m.WebauthnAssertion, *credentials: Credential, handle: str = HANDLE, verified: bool = False) -> int:
    found, count = verify_assertion(
        assertion(answer),
        challenge=CHALLENGE,
        party=PARTY,
        credentials=credentials,
        user_handle=handle,
        verified_user=verified,
    )
    assert found in credentials
    return count


@pytest.mark.parametrize("origin", [ORIGIN, "https://proxy.example.com", "https://eu.proxy.example.com:444"])
def test_a_key_is_registered_and_proves_itself(origin: str) -> None:
    key = Authenticator(origin=origin)
    credential = registered(key)
    assert credential.sign_count == 1
    assert check(key.sign(asked(credential)), credential) == 2
    key.tells_handle = False
    assert check(key.sign(asked(credential)), replace(credential, sign_count=2)) == 3


def test_a_key_without_a_counter_is_taken_again_and_again() -> None:
    """Many keys always say 0; that is no step back."""
    key = Authenticator(origin=ORIGIN, counts=False)
    credential = registered(key)
    assert [check(key.sign(asked(credential)), credential) for _ in range(2)] == [0, 0]


def _flipped(text: str) -> str:
    data = bytearray(decode(text))
    data[-1] ^= 1
    return encode(bytes(data))


Turn = Callable[[Authenticator, Credential], m.WebauthnAssertion]


def _with(**knobs: object) -> Turn:
    def turn(key: Authenticator, credential: Credential) -> m.WebauthnAssertion:
        for name, value in knobs.items():
            setattr(key, name, value)
        return key.sign(asked(credential))

    return turn


def _changed(**fields: str) -> Turn:
    return lambda key, credential: msgspec.structs.replace(key.sign(asked(credential)), **fields)


BROKEN: dict[str, Turn] = {
    "another challenge": lambda key, credential: key.sign(asked(credential, challenge=encode(b"x" * 32))),
    "another domain": lambda key, credential: key.sign(asked(credential, rp_id="evil.example")),
    "another type": lambda key, credential: key.sign(asked(credential), kind=CREATE),
    "plain http": _with(origin="http://proxy.example.com:3080"),
    "another site": _with(origin="https://evil.example"),
    "a site below the domain": _with(origin="https://app.proxy.example.com"),
    "a site that begins so": _with(origin="https://proxy.example.com.evil.example"),
    "a user in the address": _with(origin="https://proxy.example.com@evil.example"),
    "no touch": _with(touched=False),
    "a counter that stands": _with(counter=0),
    "a counter that went back": _with(counter=-0, counts=False),
    "another user's handle": _changed(user_handle=encode(b"o" * 32)),
    "no signature": _changed(signature=""),
    "an unknown credential": _changed(credential_id=encode(b"u" * 32)),
    "an empty credential": _changed(credential_id=""),
    "no base64": _changed(authenticator_data="*"),
    "an endless part": _changed(client_data="A" * 100_000),
    "no authenticator data": _changed(authenticator_data=""),
    "client data that is no JSON": _changed(client_data=encode(b"[1]")),
    "a flipped bit in the signature": lambda key, credential: msgspec.structs.replace(
        signed := key.sign(asked(credential)), signature=_flipped(signed.signature)
    ),
    "a flipped bit in the counter": lambda key, credential: msgspec.structs.replace(
        signed := key.sign(asked(credential)), authenticator_data=_flipped(signed.authenticator_data)
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_is_not_right_in_every_part_is_refused(name: str) -> None:
    key = Authenticator(origin=ORIGIN)
    credential = registered(key)
    with pytest.raises(ProofRefused):
        check(BROKEN[name](key, credential), credential)
    key.origin, key.touched, key.counts, key.counter = ORIGIN, True, True, 10
    assert check(key.sign(asked(credential)), credential) == 11, "the key itself is good"


def test_a_key_of_somebody_else_is_refused_and_nobodys_key_lets_nobody_in() -> None:
    mine, other = Authenticator(origin=ORIGIN), Authenticator(origin=ORIGIN)
    credential, others = registered(mine), registered(other)
    with pytest.raises(ProofRefused, match="not registered"):
        check(other.sign(asked(others)), credential)
    with pytest.raises(ProofRefused, match="not registered"):
        check(mine.sign(asked(credential)))
    stolen = replace(others, id=credential.id)
    with pytest.raises(ProofRefused, match="signature"):
        check(mine.sign(asked(credential)), stolen)
    assert len(decode(NOBODY_KEY)) == len(decode(credential.public_key))


def test_a_copied_key_is_noticed_by_its_counter() -> None:
    """T36: whoever signs with a copy is refused once the original was used in between."""
    key = Authenticator(origin=ORIGIN)
    credential = registered(key)
    copy = key.copied()
    used = replace(credential, sign_count=check(key.sign(asked(credential)), credential))
    with pytest.raises(ProofRefused, match="copied"):
        check(copy.sign(asked(credential)), used)


def test_a_pin_or_fingerprint_is_asked_for_where_the_policy_says_so() -> None:
    key = Authenticator(origin=ORIGIN)
    credential = registered(key)
    with pytest.raises(ProofRefused, match=r"(?i)verif"):
        check(key.sign(asked(credential)), credential, verified=True)
    key.verified = True
    check(key.sign(asked(credential)), credential, verified=True)


@pytest.mark.parametrize(
    ("knobs", "change"),
    [
        ({"touched": False}, {}),
        ({"origin": "https://evil.example"}, {}),
        ({}, {"challenge": encode(b"x" * 32)}),
        ({}, {"rp_id": "evil.example"}),
    ],
    ids=["no touch", "another site", "another challenge", "another domain"],
)
def test_a_registration_that_is_not_right_is_refused(knobs: dict[str, object], change: dict[str, Any]) -> None:
    key = Authenticator(origin=ORIGIN)
    for name, value in knobs.items():
        setattr(key, name, value)
    with pytest.raises(ProofRefused):
        registered(key, **change)


def test_a_registration_made_of_a_login_or_of_noise_is_refused() -> None:
    key = Authenticator(origin=ORIGIN)
    made = key.create(CREATION, kind=GET)
    for client_data, attestation in (
        (made.client_data, made.attestation_object),
        (key.create(CREATION).client_data, encode(b"\xff" * 40)),
        ("", ""),
        (encode(b"{}"), key.create(CREATION).attestation_object),
    ):
        with pytest.raises(ProofRefused):
            verify_registration(client_data, attestation, challenge=CHALLENGE, party=PARTY)


def test_keys_of_some_makers_only() -> None:
    """`attestation_allowed_cas` and `attestation_denied_cas`: a key has to prove who made it."""
    good, bad, liar = Maker("Good Keys"), Maker("Bad Keys"), Maker("Good Keys")
    allowed, denied = AttestationPolicy(allowed=(good.pem,)), AttestationPolicy(denied=(bad.pem,))
    for policy in (AttestationPolicy(), allowed, denied):
        registered(Authenticator(origin=ORIGIN, maker=good), policy)
    for maker, policy in ((bad, allowed), (bad, denied), (liar, allowed), (None, allowed), (None, denied)):
        with pytest.raises(ProofRefused):
            registered(Authenticator(origin=ORIGIN, maker=maker), policy)
    with pytest.raises(ProofRefused):
        registered(Authenticator(origin=ORIGIN, maker=good), AttestationPolicy((good.pem, bad.pem), (good.pem,)))


def test_a_statement_of_a_maker_about_another_key_is_refused() -> None:
    maker = Maker()
    one, other = Authenticator(origin=ORIGIN, maker=maker), Authenticator(origin=ORIGIN, maker=maker)
    from fido2.webauthn import AttestationObject

    mine, theirs = one.create(CREATION), other.create(CREATION)
    swapped = AttestationObject.create(
        "packed",
        AttestationObject(decode(mine.attestation_object)).auth_data,
        AttestationObject(decode(theirs.attestation_object)).att_stmt,
    )
    with pytest.raises(ProofRefused):
        verify_registration(
            mine.client_data,
            encode(swapped),
            challenge=CHALLENGE,
            party=PARTY,
            policy=AttestationPolicy(allowed=(maker.pem,)),
        )

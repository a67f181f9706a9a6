"""Answering a second factor's challenge at the terminal: with a code, or with a hardware key."""

from __future__ import annotations

from collections.abc import Callable

from teleport.api import messages as m
from teleport.client.hardware_keys import KeyQuestion, NewKeyQuestion, Tell, need_keys, site

CODE = "One-time code: "
CODE_OR_KEY = "One-time code (Enter: your security key): "


def answer_challenge(
    asked: m.FactorChallenge, web: tuple[str, int], ask: Callable[[str], str], tell: Tell
) -> m.FactorResponse:
    """What proves a device of the person's own to auth, behind the proxy at `web`.

    `ask` gets a question and returns the line that was typed. Raises `TeleportError`.
    """
    if asked.totp:
        code = ask(CODE_OR_KEY if asked.webauthn is not None else CODE).replace(" ", "")
        if code or asked.webauthn is None:
            return m.FactorResponse(challenge_id=asked.id, totp_code=code)
    assert asked.webauthn is not None, "a challenge that nothing answers"
    question = KeyQuestion(asked.webauthn.challenge, asked.webauthn.rp_id, tuple(asked.webauthn.credentials))
    answer = need_keys().sign(question, site(*web, question.rp_id), tell)
    return m.FactorResponse(
        challenge_id=asked.id,
        webauthn=m.WebauthnAssertion(
            credential_id=answer.credential_id,
            client_data=answer.client_data,
            authenticator_data=answer.authenticator_data,
            signature=answer.signature,
            user_handle=answer.user_handle,
        ),
    )


def new_key(new: m.NewFactor, web: tuple[str, int], tell: Tell) -> m.NewFactorProof:
    """A new credential of a hardware key at this machine. Raises `TeleportError`."""
    asked = new.webauthn
    assert asked is not None
    question = NewKeyQuestion(
        challenge=asked.challenge,
        rp_id=asked.rp_id,
        rp_name=asked.rp_name,
        user_id=asked.user_id,
        user_name=asked.user_name,
        algorithms=tuple(asked.algorithms),
        exclude=tuple(asked.exclude),
        attestation=asked.attestation,
        resident_key=asked.resident_key,
        user_verification=asked.user_verification,
    )
    made = need_keys().create(question, site(*web, question.rp_id), tell)
    attestation = m.WebauthnAttestation(client_data=made.client_data, attestation_object=made.attestation_object)
    return m.NewFactorProof(id=new.id, webauthn=attestation)

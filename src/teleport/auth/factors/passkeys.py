"""Passkeys: hardware keys that check their owner by themselves and are asked without a name.

A challenge to a passkey is for whoever opens the sign-in page, so nothing is kept of it: it holds its own end and a tag
by a key of auth, for the domain of this moment. Strangers may ask for as many as they like, at the cost of one digest
each, and crowd nobody out. One that was answered, rightly or not, is remembered until it is too old: it is good once.

Who answers is found by the user handle, which is random and made with the user's first hardware key (Web Authentication
Level 3, 7.2, step 6); what is found counts as long as the user's own record says the same. Only devices that were
registered as passkeys are looked at.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from teleport.api import messages as m
from teleport.auth.state import ClusterState
from teleport.authz.second_factor import FactorKind, takes_passkeys
from teleport.backend.interface import Absent, Condition, DeleteOp, PutOp, Write
from teleport.errors import BadRequest, CompareFailed
from teleport.pki import webauthn
from teleport.pki.webauthn import Assertion, Credential, ProofRefused, RelyingParty
from teleport.store import records
from teleport.store.records import FactorDevice, PasskeyAsked, PasskeyKey, PasskeyUser, UserSecret

_NONCE: Final = 24  # bytes
_END: Final = 8  # bytes of the second at which a challenge ends
_TAG: Final = 32  # bytes
_PURPOSE: Final = b"passkey login\0"


class Parties(Protocol):
    """For whom hardware keys sign."""

    async def party(self) -> RelyingParty: ...


class Passkeys:
    """Makes challenges to passkeys, and checks what answers."""

    def __init__(self, state: ClusterState, parties: Parties) -> None:
        self._state = state
        self._parties = parties
        self._key = b""

    async def challenge(self, life_ends: datetime) -> m.FactorChallenge:
        """A challenge to whichever passkey somebody has, good until `life_ends`. Raises `BadRequest` where the
        setting is off."""
        if not takes_passkeys((await self._state.preference()).spec):
            raise BadRequest(
                "passkeys do not log in to this cluster", hint="log in with your password and a second factor"
            )
        party = await self._parties.party()
        end = int(life_ends.timestamp())
        made = self._sealed(await self._tag_key(), os.urandom(_NONCE) + end.to_bytes(_END, "big"), party.id)
        asked = m.WebauthnChallenge(challenge=made, rp_id=party.id, credentials=[], user_verification="required")
        return m.FactorChallenge(id=made, expires=datetime.fromtimestamp(end, UTC), totp=False, webauthn=asked)

    async def owner(self, answer: m.FactorResponse | None) -> str:
        """The user whose passkey says that it is theirs; empty when nobody is known by that handle. Nothing is proved
        yet."""
        handle = answer.webauthn.user_handle if answer is not None and answer.webauthn is not None else ""
        found = await self._state.record(_key_of(handle), PasskeyUser)
        return found[0].user if found is not None and handle else ""

    async def check(
        self, secret: UserSecret, answer: m.FactorResponse | None, now: datetime
    ) -> tuple[str, FactorDevice | None, tuple[Write, ...], tuple[Condition, ...]]:
        """What is wrong, for the record; the passkey of `secret` that answered, its counter moved on; what uses the
        challenge up, whatever was found; and that nobody else used it meanwhile. Nothing is written, and it costs the
        same whatever is wrong."""
        party = await self._parties.party()
        made = answer.challenge_id if answer is not None else ""
        end = self._end_of(await self._tag_key(), made, party.id, now)
        key = records.secret_key(records.PASSKEYS_ASKED, made)
        used = await self._state.record(key, PasskeyAsked)
        spent: tuple[Write, ...] = ()
        conditions: tuple[Condition, ...] = ()
        if end is not None and used is None:
            spent, conditions = (PutOp(key, PasskeyAsked(expires=end).encode(), end),), (Absent(key),)
        if answer is None or answer.webauthn is None:
            return "no passkey answered", None, spent, conditions
        try:
            device = await asyncio.to_thread(_answered, secret, answer.webauthn, made, party, now)
        except ProofRefused as error:
            return str(error), None, spent, conditions
        if not spent:
            return "the challenge is too old, was used before, or was made for something else", None, (), ()
        return "", device, spent, conditions

    def _sealed(self, key: bytes, body: bytes, rp_id: str) -> str:
        return webauthn.encode(body + hmac.digest(key, _PURPOSE + body + rp_id.encode(), hashlib.sha256))

    def _end_of(self, key: bytes, made: str, rp_id: str, now: datetime) -> datetime | None:
        """When a challenge ends that auth made for this domain; None when it is none, or is too old."""
        try:
            raw = webauthn.decode(made) if len(made) <= 128 else b""
        except ProofRefused:
            raw = b""
        body = raw[:-_TAG].ljust(_NONCE + _END, b"\0")
        if not hmac.compare_digest(self._sealed(key, body, rp_id).encode(), made.encode("utf-8", "surrogatepass")):
            return None
        end = datetime.fromtimestamp(int.from_bytes(body[_NONCE:], "big"), UTC)
        return end if now < end else None

    async def _tag_key(self) -> bytes:
        """The key of the tags, the same at every auth server."""
        while not self._key:
            found = await self._state.record(records.PASSKEY_KEY, PasskeyKey)
            if found is not None:
                self._key = bytes.fromhex(found[0].key)
                break
            made = PasskeyKey(key=os.urandom(32).hex())
            try:
                await self._state.commit(
                    [PutOp(records.PASSKEY_KEY, made.encode())], conditions=[Absent(records.PASSKEY_KEY)], events=[]
                )
            except CompareFailed:
                continue  # another auth server was first
        return self._key


def _answered(
    secret: UserSecret, answer: m.WebauthnAssertion, challenge: str, party: RelyingParty, now: datetime
) -> FactorDevice:
    """The passkey that signed. Raises `ProofRefused`."""
    passkeys = {one.credential_id: one for one in secret.devices if is_passkey(one)}
    credential, count = webauthn.verify_assertion(
        Assertion(
            answer.credential_id, answer.client_data, answer.authenticator_data, answer.signature, answer.user_handle
        ),
        challenge=challenge,
        party=party,
        credentials=[Credential(one.credential_id, one.public_key, one.sign_count) for one in passkeys.values()],
        user_handle=secret.user_handle,
        verified_user=True,
    )
    if not answer.user_handle:  # it names somebody in any case: without it nobody would have been found
        raise ProofRefused("the passkey names nobody")
    return msgspec.structs.replace(passkeys[credential.id], sign_count=count, last_used=now)


def is_passkey(device: FactorDevice) -> bool:
    """Whether the device was registered as one."""
    return device.passwordless and device.kind == FactorKind.WEBAUTHN


def known_by_passkeys(user: str, secret: UserSecret) -> Sequence[Write]:
    """What goes with `secret` wherever it is written with a new passkey: by its handle the user is found."""
    if not secret.user_handle or not any(map(is_passkey, secret.devices)):
        return []
    return [PutOp(_key_of(secret.user_handle), PasskeyUser(user=user).encode())]


def unknown_to_passkeys(secret: UserSecret) -> Sequence[Write]:
    """What goes with the end of `secret`."""
    return [DeleteOp(_key_of(secret.user_handle), missing_ok=True)] if secret.user_handle else []


async def written_by_document(state: ClusterState, user: str, secret: UserSecret) -> Sequence[Write]:
    """As `known_by_passkeys`, for a record that a document brings. Raises `BadRequest` when the passkeys are those of
    somebody else: a passkey is one person's."""
    writes = known_by_passkeys(user, secret)
    found = await state.record(_key_of(secret.user_handle), PasskeyUser) if writes else None
    if found is not None and found[0].user != user:
        other = await state.record(records.USER_SECRETS + found[0].user, UserSecret)
        if other is not None and other[0].user_handle == secret.user_handle:
            raise BadRequest(
                f"user {user!r}: these passkeys are known as those of {found[0].user!r}",
                hint="leave local_auth.user_handle and the passkeys out of the document",
            )
    return writes


def _key_of(handle: str) -> str:
    return records.secret_key(records.PASSKEY_USERS, handle)

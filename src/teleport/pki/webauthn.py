"""Proofs by hardware keys: what a browser or tsh sends back is checked here (Web Authentication Level 3, 7.1 and 7.2).

The formats and signatures are python-fido2's; what the library leaves to its caller is done here: which origins count,
the signature counter, the user handle, which algorithms a new key may have, who made it. Bytes in, values out.
python-fido2 is imported when the first proof comes, and ahead by auth (`daemon.imports`).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fido2.server import Fido2Server

ALGORITHMS: Final = (-7, -8, -257)  # COSE: ES256, EdDSA, RS256 (which TPMs of Windows have)
MAX_BINARY: Final = 16 * 1024  # bytes of any part of a proof
MAX_CREDENTIAL_ID: Final = 1023  # bytes (Web Authentication section 4, credential id)
# A P-256 key whose private half nobody kept: checked against when there is no such credential, at the same cost.
NOBODY_KEY: Final = (
    "pQECAyYgASFYIEwrZNel_CjdvXtHbLNs8M4e7FdmBXO6zHlO10cQ993-IlggBrC7RQXwbEohI1oJeWePS61zXnCWRfkt42FcB4t-_VY"
)


class ProofRefused(Exception):
    """A proof that does not hold. The text is for the record."""


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """For whom hardware keys sign: the domain, and the hosts whose pages may ask for it."""

    id: str
    hosts: frozenset[str]

    def takes(self, origin: str) -> bool:
        """Whether a page of `origin` may ask: https, and exactly one of the hosts, at any port."""
        try:
            parts = urlsplit(origin)
            return parts.scheme == "https" and parts.hostname in self.hosts and not parts.path and not parts.query
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class AttestationPolicy:
    """Whose hardware keys may be registered. PEM certificates; both empty: anybody's."""

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether a key has to say who made it."""
        return bool(self.allowed or self.denied)


@dataclass(frozen=True, slots=True)
class Credential:
    """A registered hardware key."""

    id: str
    public_key: str
    sign_count: int
    aaguid: str = ""


@dataclass(frozen=True, slots=True)
class Assertion:
    """What the answer to a challenge holds, base64url."""

    credential_id: str
    client_data: str
    authenticator_data: str
    signature: str
    user_handle: str = ""


def encode(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes behind unpadded base64url. Raises `ProofRefused`."""
    if len(text) > MAX_BINARY * 4 // 3 + 4:
        raise ProofRefused("a part of the proof is too large")
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ProofRefused("a part of the proof is not base64url") from None


def verify_assertion(
    answer: Assertion,
    *,
    challenge: str,
    party: RelyingParty,
    credentials: Sequence[Credential],
    user_handle: str,
    verified_user: bool = False,
) -> tuple[Credential, int]:
    """The credential that signed `challenge`, and its new signature counter. Raises `ProofRefused`.

    `verified_user`: the key must have checked a PIN or a fingerprint, too; a touch it must have seen in any case.
    """
    from fido2.webauthn import Aaguid, AttestedCredentialData, AuthenticatorData

    wanted = decode(answer.credential_id)
    known = {decode(credential.id): credential for credential in credentials}
    found = known.get(wanted)
    key = decode(found.public_key if found is not None else NOBODY_KEY)
    stored = AttestedCredentialData.create(Aaguid(bytes(16)), wanted[:MAX_CREDENTIAL_ID], _cose(key))
    response = {
        "id": encode(wanted),
        "rawId": encode(wanted),
        "type": "public-key",
        "response": {
            "clientDataJSON": encode(decode(answer.client_data)),
            "authenticatorData": encode(decode(answer.authenticator_data)),
            "signature": encode(decode(answer.signature)),
        },
    }
    server = _server(party)
    state = {"challenge": challenge, "user_verification": "required" if verified_user else None}
    try:
        _checked(lambda: server.authenticate_complete(state, [stored], response))
        _same_origin(answer.client_data)
    except ProofRefused:
        if found is not None:
            raise
    if found is None:
        raise ProofRefused("this hardware key is not registered for the user")
    if answer.user_handle and decode(answer.user_handle) != decode(user_handle):
        raise ProofRefused("the hardware key names another user")
    count = AuthenticatorData(decode(answer.authenticator_data)).counter
    if (count or found.sign_count) and count <= found.sign_count:
        raise ProofRefused(
            f"the hardware key's signature counter went from {found.sign_count} to {count}: it may have been copied"
        )
    return found, count


def verify_registration(
    client_data: str,
    attestation_object: str,
    *,
    challenge: str,
    party: RelyingParty,
    policy: AttestationPolicy = AttestationPolicy(),
    verified_user: bool = False,
) -> Credential:
    """The new credential that was made for `challenge`. Raises `ProofRefused`."""
    from fido2.webauthn import AttestationObject

    raw = decode(attestation_object)

    def opened() -> Any:
        return AttestationObject(raw)

    attested = _checked(opened)
    data = attested.auth_data.credential_data
    if data is None:
        raise ProofRefused("the new hardware key came without its public key")
    response = {
        "id": encode(data.credential_id),
        "rawId": encode(data.credential_id),
        "type": "public-key",
        "response": {"clientDataJSON": encode(decode(client_data)), "attestationObject": encode(raw)},
    }
    server = _server(party, policy)
    state = {"challenge": challenge, "user_verification": "required" if verified_user else None}
    _checked(lambda: server.register_complete(state, response))
    _same_origin(client_data)
    if data.public_key.get(3) not in ALGORITHMS:
        raise ProofRefused(f"the new hardware key signs with the algorithm {data.public_key.get(3)}")
    if not 0 < len(data.credential_id) <= MAX_CREDENTIAL_ID:
        raise ProofRefused("the new hardware key has a credential id of an impossible length")
    _usable(data.public_key)
    from fido2 import cbor

    return Credential(
        id=encode(data.credential_id),
        public_key=encode(cbor.encode(dict(data.public_key))),
        sign_count=attested.auth_data.counter,
        aaguid=str(data.aaguid),
    )


def _server(party: RelyingParty, policy: AttestationPolicy = AttestationPolicy()) -> Fido2Server:
    from fido2.server import Fido2Server
    from fido2.webauthn import AttestationConveyancePreference, PublicKeyCredentialRpEntity

    logging.getLogger("fido2").setLevel(logging.WARNING)  # it tells of every proof; that is what events are for
    wanted = AttestationConveyancePreference.DIRECT if policy.asks else AttestationConveyancePreference.NONE
    return Fido2Server(
        PublicKeyCredentialRpEntity(name=party.id, id=party.id),
        attestation=wanted,
        verify_origin=party.takes,
        verify_attestation=(lambda attested, digest: _check_maker(policy, attested, digest)) if policy.asks else None,
    )


def _check_maker(policy: AttestationPolicy, attested: Any, client_data_hash: bytes) -> None:
    """Raises `ProofRefused` unless the key proves to be made by somebody whom the policy lets in."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from fido2.attestation.base import AttestationVerifier, UntrustedAttestation, verify_x509_chain

    class Path(AttestationVerifier):
        """Checks the statement, and keeps the chain for us: the library asks for one authority only."""

        chain: Sequence[bytes] = ()

        def ca_lookup(self, result: Any, auth_data: Any) -> bytes | None:
            self.chain = list(result.trust_path)
            return None

    path = Path()
    with contextlib.suppress(UntrustedAttestation):  # the statement holds; whom to trust is decided here
        path.verify_attestation(attested, client_data_hash)
    if not path.chain:
        raise ProofRefused("the new hardware key does not say who made it")

    def made_by(authority: str) -> bool:
        for root in x509.load_pem_x509_certificates(authority.encode()):
            der = root.public_bytes(Encoding.DER)
            with contextlib.suppress(Exception):  # whatever is wrong with foreign certificates: they prove nothing
                if x509.load_der_x509_certificate(path.chain[-1]).issuer != root.subject:
                    continue
                chain = [*path.chain] if path.chain[-1] == der else [*path.chain, der]
                verify_x509_chain(chain)
                if all(_is_authority(between) for between in chain[1:-1]):
                    return True
        return False

    if any(made_by(authority) for authority in policy.denied):
        raise ProofRefused("hardware keys of this maker are refused here")
    if policy.allowed and not any(made_by(authority) for authority in policy.allowed):
        raise ProofRefused("hardware keys of this maker are not among those allowed here")


def _is_authority(certificate: bytes) -> bool:
    """Whether a certificate between a key's own and the root may sign others."""
    from cryptography import x509

    found = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.BasicConstraints)
    return found.value.ca


def _checked(work: Any) -> Any:
    """What the library answers; whatever it raises about foreign bytes is a refusal."""
    try:
        return work()
    except ProofRefused:
        raise
    except Exception as error:  # of CBOR, JSON, keys, signatures: dozens of classes, all about what the far end sent
        raise ProofRefused(f"the proof does not hold: {str(error)[:200] or type(error).__name__}") from None


def _same_origin(client_data: str) -> None:
    """Refuses proofs that were asked for inside a frame of another site (section 7.2, step 10)."""
    import json

    if json.loads(decode(client_data)).get("crossOrigin"):
        raise ProofRefused("the proof was asked for by a page inside another site's page")


def _cose(key: bytes) -> Any:
    from fido2 import cbor
    from fido2.cose import CoseKey

    found: Any = cbor.decode(key)
    return CoseKey.parse(found)


def _usable(key: Any) -> None:
    """Raises `ProofRefused` for a key that no signature could ever be checked with, or a weak one."""
    from cryptography.exceptions import InvalidSignature

    if key.get(3) == -257 and len(bytes(key.get(-1, b"")).lstrip(b"\0")) < 256:
        raise ProofRefused("the new hardware key is an RSA key of less than 2048 bits")
    try:
        key.verify(b"", b"")
    except InvalidSignature:
        return
    except Exception as error:
        raise ProofRefused(f"the new hardware key cannot be used: {type(error).__name__}") from None

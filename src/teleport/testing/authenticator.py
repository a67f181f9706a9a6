"""A hardware key in software: makes credentials and signs challenges, as a browser or tsh would have a real one do.

Its knobs are what an attacker or a broken key would turn: the origin, the flags, the counter, the user handle.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from fido2.cose import ES256
from fido2.webauthn import Aaguid, AttestationObject, AttestedCredentialData, AuthenticatorData, CollectedClientData

from teleport.api import messages as m
from teleport.client.hardware_keys import KeyAnswer, KeyQuestion, NewKeyAnswer, NewKeyQuestion, Tell
from teleport.errors import NotFound
from teleport.pki.webauthn import decode, encode

FLAG = AuthenticatorData.FLAG
CREATE, GET = CollectedClientData.TYPE.CREATE, CollectedClientData.TYPE.GET


@dataclass
class Maker:
    """Who makes hardware keys: an authority that certifies the key with which they attest."""

    name: str = "Test Keys"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = _certificate(self.name, self.key.public_key(), self.name, self.key, authority=True)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def attestation(self, signed: bytes) -> dict[str, Any]:
        """A `packed` statement over `signed` (Web Authentication section 8.2), by a key of a batch."""
        batch = ec.generate_private_key(ec.SECP256R1())
        leaf = _certificate("a batch", batch.public_key(), self.name, self.key, authority=False)
        return {
            "alg": -7,
            "sig": batch.sign(signed, ec.ECDSA(hashes.SHA256())),
            "x5c": [leaf.public_bytes(Encoding.DER)],
        }


@dataclass
class Key:
    """What the authenticator keeps for one site."""

    rp_id: str
    private: ec.EllipticCurvePrivateKey
    user_handle: str


@dataclass
class Authenticator:
    """A hardware key; all its credentials share one signature counter."""

    origin: str = "https://localhost"
    touched: bool = True
    verified: bool = False
    counter: int = 0
    counts: bool = True
    maker: Maker | None = None
    tells_handle: bool = True
    keys: dict[str, Key] = field(default_factory=dict)

    def create(self, asked: m.WebauthnCreation, *, kind: Any = CREATE) -> m.WebauthnAttestation:
        """A new credential. `ValueError` when there is one already, as keys answer then."""
        if set(asked.exclude) & set(self.keys):
            raise ValueError("this key is registered already")
        private = ec.generate_private_key(ec.SECP256R1())
        made = os.urandom(32)
        self.keys[encode(made)] = Key(asked.rp_id, private, asked.user_id)
        client_data = CollectedClientData.create(type=kind, challenge=decode(asked.challenge), origin=self.origin)
        cose = ES256.from_cryptography_key(private.public_key())  # type: ignore[no-untyped-call]
        attested = AttestedCredentialData.create(Aaguid(bytes(16)), made, cose)
        data = AuthenticatorData.create(
            hashlib.sha256(asked.rp_id.encode()).digest(), self._flags() | FLAG.AT, self._count(), attested
        )
        statement = self.maker.attestation(data + client_data.hash) if self.maker is not None else {}
        attestation = AttestationObject.create("packed" if statement else "none", data, statement)
        return m.WebauthnAttestation(client_data=encode(client_data), attestation_object=encode(attestation))

    def sign(self, asked: m.WebauthnChallenge, *, kind: Any = GET) -> m.WebauthnAssertion:
        """The answer to a challenge. `LookupError` when none of the credentials is of this key."""
        made = (
            next(one for one in asked.credentials if one in self.keys) if asked.credentials else next(iter(self.keys))
        )
        key = self.keys[made]
        client_data = CollectedClientData.create(type=kind, challenge=decode(asked.challenge), origin=self.origin)
        data = AuthenticatorData.create(hashlib.sha256(asked.rp_id.encode()).digest(), self._flags(), self._count())
        return m.WebauthnAssertion(
            credential_id=made,
            client_data=encode(client_data),
            authenticator_data=encode(data),
            signature=encode(key.private.sign(data + client_data.hash, ec.ECDSA(hashes.SHA256()))),
            user_handle=key.user_handle if self.tells_handle else "",
        )

    def answer(self, challenge: m.FactorChallenge) -> m.FactorResponse:
        """The answer to a challenge of auth."""
        assert challenge.webauthn is not None
        return m.FactorResponse(challenge_id=challenge.id, webauthn=self.sign(challenge.webauthn))

    def copied(self) -> Authenticator:
        """Another key with the same secrets, as a thief would like to have."""
        return replace(self, keys=dict(self.keys))

    def _flags(self) -> Any:
        return (FLAG.UP if self.touched else FLAG(0)) | (FLAG.UV if self.verified else FLAG(0))

    def _count(self) -> int:
        self.counter += 1 if self.counts else 0
        return self.counter


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    def named(common: str) -> x509.Name:
        unit = [] if authority else [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Authenticator Attestation")]
        country = x509.NameAttribute(NameOID.COUNTRY_NAME, "AA")
        organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test")
        return x509.Name([country, organization, *unit, x509.NameAttribute(NameOID.COMMON_NAME, common)])

    now = datetime.now(UTC)
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    return (
        x509.CertificateBuilder()
        .subject_name(root if authority else named(name))
        .issuer_name(root)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )


class SoftwareKeys:
    """Hardware keys as tsh finds them (`client.hardware_keys.Keys`), kept in a file from one run to the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = Authenticator()
        if path.exists():
            kept = json.loads(path.read_text())
            self._key.counter = kept["counter"]
            for made, (rp_id, private, handle) in kept["keys"].items():
                loaded = load_pem_private_key(private.encode(), None)
                assert isinstance(loaded, ec.EllipticCurvePrivateKey)
                self._key.keys[made] = Key(rp_id, loaded, handle)

    def sign(self, asked: KeyQuestion, origin: str, tell: Tell) -> KeyAnswer:
        if not (set(asked.credentials) & set(self._key.keys) if asked.credentials else self._key.keys):
            raise NotFound("no security key at this machine is registered for you", hint="tsh mfa ls")
        tell("Touch your security key.")
        self._key.origin = origin
        self._key.verified = asked.user_verification == "required"
        challenge = m.WebauthnChallenge(
            challenge=asked.challenge, rp_id=asked.rp_id, credentials=list(asked.credentials)
        )
        signed = self._key.sign(challenge)
        self._keep()
        return KeyAnswer(**msgspec.structs.asdict(signed))

    def create(self, asked: NewKeyQuestion, origin: str, tell: Tell) -> NewKeyAnswer:
        tell("Touch your security key.")
        self._key.origin = origin
        self._key.verified = asked.user_verification == "required"
        made = self._key.create(
            m.WebauthnCreation(
                challenge=asked.challenge,
                rp_id=asked.rp_id,
                rp_name=asked.rp_name,
                user_id=asked.user_id,
                user_name=asked.user_name,
                algorithms=list(asked.algorithms),
                exclude=list(asked.exclude),
            )
        )
        self._keep()
        return NewKeyAnswer(made.client_data, made.attestation_object)

    def _keep(self) -> None:
        keys = {
            made: (
                key.rp_id,
                key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
                key.user_handle,
            )
            for made, key in self._key.keys.items()
        }
        self._path.write_text(json.dumps({"counter": self._key.counter, "keys": keys}))


def main() -> None:
    """`python -m teleport.testing.authenticator FILE ARGUMENTS`: tsh at a machine whose hardware key is in FILE."""
    from teleport.cli.tsh import main as tsh
    from teleport.client import hardware_keys

    path = Path(sys.argv[1])
    hardware_keys.FINDERS[:] = [lambda: SoftwareKeys(path)]
    sys.argv = ["tsh", *sys.argv[2:]]
    tsh()


if __name__ == "__main__":
    main()

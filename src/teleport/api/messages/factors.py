"""Messages about second factors: challenges and their answers, and the devices of a user.

Bytes travel as unpadded base64url, as WebAuthn's JSON forms have them (Web Authentication Level 3, section 5.1).
"""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request


class WebauthnChallenge(Message, frozen=True, kw_only=True):
    """What a browser's `navigator.credentials.get` is asked with."""

    challenge: str
    rp_id: str
    credentials: list[str]  # credential ids; at a login they may be invented, so that nobody learns who exists
    user_verification: str = "discouraged"
    timeout: int = 300_000  # milliseconds


class FactorChallenge(Message, frozen=True, kw_only=True):
    """A question to a user's devices. It can be answered once, until `expires`."""

    id: str
    expires: datetime
    totp: bool  # whether a one-time code would do
    webauthn: WebauthnChallenge | None = None  # absent when no hardware key would do


class WebauthnAssertion(Request, frozen=True, kw_only=True):
    """What `navigator.credentials.get` answered."""

    credential_id: str
    client_data: str
    authenticator_data: str
    signature: str
    user_handle: str = ""


class FactorResponse(Request, frozen=True, kw_only=True):
    """The answer of a device: a one-time code, which needs no challenge, or a signature over one."""

    challenge_id: str = ""
    totp_code: str = ""
    webauthn: WebauthnAssertion | None = None


class LoginChallengeRequest(Request, frozen=True, kw_only=True):
    """A proxy asks for somebody who holds no certificate yet."""

    user: str


class WebauthnCreation(Message, frozen=True, kw_only=True):
    """What `navigator.credentials.create` is asked with."""

    challenge: str
    rp_id: str
    rp_name: str
    user_id: str
    user_name: str
    algorithms: list[int]  # COSE algorithm identifiers
    exclude: list[str]  # credential ids that the user has already
    user_verification: str = "discouraged"
    resident_key: str = "discouraged"  # required: a passkey
    attestation: str = "none"
    timeout: int = 300_000  # milliseconds


class NewFactor(Message, frozen=True, kw_only=True):
    """A device about to be registered. It has to prove itself until `expires`."""

    id: str
    expires: datetime
    totp_secret: str = ""
    totp_url: str = ""
    webauthn: WebauthnCreation | None = None


class WebauthnAttestation(Request, frozen=True, kw_only=True):
    """What `navigator.credentials.create` answered."""

    client_data: str
    attestation_object: str


class NewFactorProof(Request, frozen=True, kw_only=True):
    """That a new device works: its first code, or its attestation."""

    id: str = ""  # of the `NewFactor`
    totp_code: str = ""
    webauthn: WebauthnAttestation | None = None


class FactorDeviceInfo(Message, frozen=True, kw_only=True):
    """A device of a user, without what proves it."""

    id: str
    name: str
    type: str  # totp, webauthn
    added: datetime | None = None
    last_used: datetime | None = None
    passwordless: bool = False  # a passkey


class FactorDevices(Message, frozen=True, kw_only=True):
    """The devices of a user, and the types that count in this cluster."""

    devices: list[FactorDeviceInfo]
    kinds: list[str]
    passwordless: bool = False  # whether passkeys log in here


class BeginFactorRequest(Request, frozen=True, kw_only=True):
    """A new device. `factor` proves an older one; the password does for those who have none that counts."""

    name: str
    type: str  # totp, webauthn
    factor: FactorResponse | None = None
    password: str = ""
    passwordless: bool = False  # of the type webauthn: a passkey


class RemoveFactorRequest(Request, frozen=True, kw_only=True):
    """A device to be removed, by name or id."""

    name: str
    factor: FactorResponse | None = None
    password: str = ""

"""The bodies of the web API as tsh and browsers exchange them (`protocols.md` 2): names and forms are the field's own.

Bytes travel in base64, `ttl` in nanoseconds.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from teleport.api import messages as m
from teleport.errors import BadRequest


class AssertionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The inner part of `CredentialAssertion`, unpadded base64url."""

    clientDataJSON: str
    authenticatorData: str
    signature: str
    userHandle: str | None = ""


class CredentialAssertion(msgspec.Struct, frozen=True, kw_only=True):
    """What `navigator.credentials.get` gives, as JSON (Web Authentication Level 3, section 5.1)."""

    id: str
    response: AssertionResponse

    def message(self) -> m.WebauthnAssertion:
        inner = self.response
        return m.WebauthnAssertion(
            credential_id=self.id,
            client_data=inner.clientDataJSON,
            authenticator_data=inner.authenticatorData,
            signature=inner.signature,
            user_handle=inner.userHandle or "",
        )


class AttestationResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The inner part of `CredentialCreation`, unpadded base64url."""

    clientDataJSON: str
    attestationObject: str


class CredentialCreation(msgspec.Struct, frozen=True, kw_only=True):
    """What `navigator.credentials.create` gives, as JSON."""

    id: str
    response: AttestationResponse

    def message(self) -> m.WebauthnAttestation:
        inner = self.response
        return m.WebauthnAttestation(client_data=inner.clientDataJSON, attestation_object=inner.attestationObject)


class KeyProof(msgspec.Struct, frozen=True, kw_only=True):
    """What requests have in common that a hardware key may answer."""

    challenge_id: str = ""
    webauthn_challenge_response: CredentialAssertion | None = None

    def factor(self) -> m.FactorResponse | None:
        """The answer of a hardware key, if it is one."""
        answer = self.webauthn_challenge_response
        return m.FactorResponse(challenge_id=self.challenge_id, webauthn=answer.message()) if answer else None


class LoginBeginRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/mfa/login/begin. The password that other clients send along is not looked at."""

    user: str


class LoginChallenge(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The second factor that a login may prove: a code, or `webauthn_challenge` as browsers take it."""

    challenge_id: str
    totp_challenge: bool
    webauthn_challenge: dict[str, Any] | None = None


def assertion_options(asked: m.WebauthnChallenge) -> dict[str, Any]:
    """What `navigator.credentials.get` takes, as JSON."""
    return {
        "publicKey": {
            "challenge": asked.challenge,
            "timeout": asked.timeout,
            "rpId": asked.rp_id,
            "allowCredentials": [{"type": "public-key", "id": made} for made in asked.credentials],
            "userVerification": asked.user_verification,
        }
    }


def creation_options(asked: m.WebauthnCreation) -> dict[str, Any]:
    """What `navigator.credentials.create` takes, as JSON."""
    return {
        "publicKey": {
            "challenge": asked.challenge,
            "timeout": asked.timeout,
            "rp": {"id": asked.rp_id, "name": asked.rp_name},
            "user": {"id": asked.user_id, "name": asked.user_name, "displayName": asked.user_name},
            "pubKeyCredParams": [{"type": "public-key", "alg": algorithm} for algorithm in asked.algorithms],
            "excludeCredentials": [{"type": "public-key", "id": made} for made in asked.exclude],
            "authenticatorSelection": {
                "residentKey": asked.resident_key,
                "requireResidentKey": asked.resident_key == "required",  # as older browsers read it
                "userVerification": asked.user_verification,
            },
            "attestation": asked.attestation,
        }
    }


class PasskeyLogin(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/sessions/passkey: a passkey's answer to a challenge of /webapi/mfa/login/passkey."""

    challenge_id: str
    webauthn_challenge_response: CredentialAssertion

    def factor(self) -> m.FactorResponse:
        answer = self.webauthn_challenge_response.message()
        return m.FactorResponse(challenge_id=self.challenge_id, webauthn=answer)


class RegisterChallengeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of that for a new key of somebody who follows a link."""

    passwordless: bool = False  # a passkey


class RegisterChallenge(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/mfa/token/:token/registerchallenge: a new hardware key of somebody who follows a link."""

    challenge_id: str
    webauthn: dict[str, Any]


class LeaseAsked(msgspec.Struct, frozen=True, kw_only=True):
    """GET /webapi/mfa/lease/:token: what the page behind the link that ssh shows tells, and asks a hardware key."""

    user: str
    cluster: str
    client_addr: str
    key_fingerprint: str
    until: str
    challenge_id: str
    webauthn_challenge: dict[str, Any]


class ApproveLease(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/mfa/lease/:token."""

    challenge_id: str
    webauthn_challenge_response: CredentialAssertion


class SSHCertsRequest(KeyProof, frozen=True, kw_only=True):
    """POST /webapi/ssh/certs (`protocols.md` 2.2). Fields of newer clients are ignored."""

    pub_key: str
    user: str = ""  # both are left out with `passwordless`
    password: str = ""
    passwordless: bool = False  # the hardware key's answer is a passkey's, which says who it is
    otp_token: str = ""
    hotp_token: str = ""
    ttl: int = 0  # nanoseconds; 0 is the longest allowed
    compatibility: str = ""
    RouteToCluster: str = ""
    KubernetesCluster: str = ""


class BrowserLoginBegin(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/login/browser: tsh asks for a login that a person answers on a page."""

    pub_key: str
    ttl: int = 0  # nanoseconds; 0 is the longest allowed
    RouteToCluster: str = ""


class BrowserLoginReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What tsh shows (`code`), or the page."""

    id: str
    client_addr: str
    expires: str
    code: str = ""


class BrowserLoginAnswer(KeyProof, frozen=True, kw_only=True):
    """POST /webapi/login/browser/:id: what was typed on the page."""

    code: str
    user: str = ""  # both are left out with `passwordless`
    password: str = ""
    passwordless: bool = False  # the hardware key's answer is a passkey's, which says who it is
    otp_token: str = ""


class HostSigner(msgspec.Struct, frozen=True, kw_only=True):
    domain_name: str
    checking_keys: list[str]
    tls_certs: list[str]


class SSHCertsReply(msgspec.Struct, frozen=True, kw_only=True):
    username: str
    cert: str
    tls_cert: str
    host_signers: list[HostSigner]


class PasswordTokenReply(msgspec.Struct, frozen=True, kw_only=True):
    """GET /webapi/users/password/token/:token."""

    tokenId: str
    user: str
    qr: str = ""  # PNG in base64
    kind: str = "invite"
    cluster: str = ""
    second_factor: str = "otp"
    passwordless: bool = False  # whether a passkey may be registered
    totp_secret: str = ""
    totp_url: str = ""
    expires: str = ""


class PasswordTokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """PUT /webapi/users/password/token."""

    token: str
    password: str = ""  # base64, as browsers send it; empty with a passkey alone
    second_factor_token: str = ""
    challenge_id: str = ""
    webauthn_creation_response: CredentialCreation | None = None
    device_name: str = ""
    sign_in: bool = False  # a page wants a session by it


class SSHAddresses(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    listen_addr: str = ""
    tunnel_listen_addr: str = ""
    public_addr: str = ""
    ssh_public_addr: str = ""
    ssh_tunnel_public_addr: str = ""


class KubeAddresses(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool = False
    public_addr: str | msgspec.UnsetType = msgspec.UNSET
    listen_addr: str | msgspec.UnsetType = msgspec.UNSET


class ProxySettings(msgspec.Struct, frozen=True, kw_only=True):
    kube: KubeAddresses
    ssh: SSHAddresses
    tls_routing_enabled: bool | msgspec.UnsetType = msgspec.UNSET  # one port serves everything


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    second_factor: str
    has_motd: bool = False
    allow_passwordless: bool = False  # whether a passkey alone logs in


class MessageOfTheDay(msgspec.Struct, frozen=True, kw_only=True):
    """GET /webapi/motd."""

    text: str


class PingReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET /webapi/ping and /webapi/find (`protocols.md` 2.1)."""

    server_version: str
    min_client_version: str
    cluster_name: str
    proxy: ProxySettings
    auth: AuthSettings | None = None
    authorities: str = ""  # `pki.trust_digest` of what a client is to hold, a field of our own
    rotating: bool = False  # whether they are being rotated: clients look more often


def to_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def from_base64(text: str, what: str) -> str:
    """The text behind base64; `BadRequest` naming `what` when it is not."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise BadRequest(f"{what} is not base64 of UTF-8 text") from None

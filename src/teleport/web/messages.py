"""The bodies of the web API as tsh and browsers exchange them (`protocols.md` 2): names and forms are the field's own.

Bytes travel in base64, `ttl` in nanoseconds.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from teleport.errors import BadRequest


class SSHCertsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /webapi/ssh/certs (`protocols.md` 2.2). Fields of newer clients are ignored."""

    user: str
    password: str
    pub_key: str
    otp_token: str = ""
    hotp_token: str = ""
    ttl: int = 0  # nanoseconds; 0 is the longest allowed
    compatibility: str = ""
    RouteToCluster: str = ""
    KubernetesCluster: str = ""


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
    totp_secret: str = ""
    totp_url: str = ""
    expires: str = ""


class PasswordTokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """PUT /webapi/users/password/token."""

    token: str
    password: str  # base64, as browsers send it
    second_factor_token: str = ""


class SSHAddresses(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    listen_addr: str = ""
    tunnel_listen_addr: str = ""
    public_addr: str = ""
    ssh_public_addr: str = ""
    ssh_tunnel_public_addr: str = ""


class KubeAddresses(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool = False


class ProxySettings(msgspec.Struct, frozen=True, kw_only=True):
    kube: KubeAddresses
    ssh: SSHAddresses


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    second_factor: str
    has_motd: bool = False


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

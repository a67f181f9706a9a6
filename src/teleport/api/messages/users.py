"""Messages about users and the links that make them."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.api.messages.factors import NewFactorProof


class AddUserRequest(Request, frozen=True, kw_only=True):
    name: str
    roles: list[str]
    traits: dict[str, list[str]] = {}
    ttl: float = 3600


class UpdateUserRequest(Request, frozen=True, kw_only=True):
    name: str
    roles: list[str]
    force: bool = False  # also when nobody may edit roles then


class ResetUserRequest(Request, frozen=True, kw_only=True):
    name: str
    ttl: float = 8 * 3600


class UnlockUserRequest(Request, frozen=True, kw_only=True):
    name: str


class UnlockedUser(Message, frozen=True, kw_only=True):
    was_locked: bool


class UserToken(Message, frozen=True, kw_only=True):
    """An invitation or a reset: the secret of its link is shown once, here."""

    token: str
    user: str
    url: str
    expires: datetime


class UserTokenRequest(Request, frozen=True, kw_only=True):
    token: str


class UserTokenInfo(Message, frozen=True, kw_only=True):
    """What the page behind the link shows."""

    user: str
    kind: str  # invite, reset
    cluster: str
    expires: datetime
    second_factor: str  # off, otp, webauthn, on, optional
    totp_secret: str = ""
    totp_url: str = ""


class FinishUserTokenRequest(Request, frozen=True, kw_only=True):
    token: str
    password: str
    otp_token: str = ""
    client_addr: str = ""
    proof: NewFactorProof | None = None  # of a hardware key, in place of the code
    device_name: str = ""

"""Messages about users and the links that make them."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.api.messages.factors import NewFactorProof
from teleport.api.messages.web_sessions import NewWebSession, WebSession


class AddUserRequest(Request, frozen=True, kw_only=True):
    name: str
    roles: list[str]
    traits: dict[str, list[str]] = {}
    ttl: float = 3600


class UpdateUserRequest(Request, frozen=True, kw_only=True):
    name: str
    roles: list[str]
    force: bool = False  # also when nobody may edit roles then
    traits: dict[str, list[str]] | None = None  # that the user has from now on; None: as they are
    revision: int = 0  # only if the user is still as it was then; 0: whatever it is


class ResetUserRequest(Request, frozen=True, kw_only=True):
    name: str
    ttl: float = 8 * 3600


class UnlockUserRequest(Request, frozen=True, kw_only=True):
    name: str


class UnlockedUser(Message, frozen=True, kw_only=True):
    was_locked: bool


class FindUsersRequest(Request, frozen=True, kw_only=True):
    """A page of the users that the caller may know of and that fit: each word of `search` has to stand, in whatever
    case, in the name, a role, or a trait as `name=value`."""

    search: str = ""
    sort: str = "name"  # name, login (when the user last did)
    descending: bool = False
    start: int = 0  # users that come before the page
    limit: int = 50


class FoundFactor(Message, frozen=True, kw_only=True):
    """A second factor, without what proves it."""

    name: str
    kind: str  # totp, webauthn
    added: datetime | None = None
    last_used: datetime | None = None
    passwordless: bool = False  # a passkey


class FoundUser(Message, frozen=True, kw_only=True):
    """A user, as far as a list shows it."""

    name: str
    roles: list[str]
    traits: dict[str, list[str]]
    revision: int  # for `UpdateUserRequest`
    created: datetime | None = None
    created_by: str = ""
    expires: datetime | None = None
    password: bool = False  # whether there is one
    factors: list[FoundFactor] = []
    last_login: datetime | None = None  # of the last month, with a password or a passkey
    locked_out_until: datetime | None = None  # after failed logins
    link: str = ""  # invite, reset: one that was handed out and not used yet
    link_expires: datetime | None = None
    locks: list[str] = []  # names of the locks on the user and its roles, as far as the caller may see them


class FoundUsers(Message, frozen=True, kw_only=True):
    """A page, which may be shorter than was asked: it stays below 96 kB."""

    items: list[FoundUser]
    total: int  # users that fit
    next_start: int  # where the next page begins; 0: there is none


class UserToken(Message, frozen=True, kw_only=True):
    """An invitation or a reset: the secret of its link is shown once, here."""

    token: str
    user: str
    url: str
    expires: datetime


class UserTokenRequest(Request, frozen=True, kw_only=True):
    token: str


class UserTokenChallengeRequest(UserTokenRequest, frozen=True, kw_only=True):
    passwordless: bool = False  # a passkey is to be registered


class UserTokenInfo(Message, frozen=True, kw_only=True):
    """What the page behind the link shows."""

    user: str
    kind: str  # invite, reset
    cluster: str
    expires: datetime
    second_factor: str  # off, otp, webauthn, on, optional
    totp_secret: str = ""
    totp_url: str = ""
    passwordless: bool = False  # whether a passkey may be registered


class FinishUserTokenRequest(Request, frozen=True, kw_only=True):
    token: str
    password: str
    otp_token: str = ""
    client_addr: str = ""
    proof: NewFactorProof | None = None  # of a hardware key, in place of the code
    device_name: str = ""
    session: NewWebSession | None = None  # for a browser, which is signed in by it at once


class FinishedUserToken(Message, frozen=True, kw_only=True):
    session: WebSession | None = None  # None: none was asked for, or this user may not log in now

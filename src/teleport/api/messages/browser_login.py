"""Messages about logins that tsh begins and a person answers in a browser."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.api.messages.certificates import UserCerts
from teleport.api.messages.factors import FactorResponse


class BeginBrowserLoginRequest(Request, frozen=True, kw_only=True):
    """A proxy passes on what tsh asks. `client_addr` is that of tsh, as the proxy saw it."""

    public_key: str
    ttl: float
    client_addr: str
    route_to_cluster: str = ""


class BrowserLogin(Message, frozen=True, kw_only=True):
    """A login that waits for its answer."""

    id: str
    code: str  # for tsh alone, which shows it
    client_addr: str  # where that tsh is
    expires: datetime


class BrowserLoginRequest(Request, frozen=True, kw_only=True):
    id: str


class FinishBrowserLoginRequest(Request, frozen=True, kw_only=True):
    """What a person typed on the page. `client_addr` is that of the browser."""

    id: str
    code: str
    user: str
    password: str
    otp_token: str = ""
    factor: FactorResponse | None = None
    client_addr: str = ""
    user_agent: str = ""
    passwordless: bool = False  # `factor` is a passkey's answer, which says who it is


class CollectedLogin(Message, frozen=True, kw_only=True):
    """The certificates; none as long as nobody has answered."""

    certs: UserCerts | None = None

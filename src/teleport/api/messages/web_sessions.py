"""Messages about the sessions of browsers, and about what their users change of their own."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.api.messages.certificates import UserCerts
from teleport.api.messages.factors import FactorResponse


class NewWebSession(Request, frozen=True, kw_only=True):
    """A session that a proxy wants begun. It made the session's secret and key: auth gets the public key, and the
    private one sealed with what it cannot derive (`pki.web_secret`)."""

    public_key: str  # OpenSSH line
    sealed_key: str
    proof: str  # what is derived from the secret to take the session up
    user_agent: str = ""


class BeginWebSessionRequest(Request, frozen=True, kw_only=True):
    """A proxy passes on what a person proved in a browser, with what `NewWebSession` says."""

    user: str
    password: str
    otp_token: str = ""
    factor: FactorResponse | None = None
    public_key: str
    sealed_key: str
    proof: str
    client_addr: str  # host:port
    user_agent: str = ""
    passwordless: bool = False  # `factor` is the answer of a passkey, which says who it is


class WebSessionRequest(Request, frozen=True, kw_only=True):
    """A proxy to which a browser has shown the session's cookie."""

    id: str
    proof: str
    client_addr: str = ""  # host:port of the browser


class UseWebSessionRequest(WebSessionRequest, frozen=True, kw_only=True):
    """Takes a session up, or says that it is in use."""

    certs: bool = True  # whether certificates are asked for; else it is only said that somebody is there


class EndWebSessionRequest(WebSessionRequest, frozen=True, kw_only=True):
    """Ends a session."""

    idle: bool = False  # nobody used it at this proxy: it ends if nobody did anywhere


class WebSession(Message, frozen=True, kw_only=True):
    """A browser's session."""

    id: str
    user: str
    created: datetime
    expires: datetime  # whatever is done with it until then
    factor: str  # what was proved for it, as `CertInfo.factor`
    idle_timeout: float  # seconds without use that end it; 0: none
    public_key: str = ""
    sealed_key: str = ""
    certs: UserCerts | None = None


class OwnWebSession(Message, frozen=True, kw_only=True):
    """Where the caller is logged in with a browser."""

    id: str
    created: datetime
    expires: datetime
    used: datetime  # to a minute or so
    addr: str
    user_agent: str
    factor: str


class OwnWebSessions(Message, frozen=True, kw_only=True):
    sessions: list[OwnWebSession]


class EndOwnWebSessionsRequest(Request, frozen=True, kw_only=True):
    """Ends the caller's browser sessions: the one called `id`, or all but `keep`."""

    id: str = ""
    keep: str = ""


class EndedWebSessions(Message, frozen=True, kw_only=True):
    ended: int


class ChangePasswordRequest(Request, frozen=True, kw_only=True):
    """The caller's own password. `factor` proves a device of whoever has one that counts."""

    old: str
    new: str
    factor: FactorResponse | None = None
    keep: str = ""  # the browser session that goes on; all others end

"""Messages about certificates that proxies get by ACME and share. A name at a directory has at most one of them."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request


class WebCertNamed(Request, frozen=True, kw_only=True):
    """One name at one directory."""

    name: str  # host name, lower case
    directory: str  # URL


class WebCertTurnRequest(WebCertNamed, frozen=True, kw_only=True):
    """To be the one proxy that orders. `new_key` (PEM) becomes that of the account if there is none yet."""

    new_key: str

    def __repr__(self) -> str:
        return "WebCertTurnRequest(...)"


class WebCertTurn(Message, frozen=True, kw_only=True):
    """`seconds`: for so long it is the caller's turn, or, when it is not, until it is worth asking again."""

    granted: bool
    seconds: float
    account_key: str = ""  # PEM
    account_url: str = ""

    def __repr__(self) -> str:
        return "WebCertTurn(...)"


class WebCertAccountRequest(WebCertNamed, frozen=True, kw_only=True):
    """Which account the directory made."""

    account_url: str


class WebCertChallengeRequest(WebCertNamed, frozen=True, kw_only=True):
    """What every proxy shows to the directory that looks at the name."""

    digest: str  # hex


class WebCertStoreRequest(WebCertNamed, frozen=True, kw_only=True):
    """A certificate that was issued."""

    chain: str  # PEM
    key: str  # PEM

    def __repr__(self) -> str:
        return "WebCertStoreRequest(...)"


class WebCertFailedRequest(WebCertNamed, frozen=True, kw_only=True):
    """It did not come about."""

    error: str
    seconds: float  # that the directory asks to wait


class WebCertPair(Message, frozen=True, kw_only=True):
    """A key and its chain, PEM."""

    chain: str
    key: str

    def __repr__(self) -> str:
        return "WebCertPair(...)"


class WebCertState(Message, frozen=True, kw_only=True):
    """What proxies hear of by their watch; no secret is in it."""

    name: str
    directory: str
    digest: str = ""  # of the pair, as `pki.web_chain` has it; empty until there is one
    not_before: datetime | None = None
    not_after: datetime | None = None
    challenge: str = ""  # hex
    challenge_until: datetime | None = None
    retry: datetime | None = None  # not ordered before
    failures: int = 0  # in a row
    error: str = ""  # of the last one

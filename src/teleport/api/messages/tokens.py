"""Messages about join tokens."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request


class AddTokenRequest(Request, frozen=True, kw_only=True):
    roles: list[str]
    ttl: float = 3600
    value: str = ""
    labels: dict[str, str] = {}
    single_use: bool = False
    cluster: str = ""  # the one that a token for trusted clusters is for; empty: whichever comes


class JoinToken(Message, frozen=True, kw_only=True):
    """A join token just made: the only time that its secret is shown."""

    token: str
    id: str
    roles: list[str]
    expires: datetime
    ca_pins: list[str]
    auth_servers: list[str]
    labels: dict[str, str] = {}
    single_use: bool = False
    web_addresses: list[str] = []  # where the cluster's proxies are reached
    cluster: str = ""


class JoinTokenInfo(Message, frozen=True, kw_only=True):
    """A join token as it is listed: by its public id."""

    id: str
    roles: list[str]
    expires: datetime | None
    static: bool = False
    labels: dict[str, str] = {}

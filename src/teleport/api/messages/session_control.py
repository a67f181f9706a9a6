"""Messages about counted connections: a node holds a place for each, until it lets go or does not renew it."""

from __future__ import annotations

from teleport.api.messages.base import Message, Request


class ConnectionPlace(Request, frozen=True, kw_only=True):
    """A place among the connections of a user."""

    id: str  # UUID, chosen by the node
    user: str
    most: int  # connections that the user's roles allow


class HoldConnectionRequest(ConnectionPlace, frozen=True, kw_only=True):
    """A connection begins."""


class ConnectionHeld(Message, frozen=True, kw_only=True):
    """The place is held."""

    seconds: float  # for so long, unless it is renewed


class RenewConnectionsRequest(Request, frozen=True, kw_only=True):
    """Connections go on."""

    places: list[ConnectionPlace]


class RenewedConnections(Message, frozen=True, kw_only=True):
    """The places are held, but for those that are lost: they had lapsed, and others have come."""

    seconds: float
    lost: list[str] = []  # ids


class ReleaseConnectionsRequest(Request, frozen=True, kw_only=True):
    """Connections are over."""

    places: list[ConnectionPlace]

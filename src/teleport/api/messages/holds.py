"""Messages about legal holds."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.resources.metadata import Moment


class AddHoldRequest(Request, frozen=True, kw_only=True):
    """All that is named has to fit."""

    user: str = ""
    session: str = ""
    start: Moment | None = None
    end: Moment | None = None
    reason: str


class HoldInfo(Message, frozen=True, kw_only=True):
    id: str
    reason: str
    created: datetime
    creator: str
    user: str = ""
    session: str = ""
    start: datetime | None = None
    end: datetime | None = None


class HoldList(Message, frozen=True, kw_only=True):
    holds: list[HoldInfo]


class RemoveHoldRequest(Request, frozen=True, kw_only=True):
    id: str
    reason: str

"""Events about the sessions of browsers. Ours, from T9350 on."""

from __future__ import annotations

from teleport.audit.events.base import UserEvent


class WebSessionCreate(UserEvent, frozen=True, kw_only=True, tag="web_session.create"):
    """Somebody logged in with a browser."""

    web_session: str = ""  # id of the session; it takes nothing up
    addr: str = ""  # where the browser is
    user_agent: str = ""  # what the browser says of itself
    valid_until: str = ""  # the session's end at the latest, RFC 3339


class WebSessionEnd(UserEvent, frozen=True, kw_only=True, tag="web_session.end"):
    """The session of a browser was ended before its time."""

    web_session: str = ""  # id of the session
    reason: str = ""  # logout, idle, ended elsewhere, password change, reset, too many, what was taken away
    addr: str = ""  # where whoever ended it is

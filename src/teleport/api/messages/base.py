"""What messages are made of."""

from __future__ import annotations

import msgspec

Document = msgspec.Raw  # a resource in its stored JSON form


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What auth answers. Readers accept fields they do not know, so that newer servers may say more."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of auth. Unknown fields are refused."""


class Empty(Request, frozen=True, kw_only=True):
    """A request that says nothing more than its route."""


class Done(Message, frozen=True, kw_only=True):
    """It was done. What came later has defaults: older servers leave it out."""

    name: str = ""  # of what was stored, when that is not the name that was asked for
    note: str = ""  # what a person should know of how it was done


class Named(Request, frozen=True, kw_only=True):
    """One thing of the route's kind."""

    name: str


class ErrorReply(Message, frozen=True, kw_only=True):
    """How auth refuses: the kind of `errors.py`, its sentence and the next command."""

    code: str
    message: str
    hint: str = ""
    retry_after: float = 0.0  # seconds, of a limit

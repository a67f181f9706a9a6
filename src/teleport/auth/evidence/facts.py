"""What a rule may look at of a recorded session."""

from __future__ import annotations

from typing import Protocol

from teleport.auth.caller import Caller
from teleport.auth.sessions.participants import Participants, Recorded, participants


class Known(Recorded, Protocol):
    """What has to be known of a recording: of one that is stored, of its header, or of one that was removed."""

    @property
    def login(self) -> str: ...


def facts_of(one: Known, joined: Participants | None) -> dict[str, object]:
    """What `where` may look at: always those of the recording asked for, or a condition would be asked of nothing."""
    return {"session": {"participants": participants(one, joined), "sid": one.sid, "login": one.login}}


def own(caller: Caller) -> dict[str, object]:
    """The facts of a session of the caller."""
    return {"session": {"participants": [caller.name], "sid": "", "login": ""}}

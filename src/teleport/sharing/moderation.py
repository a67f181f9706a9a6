"""Whether a session may go on with those who are in it (`authz.joining`): a small machine without IO.

A session whose user's roles ask for others to be there does not start its program before they are, and stands still or
ends as soon as they are not. `step` is asked whenever somebody came or left, or rules changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from teleport.authz.joining import Participant, Requirement, RunningSession, on_leave, unmet
from teleport.resources.joining import OnLeave


class Action(StrEnum):
    """What the session has to do now."""

    NOTHING = "nothing"
    BEGIN = "begin"  # start the program
    HOLD = "hold"  # let nothing through
    GO_ON = "go on"
    END = "end"


class Moderation:
    """The state of one session in this respect."""

    def __init__(self) -> None:
        self.begun = False  # whether the program was started, or is being started
        self.held = False  # whether nothing may pass
        self.missing: tuple[Requirement, ...] = ()

    def step(self, required: Sequence[Requirement], session: RunningSession, present: Iterable[Participant]) -> Action:
        """The action for who is present now; the state is as if it had been carried out."""
        former, self.missing = self.missing, unmet(required, session, present)
        if not self.begun:
            self.held = bool(self.missing)
            if self.missing:
                return Action.HOLD if self.missing != former else Action.NOTHING
            self.begun = True
            return Action.BEGIN
        if self.missing and on_leave(self.missing) is OnLeave.TERMINATE:
            self.held = True
            return Action.END
        held, self.held = self.held, bool(self.missing)
        if held == self.held:
            return Action.NOTHING
        return Action.HOLD if self.held else Action.GO_ON

    @property
    def told(self) -> str:
        """What is missing, for people to read."""
        return " and ".join(str(one) for one in self.missing)

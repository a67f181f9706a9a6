"""Playing a recording in a terminal: keys and waiting as a state that knows no clock, no file and no terminal.

The keys of a viewer steer the player and nothing else; what is shown has passed the sanitiser (`recording.player`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto

from teleport.recording.player import PlayStep

SPEEDS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)


class Act(Enum):
    """What the loop around the state does next."""

    SHOW = auto()
    WAIT = auto()
    STOP = auto()


@dataclass(frozen=True, slots=True)
class Playing:
    """How far playing has come. `remaining` is what is left of the pause before the next step, in seconds of the
    recording; None of it passes while `paused`."""

    speed: float = 1.0
    paused: bool = False
    stopped: bool = False
    remaining: float = 0.0

    def key(self, pressed: bytes) -> Playing:
        """The state after a viewer's keys."""
        state = self
        for key in pressed:
            match key:
                case 0x20:
                    state = replace(state, paused=not state.paused)
                case 0x2B | 0x3D:  # + and =, which is + without shift
                    state = replace(state, speed=next((s for s in SPEEDS if s > state.speed), SPEEDS[-1]))
                case 0x2D | 0x5F:
                    state = replace(state, speed=next((s for s in reversed(SPEEDS) if s < state.speed), SPEEDS[0]))
                case 0x71 | 0x51 | 0x03:  # q, Q, Ctrl-C
                    state = replace(state, stopped=True)
                case _:
                    pass
        return state

    def passed(self, seconds: float) -> Playing:
        """The state after `seconds` on the viewer's clock."""
        if self.paused:
            return self
        return replace(self, remaining=max(0.0, self.remaining - seconds * self.speed))

    def before(self, step: PlayStep) -> Playing:
        """The state in which `step` is the next one."""
        return replace(self, remaining=self.remaining + step.delay)

    def wait(self) -> tuple[Act, float | None]:
        """What to do now; for WAIT the seconds until then, None for until a key is pressed."""
        if self.stopped:
            return Act.STOP, None
        if self.paused:
            return Act.WAIT, None
        if self.remaining > 0:
            return Act.WAIT, self.remaining / self.speed
        return Act.SHOW, None


def shown_steps(steps: Iterable[PlayStep]) -> Iterator[PlayStep]:
    """`steps` without empty ones; delays of what is left out go to the next."""
    saved = 0.0
    for step in steps:
        if step.data:
            yield replace(step, delay=step.delay + saved)
            saved = 0.0
        else:
            saved += step.delay

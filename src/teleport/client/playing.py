"""Playing a recording in a terminal: keys and waiting as `plan(state, event)`, which knows no clock, file or terminal.

The keys of a viewer steer the player and nothing else; what is shown is drawn from a model of the recorded screen
(`recording.screen`). Times are microseconds since the session's start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

SPEEDS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
SECOND = 1_000_000
STEP = 5 * SECOND
LEAP = 60 * SECOND
IDLE = 1 * SECOND  # what is left of a pause when pauses are skipped
MAX_TYPED = 200
KEYS = (
    "space pause   ←/→ 5 s   [/] 1 min   g go to   +/- speed   i skip idle   / search   n/N next   . one frame   q quit"
)


class Asking(StrEnum):
    """What the viewer is typing an answer to."""

    NOTHING = ""
    SEARCH = "/"
    TIME = "go to: "


@dataclass(frozen=True, slots=True)
class Playing:
    """How far playing has come. `position` is the recording's time that has passed, `due` when its next frame comes,
    None after the last."""

    speed: float = 1.0
    skip_idle: bool = False
    paused: bool = False
    stopped: bool = False
    position: float = 0.0
    due: int | None = 0
    asking: Asking = Asking.NOTHING
    typed: str = ""
    held: str = ""  # the beginning of a key that came in pieces
    searched: str = ""
    said: bool = False

    def wait(self) -> float | None:
        """Seconds until something happens by itself; None: nothing does before a key is pressed."""
        if self.paused or self.asking or self.stopped or self.due is None:
            return None
        return max(0.0, (self.due - self.position) / SECOND / self.speed)


# --- events


@dataclass(frozen=True, slots=True)
class Keys:
    """The viewer typed."""

    text: str


@dataclass(frozen=True, slots=True)
class Passed:
    """So long on the viewer's clock."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Next:
    """The next frame is due at `due`; after a `Seek`, `position` is where it led."""

    due: int | None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to `Find`."""

    at: int | None
    line: str = ""


Event = Keys | Passed | Next | Found


# --- actions


@dataclass(frozen=True, slots=True)
class Show:
    """Take the next frame to the screen, then say what is `Next`."""


@dataclass(frozen=True, slots=True)
class Seek:
    """Go to that time, then say what is `Next`."""

    at: int


@dataclass(frozen=True, slots=True)
class Find:
    """Look for a text, then say what was `Found`."""

    text: str
    after: int
    back: bool


@dataclass(frozen=True, slots=True)
class Say:
    """The status line; empty for none."""

    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Playing is over."""


Action = Show | Seek | Find | Say | Stop
Plan = tuple[Playing, list[Action]]


def plan(state: Playing, event: Event) -> Plan:
    """What comes of an event."""
    if state.stopped:
        return state, []
    match event:
        case Passed():
            return _passed(state, event.seconds)
        case Next():
            return _next(state, event)
        case Found():
            return _found(state, event)
        case Keys():
            return _keys(state, event.text)
    assert_never(event)


def _passed(state: Playing, seconds: float) -> Plan:
    if state.wait() is None or state.due is None:
        return state, []
    position = state.position + seconds * SECOND * state.speed
    if position < state.due:
        return replace(state, position=position), []
    # time that is left over counts for the next frame, so that playing does not fall behind
    actions: list[Action] = [Say(""), Show()] if state.said else [Show()]
    return replace(state, position=min(position, state.due + SECOND * state.speed), said=False), actions


def _next(state: Playing, event: Next) -> Plan:
    sought = event.position is not None
    position = float(event.position) if event.position is not None else state.position
    state = replace(state, due=event.due, position=position)
    if event.due is None:
        if sought:
            return _say(replace(state, paused=True), f"{clock(position)}  the end; space or q quits")
        if not state.paused:
            return replace(state, stopped=True), [Stop()]
        return state, []
    if state.skip_idle and event.due - state.position > IDLE and not sought:
        state = replace(state, position=float(event.due - IDLE))
    return state, []


def _found(state: Playing, event: Found) -> Plan:
    if event.at is None:
        return _say(state, f"not found: {state.searched}")
    state, said = _say(replace(state, paused=True), f"{clock(event.at)}  {event.line}")
    return state, [Seek(event.at), *said]


def _say(state: Playing, text: str) -> Plan:
    return replace(state, said=bool(text)), [Say(text)]


_KEY = re.compile("\x1b\\[[0-9;]*[A-Za-z~]|\x1bO[A-Za-z]|.", re.DOTALL)
_PART = re.compile("\x1b(\\[[0-9;]*|O)\\Z")
_NAMES = {
    "\x1b[C": "right", "\x1bOC": "right", "\x1b[D": "left", "\x1bOD": "left", "\x1b[H": "0", "\x1bOH": "0",
    "\x1b[1~": "0", "\x1b[F": "G", "\x1bOF": "G", "\x1b[4~": "G", "\x1b[5~": "[", "\x1b[6~": "]", "\r": "enter",
    "\n": "enter", "\x1b": "escape", "\x7f": "rubout", "\b": "rubout", "\x03": "stop", "\x04": "stop",
}  # fmt: skip


def _keys(state: Playing, text: str) -> Plan:
    text = state.held + text
    part = _PART.search(text)
    held = part.group() if part is not None and len(part.group()) < 20 else ""
    state = replace(state, held=held)
    actions: list[Action] = []
    for key in _KEY.findall(text[: len(text) - len(held)]):
        name = _NAMES.get(key, key)
        state, more = _answer(state, name) if state.asking and name != "stop" else _pressed(state, name)
        actions += more
        if state.stopped:
            break
    return state, actions


def _answer(state: Playing, key: str) -> Plan:
    """A key while the viewer types an answer."""
    asked = state.asking
    if key == "escape" or (key == "rubout" and not state.typed):
        return _say(replace(state, asking=Asking.NOTHING, typed=""), "")
    if key == "rubout":
        state = replace(state, typed=state.typed[:-1])
    elif key != "enter":
        if len(key) == 1 and key.isprintable() and len(state.typed) < MAX_TYPED:
            state = replace(state, typed=state.typed + key)
    else:
        typed, state = state.typed, replace(state, asking=Asking.NOTHING, typed="")
        if asked is Asking.SEARCH:
            return _search(replace(state, searched=typed or state.searched), back=False)
        at = parse_clock(typed)
        if at is None:
            return _say(state, f"{typed} is no time; write 90, 1:30 or 1:02:03")
        state, said = _say(state, "")
        return state, [*said, Seek(at)]
    return _say(state, f"{asked}{state.typed}")


def _search(state: Playing, *, back: bool) -> Plan:
    if not state.searched:
        return _say(state, "nothing to search for; type / and a text")
    state, said = _say(state, f"searching {state.searched}")
    return state, [*said, Find(state.searched, int(state.position), back)]


def _pressed(state: Playing, key: str) -> Plan:
    at = int(state.position)
    match key:
        case "q" | "Q" | "stop":
            return replace(state, stopped=True), [Stop()]
        case " " | "p":
            if state.due is None:
                return replace(state, stopped=True), [Stop()]
            state = replace(state, paused=not state.paused)
            return _say(state, f"{clock(at)}  paused; ? shows the keys" if state.paused else "")
        case "+" | "=":
            speed = next((one for one in SPEEDS if one > state.speed), max(state.speed, SPEEDS[-1]))
            return _say(replace(state, speed=speed), f"{clock(at)}  {speed:g} times as fast")
        case "-" | "_":
            speed = next((one for one in reversed(SPEEDS) if one < state.speed), min(state.speed, SPEEDS[0]))
            return _say(replace(state, speed=speed), f"{clock(at)}  {speed:g} times as fast")
        case "i":
            state = replace(state, skip_idle=not state.skip_idle)
            if state.skip_idle and state.due is not None and state.due - state.position > IDLE:
                state = replace(state, position=float(state.due - IDLE))
            return _say(state, "pauses are skipped" if state.skip_idle else "pauses are kept")
        case "right" | "left" | "]" | "[":
            by = {"right": STEP, "left": -STEP, "]": LEAP, "[": -LEAP}[key]
            to = max(0, at + by)
            state, said = _say(state, clock(to))
            return state, [*said, Seek(to)]
        case "0":
            return _say(state, "")[0], [Say(""), Seek(0)]
        case "G":
            return _say(state, "")[0], [Say(""), Seek(2**50)]
        case "/":
            return _say(replace(state, asking=Asking.SEARCH), Asking.SEARCH)
        case "g":
            return _say(replace(state, asking=Asking.TIME), Asking.TIME)
        case "n" | "N":
            return _search(state, back=key == "N")
        case "." if state.due is not None:
            state, said = _say(replace(state, paused=True, position=float(state.due)), clock(state.due))
            return state, [*said, Show()]
        case "?" | "h":
            return _say(state, KEYS)
        case _:
            return state, []


def clock(time: float) -> str:
    """`1:02:03` or `2:03`."""
    seconds = int(time // SECOND)
    minutes, hours = seconds // 60 % 60, seconds // 3600
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def parse_clock(text: str) -> int | None:
    """Microseconds of `90`, `1:30`, `1:02:03` or `1:30.5`; None for anything else."""
    if not re.fullmatch(r"(?:\d{1,5}:)?(?:\d{1,5}:)?\d{1,9}(?:\.\d{1,6})?", text.strip()):
        return None
    total = 0.0
    for part in text.strip().split(":"):
        total = total * 60 + float(part)
    return round(total * SECOND)

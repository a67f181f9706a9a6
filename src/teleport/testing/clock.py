"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class FakeClock:
    """Implements `teleport.clock.Clock`. May be read from any thread; moved from one."""

    def __init__(self, now: datetime = START) -> None:
        if now.tzinfo is None:
            raise ValueError("a clock starts at an aware time")
        self._start = now.astimezone(UTC)
        self._elapsed = 0.0  # seconds that passed, as the monotonic clock sees them
        self._jumped = timedelta()  # how far the wall clock was moved on top of that

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed) + self._jumped

    def monotonic(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks; it never goes back."""
        if seconds < 0:
            raise ValueError("time passes forwards only; use jump to set the wall clock")
        self._elapsed += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or (negative) back, as an administrator or NTP does; monotonic time stays."""
        self._jumped += timedelta(seconds=seconds)

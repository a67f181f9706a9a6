"""What is going on, for a person who waits longer than a second: one line on stderr that disappears at the end.

Scripts never see it: it needs a terminal at stderr, and stdout is not touched.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AFTER = 1.0  # seconds until it shows
EVERY = 0.5  # seconds between changes


@contextmanager
def progress(what: str, unit: str = "", *, after: float = AFTER, total: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows `what` while the block runs longer than `after` seconds. It is handed a function that takes how many `unit`
    are done so far: bytes are shown as MB. With `total`, how many there will be, the part that is done is shown."""
    done = [0]
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield lambda count: None
        return
    over = threading.Event()
    begun = time.monotonic()

    def show() -> None:
        wait = after
        while not over.wait(wait):
            wait = EVERY
            sys.stderr.write(f"\r\x1b[K{_line(what, unit, done[0], time.monotonic() - begun, total)}")
            sys.stderr.flush()
        if time.monotonic() - begun >= after:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def count(so_far: int) -> None:
        done[0] = so_far

    shower = threading.Thread(target=show, name="progress", daemon=True)
    shower.start()
    try:
        yield count
    finally:
        over.set()
        shower.join()


def _line(what: str, unit: str, count: int, seconds: float, total: int = 0) -> str:
    counted = ""
    if unit and count:
        counted = f" {count / 1e6:.1f} MB" if unit == "bytes" else f" {count} {unit}"
        if total and unit == "bytes":
            part, speed = min(100, 100 * count // total), count / 1e6 / max(seconds, 0.001)
            counted = f" {part}% of {total / 1e6:.1f} MB, {speed:.1f} MB/s,"
    return f"{what}:{counted} {seconds:.0f} s"

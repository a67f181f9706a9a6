"""What SIGUSR1 writes to the log: what this process is, holds and does. Names, numbers and places in the code only.

No value of a variable, no header, key, token or content of a session can come into it: of tasks it takes the name and
where they wait, of caches the sizes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

NAMED = 5  # tasks of one place that are named
SOURCE = str(Path(__file__).parent.parent.parent)


def lines(facts: Mapping[str, str]) -> Iterator[str]:
    """The entries of a dump; `facts` are what the daemon knows of its parts. To be called in the loop's thread."""
    yield f"diagnostics of pid {os.getpid()}: " + "; ".join(f"{name}: {value}" for name, value in facts.items())
    objects = sum(gc.get_count()) + gc.get_freeze_count()
    yield f"memory: {_memory()}; open descriptors {_descriptors()}; new and frozen objects {objects}"
    threads = ", ".join(sorted(thread.name for thread in threading.enumerate()))
    yield f"threads {threading.active_count()}: {threads}"
    tasks = asyncio.all_tasks()
    yield f"tasks {len(tasks)}"
    places: dict[str, list[str]] = {}
    for task in tasks:
        places.setdefault(_where(task), []).append(task.get_name())
    for names, place in sorted((sorted(names), place) for place, names in places.items()):
        # one entry a place: thousands of connections wait in a few of them
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"task {', '.join(names[:NAMED])}{more}: {place}"


def _where(task: asyncio.Task[object]) -> str:
    """The places where a task waits, the innermost last."""
    places = []
    coroutine: object | None = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is None:
            break
        name = frame.f_code.co_filename.removeprefix(SOURCE).lstrip("/")
        places.append(f"{name}:{frame.f_lineno} {frame.f_code.co_name}")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return " > ".join(places) or "not begun or ended"


def _memory() -> str:
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM", "VmSwap"):
            found[name] = value.strip()
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))

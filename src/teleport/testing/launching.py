"""A launcher of the test's own process, forked while that has neither threads nor a loop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from teleport.launcher import LauncherEnd, start


@contextmanager
def forked_launcher(*, seconds: float = 20) -> Iterator[LauncherEnd]:
    """Ends with every session when left, and is reaped.

    A joined thread of an earlier test may take a moment to go; one that stays for `seconds` was leaked and is named.
    """
    deadline = time.monotonic() + seconds
    while len(os.listdir("/proc/self/task")) > 1:
        if time.monotonic() > deadline:
            names = [_name(task) for task in os.listdir("/proc/self/task")]
            raise AssertionError(f"an earlier test left a thread, and a process with threads cannot fork this: {names}")
        time.sleep(0.001)
    end = start()
    try:
        yield end
    finally:
        end.socket.close()
        with suppress(ChildProcessError):  # the test has done it
            os.waitpid(end.pid, 0)


def _name(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            return file.read().strip()
    except OSError:
        return "gone"

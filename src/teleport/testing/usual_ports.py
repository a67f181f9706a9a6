"""The ports that a cluster has when its configuration names none. Whoever starts one with them on this machine's
loopback holds them: lists of tests run side by side."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def usual_ports() -> Iterator[None]:
    """Waits until nobody else of this account's tests has them."""
    with (Path(tempfile.gettempdir()) / f"teleport-tests-usual-ports-{os.geteuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

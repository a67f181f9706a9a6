"""A launcher for each test that starts sessions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from teleport.launcher import LauncherEnd, start


@pytest.fixture
def launcher_end() -> Iterator[LauncherEnd]:
    """Forked before the test's loop; ended with every session when the test is over."""
    end = start()
    yield end
    end.socket.close()
    with contextlib.suppress(ChildProcessError):  # the test reaped it
        os.waitpid(end.pid, 0)

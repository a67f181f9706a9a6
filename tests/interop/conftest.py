"""A launcher for each test that starts sessions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from teleport.launcher import LauncherEnd
from teleport.testing.launching import forked_launcher


@pytest.fixture
def launcher_end() -> Iterator[LauncherEnd]:
    """Forked before the test's loop; ended with every session when the test is over."""
    with forked_launcher() as end:
        yield end

"""What `make dist` writes, built once for all tests that install or run it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from tests.dist import building


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it."""
    if why := building.why_not():
        pytest.skip(why)
    return building.published(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def login() -> str:
    """The Unix account whose sessions a daemon of this process's user may start."""
    return pwd.getpwuid(os.geteuid()).pw_name

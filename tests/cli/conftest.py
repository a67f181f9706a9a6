"""A cluster's web address for the tests of a file, and a tsh that has logged in there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cli.tsh_runner import Tsh

from teleport.testing.web_lab import CODE, PASSWORD, WebLab, running_web_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebLab]:
    with running_web_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="module")
def tsh(tmp_path_factory: pytest.TempPathFactory, lab: WebLab) -> Tsh:
    runner = Tsh(tmp_path_factory.mktemp("user"))
    login = ["login", f"--proxy={lab.address}", "--user=alice", f"--ca-pin={lab.cluster.pin}"]
    assert runner(*login, stdin=f"{PASSWORD}\n{CODE}\n").status == 0
    return runner

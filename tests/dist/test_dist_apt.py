"""Packages that set-up and tests need: another apt that runs is waited for, on its real locks."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

APT = Path(__file__).resolve().parents[2] / "scripts" / "apt.sh"


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """What apt keeps, in a place of its own that knows no source: nothing is fetched or changed."""
    if shutil.which("apt-get") is None:
        pytest.skip("there is no apt-get here")
    for folder in ("state/lists/partial", "dpkg", "cache/archives/partial", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy2("/var/lib/dpkg/status", tmp_path / "dpkg/status")
    (tmp_path / "apt.conf").write_text(
        f'Dir::State "{tmp_path}/state";\nDir::State::status "{tmp_path}/dpkg/status";\n'
        f'Dir::Cache "{tmp_path}/cache";\n'
        f'Dir::Etc::SourceList "/dev/null";\nDir::Etc::SourceParts "{tmp_path}/empty";\nAPT::Sandbox::User "root";\n'
    )
    return tmp_path


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """As another apt holds it."""
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def begin(places: Path, patience: int) -> subprocess.Popen[str]:
    """Has nothing to do but to take the locks: the package is there."""
    environment = {**os.environ, "APT_CONFIG": str(places / "apt.conf"), "TELEPORT_APT_PATIENCE": str(patience)}
    words = [str(APT), "trial", "dpkg"]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("lock", ["state/lists/lock", "dpkg/lock-frontend"])
def test_another_apt_is_waited_for_and_told_of(places: Path, lock: str) -> None:
    with held(places / lock):
        waiting = begin(places, 60)
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "trial: another apt or dpkg runs: waiting until it has ended\n"
        assert waiting.poll() is None
    said, error = waiting.communicate(timeout=60)
    assert (waiting.returncode, said, error) == (0, "", "")


def test_it_is_not_waited_for_without_an_end(places: Path) -> None:
    with held(places / "state/lists/lock"):
        _, error = begin(places, 0).communicate(timeout=60)
    assert "another apt or dpkg has run for 0 s; see who (fuser -v /var/lib/dpkg/lock-frontend)" in error


def test_what_apt_cannot_do_is_told_at_once(places: Path) -> None:
    environment = {**os.environ, "APT_CONFIG": str(places / "apt.conf")}
    words = [str(APT), "trial", "no-such-package-anywhere"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("trial: apt-get install failed: E: Unable to locate package no-such-package-anywhere")

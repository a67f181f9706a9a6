"""`tsh scp` as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.tsh_runner import Tsh


@pytest.fixture
def tsh(tmp_path: Path) -> Tsh:
    return Tsh(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["host:x"], "one path is no copy"),
        (["a", "b"], "no path names a host"),
        (["./a:b", "c"], "no path names a host"),
        (["", "host:x"], "an empty path"),
        (["-o", "ProxyJump=x", "a", "host:b"], "is no option of tsh"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(tsh: Tsh, arguments: list[str], said: str) -> None:
    ran = tsh("scp", *arguments)
    assert (ran.status, ran.stdout) == (2, "")
    assert said in ran.stderr

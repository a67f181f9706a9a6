"""OpenSSH's own regression scripts pass against our node (threat T62). The list of them: `openssh_regress`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cluster.cluster_packages import install
from tests.interop.openssh_regress import HOST, LEFT_OUT, QUICK, RUN, SUITE, Suite

from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.testing.loopback import free_port
from teleport.testing.ssh_lab import running_lab

SECONDS = 600.0


@pytest.fixture(scope="module", autouse=True)
def suite_installed() -> None:
    if not SUITE.is_dir() and (problem := install("openssh-tests", "OpenSSH's regression suite")):
        pytest.skip(problem)


def test_every_script_of_the_suite_is_run_or_left_out_for_a_reason() -> None:
    assert not RUN.keys() & LEFT_OUT.keys()
    assert {path.stem for path in SUITE.glob("*.sh")} <= RUN.keys() | LEFT_OUT.keys()
    assert set(QUICK) <= RUN.keys()


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in sorted(RUN)]
)
async def test_a_script_passes(launcher_end: LauncherEnd, tmp_path: Path, name: str) -> None:
    async with running_lab(Launcher(launcher_end), hostname=HOST) as lab:
        outcome = await Suite(lab, tmp_path, free_port()).run(name, SECONDS)
    assert "skipped" not in outcome.text.lower(), outcome.text
    assert outcome.status == 0, outcome.text


async def test_a_script_can_fail(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """The checker: when the node refuses, the script says so."""
    async with running_lab(Launcher(launcher_end), hostname=HOST) as lab:
        lab.rules.role = type(lab.rules)(["somebody-else"]).role
        outcome = await Suite(lab, tmp_path, free_port()).run("connect", SECONDS)
    assert outcome.status != 0
    assert "ssh direct connect failed" in outcome.text

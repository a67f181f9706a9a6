"""Sessions on a node, reached with the real `ssh` through the proxy."""

from __future__ import annotations

import getpass
from pathlib import Path

from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.testing.ssh_lab import run_client, running_lab

ME = getpass.getuser()


async def test_a_command_runs_through_the_proxys_subsystem_and_its_status_comes_back(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """The main path: ssh, proxy subsystem, vouched connection, node, launcher."""
    launcher = Launcher(launcher_end)
    async with running_lab(launcher) as lab:
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        ran = await run_client("ssh", "-F", str(config), "node1", "echo out; echo err >&2; exit 3")
    launcher.close()
    assert (ran.status, ran.stdout, ran.stderr) == (3, b"out\n", "err\n")

"""What a client that was killed leaves behind at the proxy."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path

from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.testing.ssh_lab import running_lab


async def test_a_jump_ends_once_nothing_can_pass_any_more(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`ssh -W` whose `ssh` is gone: both sides have ended, so the channel is closed, not only half."""
    async with running_lab(Launcher(launcher_end)) as lab:
        me = getpass.getuser()
        config = lab.client_config(tmp_path, lab.authorities.user([me]), me)
        target = f"{lab.node_host.hostname}:22"
        for said in (b"", b"SSH-2.0-gone\r\n"):
            process = await asyncio.create_subprocess_exec(
                "ssh", "-F", str(config), "-W", target, "proxy",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(said)
            async with asyncio.timeout(20):
                assert (await process.stdout.readline()).startswith(b"SSH-2.0-")
                process.stdin.close()
                await process.stdout.read()
                assert await process.wait() == 0

"""`tsh proxy ssh` as OpenSSH's ProxyCommand: by OpenSSH's client, and where there is none by ourselves."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_tsh_ssh import ME, log_in, run
from tests.cli.tsh_runner import PROGRAM, Tsh

from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.testing.launching import forked_launcher
from teleport.testing.ssh_lab import running_lab


@pytest.fixture
def launcher_end() -> Iterator[LauncherEnd]:
    with forked_launcher() as end:
        yield end


@pytest.fixture
def tsh(tmp_path: Path) -> Tsh:
    folder = tmp_path / "a home"
    folder.mkdir()
    return Tsh(folder)


@pytest.mark.parametrize("by", ["ssh", "ourselves"])
async def test_plain_ssh_reaches_hosts_by_it(launcher_end: LauncherEnd, tsh: Tsh, by: str) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        program = " ".join(map(shlex.quote, PROGRAM))
        path = "/usr/bin/env PATH=/nonexistent " if by == "ourselves" else ""
        lines = [
            f"    ProxyCommand {path}{program} proxy ssh %r@%h:%p" if "ProxyCommand" in line else line
            for line in (await run(tsh, "config")).stdout.splitlines()
        ]
        config = tsh.folder / "ssh_config"
        config.write_text("\n".join(lines) + "\n")

        async def plain(host: str, command: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
            words = [str(shutil.which("ssh")), "-F", str(config), "-o", "BatchMode=yes", f"{ME}@{host}", command]
            return await asyncio.to_thread(
                subprocess.run, words, env=tsh.environment(), input=data, capture_output=True, timeout=60, check=False
            )

        ran = await plain("node1.lab.test", "cat; exit 4", b"through" * 100_000)
        assert (ran.returncode, ran.stdout, ran.stderr) == (4, b"through" * 100_000, b"")
        gone = await plain("node2.lab.test", "true")
        assert gone.returncode == 255
        assert b"No node node2 is registered" in gone.stderr


@pytest.mark.parametrize(("target", "said"), [("@x", "names no host"), ("a b", "is not"), ("", "names no host")])
def test_what_is_no_host_is_refused(tsh: Tsh, target: str, said: str) -> None:
    ran = tsh("proxy", "ssh", target)
    assert ran.status in (2, 5)
    assert said in ran.stderr or "not logged in" in ran.stderr


def test_who_is_not_logged_in_is_told_so(tsh: Tsh) -> None:
    ran = tsh("proxy", "ssh", "root@node1:22")
    assert (ran.status, ran.stdout) == (5, "")
    assert "you are not logged in" in ran.stderr

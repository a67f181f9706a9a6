"""Rules about files against the real `scp`, by both of its protocols: sizes, homes of others, roles that change."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
from pathlib import Path

import pytest
from tests.node.test_node_sftp import config_of, lab_of, rules

from teleport.audit.events import Scp, Sftp
from teleport.launcher import LauncherEnd
from teleport.testing.running import Ran, run_client, wait_until
from teleport.testing.ssh_lab import Lab


def file_of(account: str) -> Path:
    """A file in the home of another account."""
    home = pwd.getpwnam(account).pw_dir
    with os.scandir(home) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and entry.stat().st_size > 1:
                return Path(entry.path)
    pytest.skip(f"the account {account} has no file in its home {home}")


@pytest.mark.parametrize("mode", ["-O", "-s"], ids=["scp", "sftp"])
async def test_a_word_for_another_home_is_a_path_like_any_other(
    launcher_end: LauncherEnd, tmp_path: Path, mode: str
) -> None:
    """`~other/file` is expanded on the node; the rules then judge where it lies, and tell nothing of who has a home."""
    theirs, target = file_of("daemon"), tmp_path / "got"
    size = theirs.stat().st_size

    async def fetch(lab: Lab, account: str) -> Ran:
        word = f"direct:~{account}/{theirs.name}"
        return await run_client("scp", mode, "-F", config_of(lab, tmp_path), word, str(target))

    async with lab_of(launcher_end) as lab:
        for options in ({}, rules(max_file_size=size)):
            lab.rules.options(**options)
            ran = await fetch(lab, "daemon")
            assert (ran.status, target.read_bytes() == theirs.read_bytes()) == (0, True), ran.stderr
            target.unlink()
        lab.rules.options(**rules(max_file_size=size - 1))
        ran = await fetch(lab, "daemon")
        assert (ran.status, target.exists()) == (1, False)
        assert f"your roles allow files of at most {size - 1} bytes" in ran.stderr
        for named in (
            {"deny_paths": (str(theirs),)},
            {"download_paths": ("~/**",)},
        ):
            lab.rules.options(**rules(**named))
            there, missing = [await fetch(lab, account) for account in ("daemon", "nobody-of-that-name")]
            assert (there.status, target.exists()) == (1, False), named
            told = missing.stderr.replace("nobody-of-that-name", "daemon")
            assert (missing.status, told) == (there.status, there.stderr), "nor whether there is such an account"


@pytest.mark.parametrize("mode", ["-O", "-s"], ids=["scp", "sftp"])
async def test_sizes_bind_scp_by_both_protocols(launcher_end: LauncherEnd, tmp_path: Path, mode: str) -> None:
    (tmp_path / "to").mkdir()
    async with lab_of(launcher_end, **rules(max_file_size=100_000)) as lab:
        for size, good in ((100_000, True), (100_001, False)):
            source = tmp_path / f"source-{size}"
            source.write_bytes(b"x" * size)
            for place, here in ((f"direct:{tmp_path}/to/{size}", False), (str(tmp_path / f"down-{size}"), True)):
                words = (f"direct:{source}", place) if here else (str(source), place)
                ran = await run_client("scp", mode, "-F", config_of(lab, tmp_path), *words)
                assert (ran.status == 0) is good, ran.stderr
                assert good or re.search("files of at most 100000 bytes|Your roles do not allow upload of", ran.stderr)
        assert [one.name for one in (tmp_path / "to").iterdir() if one.stat().st_size > 100_000] == []
        assert (tmp_path / "to" / "100000").stat().st_size == (tmp_path / "down-100000").stat().st_size == 100_000


@pytest.mark.parametrize("mode", ["-O", "-s"], ids=["scp", "sftp"])
@pytest.mark.parametrize("way", ["upload", "download"])
async def test_a_role_that_changes_ends_what_scp_moves(
    launcher_end: LauncherEnd, tmp_path: Path, way: str, mode: str
) -> None:
    """Threat T50, with the real program and a line that is slow: it fails at once, and nothing more has moved."""
    size = 64 << 20
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(size)
    async with lab_of(launcher_end) as lab:
        words = (f"direct:{source}", target) if way == "download" else (source, f"direct:{target}")
        process = await asyncio.create_subprocess_exec(
            "scp", mode, "-l", "48000", "-F", config_of(lab, tmp_path), *words, stderr=asyncio.subprocess.PIPE
        )
        try:
            await wait_until(lambda: target.exists() and target.stat().st_size > 0)
            lab.rules.options(**rules(**{way: False}))
            lab.node.reconsider()
            async with asyncio.timeout(20):
                _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        assert process.returncode not in (0, None)
        assert f"Your roles do not allow {way} of" in said.decode() or mode == "-s", said
        events = [one for one in lab.events.all if isinstance(one, Sftp | Scp)]
        assert [(one.error, one.direction if isinstance(one, Sftp) else one.action) for one in events] == [
            (f"role 'access' does not allow {way}s", way)
        ]
        assert 0 < events[0].size < size
        if way == "upload":
            assert target.stat().st_size == events[0].size

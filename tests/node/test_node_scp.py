"""scp's own protocol and rsync on a node: real clients, hostile ones, and the same answers as over SFTP."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.node.test_node_sftp import config_of, lab_of, rules, sha

from teleport.audit.events import Exec, Rsync, Scp, SessionRequestDenied, Sftp
from teleport.launcher import LauncherEnd
from teleport.resources.role import ExecMode
from teleport.testing.running import Ran, run_client, wait_until
from teleport.testing.ssh_lab import Lab

RSYNC = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")


def advice(**fields: Any) -> dict[str, Any]:
    """Rules about transfers of a role that gives a shell, too."""
    return {**rules(**fields), "exec": ExecMode.ALL}


def scp_events(lab: Lab) -> list[Scp]:
    return [event for event in lab.events.all if isinstance(event, Scp)]


async def legacy(lab: Lab, folder: Path, *arguments: str) -> Ran:
    return await run_client("scp", "-O", "-F", config_of(lab, folder), *arguments)


async def rsync(lab: Lab, folder: Path, *arguments: str) -> Ran:
    return await run_client("rsync", "-e", f"ssh -F {config_of(lab, folder)}", *arguments)


async def talk(lab: Lab, folder: Path, command: str, sent: bytes) -> Ran:
    """A client that speaks scp's protocol as it pleases."""
    return await run_client("ssh", "-F", config_of(lab, folder), "direct", command, stdin=sent)


async def test_files_come_and_go_with_their_hashes_on_record(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Done-when 1, of the legacy protocol; the codes say which way (T3004, T3005)."""
    data = random.Random(4).randbytes(700_001)
    (tmp_path / "a b").write_bytes(data)
    async with lab_of(launcher_end) as lab:
        up = await legacy(lab, tmp_path, str(tmp_path / "a b"), f"direct:{tmp_path}/c")
        down = await legacy(lab, tmp_path, f"direct:{tmp_path}/[c]", str(tmp_path / "d"))
        assert (up.status, down.status) == (0, 0), up.stderr + down.stderr
        assert (tmp_path / "c").read_bytes() == data == (tmp_path / "d").read_bytes()
        first, second = scp_events(lab)
        assert (first.code, first.action, second.code, second.action) == ("T3005I", "upload", "T3004I", "download")
        for event in (first, second):
            assert (event.path, event.size, event.sha256, event.exit_code) == (
                str(tmp_path / "c"), len(data), sha(data), "0",
            )  # fmt: skip
        assert first.command == f"scp -t {tmp_path}/c"
        ran = await lab.events.wait_for("exec", 2)
        assert [event.exit_code for event in ran if isinstance(event, Exec)] == ["0", "0"]
        assert [one.size for recording in lab.recordings.all for one in recording.files] == [len(data)] * 2
        assert not any(recording.stdout for recording in lab.recordings.all)


async def test_trees_keep_modes_and_times(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "f").write_bytes(b"x" * 300_000)
    (source / "empty").touch(mode=0o400)
    os.utime(source / "empty", (1_600_000_000, 1_600_000_003))
    os.utime(source / "deep" / "f", (1_600_000_000, 1_600_000_001))
    (source / "deep").chmod(0o750)
    os.utime(source / "deep", (1_600_000_000, 1_600_000_002))
    async with lab_of(launcher_end) as lab:
        up = await legacy(lab, tmp_path, "-rp", str(source), f"direct:{tmp_path}/up")
        down = await legacy(lab, tmp_path, "-rp", f"direct:{tmp_path}/up", str(tmp_path / "down"))
        assert (up.status, down.status) == (0, 0), up.stderr + down.stderr
        for name in ("deep", "deep/f", "empty"):
            first = (source / name).stat()
            for copied in (tmp_path / "up" / name, tmp_path / "down" / name):
                assert (copied.stat().st_mode, copied.stat().st_mtime) == (first.st_mode, first.st_mtime), copied
        assert [event.operation for event in scp_events(lab)].count("mkdir") == 2
        missing = await legacy(lab, tmp_path, f"direct:{tmp_path}/none*", str(tmp_path / "x"))
        assert missing.status == 1
        assert "No such file or directory" in missing.stderr
        assert scp_events(lab)[-1].code == "T3004E"


@pytest.mark.parametrize(
    "sent",
    [
        b"C0644 1 ../x\nx\0", b"C0644 1 /x\nx\0", b"C0644 -1 x\n", b"D0755 0 d\nC0644 1 x\nx\0", b"C0644 1 ..\nx\0",
        b"C0644 99999999999999999999 x\n", b"E\n", b"x" * 20_000, b"T1 0 1\n", b"C0644 5 x\nab",
    ],
)  # fmt: skip
async def test_a_hostile_client_leaves_nothing_outside(launcher_end: LauncherEnd, tmp_path: Path, sent: bytes) -> None:
    """Threat T49: what the protocol does not allow ends it, whatever came before."""
    inside = tmp_path / "in"
    inside.mkdir()
    async with lab_of(launcher_end) as lab:
        ran = await talk(lab, tmp_path, f"scp -t {inside}", sent)
        assert ran.status not in (0, None)
        assert sorted(os.listdir(tmp_path)) == ["client", "in"]
        assert set(os.listdir(inside)) <= {"x"}
        if os.listdir(inside):
            (event,) = scp_events(lab)
            assert (event.code, event.error) == ("T3005E", "the client stopped sending")


async def test_paths_are_judged_where_links_lead(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Threat T49, T50: as over SFTP."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "folder").symlink_to(outside)
    (inside / "link").symlink_to(outside / "secret")
    (inside / "ok").write_text("ok")
    paths = (f"{inside}/**",)
    async with lab_of(launcher_end, **rules(download_paths=paths, upload_paths=paths)) as lab:
        for path in (outside / "secret", inside / "link", inside / "folder/secret", f"{inside}/../out/s*"):
            ran = await legacy(lab, tmp_path, f"direct:{path}", str(tmp_path / "got"))
            assert ran.status == 1, path
            assert "Your roles do not allow" in ran.stderr or "No such file" in ran.stderr, ran.stderr
        ran = await legacy(lab, tmp_path, "-r", f"direct:{inside}", str(tmp_path / "got"))
        assert ran.status == 1
        assert sorted(os.listdir(tmp_path / "got")) == ["ok"]
        for path in (outside, outside / "new", inside / "link", inside / "folder", inside / "folder/new"):
            ran = await legacy(lab, tmp_path, str(inside / "ok"), f"direct:{path}")
            assert ran.status == 1, path
        ran = await legacy(lab, tmp_path, "-r", str(tmp_path / "got"), f"direct:{inside}/folder")
        assert ran.status == 1
        assert os.listdir(outside) == ["secret"]
        assert (outside / "secret").read_text() == "secret"


async def test_folders_that_are_there_are_asked_about_and_told(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Threat T49, T50: a link does not lead modes and times to a folder that the rules leave out."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir(mode=0o755)
    (inside / "folder").symlink_to(outside)
    paths = (f"{inside}/**",)
    async with lab_of(launcher_end, **rules(download_paths=paths, upload_paths=paths)) as lab:
        before = outside.stat()
        ran = await talk(lab, tmp_path, f"scp -r -p -t {inside}", b"T1 0 1 0\nD0777 0 folder\nE\n")
        assert ran.status == 1
        assert (outside.stat().st_mode, outside.stat().st_mtime) == (before.st_mode, before.st_mtime)
        ran = await talk(lab, tmp_path, f"scp -r -p -t {inside}", b"T1 0 1 0\nD0700 0 sub\nE\n")
        assert ran.status == 0
        assert (await talk(lab, tmp_path, f"scp -d -t {inside}", b"")).status == 0
        ran = await talk(lab, tmp_path, f"scp -d -t {outside}", b"")
        assert ran.status == 1
        assert b"Your roles do not allow" in ran.stdout
        ran = await talk(lab, tmp_path, f"scp -d -t {tmp_path}/none", b"")
        assert ran.status == 1
        ran = await talk(lab, tmp_path, f"scp -f {outside}", b"\0")
        assert ran.status == 1
        assert b"Your roles do not allow" in ran.stdout
        assert [(event.operation, event.path, event.error != "") for event in scp_events(lab)] == [
            ("mkdir", str(outside), True),
            ("setstat", str(inside / "sub"), False),
            ("write", str(outside), True),
            ("write", f"{tmp_path}/none", True),
            ("read", str(outside), True),
        ]


async def sftp_put(lab: Lab, folder: Path, source: Path, target: Path) -> Ran:
    return await run_client(
        "sftp", "-F", config_of(lab, folder), "-b", "-", "direct", stdin=f"put {source} {target}\n".encode()
    )


async def sftp_get(lab: Lab, folder: Path, source: Path, target: Path) -> Ran:
    return await run_client(
        "sftp", "-F", config_of(lab, folder), "-b", "-", "direct", stdin=f"get {source} {target}\n".encode()
    )


@RSYNC
@pytest.mark.parametrize("allowed", ["download", "upload"])
async def test_one_way_is_open_and_the_other_is_not_whatever_the_client_speaks(
    launcher_end: LauncherEnd, tmp_path: Path, allowed: str
) -> None:
    """Done-when 2, threat T50: sftp, both protocols of scp, and rsync."""
    (tmp_path / "a").write_text("a")
    denied = "upload" if allowed == "download" else "download"
    async with lab_of(launcher_end, **rules(**{denied: False})) as lab:
        here, there = tmp_path / "a", tmp_path / "there"
        there.mkdir()
        for name in ("sftp", "scp", "scp-O", "rsync"):
            up, down = there / f"up-{name}", tmp_path / f"down-{name}"
            match name:
                case "sftp":
                    ran_up = await sftp_put(lab, tmp_path, here, up)
                    ran_down = await sftp_get(lab, tmp_path, here, down)
                case "rsync":
                    ran_up = await rsync(lab, tmp_path, "-a", str(here), f"direct:{up}")
                    ran_down = await rsync(lab, tmp_path, "-a", f"direct:{here}", str(down))
                case _:
                    options = ["-O"] if name == "scp-O" else []
                    config = config_of(lab, tmp_path)
                    ran_up = await run_client("scp", *options, "-F", config, str(here), f"direct:{up}")
                    ran_down = await run_client("scp", *options, "-F", config, f"direct:{here}", str(down))
            good, bad = (ran_down, ran_up) if allowed == "download" else (ran_up, ran_down)
            assert good.status == 0, (name, good.stderr)
            assert bad.status != 0, name
            assert f"Your roles do not allow {denied} of" in bad.stderr, name
            assert up.exists() is (allowed == "upload"), name
            assert down.exists() is (allowed == "download"), name
        reason = f"role 'access' does not allow {denied}s"
        refused = [event for event in lab.events.all if isinstance(event, Sftp) and event.error == reason]
        assert len(refused) == 2
        asked = [event for event in lab.events.all if isinstance(event, SessionRequestDenied)]
        assert len([event for event in asked if reason in event.reason]) == 2
        moved = await lab.events.wait_for("rsync")
        assert [(event.action, event.exit_code, event.code) for event in moved if isinstance(event, Rsync)] == [
            (allowed, "0", "T9221I")
        ]


@RSYNC
@pytest.mark.parametrize("way", ["download_paths", "upload_paths", "deny_paths"])
async def test_rsync_is_refused_where_roles_name_paths(launcher_end: LauncherEnd, tmp_path: Path, way: str) -> None:
    """Its protocol names files that nobody could judge: filters that merge any file, links."""
    (tmp_path / "f").write_text("f")
    async with lab_of(launcher_end, **rules(**{way: (f"{tmp_path}/x/**",)})) as lab:
        for arguments in ((f"direct:{tmp_path}/f", f"{tmp_path}/got"), (f"{tmp_path}/f", f"direct:{tmp_path}/got")):
            ran = await rsync(lab, tmp_path, "-a", *arguments)
            assert ran.status != 0
            assert "rsync cannot be held to the paths that your roles name; use sftp or scp" in ran.stderr
        assert not (tmp_path / "got").exists()
        denied = [event.reason for event in lab.events.all if isinstance(event, SessionRequestDenied)]
        assert len([why for why in denied if "cannot be held to the paths" in why]) == 2


@RSYNC
async def test_rsync_writes_in_place_only_where_there_is_a_shell(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Else what it writes to might be a process's memory."""
    (tmp_path / "f").write_text("f")
    async with lab_of(launcher_end, exec=ExecMode.TRANSFER) as lab:
        for option in ("--inplace", "--append", "--append-verify", "--delay-updates"):
            ran = await rsync(lab, tmp_path, option, f"{tmp_path}/f", f"direct:{tmp_path}/got")
            assert "Your roles do not allow rsync with --inplace" in ran.stderr
        assert not (tmp_path / "got").exists()
        assert (await rsync(lab, tmp_path, f"{tmp_path}/f", f"direct:{tmp_path}/got")).status == 0


@RSYNC
async def test_rsync_with_a_shell_stays_in_the_paths_that_rules_name(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "sub", outside):
        folder.mkdir(parents=True)
    (inside / "sub" / "f").write_text("f")
    (outside / "secret").write_text("secret")
    (inside / "folder").symlink_to(outside)
    (inside / "link").symlink_to(outside / "secret")
    paths = (f"{inside}/**",)
    async with lab_of(launcher_end, **advice(download_paths=paths, upload_paths=paths)) as lab:
        ran = await rsync(lab, tmp_path, "-a", f"direct:{inside}/sub/", str(tmp_path / "got"))
        assert (ran.status, os.listdir(tmp_path / "got")) == (0, ["f"]), ran.stderr
        ran = await rsync(lab, tmp_path, "-a", f"{tmp_path}/got/", f"direct:{inside}/sub")
        assert ran.status == 0, ran.stderr
        for source in (outside, f"{inside}/folder/", f"{inside}/folder/secret", f"{inside}/../out/secret"):
            ran = await rsync(lab, tmp_path, "-a", f"direct:{source}", str(tmp_path / "bad"))
            assert ran.status != 0, source
            assert "Your roles do not allow download of" in ran.stderr, ran.stderr
        ran = await rsync(lab, tmp_path, "-rL", f"direct:{inside}/", str(tmp_path / "bad"))
        assert ran.status != 0
        assert "Your roles do not allow rsync with --copy-links" in ran.stderr
        for target in (outside, f"{inside}/folder", f"{inside}/folder/new", f"{inside}/none"):
            ran = await rsync(lab, tmp_path, "-a", f"{tmp_path}/got/", f"direct:{target}")
            assert ran.status != 0, target
        assert not (tmp_path / "bad").exists()
        assert os.listdir(outside) == ["secret"]
    denied = advice(download_paths=paths, upload_paths=paths, deny_paths=("**/.ssh/**",))
    async with lab_of(launcher_end, **denied) as lab:
        ran = await rsync(lab, tmp_path, "-a", f"direct:{inside}/sub/", str(tmp_path / "bad"))
        assert ran.status != 0
        ran = await rsync(lab, tmp_path, "-a", f"direct:{inside}/sub/f", str(tmp_path / "one"))
        assert ran.status == 0, ran.stderr


@RSYNC
async def test_sizes_bind_scp_and_rsync(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1001)
    (tmp_path / "small").write_bytes(b"x" * 1000)
    (tmp_path / "to").mkdir()
    async with lab_of(launcher_end, **rules(max_file_size=1000)) as lab:
        for name, good in (("large", False), ("small", True)):
            here = str(tmp_path / name)
            up = await legacy(lab, tmp_path, here, f"direct:{tmp_path}/to/scp-{name}")
            down = await legacy(lab, tmp_path, f"direct:{here}", f"{tmp_path}/down-{name}")
            assert ((up.status == 0), (down.status == 0)) == (good, good), up.stderr + down.stderr
            assert (tmp_path / f"to/scp-{name}").exists() is good
            assert (tmp_path / f"down-{name}").exists() is good
            await rsync(lab, tmp_path, here, f"direct:{tmp_path}/to/rsync-{name}")
            await rsync(lab, tmp_path, f"direct:{here}", f"{tmp_path}/rsync-down-{name}")
            assert (tmp_path / f"to/rsync-{name}").exists() is good
            assert (tmp_path / f"rsync-down-{name}").exists() is good


@RSYNC
async def test_a_role_with_a_shell_runs_rsync_in_it(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """With everything that the client wants; what was moved is on record as far as it is known."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "f").write_text("f")
    async with lab_of(launcher_end) as lab:
        ran = await rsync(lab, tmp_path, "-a", "--partial-dir=.part", f"{tmp_path}/from/", f"direct:{tmp_path}/to/")
        assert (ran.status, os.listdir(tmp_path / "to")) == (0, ["f"]), ran.stderr
        ran = await rsync(lab, tmp_path, "-a", f"direct:{tmp_path}/to/", f"{tmp_path}/back/")
        assert (ran.status, os.listdir(tmp_path / "back")) == (0, ["f"]), ran.stderr
        (event,) = await lab.events.wait_for("rsync")
        assert isinstance(event, Rsync)
        assert (event.action, event.paths, event.sha256, event.hash_reason) == (
            "download", [f"{tmp_path}/to/"], "", "rsync",
        )  # fmt: skip


async def test_only_transfers_run_where_the_role_says_so(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Nothing reaches a shell by way of a transfer."""
    async with lab_of(launcher_end, exec=ExecMode.TRANSFER) as lab:
        for command in (
            "id",
            "scp -t /x; id",
            "scp -S id -t x",
            "rsync --server -e.L --log-file=/tmp/x . y",
            "git-upload-pack x",
        ):
            ran = await talk(lab, tmp_path, command, b"")
            assert (ran.status, ran.stdout) == (255, b""), command
            assert "Your roles do not allow the command" in ran.stderr
    async with lab_of(launcher_end, commands=("scp -f /etc/hostname",)) as lab:
        got = await legacy(lab, tmp_path, "direct:/etc/hostname", str(tmp_path / "got"))
        assert got.status == 0, got.stderr  # a command that the role lists by its words
        assert (await legacy(lab, tmp_path, "direct:/etc/passwd", str(tmp_path / "no"))).status != 0


async def test_a_stopped_client_leaves_an_event_of_what_came(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with lab_of(launcher_end) as lab:
        process = await asyncio.create_subprocess_exec(
            "ssh", "-F", config_of(lab, tmp_path), "direct", f"scp -t {tmp_path}/x",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"C0644 1000 x\nabc")
        assert await process.stdout.readexactly(2) == b"\0\0"
        await wait_until(lambda: (tmp_path / "x").stat().st_size == 3)
        process.kill()
        await process.communicate()
        (event,) = await lab.events.wait_for("scp")
        assert isinstance(event, Scp)
        assert (event.path, event.size, event.sha256) == (str(tmp_path / "x"), 3, sha(b"abc"))
        assert event.error

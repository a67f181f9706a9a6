"""Copying files: with OpenSSH's sftp-server on the other side, and with servers that lie (threat T49)."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from teleport.client.transfer import copying as engine
from teleport.client.transfer.copying import Copier, Ways
from teleport.client.transfer.here import Here
from teleport.client.transfer.there import There
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.identity import SystemRole
from teleport.ssh.client import connect
from teleport.ssh.client_connection import ClientKey
from teleport.testing.lab_certificates import Authorities
from teleport.testing.openssh_server import running_sshd
from teleport.testing.running import wait_until
from teleport.transfer.sftp import Flight, Sftp
from teleport.wire.sftp_client import Limits

ME = getpass.getuser()
BIG = os.urandom(1_500_001)
HOSTILE = Path(__file__).with_name("sftp_hostile.py")


class Rig:
    """A host's side, and what became of copies."""

    def __init__(self, there: There, folder: Path) -> None:
        self.there = there
        self.folder = folder
        self.moved = 0
        self.failures: list[tuple[str, str]] = []
        self.mine, self.theirs = folder / "mine", folder / "theirs"
        self.mine.mkdir()
        self.theirs.mkdir()

    def _count(self, size: int) -> None:
        self.moved += size

    def _failed(self, path: str, error: TeleportError) -> None:
        self.failures.append((path, error.message))

    async def up(self, *paths: Path | str, to: Path | str, **ways: bool) -> Copier:
        copier = Copier(self.there, Ways(**ways), self._count, self._failed)
        await copier.copy([(Here(), str(path)) for path in paths], str(to))
        return copier

    async def down(self, *paths: Path | str, to: Path | str, **ways: bool) -> Copier:
        copier = Copier(Here(), Ways(**ways), self._count, self._failed)
        await copier.copy([(self.there, str(path)) for path in paths], str(to))
        return copier


@contextlib.asynccontextmanager
async def rig(folder: Path, subsystem: str = "/usr/lib/openssh/sftp-server") -> AsyncIterator[Rig]:
    authorities = Authorities()
    host = authorities.host(SystemRole.NODE, "sshd")
    setting = f"Subsystem sftp {subsystem}"
    with running_sshd(folder, authorities.user_key.public.line(), host, setting) as port:
        user = authorities.user([ME])
        key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())
        node = await connect(("127.0.0.1", port), login=ME, key=key, check=lambda certificate: None)
        sftp = Sftp(node, "host")
        try:
            await sftp.begin()
            yield Rig(There(sftp, "host"), folder)
        finally:
            await sftp.close()
            await node.close()


def tree(root: Path) -> dict[str, bytes | None]:
    """What lies below a folder: content of files, None for folders."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


def below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


async def test_files_go_both_ways_whole(tmp_path: Path) -> None:
    async with rig(tmp_path) as run:
        for name, content in (("big", BIG), ("empty", b""), ("-strange\n\x1b[2J'", b"x")):
            (run.mine / name).write_bytes(content)
        await run.up(*run.mine.iterdir(), to=run.theirs)
        assert tree(run.theirs) == tree(run.mine)
        await run.up(run.mine / "big", to=run.theirs / "renamed")
        assert (run.theirs / "renamed").read_bytes() == BIG
        back = tmp_path / "back"
        back.mkdir()
        await run.down(*run.theirs.iterdir(), to=back)
        assert tree(back) == tree(run.theirs)
        (back / "big").write_bytes(BIG + b"longer before")
        await run.down(run.theirs / "big", to=back / "big")
        assert (back / "big").read_bytes() == BIG
    assert run.failures == []
    assert run.moved == 5 * len(BIG) + 2


async def test_folders_go_both_ways_with_times_and_modes(tmp_path: Path) -> None:
    async with rig(tmp_path) as run:
        inner = run.mine / "tree" / "inner"
        inner.mkdir(parents=True)
        (inner / "file").write_bytes(b"deep")
        (inner / "file").chmod(0o4711)
        (run.mine / "tree" / "empty").mkdir()
        os.utime(inner / "file", (1_000_000, 1_500_000))
        inner.chmod(0o550)
        os.utime(inner, (1_000_000, 1_400_000))
        (run.mine / "tree" / "link").symlink_to("inner/file")
        (run.mine / "tree" / "loop").symlink_to(".")
        await run.up(run.mine / "tree", to=run.theirs, folders=True, keep=True)
        assert [path for path, _ in run.failures] == [str(run.mine / "tree" / "loop")], "a folder in itself has no end"
        run.failures.clear()
        wanted: dict[str, bytes | None] = {
            "tree": None, "tree/empty": None, "tree/inner": None, "tree/inner/file": b"deep", "tree/link": b"deep",
        }  # fmt: skip
        assert tree(run.theirs) == wanted
        (run.theirs / "tree" / "loop").symlink_to("..")
        back = tmp_path / "back"
        await run.down(run.theirs / "tree", to=back, folders=True, keep=True)
        assert [path for path, _ in run.failures] == [f"host:{run.theirs}/tree/loop"]
        assert tree(back) == {path.removeprefix("tree/"): data for path, data in wanted.items() if path != "tree"}
        for made in (run.theirs / "tree", back):
            found = (made / "inner" / "file").stat()
            assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o711, 1_500_000), "no set-user-ID bit is copied"
            folder = (made / "inner").stat()
            assert (stat.S_IMODE(folder.st_mode), folder.st_mtime) == (0o550, 1_400_000)
        run.failures.clear()
        await run.down(f"{run.theirs}/tree/.", to=back, folders=True)
        assert tree(back)["inner/file"] == b"deep", "what `.` holds goes into the folder itself"


async def test_without_keeping_modes_follow_the_mask_and_old_files_stay(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        async with rig(tmp_path) as run:
            (run.theirs / "new").write_bytes(b"n")
            (run.theirs / "new").chmod(0o777)
            (run.theirs / "old").write_bytes(b"o")
            (run.mine / "old").write_bytes(b"before")
            (run.mine / "old").chmod(0o604)
            await run.down(run.theirs / "new", run.theirs / "old", to=run.mine)
            assert stat.S_IMODE((run.mine / "new").stat().st_mode) == 0o750
            assert stat.S_IMODE((run.mine / "old").stat().st_mode) == 0o604
    finally:
        os.umask(before)


async def test_patterns_are_looked_for_on_the_host(tmp_path: Path) -> None:
    async with rig(tmp_path) as run:
        for name in ("a/1.log", "a/2.log", "b/3.log", "b/4.txt", "a/.5.log", "a/x*y"):
            (run.theirs / name).parent.mkdir(exist_ok=True)
            (run.theirs / name).write_text(name)
        await run.down(f"{run.theirs}/*/[1-3].log", to=run.mine)
        assert sorted(tree(run.mine)) == ["1.log", "2.log", "3.log"]
        await run.down(rf"{run.theirs}/a/x\*y", to=run.mine)
        assert (run.mine / "x*y").exists()
        (run.theirs / "a" / "[9]").write_bytes(b"")
        await run.down(f"{run.theirs}/a/[9]", to=run.mine)
        assert (run.mine / "[9]").exists(), "nothing fits the pattern, and a file is called so"
        with pytest.raises(BadRequest, match="no folder"):
            await run.down(f"{run.theirs}/a/*.log", to=run.mine / "1.log")
        await run.down(f"{run.theirs}/*.none", f"{run.theirs}/missing", to=run.mine)
    assert [message for _, message in run.failures] == ["nothing fits this pattern", "no such file or folder"]


async def test_a_failure_concerns_its_file_alone(tmp_path: Path) -> None:
    async with rig(tmp_path) as run:
        (run.mine / "good").write_bytes(b"good")
        os.mkfifo(run.mine / "pipe")
        copied = await run.up(run.mine / "pipe", run.mine / "missing", run.mine, run.mine / "good", to=run.theirs)
        assert copied.files == 1
        assert tree(run.theirs) == {"good": b"good"}
        assert dict(run.failures) == {
            str(run.mine / "pipe"): "is neither a file nor a folder",
            str(run.mine / "missing"): "no such file or folder here",
            str(run.mine): "is a folder",
        }
        run.failures.clear()
        await run.up(run.mine / "good", to=run.theirs / "nowhere" / "file")
        assert run.failures == [(str(run.mine / "good"), "no such file or folder")]


async def test_two_hosts_copy_through_this_machine_without_a_file_here(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with rig(tmp_path / "a") as one, rig(tmp_path / "b") as two:
        (one.theirs / "big").write_bytes(BIG)
        before = below(tmp_path)
        copier = Copier(two.there, Ways(keep=True), two._count, two._failed)
        await copier.copy([(one.there, str(one.theirs / "big"))], str(two.theirs))
        assert (two.theirs / "big").read_bytes() == BIG
        assert below(tmp_path) - before == {two.theirs / "big"}
        assert two.failures == []


async def test_links_in_the_target_are_not_followed(tmp_path: Path) -> None:
    """Threat T49: whoever left a link in the folder does not choose what is written."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"before")
    async with rig(tmp_path) as run:
        (run.theirs / "tree" / "sub").mkdir(parents=True)
        (run.theirs / "tree" / "sub" / "victim").write_bytes(b"after")
        (run.theirs / "tree" / "file").write_bytes(b"after")
        (run.theirs / "tree" / "pipe").write_bytes(b"after")
        (run.mine / "tree").mkdir()
        (run.mine / "tree" / "sub").symlink_to(outside)
        (run.mine / "tree" / "file").symlink_to(outside / "victim")
        os.mkfifo(run.mine / "tree" / "pipe")
        await run.down(run.theirs / "tree", to=run.mine, folders=True)
        assert (outside / "victim").read_bytes() == b"before"
        assert len(run.failures) == 3, run.failures


# --- servers that lie


@contextlib.asynccontextmanager
async def hostile(folder: Path, **script: Any) -> AsyncIterator[Rig]:
    (folder / "script").write_text(json.dumps(script))
    async with rig(folder, f"{sys.executable} {HOSTILE} {folder}/script") as run:
        yield run


async def test_names_of_a_hostile_server_stay_in_the_folder(tmp_path: Path) -> None:
    names = [
        "../up",
        "/tmp/tsh-abs",
        "..",
        ".",
        "",
        "a/b",
        "x\0y",
        "fine",
        "new\nline",
        "\x1b[2J",
        "back\\slash",
        "\xff",
    ]
    async with hostile(tmp_path, names=names) as run:
        before = below(tmp_path)
        await run.down("dir", to=run.mine, folders=True)
        made = below(tmp_path) - before
    inside = run.mine / "dir"
    assert made == {inside, *(inside / name for name in ("fine", "new\nline", "\x1b[2J", "back\\slash", "\udcff"))}
    assert len(run.failures) == 5, "`.` and `..` stand in every listing, and are nothing of their own"


async def test_set_user_id_bits_and_devices_of_a_hostile_server_do_not_arrive(tmp_path: Path) -> None:
    async with hostile(tmp_path, names=["file"], mode=0o106755) as run:
        await run.down("dir", to=run.mine, folders=True, keep=True)
        assert stat.S_IMODE((run.mine / "dir" / "file").stat().st_mode) == 0o755
    (tmp_path / "b").mkdir()
    async with hostile(tmp_path / "b", names=["file"], mode=0o060666) as run:
        await run.down("dir", to=run.mine, folders=True)
        assert tree(run.mine) == {"dir": None}


async def test_glob_answers_that_were_not_asked_for_are_left_out(tmp_path: Path) -> None:
    async with hostile(tmp_path, names=["a.log", ".bashrc", "evil", "e/../../x.log", "b.logfile"]) as run:
        with contextlib.suppress(BadRequest):
            await run.down("dir/*.logfile", to=run.mine)
        assert sorted(tree(run.mine)) == ["b.logfile"]
        await run.down("other/*.log", to=run.mine)
        assert sorted(tree(run.mine)) == ["b.logfile"]
        assert "leads elsewhere" in run.failures[0][1]


async def test_a_file_without_an_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_UNSIZED", 3_000_000)
    async with hostile(tmp_path, endless=True, size=0) as run:
        await run.down("file", to=run.mine)
    assert [message for _, message in run.failures] == ["has no end: it says that it is empty, and goes on"]


async def test_a_folder_without_an_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from teleport.transfer import sftp

    monkeypatch.setattr(sftp, "_MAX_ENTRIES", 500)
    async with hostile(tmp_path, endless=True, names=[f"n{number}/" for number in range(100)]) as run:
        with pytest.raises(ConnectionProblem, match="has no end of entries"):
            await run.down("dir", to=run.mine, folders=True)


async def test_folders_in_folders_end(tmp_path: Path) -> None:
    async with hostile(tmp_path, names=["deeper"]) as run:
        await run.down("dir", to=run.mine, folders=True)
    assert [message for _, message in run.failures] == ["lies deeper than 64 folders"]


@pytest.mark.parametrize(
    ("script", "said"),
    [({"size": 2**62}, "became shorter"), ({"more": True}, "bytes for"), ({"stranger": True}, "does not speak SFTP")],
)
async def test_sizes_and_answers_that_cannot_be(tmp_path: Path, script: dict[str, Any], said: str) -> None:
    async with hostile(tmp_path, **script) as run:
        told = ""
        try:
            await run.down("file", to=run.mine)
        except ConnectionProblem as error:
            told = error.message
    assert said in (told or run.failures[0][1])


async def test_what_a_server_says_does_not_drive_the_terminal(tmp_path: Path) -> None:
    async with hostile(tmp_path, names=["a"], message="\x1b]52;c;AAAA\x07\r\nroot# ") as run:
        await run.up(Path(__file__), to="x/file")
        for _, message in run.failures:
            assert message.isprintable()


async def test_a_program_that_is_no_server_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ConnectionProblem, match="does not speak SFTP"):
        async with rig(tmp_path, "/bin/echo this host greets everybody, at length"):
            pass


# --- how much is under way


async def test_the_longer_the_path_the_more_is_under_way() -> None:
    class Path:
        delay = 0.0

    sftp = Sftp(Path(), "x")  # type: ignore[arg-type]
    limits = []
    for delay in (0.0, 0.001, 0.02, 0.05, 0.1, 10.0):
        Path.delay = delay
        limits.append(sftp.flight_limit())
    assert limits == sorted(limits)
    assert limits[0] == 4 * 1024 * 1024
    assert limits[-1] == 32 * 1024 * 1024
    assert sftp.limits == Limits()


async def test_a_flight_lets_in_what_there_is_room_for() -> None:
    import asyncio

    flight, entered = Flight(lambda: 100), []

    async def enter(size: int) -> None:
        await flight.enter(size)
        entered.append(size)

    tasks = [asyncio.create_task(enter(size)) for size in (60, 40, 1, 500)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert entered == [60, 40]
    flight.leave(60)
    await wait_until(lambda: len(entered) == 3)
    assert entered == [60, 40, 1], "one that is larger than all waits until it is alone"
    flight.leave(40)
    flight.leave(1)
    await asyncio.gather(*tasks)

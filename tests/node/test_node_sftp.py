"""SFTP on a node, with the real `sftp`, `scp` and hostile clients that write packets themselves."""

from __future__ import annotations

import asyncio
import getpass
import grp
import hashlib
import os
import pwd
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from teleport.audit.events import SessionEnd, SessionRequestDenied, Sftp, Subsystem, encode_event
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import ExecMode, FileTransfer
from teleport.testing.running import Ran, run_client
from teleport.testing.ssh_lab import Lab, running_lab
from teleport.wire import sftp as wire
from teleport.wire.sftp import Packet, Reader, Status

ME = getpass.getuser()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@asynccontextmanager
async def lab_of(launcher_end: LauncherEnd, **options: Any) -> AsyncIterator[Lab]:
    async with running_lab(Launcher(launcher_end)) as lab:
        if options:
            lab.rules.options(**options)
        yield lab


def config_of(lab: Lab, folder: Path) -> str:
    home = folder / "client"
    home.mkdir(exist_ok=True)
    return str(lab.client_config(home, lab.authorities.user([ME]), ME))


async def sftp(lab: Lab, folder: Path, *lines: str) -> Ran:
    """Runs a batch of the real `sftp`."""
    command = ["sftp", "-F", config_of(lab, folder), "-b", "-", "direct"]
    return await run_client(*command, stdin="".join(f"{line}\n" for line in lines).encode())


def told(lab: Lab) -> list[Sftp]:
    return [event for event in lab.events.all if isinstance(event, Sftp)]


def proc_status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def rules(**fields: Any) -> dict[str, Any]:
    return {"exec": ExecMode.TRANSFER, "file_transfer": FileTransfer(**fields)}


class Raw:
    """A client that writes packets itself, over `ssh -s`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._number = 0
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin, self.stdout = process.stdin, process.stdout

    def put(self, kind: Packet, *parts: bytes) -> int:
        self._number += 1
        self.stdin.write(wire.packet(kind, self._number, *parts))
        return self._number

    async def get(self) -> tuple[int, int, Reader]:
        async with asyncio.timeout(20):
            (length,) = struct.unpack(">I", await self.stdout.readexactly(4))
            packet = await self.stdout.readexactly(length)
        reader = Reader(packet[1:])
        return packet[0], reader.u32(), reader

    async def ask(self, kind: Packet, *parts: bytes) -> tuple[int, Reader]:
        number = self.put(kind, *parts)
        got, answered, reader = await self.get()
        assert answered == number
        return got, reader

    async def status(self, kind: Packet, *parts: bytes) -> int:
        got, reader = await self.ask(kind, *parts)
        assert got == Packet.STATUS, Packet(got)
        return reader.u32()

    async def open(self, path: Path | bytes, flags: int) -> bytes:
        name = os.fsencode(path)
        got, reader = await self.ask(Packet.OPEN, wire.string(name), struct.pack(">II", flags, 0))
        assert got == Packet.HANDLE, reader.u32()
        return reader.string()

    async def end(self) -> int:
        self.stdin.close()
        async with asyncio.timeout(20):
            await self.stdout.read()
            return await self.process.wait()


@asynccontextmanager
async def raw(lab: Lab, folder: Path, *, greet: bool = True) -> AsyncIterator[Raw]:
    process = await asyncio.create_subprocess_exec(
        "ssh", "-F", config_of(lab, folder), "-s", "direct", "sftp",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    client = Raw(process)
    try:
        if greet:
            client.stdin.write(struct.pack(">IBI", 5, Packet.INIT, 3))
            kind, version, reader = await client.get()
            assert (kind, version) == (Packet.VERSION, 3)
            names = []
            while not reader.done:
                names.append((reader.string(), reader.string()))
            assert tuple(names) == wire.EXTENSIONS
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_files_come_and_go_with_their_hashes_on_record(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Done-when 1: `sftp` moves a file each way; the events have what sha256sum says, and the session its recording."""
    data = random.Random(1).randbytes(3_000_001)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "a").chmod(0o640)
    async with lab_of(launcher_end) as lab:
        ran = await sftp(lab, tmp_path, f"put -p {tmp_path}/a {tmp_path}/b", f"get {tmp_path}/b {tmp_path}/c")
        assert ran.status == 0, ran.stderr
        assert (tmp_path / "b").read_bytes() == data == (tmp_path / "c").read_bytes()
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640
        assert (tmp_path / "b").stat().st_mtime == int((tmp_path / "a").stat().st_mtime)
        written, read = told(lab)
        common = ("alice", ME, str(tmp_path / "b"), len(data), sha(data), "", "")
        for event, action, direction in ((written, "write", "upload"), (read, "read", "download")):
            assert (event.code, event.action, event.direction) == ("T9220I", action, direction)
            assert common == (
                event.user, event.login, event.path, event.size, event.sha256, event.hash_reason, event.error,
            )  # fmt: skip
        assert "mode=0640" in written.target
        (subsystem,) = await lab.events.wait_for("subsystem")
        assert isinstance(subsystem, Subsystem)
        assert (subsystem.code, subsystem.name, subsystem.exit_error) == ("T3001I", "sftp", "")
        (end,) = await lab.events.wait_for("session.end")
        assert isinstance(end, SessionEnd)
        assert (end.interactive, end.initial_command, end.reason) == (False, ["sftp"], "")
        assert len({getattr(event, "sid", "") for event in lab.events.all}) == 1
        (recording,) = lab.recordings.all
        # Threat T39: what moved is in the recording by its size and hash, not as output.
        assert [(one.action, one.size, one.sha256) for one in recording.files] == [
            ("write", len(data), sha(data)), ("read", len(data), sha(data)),
        ]  # fmt: skip
        assert not recording.stdout


async def test_every_change_is_on_record(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Each command of `sftp` that changes something, in order, by real paths, with what failed beside what did not."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "way").symlink_to(real)
    (real / "f").write_text("x")
    async with lab_of(launcher_end) as lab:
        way = tmp_path / "way"
        ran = await sftp(
            lab, tmp_path,
            f"mkdir {way}/d", f"chmod 600 {way}/f", f"rename {way}/f {way}/g", f"ln {way}/g {way}/h",
            f"ln -s g {way}/l", f"-rename -l {way}/h {way}/g", f"rm {way}/l", f"-rm {way}/absent", f"rmdir {way}/d",
            f"cp {way}/g {way}/copy", f"-get {way}/none {tmp_path}/none", f"ls -l {way}", f"df {way}",
        )  # fmt: skip
        assert ran.status == 0, ran.stderr
        found = [(event.action, event.path, event.target, event.error, event.code[-1]) for event in told(lab)]
        assert found == [
            ("mkdir", f"{real}/d", "", "", "I"),
            ("setstat", f"{real}/f", "mode=0600", "", "I"),
            ("rename", f"{real}/f", f"{real}/g", "", "I"),
            ("link", f"{real}/h", f"{real}/g", "", "I"),
            ("symlink", f"{real}/l", "g", "", "I"),
            ("rename", f"{real}/h", f"{real}/g", "File exists", "W"),
            ("remove", f"{real}/l", "", "", "I"),
            ("remove", f"{real}/absent", "", "No such file or directory", "W"),
            ("rmdir", f"{real}/d", "", "", "I"),
            ("read", f"{real}/g", "", "", "I"),
            ("write", f"{real}/copy", "", "", "I"),
        ]
        assert [event.sha256 for event in told(lab)[-2:]] == [sha(b"x")] * 2
        assert sorted(os.listdir(real)) == ["copy", "g", "h"]
        assert b"copy" in ran.stdout


@pytest.mark.parametrize("mode", [["-s"]], ids=["sftp"])
async def test_scp_copies_trees_both_ways(launcher_end: LauncherEnd, tmp_path: Path, mode: list[str]) -> None:
    """The real `scp -rp`, contents, modes and times come over."""
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    chance = random.Random(2)
    for number, folder in enumerate((source, source / "deep", source / "deep" / "er")):
        (folder / f"f{number}").write_bytes(chance.randbytes(70_000 * number))
        (folder / f"f{number}").chmod(0o600 + number)
        os.utime(folder / f"f{number}", (1_600_000_000, 1_600_000_000 + number))
    async with lab_of(launcher_end) as lab:
        config = config_of(lab, tmp_path)
        up = await run_client("scp", *mode, "-rpF", config, str(source), f"direct:{tmp_path}/up")
        assert up.status == 0, up.stderr
        down = await run_client("scp", *mode, "-rpF", config, f"direct:{tmp_path}/up", f"{tmp_path}/down")
        assert down.status == 0, down.stderr
        for name in ("f0", "deep/f1", "deep/er/f2"):
            first = (source / name).stat()
            for copied in (tmp_path / "up" / name, tmp_path / "down" / name):
                assert copied.read_bytes() == (source / name).read_bytes()
                assert (copied.stat().st_mode, copied.stat().st_mtime) == (first.st_mode, first.st_mtime)
        moved = await lab.events.wait_for("sftp", 6)
        digest = sha((source / "deep/er/f2").read_bytes())
        assert len([event for event in moved if getattr(event, "sha256", "") == digest]) == 2


async def test_a_role_that_refuses_uploads_says_so_and_it_is_on_record(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """Done-when 2, of SFTP: every change is refused, downloads are not, and nothing is left behind."""
    (tmp_path / "a").write_text("a")
    async with lab_of(launcher_end, **rules(upload=False)) as lab:
        ran = await sftp(
            lab, tmp_path, f"get {tmp_path}/a {tmp_path}/b", f"-put {tmp_path}/a {tmp_path}/c", f"-mkdir {tmp_path}/d",
            f"-rm {tmp_path}/a", f"-rename {tmp_path}/a {tmp_path}/e", f"-chmod 777 {tmp_path}/a",
            f"-ln -s x {tmp_path}/f", f"-ln {tmp_path}/a {tmp_path}/g", f"-rmdir {tmp_path}/client",
            f"put {tmp_path}/a {tmp_path}/a",
        )  # fmt: skip
        assert ran.status == 1
        assert f"Your roles do not allow upload of '{tmp_path}/c'." in ran.stderr
        assert sorted(os.listdir(tmp_path)) == ["a", "b", "client"]
        assert (tmp_path / "a").read_text() == "a"
        events = told(lab)
        assert [event.code for event in events] == ["T9220I"] + ["T9220W"] * 9
        assert {event.error for event in events[1:]} == {"role 'access' does not allow uploads"}
        assert (await run_client("ssh", "-F", config_of(lab, tmp_path), "direct", "true")).status == 255


async def test_paths_are_judged_where_links_lead(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Threat T49: no link, no `..` and no second name leads out of what the role names."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "link").symlink_to(outside / "secret")
    (inside / "folder").symlink_to(outside)
    (inside / "dangling").symlink_to(outside / "new")
    (inside / "mine").write_text("mine")
    (inside / "sub").mkdir()
    paths = (f"{inside}/**",)
    async with (
        lab_of(launcher_end, **rules(download_paths=paths, upload_paths=paths, deny_paths=("**/hidden",))) as lab,
        raw(lab, tmp_path) as client,
    ):
        mine = inside / "mine"
        writes = wire.WRITE | wire.CREATE | wire.TRUNCATE
        for path in ("link", "folder/secret", "../out/secret", "folder/../in/../out/secret", "hidden", "../out/none",
                     "folder/none", "../none/none", "link/none"):  # fmt: skip
            for flags in (wire.READ, writes):
                status = await client.status(
                    Packet.OPEN, wire.string(os.fsencode(inside / path)), struct.pack(">II", flags, 0)
                )
                assert status == Status.PERMISSION_DENIED, (path, flags)
        assert (outside / "secret").read_text() == "secret"
        for path in ("dangling", "folder/new", "folder/x"):
            called = wire.string(os.fsencode(inside / path))
            assert await client.status(Packet.OPEN, called, struct.pack(">II", writes, 0)) == Status.PERMISSION_DENIED
        pairs = [(mine, outside / "m"), (outside / "secret", inside / "s"), (inside / "folder/secret", inside / "s"),
                 (mine, inside / "folder" / "m"), (inside / "sub", inside / "moved")]  # fmt: skip
        for old, new in pairs:
            both = wire.string(os.fsencode(old)) + wire.string(os.fsencode(new))
            assert await client.status(Packet.RENAME, both) == Status.PERMISSION_DENIED, (old, new)
            for name in (b"posix-rename@openssh.com", b"hardlink@openssh.com"):
                assert await client.status(Packet.EXTENDED, wire.string(name), both) == Status.PERMISSION_DENIED, old
        for asked in (Packet.STAT, Packet.LSTAT, Packet.OPENDIR, Packet.REMOVE, Packet.RMDIR, Packet.MKDIR):
            more = struct.pack(">I", 0) if asked is Packet.MKDIR else b""
            for gone in (outside, outside / "secret", outside / "absent", outside / "absent" / "x"):
                status = await client.status(asked, wire.string(os.fsencode(gone)), more)
                assert status == Status.PERMISSION_DENIED, (asked, gone)
        for gone in (outside, outside / "absent"):
            before = len(told(lab))
            extended = wire.string(b"statvfs@openssh.com"), wire.string(os.fsencode(gone))
            assert await client.status(Packet.EXTENDED, *extended) == Status.PERMISSION_DENIED, gone
            assert [(event.action, event.path) for event in told(lab)[before:]] == [("stat", str(gone))]
        handle = await client.open(mine, wire.READ)
        kind, reader = await client.ask(Packet.READ, wire.string(handle), struct.pack(">QI", 0, 100))
        assert (kind, reader.string()) == (Packet.DATA, b"mine")
        assert await client.status(Packet.CLOSE, wire.string(handle)) == Status.OK
        kind, reader = await client.ask(Packet.REALPATH, wire.string(os.fsencode(inside / "folder" / "secret")))
        assert reader.u32() == 1
        assert reader.string() == os.fsencode(inside / "folder" / "secret")  # where it leads is not said
        assert await client.end() == 0
        assert sorted(os.listdir(outside)) == ["secret"]
        assert sorted(os.listdir(inside)) == ["dangling", "folder", "link", "mine", "sub"]


async def test_where_transfers_are_limited_no_device_is_opened(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """A device reaches what its path says nothing of, such as the disk below every other path."""
    async with lab_of(launcher_end, **rules(upload=False)) as lab, raw(lab, tmp_path) as client:
        name = wire.string(b"/dev/zero")
        assert await client.status(Packet.OPEN, name, struct.pack(">II", wire.READ, 0)) == Status.PERMISSION_DENIED


async def test_sizes_are_kept_to(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """No way makes or reads a larger file than the role lets move: not at once, in pieces, by its size or by a copy."""
    (tmp_path / "large").write_bytes(b"x" * 1001)
    (tmp_path / "small").write_bytes(b"x" * 1000)
    async with lab_of(launcher_end, **rules(max_file_size=1000)) as lab, raw(lab, tmp_path) as client:
        name = wire.string(os.fsencode(tmp_path / "large"))
        assert await client.status(Packet.OPEN, name, struct.pack(">II", wire.READ, 0)) == Status.PERMISSION_DENIED
        new = await client.open(tmp_path / "new", wire.WRITE | wire.CREATE)
        for offset, size in ((0, 1001), (900, 101), (2**62, 1), (1001, 1)):
            data = struct.pack(">Q", offset) + wire.string(b"y" * size)
            assert await client.status(Packet.WRITE, wire.string(new), data) == Status.PERMISSION_DENIED
        to_size = struct.pack(">IQ", wire.SIZE, 1001)
        assert await client.status(Packet.FSETSTAT, wire.string(new), to_size) == Status.PERMISSION_DENIED
        assert await client.status(Packet.SETSTAT, name, to_size) == Status.PERMISSION_DENIED
        small = await client.open(tmp_path / "small", wire.READ)
        copy = wire.string(b"copy-data") + wire.string(small) + struct.pack(">QQ", 0, 0) + wire.string(new)
        assert await client.status(Packet.EXTENDED, copy + struct.pack(">Q", 1)) == Status.PERMISSION_DENIED
        assert await client.status(Packet.EXTENDED, copy + struct.pack(">Q", 0)) == Status.OK
        assert await client.end() == 0
        assert (tmp_path / "new").stat().st_size == 1000
        assert told(lab)[-1].error == "the client left it open"


async def test_rules_that_change_hold_for_what_is_asked_next(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """A free session has to ask from the moment at which its role is not free any more."""
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        where = tmp_path / "d"
        mkdir = wire.string(os.fsencode(where)) + struct.pack(">I", 0)
        assert await client.status(Packet.MKDIR, mkdir) == Status.OK
        lab.rules.options(**rules(upload=False))
        lab.node.reconsider()
        assert await client.status(Packet.RMDIR, wire.string(os.fsencode(where))) == Status.PERMISSION_DENIED
        lab.rules.options()
        lab.node.reconsider()
        assert await client.status(Packet.RMDIR, wire.string(os.fsencode(where))) == Status.OK


async def test_what_is_not_moved_in_order_is_hashed_when_it_is_closed(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        new = await client.open(tmp_path / "new", wire.WRITE | wire.CREATE)
        for offset, data in ((3, b"def"), (0, b"abc")):
            assert await client.status(
                Packet.WRITE, wire.string(new), struct.pack(">Q", offset) + wire.string(data)
            ) == Status.OK  # fmt: skip
        assert await client.status(Packet.CLOSE, wire.string(new)) == Status.OK
        both = await client.open(tmp_path / "new", wire.READ | wire.WRITE)
        await client.ask(Packet.READ, wire.string(both), struct.pack(">QI", 4, 2))
        assert await client.status(Packet.CLOSE, wire.string(both)) == Status.OK
        first, part, whole = told(lab)
        assert (first.sha256, first.size) == (sha(b"abcdef"), 6)
        assert first.hash_reason.startswith("of the whole file when it was closed")
        assert (part.action, part.sha256, part.hash_reason) == ("read", "", "only parts of it were read, not in order")
        assert (whole.action, whole.size) == ("write", 0)


async def test_hostile_packets_end_the_server_or_get_a_status(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Threats T42, T49: lengths, handles, names, devices and this very process."""
    async with lab_of(launcher_end) as lab:
        async with raw(lab, tmp_path) as client:
            for kind, parts, expected in (
                (Packet.OPEN, wire.string(b"a\0b"), Status.BAD_MESSAGE),
                (Packet.STAT, wire.string(b"a" * 5000), Status.BAD_MESSAGE),
                (Packet.STAT, struct.pack(">I", 2**32 - 1), Status.BAD_MESSAGE),
                (Packet.CLOSE, wire.string(b"none"), Status.NO_SUCH_FILE),
                (Packet.READ, wire.string(b"none") + bytes(12), Status.NO_SUCH_FILE),
                (Packet.HANDLE, b"", Status.OP_UNSUPPORTED),
                (Packet.EXTENDED, wire.string(b"shell@example.com"), Status.OP_UNSUPPORTED),
            ):
                assert await client.status(kind, parts) == expected, kind
            for path in ("/proc/self/mem", "/proc/self/environ", "/proc/self/fd/3"):
                parts = wire.string(path.encode()) + struct.pack(">II", wire.READ | wire.WRITE, 0)
                assert await client.status(Packet.OPEN, parts) in (Status.PERMISSION_DENIED, Status.FAILURE,
                                                                   Status.NO_SUCH_FILE), path  # fmt: skip
            os.mkfifo(tmp_path / "fifo")
            parts = wire.string(os.fsencode(tmp_path / "fifo")) + struct.pack(">II", wire.READ, 0)
            assert await client.status(Packet.OPEN, parts) == Status.BAD_MESSAGE
            handle = wire.string(await client.open(b"/dev/zero", wire.READ))
            got, reader = await client.ask(Packet.READ, handle, struct.pack(">QI", 0, 2**32 - 1))
            assert (got, len(reader.view())) == (Packet.DATA, wire.MAX_DATA)
            assert await client.end() == 0
        for start in (
            b"\0\0\0\0",
            b"\xff\xff\xff\xff",
            struct.pack(">IB", 1 + 4, 99) + bytes(4),
            struct.pack(">I", 300_000),
        ):
            async with raw(lab, tmp_path, greet=False) as client:
                client.stdin.write(start)
                assert await client.end() == 1


async def test_names_of_any_bytes_stay_one_event_each(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Threat T45."""
    folder = os.fsencode(tmp_path)
    names = [b"a\nb", b"\x1b]0;x\x07", b"\xff\xfe", "\u202e\u2028".encode(), b'"}{', b"x" * 255]
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        for name in names:
            handle = await client.open(folder + b"/" + name, wire.WRITE | wire.CREATE)
            assert await client.status(Packet.CLOSE, wire.string(handle)) == Status.OK
            assert name in os.listdir(folder)
        assert await client.end() == 0
        lines = [encode_event(event) for event in told(lab)]
        assert len(lines) == len(names)
        assert not any(line.splitlines()[1:] or not line.decode().isprintable() for line in lines)


async def test_a_folder_of_many_entries_is_listed_piece_by_piece(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(2500):
        os.close(os.open(many / f"{number:05}", os.O_CREAT | os.O_WRONLY))
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        kind, reader = await client.ask(Packet.OPENDIR, wire.string(os.fsencode(many)))
        handle, found = wire.string(reader.string()), []
        while True:
            kind, reader = await client.ask(Packet.READDIR, handle)
            if kind == Packet.STATUS:
                assert reader.u32() == Status.EOF
                break
            count = reader.u32()
            assert count <= 100
            for _ in range(count):
                found.append(reader.string())
                reader.view()
                reader.attributes()
        assert sorted(found) == [b".", b"..", *(b"%05d" % number for number in range(2500))]


async def test_a_lock_ends_a_transfer_and_what_was_moved_is_on_record(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """Threat T09: within two seconds (five times that here), with the bytes so far."""
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        new = await client.open(tmp_path / "new", wire.WRITE | wire.CREATE)
        data = struct.pack(">Q", 0) + wire.string(b"abc")
        assert await client.status(Packet.WRITE, wire.string(new), data) == Status.OK
        lab.rules.locked = [Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(user="alice")))]
        lab.node.reconsider()
        async with asyncio.timeout(10):
            assert await client.process.wait() == 255
        (event,) = await lab.events.wait_for("sftp")
        assert isinstance(event, Sftp)
        assert (event.path, event.size, event.sha256) == (str(tmp_path / "new"), 3, sha(b"abc"))
        assert event.error == "the session ended before it was closed"
        names = [type(event).__name__ for event in lab.events.all]
        assert names.index("Sftp") < names.index("SessionEnd")


async def test_what_a_killed_process_had_open_is_on_record(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`kill -9`: nothing that was begun is missing."""
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        await client.open(tmp_path / "new", wire.WRITE | wire.CREATE)
        session = next(iter(lab.node.tools.registry))
        assert session._process is not None
        os.kill(session._process.pid, 9)  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            assert await client.process.wait() == 255
        (event,) = await lab.events.wait_for("sftp")
        assert isinstance(event, Sftp)
        assert (event.action, event.path) == ("write", str(tmp_path / "new"))
        assert event.error == "the process that moved it was killed"


async def test_what_cannot_be_put_on_record_is_not_answered(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Threat T46: the session ends instead."""
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        handle = await client.open(tmp_path / "new", wire.WRITE | wire.CREATE)
        lab.events.failing = True
        client.put(Packet.CLOSE, wire.string(handle))
        with pytest.raises(asyncio.IncompleteReadError):
            await client.get()
        lab.events.failing = False


async def test_the_process_cannot_be_traced_or_read_by_its_user(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """What it tells the daemon has to be true: its files in /proc are not its user's."""
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path):
        session = next(iter(lab.node.tools.registry))
        assert session._process is not None
        pid = session._process.pid  # type: ignore[attr-defined]
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0
        assert "NoNewPrivs:\t1" in proc_status(pid)


@pytest.mark.parametrize("name", ["netconf", "sftp2", "sftp\n", "SFTP"])
async def test_other_subsystems_are_refused_in_words(launcher_end: LauncherEnd, tmp_path: Path, name: str) -> None:
    async with lab_of(launcher_end) as lab:
        ran = await run_client("ssh", "-F", config_of(lab, tmp_path), "-s", "direct", name)
        assert ran.status == 255
        assert "There is no subsystem" in ran.stderr
        (event,) = await lab.events.wait_for("session.request_denied")
        assert isinstance(event, SessionRequestDenied)
        assert event.request == "subsystem"
        assert not lab.events.named("session.start")


async def test_no_transfer_at_all_is_refused_at_the_start(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    for options in ({"exec": ExecMode.NONE}, rules(upload=False, download=False), {"commands": ("uptime",)}):
        async with lab_of(launcher_end, **options) as lab:
            ran = await run_client("ssh", "-F", config_of(lab, tmp_path), "-s", "direct", "sftp")
            assert ran.status == 255
            assert "Your roles do not allow looking at files." in ran.stderr
            await lab.events.wait_for("session.request_denied")


@pytest.mark.parametrize("way", ["upload", "download"])
async def test_what_is_open_moves_no_further_when_its_permission_is_taken_away(
    launcher_end: LauncherEnd, tmp_path: Path, way: str
) -> None:
    """Threat T50: a role that changes also holds for what was opened before, both ways, and for folders."""
    (tmp_path / "old").write_bytes(b"secret")
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        handle = await client.open(tmp_path / ("new" if way == "upload" else "old"),
                                   wire.WRITE | wire.CREATE if way == "upload" else wire.READ)  # fmt: skip
        other = await client.open(tmp_path / ("old" if way == "upload" else "new"),
                                  wire.READ if way == "upload" else wire.WRITE | wire.CREATE)  # fmt: skip
        kind, reader = await client.ask(Packet.OPENDIR, wire.string(os.fsencode(tmp_path)))
        assert kind == Packet.HANDLE
        folder = reader.string()
        name = wire.string(handle)
        write, read = struct.pack(">Q", 0) + wire.string(b"abc"), struct.pack(">QI", 0, 3)
        if way == "upload":
            assert await client.status(Packet.WRITE, name, write) == Status.OK
        else:
            assert (await client.ask(Packet.READ, name, read))[0] == Packet.DATA
        lab.rules.options(**rules(**{way: False}, deny_paths=(str(tmp_path),)))
        lab.node.reconsider()
        more = (Packet.WRITE, struct.pack(">Q", 3) + wire.string(b"def")) if way == "upload" else (Packet.READ, read)
        assert await client.status(more[0], name, more[1]) == Status.PERMISSION_DENIED
        assert await client.status(Packet.FSTAT, name) == Status.PERMISSION_DENIED
        assert await client.status(Packet.READDIR, wire.string(folder)) == Status.PERMISSION_DENIED
        (event,) = told(lab)
        assert (event.code, event.size, event.error) == ("T9220W", 3, f"role 'access' does not allow {way}s")
        if way == "upload":
            assert (tmp_path / "new").read_bytes() == b"abc"
            assert (await client.ask(Packet.READ, wire.string(other), read))[0] == Packet.DATA
        else:
            assert await client.status(Packet.WRITE, wire.string(other), write) == Status.OK
        assert await client.status(Packet.CLOSE, name) == Status.PERMISSION_DENIED
        assert await client.status(Packet.CLOSE, wire.string(other)) == Status.OK
        assert await client.end() == 0


async def test_a_smaller_limit_holds_for_what_is_open(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        name = wire.string(await client.open(tmp_path / "new", wire.WRITE | wire.CREATE))
        lab.rules.options(**rules(max_file_size=5))
        lab.node.reconsider()
        for offset, status in ((0, Status.OK), (3, Status.PERMISSION_DENIED)):
            data = struct.pack(">Q", offset) + wire.string(b"abc")
            assert await client.status(Packet.WRITE, name, data) == status
        lab.rules.options(**rules(max_file_size=2))
        lab.node.reconsider()
        assert await client.status(Packet.FSTAT, name) == Status.PERMISSION_DENIED
        assert await client.end() == 0


async def test_no_link_takes_the_place_of_a_folder_above_what_is_denied(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """Threat T49: `deny_paths` name a file; neither its folder nor one further up becomes a link to another folder."""
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "ready").symlink_to(other)
    denied = f"{tmp_path}/app/conf/keys"
    async with lab_of(launcher_end, **rules(deny_paths=(denied,))) as lab, raw(lab, tmp_path) as client:
        for place in (tmp_path / "app", tmp_path / "app" / "conf"):
            for old in (tmp_path / "ready", other):
                both = wire.string(os.fsencode(old)), wire.string(os.fsencode(place))
                assert await client.status(Packet.SYMLINK, *both) == Status.PERMISSION_DENIED
                assert await client.status(Packet.RENAME, *both) == Status.PERMISSION_DENIED
                for name in (b"posix-rename@openssh.com", b"hardlink@openssh.com"):
                    assert await client.status(Packet.EXTENDED, wire.string(name), *both) == Status.PERMISSION_DENIED
            place.mkdir()
            away = wire.string(os.fsencode(place)), wire.string(os.fsencode(tmp_path / "away"))
            assert await client.status(Packet.RENAME, *away) == Status.PERMISSION_DENIED
        free = wire.string(b"other"), wire.string(os.fsencode(tmp_path / "free"))
        assert await client.status(Packet.SYMLINK, *free) == Status.OK
        assert sorted(os.listdir(tmp_path)) == ["app", "client", "free", "other", "ready"]
        assert await client.end() == 0


async def test_where_paths_are_named_no_other_account_is_told(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Neither where its home is nor whether there is such an account."""
    async with lab_of(launcher_end, **rules(download_paths=(f"{tmp_path}/**",))) as lab, raw(lab, tmp_path) as client:
        answers = set()
        for account in (b"daemon", b"nobody-of-that-name"):
            for name, of in ((b"expand-path@openssh.com", b"~" + account + b"/x"), (b"home-directory", account)):
                kind, reader = await client.ask(Packet.EXTENDED, wire.string(name), wire.string(of))
                assert kind == Packet.STATUS
                answers.add((reader.u32(), bytes(reader.string())))
        assert len(answers) == 1
        kind, _ = await client.ask(Packet.EXTENDED, wire.string(b"home-directory"), wire.string(ME.encode()))
        assert kind == Packet.NAME
        assert await client.end() == 0


async def names_by_id(client: Raw, *ids: int) -> tuple[list[str], list[str]]:
    """What `users-groups-by-id@openssh.com` answers, for the same numbers as users and as groups."""
    packed = b"".join(struct.pack(">I", one) for one in ids)
    name = wire.string(b"users-groups-by-id@openssh.com")
    kind, reader = await client.ask(Packet.EXTENDED, name, wire.string(packed), wire.string(packed))
    assert kind == Packet.EXTENDED_REPLY
    found: list[list[str]] = []
    for _ in range(2):
        names = Reader(reader.string())
        found.append([])
        while not names.done:
            found[-1].append(bytes(names.string()).decode())
    return found[0], found[1]


async def test_where_paths_are_named_owners_are_told_of_what_was_shown(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """By counting up nobody gets the list of accounts; elsewhere any number has its name, as with OpenSSH."""
    own, daemon = os.getuid(), pwd.getpwnam("daemon")
    (tmp_path / "one").touch()
    path = wire.string(os.fsencode(tmp_path / "one"))
    async with lab_of(launcher_end) as lab, raw(lab, tmp_path) as client:
        users, groups = await names_by_id(client, daemon.pw_uid, 3_999_999)
        assert (users, groups) == (["daemon", ""], [grp.getgrgid(daemon.pw_uid).gr_name, ""])
        assert await client.end() == 0
    async with lab_of(launcher_end, **rules(download_paths=(f"{tmp_path}/**",))) as lab, raw(lab, tmp_path) as client:
        assert await names_by_id(client, daemon.pw_uid, own) == (["", ME], ["", grp.getgrgid(own).gr_name])
        if own == 0:
            os.chown(tmp_path / "one", daemon.pw_uid, daemon.pw_gid)
            assert (await client.ask(Packet.STAT, path))[0] == Packet.ATTRS
            assert (await names_by_id(client, daemon.pw_uid))[0] == ["daemon"], "its file was shown"
        assert await client.end() == 0

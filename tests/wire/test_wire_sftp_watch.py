"""Watching SFTP that passes by: with OpenSSH's own client and server, in whatever pieces the bytes come."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.wire import sftp
from teleport.wire.sftp import Malformed, Packet
from teleport.wire.sftp_watch import NOT_CLOSED, OUT_OF_ORDER, FileAction, SftpWatch

SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
SERVER = next((path for path in SERVERS if Path(path).exists()), "")


async def through(folder: Path, batch: str) -> tuple[list[FileAction], str]:
    """Runs `sftp` with these commands against a server, both watched; what the client printed, too."""
    watch, found = SftpWatch(), list[FileAction]()
    random_ = random.Random(7)

    async def pump(
        reader: asyncio.StreamReader, write: Callable[[bytes], object], see: Callable[[bytes], object]
    ) -> None:
        while data := await reader.read(random_.randint(1, 50_000)):
            see(data)
            write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = await asyncio.create_subprocess_exec(
            SERVER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=folder
        )
        assert server.stdin is not None
        assert server.stdout is not None
        there = asyncio.create_task(pump(reader, server.stdin.write, watch.client_sends))
        back = asyncio.create_task(
            pump(server.stdout, writer.write, lambda data: found.extend(watch.server_sends(data)))
        )
        await there
        server.stdin.close()
        await back
        await server.wait()
        found.extend(watch.ended())
        writer.close()

    listening = await asyncio.start_unix_server(serve, folder / "socket")
    (folder / "relay").write_text(
        "#!/usr/bin/env python3\n"
        "import os, socket, sys, threading\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({str(folder / 'socket')!r})\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "    s.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    (folder / "relay").chmod(0o700)
    (folder / "batch").write_text(batch)
    client = await asyncio.create_subprocess_exec(
        "sftp", "-b", str(folder / "batch"), "-D", str(folder / "relay"), cwd=folder,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        said, _ = await client.communicate()
    listening.close()
    await listening.wait_closed()
    return found, said.decode(errors="replace")


@pytest.mark.skipif(not SERVER or not shutil.which("sftp"), reason="there is no OpenSSH sftp and sftp-server here")
async def test_what_openssh_does_is_seen(tmp_path: Path) -> None:
    data = os.urandom(700_000)
    (tmp_path / "here").write_bytes(data)
    batch = (
        "put here there\nget there back\nmkdir d\nrename there d/moved\nln -s d/moved link\nchmod 600 d/moved\n"
        "-get missing x\nput here empty-no\nrm empty-no\nrm link\nrm d/moved\nrmdir d\n"
    )
    found, said = await through(tmp_path, batch)
    assert (tmp_path / "back").read_bytes() == data, said
    digest = hashlib.sha256(data).hexdigest()
    seen = {(one.action, Path(one.path).name): one for one in found}
    assert (seen["write", "there"].size, seen["write", "there"].sha256) == (len(data), digest)
    assert (seen["read", "there"].size, seen["read", "there"].sha256) == (len(data), digest)
    assert seen["rename", "there"].target.endswith("d/moved")
    assert seen["symlink", "link"].target == "d/moved"
    assert "600" in seen["setstat", "moved"].target
    for key in (("mkdir", "d"), ("remove", "moved"), ("remove", "link"), ("rmdir", "d")):
        assert not seen[key].error
    assert [one.direction for one in (seen["read", "there"], seen["write", "there"])] == ["download", "upload"]


def opened(watch: SftpWatch, flags: int = sftp.WRITE | sftp.CREATE) -> None:
    watch.client_sends(sftp.packet(Packet.OPEN, 1, sftp.string(b"/a"), flags.to_bytes(4, "big"), bytes(4)))
    assert watch.server_sends(sftp.handle(1, b"h")) == []


def write(number: int, offset: int, data: bytes) -> bytes:
    return sftp.packet(Packet.WRITE, number, sftp.string(b"h"), offset.to_bytes(8, "big"), sftp.string(data))


def test_bytes_that_move_out_of_order_have_no_hash_and_are_counted() -> None:
    watch = SftpWatch()
    opened(watch)
    watch.client_sends(write(2, 100, b"second") + write(3, 0, b"first"))
    watch.server_sends(sftp.status(2, sftp.Status.OK) + sftp.status(3, sftp.Status.OK))
    watch.client_sends(sftp.packet(Packet.CLOSE, 4, sftp.string(b"h")))
    [done] = watch.server_sends(sftp.status(4, sftp.Status.OK))
    assert (done.action, done.path, done.size, done.sha256, done.hash_reason) == ("write", "/a", 11, "", OUT_OF_ORDER)


def test_what_was_refused_is_told_and_does_not_count() -> None:
    watch = SftpWatch()
    opened(watch)
    watch.client_sends(write(2, 0, b"lost"))
    watch.server_sends(sftp.status(2, sftp.Status.FAILURE, "no space"))
    watch.client_sends(sftp.packet(Packet.REMOVE, 5, sftp.string(b"/b")))
    [refused] = watch.server_sends(sftp.status(5, sftp.Status.PERMISSION_DENIED, "Permission denied"))
    assert (refused.action, refused.path, refused.error) == ("remove", "/b", "Permission denied")
    [left] = watch.ended()
    assert (left.size, left.sha256, left.error) == (0, "", NOT_CLOSED)


def on(kind: Packet, handle: bytes = b"h", number: int = 9) -> bytes:
    """A request that uses a handle."""
    rest = {
        Packet.READ: bytes(12),
        Packet.WRITE: bytes(8) + sftp.string(b"x"),
        Packet.FSETSTAT: bytes(4),
        Packet.CLOSE: b"",
    }
    return sftp.packet(kind, number, sftp.string(handle), rest[kind])


def copied(source: bytes, target: bytes) -> bytes:
    return sftp.packet(
        Packet.EXTENDED, 9, sftp.string(b"copy-data"), sftp.string(source), bytes(16), sftp.string(target), bytes(8)
    )


USES = {
    **{kind.name: on(kind) for kind in (Packet.READ, Packet.WRITE, Packet.FSETSTAT, Packet.CLOSE)},
    "copy from": copied(b"h", b"other"),
    "copy to": copied(b"other", b"h"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("state", ["not given", "to be closed"])
def test_a_guessed_handle_does_not_pass(use: bytes, state: str) -> None:
    """OpenSSH counts its handles: what is sent on one before it is given, or after its end, is of a file unknown."""
    watch = SftpWatch()
    other = sftp.packet(Packet.OPEN, 2, sftp.string(b"/o"), sftp.WRITE.to_bytes(4, "big"), bytes(4))
    watch.client_sends(other)
    watch.server_sends(sftp.handle(2, b"other"))
    if state == "to be closed":
        opened(watch)
        watch.client_sends(on(Packet.CLOSE, number=3))
    else:
        watch.client_sends(sftp.packet(Packet.OPEN, 1, sftp.string(b"/a"), sftp.WRITE.to_bytes(4, "big"), bytes(4)))
    with pytest.raises(Malformed, match="handle"):
        watch.client_sends(use)


def test_a_handle_is_given_again_after_its_end() -> None:
    watch = SftpWatch()
    watch.client_sends(sftp.packet(Packet.OPENDIR, 1, sftp.string(b"/")))
    watch.server_sends(sftp.handle(1, b"h"))
    watch.client_sends(on(Packet.CLOSE))
    assert watch.server_sends(sftp.status(9, sftp.Status.OK)) == []
    for _ in range(2):
        opened(watch)
        watch.client_sends(write(2, 0, b"abc") + on(Packet.CLOSE))
        [done] = watch.server_sends(sftp.status(2, sftp.Status.OK) + sftp.status(9, sftp.Status.OK))
        assert (done.path, done.size) == ("/a", 3)
    assert watch.ended() == []


@pytest.mark.parametrize(
    "answer",
    [sftp.status(9, sftp.Status.OK), b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x01\x65"],
    ids=["nobody asked", "endless", "empty", "cut off"],
)
def test_an_answer_that_is_none_is_not_passed_over(answer: bytes) -> None:
    with pytest.raises(Malformed):
        SftpWatch().server_sends(answer)


def test_a_number_is_used_once_at_a_time() -> None:
    watch = SftpWatch()
    watch.client_sends(sftp.packet(Packet.REMOVE, 1, sftp.string(b"/a")))
    with pytest.raises(Malformed):
        watch.client_sends(sftp.packet(Packet.STAT, 1, sftp.string(b"/a")))


def test_requests_without_an_answer_are_bounded() -> None:
    many = b"".join(sftp.packet(Packet.STAT, number, sftp.string(b"/a")) for number in range(20_000))
    with pytest.raises(Malformed, match="too many"):
        SftpWatch().client_sends(many)


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=200)), max_size=30))
def test_no_bytes_do_more_than_be_refused(pieces: list[tuple[bool, bytes]]) -> None:
    watch = SftpWatch()
    try:
        for from_client, data in pieces:
            if from_client:
                watch.client_sends(data)
            else:
                watch.server_sends(data)
    except Malformed:
        pass
    watch.ended()

"""The directory that makes a host: its lock, its UUID, its epoch, and files that are whole and private."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from teleport.daemon.host import Host, open_host, write_private
from teleport.errors import AlreadyExists, TeleportError
from teleport.transport.listeners import address_of, bind


def opened(data_dir: Path) -> Host:
    """Opened and, as far as the lock goes, over again."""
    host = open_host(data_dir)
    os.close(host.lock)
    return host


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_host_gets_a_uuid_that_it_keeps_and_an_epoch_that_grows(tmp_path: Path) -> None:
    first, second, third = (opened(tmp_path / "data") for _ in range(3))
    assert str(uuid.UUID(first.host_id)) == first.host_id
    assert first.host_id == second.host_id == third.host_id
    assert [first.epoch, second.epoch, third.epoch] == [1, 2, 3]
    assert (first.log_dir, first.proc_dir) == (tmp_path / "data" / "log", tmp_path / "data" / "proc")
    assert mode(tmp_path / "data") == 0o700
    for name in ("host_uuid", "epoch", "daemon.lock"):
        assert mode(tmp_path / "data" / name) == 0o600


def test_two_daemons_cannot_use_one_directory(tmp_path: Path) -> None:
    host = open_host(tmp_path)
    with pytest.raises(AlreadyExists, match="another daemon uses data_dir") as caught:
        open_host(tmp_path)
    assert "teleport.data_dir" in caught.value.hint
    assert (tmp_path / "epoch").read_text() == "1\n", "the refused one counts nothing"
    os.close(host.lock)
    assert opened(tmp_path).epoch == 2


def test_a_killed_daemon_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = "import sys,pathlib; from teleport.daemon.host import open_host; open_host(pathlib.Path(sys.argv[1]))\n"
    code += "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyExists):
            open_host(tmp_path)
        holder.kill()
        holder.wait()
        assert opened(tmp_path).epoch == 2


def test_the_lock_does_not_pass_to_programs_that_are_started(tmp_path: Path) -> None:
    host = open_host(tmp_path)
    assert not os.get_inheritable(host.lock)
    os.close(host.lock)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a uuid\n", b"\xff\xfe\x00", b"0" * 31, b"\n"],
    ids=["empty", "text", "bytes", "short", "line"],
)
def test_a_damaged_uuid_is_named_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "host_uuid").write_bytes(content)
    for _ in range(2):  # the lock was given back
        with pytest.raises(TeleportError, match="host_uuid does not hold the UUID") as caught:
            open_host(tmp_path)
        assert caught.value.hint == "restore it from a backup"
    assert (tmp_path / "host_uuid").read_bytes() == content


def test_another_spelling_of_the_uuid_is_the_same_host(tmp_path: Path) -> None:
    found = uuid.uuid4()
    (tmp_path / "host_uuid").write_text(f"  {str(found).upper()}  ")
    assert opened(tmp_path).host_id == str(found)


@pytest.mark.parametrize("content", [b"", b"many", b"-3", b"\xff"])
def test_a_damaged_epoch_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "epoch").write_bytes(content)
    with pytest.raises(TeleportError, match="epoch does not hold a number"):
        open_host(tmp_path)


def test_a_directory_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    opened(tmp_path)
    assert mode(tmp_path) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives a directory to another user")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(TeleportError, match=r"belongs to another user \(uid 65534\)"):
        open_host(tmp_path)
    os.chown(tmp_path, 0, 0)


def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TeleportError, match=r"data_dir .*file cannot be used") as caught:
        open_host(tmp_path / "file")
    assert "teleport.data_dir" in caught.value.hint
    with pytest.raises(TeleportError, match="cannot be used"):
        open_host(tmp_path / "file" / "below")


def test_the_lock_file_is_no_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "daemon.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(TeleportError, match="cannot be used"):
        open_host(tmp_path)
    assert (tmp_path / "victim").read_text() == "kept"


# files that are whole or not there


def test_a_private_file_is_the_owners_only_whatever_the_umask(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        write_private(tmp_path / "key", "secret")
        write_private(tmp_path / "cert", b"public", 0o644)
    finally:
        os.umask(former)
    assert mode(tmp_path / "key") == 0o600
    assert mode(tmp_path / "cert") == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cert", "key"]


def test_writing_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "key").symlink_to(tmp_path / "victim")
    write_private(tmp_path / "key", "secret")
    assert (tmp_path / "victim").read_text() == "kept"
    assert not (tmp_path / "key").is_symlink()
    assert (tmp_path / "key").read_text() == "secret"


def test_the_temporary_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    (tmp_path / f".key.{os.getpid()}.new").symlink_to(tmp_path / "victim")
    write_private(tmp_path / "key", "secret")
    assert (tmp_path / "victim").read_text() == "kept"
    assert (tmp_path / "key").read_text() == "secret"


def test_what_a_crash_left_does_not_stop_the_next_process_of_the_same_id(tmp_path: Path) -> None:
    """In a container every run has the same process id."""
    (tmp_path / f".key.{os.getpid()}.new").write_text("half")
    write_private(tmp_path / "key", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_readers_see_the_old_content_or_the_new_never_a_part(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [letter * 200_000 for letter in "abcd"]
    write_private(path, contents[0])
    seen, over = set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents * 3:
        write_private(path, content)
    over.set()
    reader.join(10)
    assert seen <= set(contents)


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match=r"(?i)directory"):
        write_private(tmp_path / "key", "secret")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


# listeners


def test_a_taken_port_is_named_with_the_key_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TeleportError, match=rf"the auth service cannot listen on 127\.0\.0\.1:{port}: ") as caught:
            bind("127.0.0.1", port, "the auth service", "auth_service.listen_addr")
    assert "auth_service.listen_addr" in caught.value.hint
    assert f"sport = :{port}" in caught.value.hint


def test_an_address_of_another_host_is_named_ipv6_in_brackets() -> None:
    with pytest.raises(TeleportError, match=r"cannot listen on \[2001:db8::1\]:3025: "):
        bind("2001:db8::1", 3025, "auth", "auth_service.listen_addr")
    with pytest.raises(TeleportError, match=r"cannot listen on no\.such\.host\.invalid:1: "):
        bind("no.such.host.invalid", 1, "auth", "key")


@pytest.mark.parametrize(("host", "reached"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
def test_listeners_take_connections_of_their_family(host: str, reached: str) -> None:
    """`::` takes IPv4 too."""
    listener = bind(host, 0, "x", "x")
    try:
        assert address_of(listener)[0] == host
        assert not listener.getblocking()
        socket.create_connection((reached, address_of(listener)[1]), 2).close()
    finally:
        listener.close()

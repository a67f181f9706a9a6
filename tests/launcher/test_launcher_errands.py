"""Errands: what is connected and listened for as a user, and what is left of it."""

# ruff: noqa: ASYNC221, ASYNC240  # nothing else runs in these loops
from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from teleport.launcher import Kind, LauncherEnd, LauncherRefused, SpawnRequest, lookups, messages
from teleport.launcher.client import Launcher
from teleport.launcher.errand_client import ErrandFailed, Errands
from teleport.launcher.errands import Errands as Served
from teleport.testing.running import wait_until

ME = pwd.getpwuid(os.getuid()).pw_name


@asynccontextmanager
async def errands(end: LauncherEnd, login: str = ME) -> AsyncIterator[Errands]:
    launcher = Launcher(end)
    try:
        made = await launcher.errands(SpawnRequest(login, kind=Kind.ERRANDS))
        try:
            yield made
        finally:
            made.close()
            await made._process.wait_gone()  # type: ignore[attr-defined]
    finally:
        launcher.close()


def pid_of(made: Errands) -> int:
    return int(getattr(made._process, "pid", 0))


def unix_server(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    server.settimeout(10)
    return server


def peer_uid(sock: socket.socket) -> int:
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


async def test_everything_is_done_as_the_user(end: LauncherEnd, person: pwd.struct_passwd, tmp_path: Path) -> None:
    """The other end of a socket sees the account, and so does the file system."""
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        folder.chmod(folder.stat().st_mode | 0o011)
    open_, shut = tmp_path / "open", tmp_path / "shut"
    servers = [unix_server(path) for path in (open_, shut)]
    open_.chmod(0o666)
    shut.chmod(0o600)
    async with errands(end, person.pw_name) as made:
        descriptor = await made.connect_found(await made.find(str(open_)))
        accepted, _ = servers[0].accept()
        assert peer_uid(accepted) == person.pw_uid
        close(descriptor)
        accepted.close()
        found = await made.find(str(shut))
        with pytest.raises(ErrandFailed, match="Permission denied"):
            await made.connect_found(found)
        with pytest.raises(ErrandFailed, match="Permission denied"):
            await made.listen_at(await made.place(str(tmp_path / "mine")))
        with pytest.raises(ErrandFailed, match="Permission denied"):
            await made.listen(["127.0.0.1"], 81)
        home = Path(person.pw_dir) / "socket"
        place = await made.place(str(home))
        assert (place.path, place.home) == (str(home), os.path.realpath(person.pw_dir))
        close(await made.listen_at(place))
        there = home.stat()
        assert (there.st_uid, stat.S_IMODE(there.st_mode)) == (person.pw_uid, 0o600)
    await wait_until(lambda: not home.exists())
    for server in servers:
        server.close()


async def test_nobody_else_of_the_user_can_look_into_it(end: LauncherEnd, person: pwd.struct_passwd) -> None:
    """Neither memory nor descriptors: it holds sockets that its user might not open."""
    async with errands(end, person.pw_name) as made:
        status = Path(f"/proc/{pid_of(made)}/status").read_text()
        assert f"Uid:\t{person.pw_uid}\t{person.pw_uid}\t{person.pw_uid}\t{person.pw_uid}" in status
        for name in ("mem", "environ", "fd/0"):
            command = ["head", "-c1", f"/proc/{pid_of(made)}/{name}"]
            done = subprocess.run(
                command, user=person.pw_uid, group=person.pw_gid, extra_groups=[], capture_output=True
            )
            assert b"Permission denied" in done.stderr
        descriptors = {os.readlink(f"/proc/{pid_of(made)}/fd/{fd}") for fd in os.listdir(f"/proc/{pid_of(made)}/fd")}
        assert all(one == "/dev/null" or one.startswith("socket:") for one in descriptors), descriptors


async def test_what_was_judged_is_what_is_connected_to(end: LauncherEnd, tmp_path: Path) -> None:
    """A path that leads elsewhere by the time of the connection changes nothing."""
    good, bad, path = tmp_path / "good", tmp_path / "bad", tmp_path / "path"
    path.symlink_to(good)
    with unix_server(good) as server, unix_server(bad) as other:
        async with errands(end) as made:
            found = await made.find(str(path))
            assert found.path == str(good)
            path.unlink()
            path.symlink_to(bad)
            good.rename(tmp_path / "moved")
            bad.rename(good)
            descriptor = await made.connect_found(found)
            server.accept()[0].close()
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.accept()
            close(descriptor)
            made.forget(found.token)


async def test_what_is_no_socket_or_nowhere_is_refused(end: LauncherEnd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    async with errands(end) as made:
        for path, said in (
            (str(tmp_path / "file"), "not a socket"),
            (str(tmp_path / "nothing"), "No such file"),
            ("relative", "not an absolute path"),
            ("/proc/self/mem\0x", "not an absolute path"),
        ):
            with pytest.raises(ErrandFailed, match=said):
                await made.find(path)
        with pytest.raises(ErrandFailed, match="Address already in use"):
            await made.listen_at(await made.place(str(tmp_path / "file")))
        for path in (str(tmp_path) + "/", str(tmp_path / "x" / "..")):
            with pytest.raises(ErrandFailed):
                await made.place(path)
    assert (tmp_path / "file").read_text() == "kept"


async def test_a_socket_that_was_replaced_is_not_taken_away(end: LauncherEnd, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with errands(end) as made:
        place = await made.place(str(path))
        close(await made.listen_at(place))
        path.unlink()
        path.write_text("another's")
        made.forget(place.token)
        await made.addresses("localhost", 1)  # answered later than what came before it
        assert path.read_text() == "another's"


async def test_ports_and_names(end: LauncherEnd) -> None:
    async with errands(end) as made:
        listeners, port = await made.listen(["127.0.0.1", "::1"], 0)
        assert port > 0
        descriptor = await made.connect("127.0.0.1", port)
        close(descriptor, *listeners)
        addresses, canonical = await made.addresses("localhost", 80)
        assert set(addresses) <= {"127.0.0.1", "::1"}
        assert canonical, "the name that it led to"
        with pytest.raises(ErrandFailed, match="cannot be resolved"):
            await made.addresses("no-such-name.invalid", 80)
        with pytest.raises(ErrandFailed):
            await made.connect("localhost", port)  # a name is never dialled


def test_names_beyond_those_that_are_looked_up_at_once_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser behind `ssh -D` opens dozens of connections at once, and the name server is slow."""
    slow = threading.Event()
    at_once = threading.Semaphore(0)

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        at_once.release()
        assert slow.wait(30)
        return [(0, 0, 0, host, ("192.0.2.1", port))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(30)
    with ours, theirs:
        served = Served(theirs, "/")
        for number in range(40):
            served.do("addresses", {"id": number, "host": "name", "port": 1})
        for _ in range(lookups.MOST_AT_ONCE):
            assert at_once.acquire(timeout=30)
        assert not at_once.acquire(timeout=0.1), "the others wait"
        slow.set()
        answers = [messages.decode(messages.receive(ours)[0]) for _ in range(40)]
    assert {kind for kind, _ in answers} == {"done"}
    assert sorted(fields["id"] for _, fields in answers) == list(range(40))


def test_a_name_for_which_nobody_waits_any_more_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    asked: list[str] = []
    over = threading.Event()
    first, go_on = threading.Event(), threading.Event()

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        first.set()
        assert go_on.wait(30)
        return []

    def tell(number: int, found: object) -> None:
        told.append(number)
        if number == 3:
            over.set()

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    monkeypatch.setattr(lookups, "MOST_AT_ONCE", 1)
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    made = lookups.Lookups(tell)
    made.ask(1, "slow", 1)
    assert first.wait(30)
    made.ask(2, "given up", 1)
    clock[0] += lookups.PATIENCE
    made.ask(3, "fresh", 1)
    made.ask(4, "led-to.", 1)  # by a name that was looked up: whoever asks has waited already
    go_on.set()
    assert over.wait(30)
    assert (told, asked) == ([1, 4, 3], ["slow", "led-to.", "fresh"])


def test_too_many_names_or_no_thread_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process goes on, and says so to whoever asked."""

    class NoThread:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, monkeypatch.context() as patched:
        patched.setattr("threading.Thread", NoThread)
        Served(theirs, "/").do("addresses", {"id": 1, "host": "localhost", "port": 1})
        kind, fields = messages.decode(messages.receive(ours)[0])
        assert (kind, fields["error"]) == ("failed", "the login may have no more processes to look up the name")
    monkeypatch.setattr(lookups, "MOST_WAITING", 0)
    with pytest.raises(OSError, match="too many names"):
        lookups.Lookups(lambda *_: None).ask(1, "localhost", 1)


@pytest.mark.parametrize("end_of", ["connection", "daemon", "itself"])
async def test_an_agent_socket_is_private_and_goes_with_whatever_ends(
    end: LauncherEnd, person: pwd.struct_passwd, end_of: str
) -> None:
    """T51: mode and owner of directory and socket; gone also when the daemon is killed."""
    launcher = Launcher(end)
    made = await launcher.errands(SpawnRequest(person.pw_name, kind=Kind.ERRANDS))
    agent = await made.agent()
    path = Path(agent.path)
    folder, there = path.parent.stat(), path.stat()
    assert (folder.st_uid, stat.S_IMODE(folder.st_mode)) == (person.pw_uid, 0o700)
    assert (there.st_uid, stat.S_IMODE(there.st_mode), stat.S_ISSOCK(there.st_mode)) == (person.pw_uid, 0o600, True)
    command = ["test", "-w", agent.path]
    nobody = pwd.getpwnam("nobody")
    for user, group, reached in ((nobody.pw_uid, nobody.pw_gid, False), (person.pw_uid, person.pw_gid, True)):
        done = subprocess.run(command, user=user, group=group, extra_groups=[], capture_output=True, cwd="/")
        assert (done.returncode == 0) is reached, done.stderr
    close(*agent.listeners)
    pid = pid_of(made)
    match end_of:
        case "connection":
            made.close()
        case "daemon":
            launcher.close()  # what its death does to the sockets
            made._sock.shutdown(socket.SHUT_RDWR)
        case _:
            os.kill(pid, signal.SIGTERM)
    await wait_until(lambda: not path.parent.exists())
    await wait_until(lambda: made.gone)
    with pytest.raises(ErrandFailed, match="has ended"):
        await made.agent()
    made.close()
    launcher.close()


async def test_a_display_has_a_file_with_its_cookie(end: LauncherEnd) -> None:
    """In the format of libXau, which `xauth` reads where it is installed."""
    async with errands(end) as made:
        shown = await made.x11("MIT-MAGIC-COOKIE-1", bytes(range(16)))
        other = await made.x11("MIT-MAGIC-COOKIE-1", bytes(16))
        assert 10 <= shown.display < other.display
        file = Path(shown.path)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        data = file.read_bytes()
        assert data[:2] == b"\x01\x00"
        assert bytes(range(16)) in data
        assert data.endswith(
            b"\xff\xff\0\0"
            + struct.pack(">H", len(str(shown.display)))
            + str(shown.display).encode()
            + b"\0\x12MIT-MAGIC-COOKIE-1\0\x10"
            + bytes(range(16))
        )
        if shutil.which("xauth"):
            listed = subprocess.run(["xauth", "-f", shown.path, "list"], capture_output=True, text=True, check=True)
            assert f":{shown.display}  MIT-MAGIC-COOKIE-1  {bytes(range(16)).hex()}" in listed.stdout
        close(*shown.listeners, *other.listeners)
        made.forget(shown.token)
        await wait_until(lambda: not file.parent.exists())


async def test_a_process_that_was_stopped_holds_nobody_up(end: LauncherEnd) -> None:
    """Its user may send it signals. What comes after all is closed."""
    async with errands(end) as made:
        made.patience = 0.3
        os.kill(pid_of(made), signal.SIGSTOP)
        with pytest.raises(ErrandFailed, match="did not answer"):
            await made.listen(["127.0.0.1"], 0)
        os.kill(pid_of(made), signal.SIGCONT)
        made.patience = 15.0
        before = len(os.listdir("/proc/self/fd"))
        descriptors, _ = await made.listen(["127.0.0.1"], 0)
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        close(*descriptors)


async def test_accounts_that_take_no_logins_get_no_errands(
    end: LauncherEnd, person: pwd.struct_passwd, shut_account: Callable[..., None]
) -> None:
    shut_account("--shell", "/usr/sbin/nologin")
    with pytest.raises(LauncherRefused, match="takes no logins"):
        async with errands(end, person.pw_name):
            pass


@pytest.mark.parametrize(
    ("kind", "fields"), [("connect_found", {"token": 99}), ("connect", {"address": "127.0.0.1", "port": 2**70})]
)
def test_an_errand_that_makes_no_sense_is_answered(kind: str, fields: dict[str, object]) -> None:
    """It takes nothing else of the connection with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        Served(theirs, "/").do(kind, {"id": 1, **fields})
        answer, _ = messages.decode(messages.receive(ours)[0])
        assert answer == "failed"

"""Sessions as the node sees them: start, streams, terminal, signals, exit, refusals."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import signal
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from teleport.errors import BadRequest
from teleport.launcher import Exit, Kind, LauncherEnd, LauncherRefused, Pty, Reason, SpawnRequest
from teleport.launcher.client import Launcher, Process, resize_terminal
from teleport.launcher.processes import children
from teleport.launcher.values import SessionLost

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it acts as several Unix users")
ME = pwd.getpwuid(os.geteuid()).pw_name


async def read(descriptor: int | None, until: bytes | None = None) -> bytes:
    """What comes on a non-blocking descriptor, to its end or until `until` was seen."""
    assert descriptor is not None
    loop = asyncio.get_running_loop()
    data = b""
    while until is None or until not in data:
        ready = asyncio.Event()
        loop.add_reader(descriptor, ready.set)
        try:
            async with asyncio.timeout(20):
                await ready.wait()
        finally:
            loop.remove_reader(descriptor)
        try:
            part = os.read(descriptor, 65_536)
        except OSError:
            break  # EIO: no program has the terminal open any more
        if not part:
            break
        data += part
    return data


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - other processes give no event
            await asyncio.sleep(0.01)


def close(process: Process) -> None:
    process.close()
    for descriptor in (process.pty, process.stdin, process.stdout, process.stderr):
        if descriptor is not None:
            os.close(descriptor)


async def run(launcher: Launcher, request: SpawnRequest) -> tuple[bytes, bytes, Exit]:
    process = await launcher.spawn(request)
    try:
        if process.pty is not None:
            return await read(process.pty), b"", await process.wait()
        assert process.stdin is not None
        out, err = await asyncio.gather(read(process.stdout), read(process.stderr))
        return out, err, await process.wait()
    finally:
        close(process)


def command(text: str, login: str = ME, pty: Pty | None = None) -> SpawnRequest:
    return SpawnRequest(login, Kind.EXEC, text, pty=pty)


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("exit 0", Exit(0)),
        ("exit 3", Exit(3)),
        ("exit 255", Exit(255)),
        ("ulimit -c 0; kill -TERM $$", Exit(None, "TERM")),
        ("ulimit -c 0; kill -SEGV $$", Exit(None, "SEGV")),
        ("kill -KILL $$", Exit(None, "KILL")),
    ],
)
async def test_how_a_command_ended_comes_through(end: LauncherEnd, text: str, ended: Exit) -> None:
    """Status 0, others, and death by a signal."""
    assert (await run(Launcher(end), command(text)))[2] == ended


async def test_standard_output_and_error_are_apart(end: LauncherEnd) -> None:
    """Two pipes; /dev/stderr can be opened by the session; the input reaches the command and ends."""
    launcher = Launcher(end)
    process = await launcher.spawn(command("cat; echo err > /dev/stderr"))
    assert process.stdin is not None
    os.write(process.stdin, b"in\n")
    os.close(process.stdin)
    process.stdin = None
    assert tuple(await asyncio.gather(read(process.stdout), read(process.stderr))) == (b"in\n", b"err\n")
    assert await process.wait() == Exit(0)
    close(process)


async def test_a_terminal_has_its_size_and_takes_another(end: LauncherEnd) -> None:
    """`stty size` before and after a resize, whose signal reaches the foreground."""
    text = 'stty size; trap "stty size; exit 5" WINCH; echo ready; while :; do read -r -t 1 line; done'
    process = await Launcher(end).spawn(command(text, pty=Pty("vt100", 120, 33)))
    assert process.pty is not None
    shown = await read(process.pty, b"ready")
    assert b"33 120\r\n" in shown
    resize_terminal(process.pty, 90, 44)
    assert b"44 90\r\n" in await read(process.pty)
    assert await process.wait() == Exit(5)
    close(process)


async def test_a_terminal_is_owned_by_its_user_and_named(end: LauncherEnd) -> None:
    """SSH_TTY and TERM; the terminal is the session's own and nobody else may read it."""
    text = 'test "$SSH_TTY" = "$(tty)" && echo same; echo "$TERM"; stat -c "%a %u" "$SSH_TTY"'
    out, _, ended = await run(Launcher(end), command(text, pty=Pty("vt100")))
    mode = b"620" if os.geteuid() == 0 else rb"6[02]0"
    assert re.fullmatch(rb"same\r\nvt100\r\n%b %d\r\n" % (mode, os.geteuid()), out)
    assert ended == Exit(0)


async def test_terminal_modes_are_set_before_the_command(end: LauncherEnd) -> None:
    """RFC 4254 section 8: ECHO off."""
    modes = struct.pack(">BI", 53, 0) + b"\0"
    out, _, _ = await run(Launcher(end), command("stty -a", pty=Pty(modes=modes)))
    assert re.search(rb"(^|\s)-echo\s", out)


async def test_control_c_interrupts_the_foreground(end: LauncherEnd) -> None:
    """The terminal is the controlling one: its interrupt character is a signal."""
    process = await Launcher(end).spawn(command("trap 'exit 9' INT; echo ready; sleep 600 & wait", pty=Pty()))
    assert process.pty is not None
    await read(process.pty, b"ready")
    os.write(process.pty, b"\x03")
    assert await process.wait() == Exit(9)
    close(process)


@pytest.mark.parametrize("pty", [None, Pty()], ids=["pipes", "terminal"])
async def test_signals_reach_the_session(end: LauncherEnd, pty: Pty | None) -> None:
    """By their RFC 4254 names, to the foreground of the terminal or the command's process group."""
    process = await Launcher(end).spawn(command("trap 'exit 7' USR1; echo ready; sleep 600 & wait", pty=pty))
    await read(process.pty if pty else process.stdout, b"ready")
    with pytest.raises(BadRequest):
        process.signal("STOP")
    process.signal("USR1")
    assert await process.wait() == Exit(7)
    close(process)


async def test_a_shell_is_a_login_shell(end: LauncherEnd) -> None:
    """Its name begins with a dash, it reads commands from its input."""
    process = await Launcher(end).spawn(SpawnRequest(ME))
    assert process.stdin is not None
    os.write(process.stdin, b"echo $0; exit 4\n")
    assert re.match(rb"-\w+\n$", (await read(process.stdout)).splitlines(keepends=True)[-1])
    assert await process.wait() == Exit(4)
    close(process)


async def test_fifty_sessions_at_once_lose_no_exit(end: LauncherEnd) -> None:
    """More than the monitors kept ready; every status is its own session's."""
    launcher = Launcher(end)

    async def one(number: int) -> int | None:
        out, _, ended = await run(launcher, command(f"echo {number}; exit {number}"))
        assert out == b"%d\n" % number
        return ended.status

    assert await asyncio.gather(*map(one, range(50))) == list(range(50))


def title(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_monitors_serve_again_and_do_not_pile_up(end: LauncherEnd) -> None:
    """A few processes serve sessions one after the other; a burst's are let go of, and none keeps a descriptor."""
    launcher = Launcher(end)
    await asyncio.gather(*(run(launcher, command("true")) for _ in range(12)))
    served = [int((await run(launcher, command("echo $PPID", pty=Pty())))[0]) for _ in range(12)]
    assert len(set(served)) < len(served)
    await until(lambda: len(children(launcher.pid)) <= 4)
    process = await launcher.spawn(command("read -r line", pty=Pty()))
    (monitor,) = [pid for pid in children(launcher.pid) if process.pid in children(pid)]
    # Standard streams, the launcher's socket and life, SIGCHLD's two ends, and the session's socket; no terminal.
    await until(lambda: len(os.listdir(f"/proc/{monitor}/fd")) == 8)
    close(process)


async def test_the_process_list_shows_no_arguments_of_the_daemon(end: LauncherEnd) -> None:
    """Launcher and monitors have titles of their own: a token on the daemon's command line is not copied."""
    launcher = Launcher(end)
    process = await launcher.spawn(command("echo $PPID; read -r line"))
    monitor = int(await read(process.stdout, b"\n"))
    for pid in (launcher.pid, monitor):
        assert title(pid).startswith(b"teleport: ")
    close(process)


async def test_an_unknown_login_is_refused(end: LauncherEnd) -> None:
    """With its reason, and the launcher goes on."""
    launcher = Launcher(end)
    with pytest.raises(LauncherRefused, match="no Unix account 'nobody-of-that-name'") as refused:
        await launcher.spawn(command("true", "nobody-of-that-name"))
    assert refused.value.reason is Reason.UNKNOWN_LOGIN
    assert refused.value.hint
    assert (await run(launcher, command("true")))[2] == Exit(0)


async def test_a_request_too_long_is_refused(end: LauncherEnd) -> None:
    """A command beyond what a packet, or the kernel's exec, takes; nothing is cut."""
    launcher = Launcher(end)
    with pytest.raises(LauncherRefused) as refused:
        await launcher.spawn(command("x" * 300_000))
    assert refused.value.reason is Reason.BAD_REQUEST
    for text, message in (("x" * 150_000, "Argument list too long"), ("a\0b", "null byte"), ("\ud800", "surrogates")):
        with pytest.raises(LauncherRefused, match=message) as refused:
            await launcher.spawn(command(text))
        assert refused.value.reason is Reason.BAD_REQUEST
    assert len((await run(launcher, command("printf %s " + "x" * 100_000)))[0]) == 100_000


async def test_a_cancelled_spawn_leaves_nothing(end: LauncherEnd) -> None:
    """Neither descriptors here nor a process there."""
    launcher = Launcher(end)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        task = asyncio.create_task(launcher.spawn(command("sleep 600")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await run(launcher, command("true")))[2] == Exit(0)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_launcher_killed_with_a_request_unread_has_failed(end: LauncherEnd) -> None:
    """The kernel then reports a reset, not an end: it must be noticed all the same, and without noise."""
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    launcher = Launcher(end)
    os.kill(end.pid, signal.SIGSTOP)
    spawning = asyncio.create_task(launcher.spawn(command("true")))
    await asyncio.sleep(0)  # the request is handed over, and nobody reads it
    os.kill(end.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await launcher.wait_failed()
        with pytest.raises(LauncherRefused):
            await spawning
    await launcher.wait_closed()
    assert noise == []


async def test_a_session_let_go_of_early_has_no_exit(end: LauncherEnd) -> None:
    """`close` before the end kills, and whoever waits learns that the end is unknown."""
    process = await Launcher(end).spawn(command("sleep 600"))
    waiting = asyncio.create_task(process.wait())
    await asyncio.sleep(0)
    close(process)
    with pytest.raises(SessionLost):
        await waiting
    await process.wait_gone()


@needs_root
async def test_a_shut_account_is_refused(
    end: LauncherEnd, person: pwd.struct_passwd, shut_account: Callable[..., None]
) -> None:
    """Expired, nologin, a missing shell (never replaced by bash); a locked password alone refuses nothing."""
    launcher = Launcher(end)
    shut_account("--lock")
    assert (await run(launcher, command("true", person.pw_name)))[2] == Exit(0)
    for options, reason in (
        (("--expiredate", "1"), Reason.EXPIRED),
        (("--expiredate", "", "--shell", "/usr/sbin/nologin"), Reason.NO_SHELL),
        (("--shell", "/usr/local/bin/no-such-shell"), Reason.NO_SHELL),
    ):
        shut_account(*options)
        with pytest.raises(LauncherRefused) as refused:
            await launcher.spawn(command("true", person.pw_name))
        assert refused.value.reason is reason
        assert person.pw_name in refused.value.hint


@needs_root
async def test_a_missing_home_starts_in_the_root_directory(end: LauncherEnd, person: pwd.struct_passwd) -> None:
    """With a note on standard error."""
    os.chmod(person.pw_dir, 0)
    try:
        out, err, ended = await run(Launcher(end), command("pwd", person.pw_name))
    finally:
        os.chmod(person.pw_dir, stat.S_IRWXU)
    assert (out, ended) == (b"/\n", Exit(0))
    assert err.startswith(f"Could not change to the home directory {person.pw_dir}".encode())


async def test_whoever_watches_a_session_begins_before_anything_of_it_runs(end: LauncherEnd, tmp_path: Path) -> None:
    """The process that is named is the first one; it has no child and runs nothing yet."""
    told: list[int] = []

    def held(pid: int) -> None:
        assert children(pid) == []
        assert b"echo" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        told.append(pid)

    process = await Launcher(end).spawn(command("echo $$"), held=held)
    try:
        assert await read(process.stdout) == f"{told[0]}\n".encode()
        await process.wait()
    finally:
        close(process)
    assert len(told) == 1


async def test_a_watcher_that_refuses_stops_the_session_and_not_the_next_one(end: LauncherEnd, tmp_path: Path) -> None:
    launcher, mark = Launcher(end), tmp_path / "ran"

    def held(pid: int) -> None:
        raise LauncherRefused(Reason.FAILED, "not watched")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LauncherRefused, match="not watched"):
        await launcher.spawn(command(f"touch {mark}"), held=held)
    assert len(os.listdir("/proc/self/fd")) == before
    out, _, _ = await run(launcher, command("echo next"))
    assert out == b"next\n"
    assert not mark.exists()

"""Nothing of a session outlives what it should: kill -9 of the daemon, of the launcher, of a monitor."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from teleport import launcher
from teleport.errors import TeleportError
from teleport.launcher import Exit, LauncherEnd, LauncherRefused, Reason
from teleport.launcher.client import Launcher
from teleport.launcher.processes import children

# Run in a session: a child, one that left with setsid and nohup, and one forked twice that ignores what it can.
ESCAPE = """
trap '' HUP TERM
setsid nohup sleep {0} > /dev/null 2>&1 &
(setsid sh -c 'trap "" HUP TERM; sleep {0} & sleep {0}' > /dev/null 2>&1 &)
sleep {0} &
echo ready
wait; sleep {0}
"""
ESCAPED = 5  # with the `sh -c` that names the marker

DAEMON = """
import asyncio, os, pwd, sys
from teleport import launcher
end = launcher.start()
from teleport.launcher.client import Launcher

async def main():
    pty = launcher.Pty() if sys.argv[2] == "pty" else None
    login = pwd.getpwuid(os.geteuid()).pw_name
    process = await Launcher(end).spawn(launcher.SpawnRequest(login, launcher.Kind.EXEC, sys.argv[1], pty=pty))
    print(end.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def running(marker: str) -> list[int]:
    """The processes whose arguments name `marker`, but not those of the test."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    arguments = file.read()
            except OSError:
                continue
            if marker.encode() in arguments and b"python" not in arguments and b"trap '' HUP" not in arguments:
                found.append(int(name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> str:
    """A number of seconds that no other process sleeps."""
    return f"{600 + abs(hash(request.node.name)) % 1000}.{os.getpid()}"


@pytest.mark.parametrize("stream", ["pty", "pipes"])
@pytest.mark.parametrize("victim", ["daemon", "launcher"])
def test_kill_9_leaves_no_process_of_a_session(marker: str, victim: str, stream: str) -> None:
    """Of the daemon or of the launcher: within about a second everything is gone, escapees too."""
    arguments = [sys.executable, "-c", DAEMON, ESCAPE.format(marker), stream]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        wait_until(lambda: len(running(marker)) == ESCAPED)
        os.kill(daemon.pid if victim == "daemon" else pid, signal.SIGKILL)
        wait_until(lambda: not running(marker), 5)
        if victim == "launcher":
            daemon.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


def _session(marker: str) -> launcher.SpawnRequest:
    import pwd

    return launcher.SpawnRequest(pwd.getpwuid(os.geteuid()).pw_name, launcher.Kind.EXEC, ESCAPE.format(marker))


async def _until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition)


def _close(process: object) -> None:
    for name in ("stdin", "stdout", "stderr"):
        os.close(getattr(process, name))


async def test_a_terminated_session_leaves_nothing(end: LauncherEnd, marker: str) -> None:
    """`kill`: when the monitor is gone, so is everything below it."""
    process = await Launcher(end).spawn(_session(marker))
    await _until(lambda: len(running(marker)) == ESCAPED)
    process.kill()
    assert await process.wait() == Exit(None, "KILL")
    await process.wait_gone()
    assert running(marker) == []
    process.close()
    _close(process)


async def test_kill_9_of_a_monitor_leaves_nothing(end: LauncherEnd, marker: str) -> None:
    """The launcher inherits the session's processes and kills them; other sessions stay."""
    client = Launcher(end)
    other = await client.spawn(_session(f"{marker}1"))
    process = await client.spawn(_session(f"{marker}2"))
    await _until(lambda: len(running(f"{marker}1")) == len(running(f"{marker}2")) == ESCAPED)
    (monitor,) = [pid for pid in children(client.pid) if process.pid in children(pid)]
    os.kill(monitor, signal.SIGKILL)
    await process.wait_gone()
    await _until(lambda: running(f"{marker}2") == [])
    assert len(running(f"{marker}1")) == ESCAPED
    assert not client.failed
    other.kill()
    await other.wait_gone()
    for one in (process, other):
        one.close()
        _close(one)


async def test_what_nohup_leaves_behind_lives_on_after_a_normal_end(end: LauncherEnd, marker: str) -> None:
    """As under sshd: past the end of its session, and past the daemon's and the launcher's."""
    client = Launcher(end)
    text = f"setsid nohup sleep {marker} > /dev/null 2>&1 < /dev/null & exit 2"
    request = _session(marker)
    process = await client.spawn(launcher.SpawnRequest(request.login, launcher.Kind.EXEC, text))
    assert await process.wait() == Exit(2)
    process.close()
    _close(process)
    await _until(lambda: len(running(marker)) == 1)
    client.close()
    await client.wait_closed()
    (left,) = running(marker)
    os.kill(left, signal.SIGKILL)


async def test_the_daemon_learns_that_the_launcher_died(end: LauncherEnd) -> None:
    """It is told, and refuses new sessions with the next step."""
    client = Launcher(end)
    os.kill(client.pid, signal.SIGKILL)
    await client.wait_failed()
    with pytest.raises(LauncherRefused, match="has ended") as refused:
        await client.spawn(_session("1"))
    assert refused.value.reason is Reason.LAUNCHER_GONE
    await client.wait_closed()


async def test_signals_of_the_terminal_do_not_end_the_launcher(end: LauncherEnd) -> None:
    """Ctrl-C and a service manager's TERM are for the daemon, which then decides."""
    client = Launcher(end)
    process = await client.spawn(launcher.SpawnRequest(_session("1").login, launcher.Kind.EXEC, "read -r line"))
    monitors = children(client.pid)
    for pid in (client.pid, *monitors):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    assert process.stdin is not None
    os.write(process.stdin, b"\n")
    assert await process.wait() == Exit(0)
    process.close()
    _close(process)


def test_a_daemon_with_threads_cannot_start_it() -> None:
    """A fork then could lock up."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(TeleportError, match="before any thread"):
            launcher.start()
    finally:
        stop.set()
        thread.join()


async def test_a_daemon_with_a_loop_cannot_start_it() -> None:
    """A fork inside a running loop shares its epoll set, and hangs."""
    with pytest.raises(TeleportError, match="before the event loop"):
        launcher.start()


def test_the_launchers_process_loads_no_asyncio() -> None:
    """It stays small, and forks without a loop."""
    text = (
        "import sys, teleport.launcher; print(sorted({'asyncio', 'asyncssh', 'threading', 'ssl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout == "[]\n"

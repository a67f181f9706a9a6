"""Commands by the kernel's news of processes and fanotify, on the real kernel; skipped, with the reason, without."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.kernel.kernel_traced import until, watched

from teleport.kernel.proc import ProcWatcher
from teleport.kernel.seen import Command, Kind, Unseen
from teleport.kernel.watcher import Unavailable

PYTHON = os.path.realpath(sys.executable)


@contextlib.asynccontextmanager
async def watching() -> AsyncIterator[ProcWatcher]:
    try:
        watcher = ProcWatcher.open()
    except Unavailable as error:
        pytest.skip(f"this host does not give it: {error.message}")
    try:
        yield watcher
    finally:
        watcher.close()


async def test_commands_behind_setsid_and_two_forks_are_named_and_no_others() -> None:
    """Done-when 8, without BPF. What ends at once has a name, perhaps no arguments."""
    async with watching() as watcher, watched(watcher) as one, watched(watcher) as other:
        outside = await asyncio.create_subprocess_exec("/bin/uname", stdout=asyncio.subprocess.DEVNULL)
        await outside.wait()
        await asyncio.gather(
            one.run("setsid sh -c '/bin/cat </dev/null; (/bin/date >/dev/null & sleep 0.2) & wait'\n"),
            other.run("/bin/true\n"),
        )
        await until(lambda: not one.watch.alive)
        one.watch.collect()
        assert {"setsid", "cat", "date", "sleep"} <= set(one.names)
        assert "uname" not in one.names + other.names
        assert other.names == ["true"]
        (sleep,) = [seen for seen in one.seen if isinstance(seen, Command) and seen.path.endswith("sleep")]
        assert (sleep.argv, sleep.cut) == (("sleep", "0.2"), False)


async def test_a_process_whose_first_thread_has_ended_stays_in_its_session() -> None:
    """Else a program could leave by letting its first thread end."""
    code = (
        "import ctypes, os, threading, time\n"
        "def run():\n"
        "    while ') Z ' not in open(f'/proc/self/task/{os.getpid()}/stat').read():\n"
        "        time.sleep(0.01)\n"
        "    os.spawnv(os.P_WAIT, '/bin/date', ['date', '+'])\n"
        "    os._exit(0)\n"
        "threading.Thread(target=run).start()\n"
        "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)\n"  # exit(2), of one thread
    )
    async with watching() as watcher, watched(watcher) as one:
        await one.run(f"{PYTHON} -I -S - <<'END'\n{code}END\n")
        assert "date" in one.names


async def test_what_is_left_running_is_still_watched(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with watching() as watcher, watched(watcher) as one:
        await one.run(f"setsid sh -c 'read x <{fifo}; /bin/date >/dev/null' >/dev/null 2>&1 &\n")
        assert one.watch.alive
        assert "date" not in one.names
        await asyncio.to_thread(fifo.write_text, "go\n")
        await until(lambda: not one.watch.alive)
        assert "date" in one.names


async def test_news_that_were_thrown_away_are_told_and_what_runs_is_found_again() -> None:
    async with watching() as watcher, watched(watcher) as one:
        watcher._news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least there is: a few news
        # the loop does not run meanwhile: nobody reads
        ready, told = os.pipe()
        script = (
            f"i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done; sleep 60 & echo done >/dev/fd/{told}; wait\n"
        )
        os.set_inheritable(told, True)
        shell = await asyncio.create_subprocess_exec("/bin/sh", "-s", stdin=asyncio.subprocess.PIPE, pass_fds=[told])
        watch = watcher.watch(shell.pid, [Kind.COMMAND], one.seen.append)
        assert shell.stdin is not None
        shell.stdin.write(script.encode())
        assert os.read(ready, 5) == b"done\n"  # blocks
        watch.collect()
        gaps = [seen for seen in one.seen if isinstance(seen, Unseen) and "threw away news" in seen.reason]
        assert gaps
        assert watch.alive  # `sleep`, of which no news came through
        watch.close()
        for pid in (await asyncio.to_thread(children, shell.pid), [shell.pid]):
            for one_pid in pid:
                os.kill(one_pid, 9)
        await shell.wait()
        os.close(ready)
        os.close(told)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_closed_watcher_leaves_nothing_open() -> None:
    async with watching():
        before = set(os.listdir("/proc/self/fd"))
        second = ProcWatcher.open()
        watch = second.watch(os.getpid(), [Kind.COMMAND], lambda _: None)
        second.close()
        watch.collect()
        watch.close()
        assert not watch.alive
        assert set(os.listdir("/proc/self/fd")) == before


WITHOUT_BPF = """
import asyncio, ctypes, os, struct
# a filter of system calls (seccomp(2)) under which bpf(2) is not permitted, and everything else is
number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
code = struct.pack("=HBBI", 0x20, 0, 0, 0)  # load the number of the call
code += struct.pack("=HBBI", 0x15, 0, 1, number) + struct.pack("=HBBI", 0x06, 0, 0, 0x00050001)  # EPERM
code += struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
block = ctypes.create_string_buffer(code, len(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("@HP", len(code) // 8, ctypes.addressof(block))) == 0
from teleport.daemon.config.values import EnhancedRecording
from teleport.daemon.watching import open_watcher
from teleport.errors import TeleportError
async def main():
    try:
        watcher = open_watcher(EnhancedRecording(8, 128, 8))
    except TeleportError as error:
        print(error.message)
    else:
        print(type(watcher).__name__, sorted(watcher.kinds))
        watcher.close()
asyncio.run(main())
"""


async def test_a_node_without_bpf_takes_it_and_without_both_does_not_start() -> None:
    """The second choice is said in the log; without either the reasons of both are named."""
    if os.geteuid() == 0:
        async with watching():
            pass
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WITHOUT_BPF, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await child.communicate()
    assert child.returncode == 0, err
    if os.geteuid() == 0:
        assert out.decode() == f"ProcWatcher [{Kind.COMMAND!r}]\n"
        assert b"sessions whose roles ask for disk, network are refused" in err
    else:
        assert b"tracepoints (BPF): " in out
        assert b"news of processes with fanotify: " in out

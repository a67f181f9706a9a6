"""Processes of sessions, seen at the real kernel's tracepoints; skipped, with the reason, where it gives none."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
from pathlib import Path

from tests.kernel.kernel_traced import traced, until, watched

from teleport.kernel.bpf import BpfWatcher
from teleport.kernel.seen import Command, Connected, Kind, Opened, Unseen
from teleport.kernel.watcher import Buffers

PYTHON = os.path.realpath(sys.executable)


@traced
async def test_commands_behind_setsid_and_two_forks_are_seen_and_no_others(watcher: BpfWatcher) -> None:
    """Done-when 8: descent counts, whatever a process does to leave its session."""
    async with watched(watcher) as one, watched(watcher) as other:
        outside = await asyncio.create_subprocess_exec("/bin/echo", "outside", stdout=asyncio.subprocess.DEVNULL)
        await outside.wait()
        await asyncio.gather(
            one.run("setsid sh -c '/bin/echo one >/dev/null; (setsid /bin/echo twice >/dev/null &) & wait'\n"),
            other.run("/bin/echo other >/dev/null\n"),
        )
        await until(lambda: not one.watch.alive)
        one.watch.collect()
    said = [argv[1] for argv in one.commands if argv[0] == "/bin/echo"]
    assert sorted(said) == ["one", "twice"]
    assert ("setsid", "/bin/echo", "twice") in one.commands
    assert other.commands == [("/bin/echo", "other")]
    assert not one.of(Unseen)


@traced
async def test_a_thread_that_starts_a_program_stays_in_its_session(watcher: BpfWatcher) -> None:
    """It takes over the number of its process's first thread."""
    code = (
        "import os,threading as t;run=lambda:os.execv('/bin/sh',['sh','-c','/bin/true;/bin/true x']);"
        "x=t.Thread(target=run);x.start();x.join()"
    )
    async with watched(watcher) as one:
        await one.run(f'"{PYTHON}" -I -S -c "{code}"\n')
        assert [argv for argv in one.commands if argv[0] == "/bin/true"] == [("/bin/true",), ("/bin/true", "x")]
        await until(lambda: not one.watch.alive)


@traced
async def test_the_program_is_named_by_the_kernel_and_not_by_its_arguments(watcher: BpfWatcher) -> None:
    """A process that calls itself something else, and one that is gone before anybody could look."""
    async with watched(watcher) as one:
        await one.run('exec 3>&1; bash -c \'exec -a innocent /bin/true "a\nb" "$(printf "\\\\033]0;x")"\'\n')
        (seen,) = [seen for seen in one.of(Command) if isinstance(seen, Command) and seen.path == "/bin/true"]
    assert isinstance(seen, Command)
    assert seen.argv == ("innocent", "a\nb", "\x1b]0;x")
    assert seen.by.program == "true"


@traced
async def test_long_arguments_are_cut_and_say_so(watcher: BpfWatcher) -> None:
    async with watched(watcher) as one:
        await one.run(f"/bin/true {'x' * 3000}\n")
        assert one.seen[-1] == Command(one.seen[-1].by, "/bin/true", ("/bin/true", "x" * 3000), False)  # type: ignore[union-attr]
    async with watched(watcher) as two:
        await two.run(f"/bin/true {'y' * 5000} z\n")
        (seen,) = two.of(Command)
    assert isinstance(seen, Command)
    assert seen.cut
    assert seen.argv == ("/bin/true", "y" * (4095 - len("/bin/true\0")))


@traced
async def test_opened_files_have_flags_and_outcome_and_missing_ones_are_left_out(
    watcher: BpfWatcher, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    async with watched(watcher, [Kind.DISK]) as one:
        await one.run(
            f"cd {tmp_path}; echo x >{kept}; cat <kept >/dev/null; cat missing 2>/dev/null; echo x >{kept}/y\n"
        )
        files = {(seen.path, seen.flags & os.O_ACCMODE): seen for seen in one.of(Opened) if isinstance(seen, Opened)}
    assert files[str(kept), os.O_WRONLY].flags & os.O_CREAT
    assert files[str(kept), os.O_WRONLY].result >= 0
    assert files["kept", os.O_RDONLY].result >= 0
    assert files[f"{kept}/y", os.O_WRONLY].result < 0  # not a directory
    assert not [path for path, _ in files if path.endswith("missing")]
    assert one.commands == []


@traced
async def test_connections_have_their_addresses(watcher: BpfWatcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        async with watched(watcher, [Kind.NETWORK]) as one:
            await one.run(f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'; bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'\n")
            with socket.create_connection(("127.0.0.1", port)):  # not of the session
                pass
            found = one.of(Connected)
    assert [
        (seen.src_addr, seen.dst_addr, seen.dst_port, seen.version) for seen in found if isinstance(seen, Connected)
    ] == [("127.0.0.1", "127.0.0.1", port, 4)] * 2


@traced
async def test_kinds_that_were_not_asked_for_are_not_told(watcher: BpfWatcher) -> None:
    async with watched(watcher, [Kind.NETWORK]) as one:
        await one.run("/bin/true; cat /etc/passwd >/dev/null\n")
        assert one.seen == []


@traced
async def test_what_is_left_running_is_still_watched(watcher: BpfWatcher, tmp_path: Path) -> None:
    """`nohup`: with its first process gone."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with watched(watcher) as one:
        await one.run(f"setsid sh -c 'read x <{fifo}; /bin/true late' >/dev/null 2>&1 &\n")
        assert one.watch.alive
        await asyncio.to_thread(fifo.write_text, "go\n")
        await until(lambda: not one.watch.alive)
        one.watch.collect()
        assert ("/bin/true", "late") in one.commands


@traced
async def test_what_is_lost_is_counted_for_its_own_session(watcher: BpfWatcher) -> None:
    """Nobody reads while more is done than fits; another session's commands are not lost to it."""
    count = 4000
    small = BpfWatcher.open(Buffers(1, 1, 1))
    async with watched(small, [Kind.COMMAND, Kind.DISK]) as loud, watched(small) as quiet:
        # Opens go through a ring of their own, so that a flood of them takes no room from commands. The loop does not
        # run meanwhile.
        ends = [os.pidfd_open(one.shell.pid) for one in (loud, quiet)]
        for one, script in (
            (loud, f"i=0; while [ $i -lt {count} ]; do : </dev/null; i=$((i+1)); done; /bin/true loud; exit\n"),
            (quiet, "/bin/true quiet; exit\n"),
        ):
            assert one.shell.stdin is not None
            one.shell.stdin.write(script.encode())
            one.shell.stdin.close()
        for end in ends:
            assert select.select([end], [], [], 20)[0]
            os.close(end)
        loud.watch.collect()
        quiet.watch.collect()
        opened = [seen for seen in loud.of(Opened) if isinstance(seen, Opened) and seen.path == "/dev/null"]
        lost = sum(seen.count for seen in loud.of(Unseen) if isinstance(seen, Unseen))
        # every one is there or counted; others (libraries of /bin/true) may be among the lost
        assert count <= len(opened) + lost <= count + 50
        assert lost > 0, "the ring took all of it: the test floods too little"
        assert loud.commands[-1] == ("/bin/true", "loud")
        assert quiet.seen == [Command(quiet.seen[0].by, "/bin/true", ("/bin/true", "quiet"), False)]  # type: ignore[union-attr]
        await loud.shell.wait()
        await quiet.shell.wait()
    small.close()


@traced
async def test_two_watchers_of_one_host_do_not_disturb_each_other(watcher: BpfWatcher) -> None:
    """As the two daemons during a restart."""
    second = BpfWatcher.open(Buffers())
    async with watched(watcher) as one:
        async with watched(second) as other:
            await other.run("/bin/true other\n")
            assert other.commands == [("/bin/true", "other")]
        second.close()
        await one.run("/bin/true one\n")
        assert one.commands == [("/bin/true", "one")]


@traced
async def test_a_closed_watcher_leaves_nothing_open(watcher: BpfWatcher) -> None:
    before = set(os.listdir("/proc/self/fd"))
    second = BpfWatcher.open(Buffers())
    watch = second.watch(os.getpid(), list(Kind), lambda _: None)
    second.close()
    watch.close()
    assert not watch.alive
    assert set(os.listdir("/proc/self/fd")) == before


async def test_without_the_right_to_it_the_reason_is_named() -> None:
    """In a child that has given up its privileges; what it opened is closed again."""
    code = (
        "import asyncio, os\n"
        "from teleport.kernel.bpf import BpfWatcher\n"
        "from teleport.kernel.watcher import Buffers, Unavailable\n"
        "async def main():\n"
        "    before = len(os.listdir('/proc/self/fd'))\n"
        "    try:\n"
        "        BpfWatcher.open(Buffers())\n"
        "    except Unavailable as error:\n"
        "        assert len(os.listdir('/proc/self/fd')) == before\n"
        "        print(error.message)\n"
        "asyncio.run(main())\n"
    )
    drop = (  # modules are loaded as root, since an ordinary user need not be able to read them
        "import os,sys,asyncio,teleport.kernel.bpf\n"
        "if os.geteuid() == 0: os.setgroups([]);os.setgid(65534);os.setuid(65534)\n"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", drop + code, stdout=asyncio.subprocess.PIPE)
    said, _ = await child.communicate()
    assert child.returncode == 0
    assert b"tracepoints (BPF): " in said
    assert b"ermission denied" in said or b"not permitted" in said or b"No such file" in said

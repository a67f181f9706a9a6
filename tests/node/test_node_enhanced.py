"""Enhanced recording of sessions on a node, reached with the real `ssh`."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from tests.kernel.kernel_traced import open_watcher
from tests.node.test_node_sessions import ssh

from teleport.audit.events import (
    Event,
    SessionCommand,
    SessionDisk,
    SessionEnd,
    SessionEnhancedGap,
    SessionNetwork,
    event_name,
)
from teleport.errors import TeleportError
from teleport.kernel.seen import Acted, Command, Connected, Kind, Opened, Seen, Unseen
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.testing.running import run_client, wait_until
from teleport.testing.ssh_lab import running_lab

ME = getpass.getuser()
BY = Acted(20, 10, 5, "true")


class Scripted:
    """A facility of the kernel that sees what the test says (`kernel.watcher.Watcher`)."""

    kinds = frozenset({Kind.COMMAND, Kind.NETWORK})

    def __init__(self, *sees: Seen) -> None:
        self.sees = sees
        self.error: Exception | None = None
        self.asked: list[frozenset[Kind]] = []
        self.open = 0
        self.alive = False

    def watch(self, pid: int, kinds: Collection[Kind], deliver: Callable[[Seen], None]) -> ScriptedWatch:
        if self.error is not None:
            raise self.error
        self.asked.append(frozenset(kinds))
        self.open += 1
        return ScriptedWatch(self, deliver)

    def close(self) -> None:
        return


class ScriptedWatch:
    def __init__(self, watcher: Scripted, deliver: Callable[[Seen], None]) -> None:
        self.watcher = watcher
        self._deliver = deliver
        self._told = False

    @property
    def alive(self) -> bool:
        return self.watcher.alive

    def collect(self) -> None:
        if not self._told:
            self._told = True
            for seen in self.watcher.sees:
                self._deliver(seen)

    def close(self) -> None:
        self.watcher.open -= 1


async def test_what_the_kernel_sees_is_in_the_sessions_stream_before_its_end(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """The real kernel: the shell itself and what it starts, in order, numbered with the session's other events."""
    watcher = open_watcher()
    try:
        async with running_lab(Launcher(launcher_end), watcher=watcher) as lab:
            lab.rules.options(enhanced_recording=("command", "disk"))
            # two programs, so that the shell does not become the last one by itself
            ran = await run_client(*ssh(lab, tmp_path), "cat /etc/hostname >/dev/null; /bin/true a; exit 0")
            assert ran.status == 0
            (end,) = await lab.events.wait_for("session.end")
            assert isinstance(end, SessionEnd)
            assert end.enhanced_recording
            stream = [event for event in lab.events.all if getattr(event, "sid", "") == end.sid]
            commands = [event for event in stream if isinstance(event, SessionCommand)]
            assert [event.argv[0] for event in commands][-2:] == ["cat", "/bin/true"]
            assert commands[0].argv[1:] == ["-c", "cat /etc/hostname >/dev/null; /bin/true a; exit 0"]
            assert commands[-1].argv == ["/bin/true", "a"]
            assert commands[-1].ppid == commands[0].pid
            assert (commands[-1].code, commands[-1].user, commands[-1].login) == ("T4000I", "alice", ME)
            assert "/etc/hostname" in [event.path for event in stream if isinstance(event, SessionDisk)]
            numbers = [event.ei for event in stream if event_name(event) != "session.data"]
            assert numbers == list(range(len(numbers)))
            assert numbers[-1] == end.ei
    finally:
        watcher.close()


async def test_each_thing_that_is_seen_has_its_event(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    watcher = Scripted(
        Command(BY, "/bin/true", ("true",) + ("x",) * 1200, False),
        Opened(BY, "/f", 577, -13),
        Connected(BY, "::1", "2001:db8::1", 443, 6),
        Unseen("more was done than could be read", 7),
    )
    async with running_lab(Launcher(launcher_end), watcher=watcher) as lab:
        assert (await run_client(*ssh(lab, tmp_path), "true")).status == 0
        await lab.events.wait_for("session.end")
        command, opened, connected, gap = lab.events.all[1:5]
        assert isinstance(command, SessionCommand)
        assert (command.pid, command.ppid, command.cgroup_id, command.program) == (20, 10, 5, "true")
        assert (len(command.argv), command.argv_cut, command.return_code) == (1000, True, 0)
        assert isinstance(opened, SessionDisk)
        assert (opened.code, opened.path, opened.flags, opened.return_code) == ("T4001I", "/f", 577, -13)
        assert isinstance(connected, SessionNetwork)
        assert (connected.code, connected.dst_addr, connected.dst_port, connected.version) == (
            "T4002I",
            "2001:db8::1",
            443,
            6,
        )
        assert isinstance(gap, SessionEnhancedGap)
        assert (gap.code, gap.reason, gap.lost) == ("T9260W", "more was done than could be read", 7)
        assert watcher.asked == [frozenset({Kind.COMMAND, Kind.NETWORK})]  # what roles ask for that say nothing
        assert watcher.open == 0


async def test_more_than_the_log_takes_is_a_gap(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    watcher = Scripted(*[Opened(BY, "/f", 0, 3)] * 20_050)
    async with running_lab(Launcher(launcher_end), watcher=watcher) as lab:
        assert (await run_client(*ssh(lab, tmp_path), "true")).status == 0
        await lab.events.wait_for("session.end")
        assert len(lab.events.named("session.disk")) == 20_000
        (gap,) = lab.events.named("session.enhanced_gap")
        assert isinstance(gap, SessionEnhancedGap)
        assert gap.lost == 50


async def test_a_flood_of_what_is_left_running_does_not_hold_the_end_up(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """More is seen than can ever be written, from the session's end on: the end is on record all the same."""
    watcher = Scripted()
    watcher.alive = True
    began: list[Callable[[Seen], None]] = []
    plain = watcher.watch

    def watch(pid: int, kinds: Collection[Kind], deliver: Callable[[Seen], None]) -> ScriptedWatch:
        began.append(deliver)
        return plain(pid, kinds, deliver)

    watcher.watch = watch  # type: ignore[method-assign]
    async with running_lab(Launcher(launcher_end), watcher=watcher) as lab:
        emit, over = lab.events.emit, False

        async def flooded(event: Event) -> None:
            nonlocal over
            await emit(event)
            over = over or isinstance(event, SessionEnd)
            await asyncio.sleep(0)
            if began and not over:
                for _ in range(3):
                    began[0](Opened(BY, "/f", 0, 3))

        lab.events.emit = flooded  # type: ignore[method-assign]
        began_at = asyncio.get_running_loop().time()
        running = asyncio.ensure_future(run_client(*ssh(lab, tmp_path), "true"))
        await wait_until(lambda: bool(began))
        began[0](Opened(BY, "/f", 0, 3))
        assert (await running).status == 0
        assert len(await lab.events.wait_for("session.end", seconds=15)) == 1
        print(f"on record after {asyncio.get_running_loop().time() - began_at:.2f} s")
        watcher.alive = False


@pytest.mark.parametrize(
    ("kinds", "error", "told"),
    [
        (("command", "disk"), None, "enhanced recording of disk, which this node cannot give"),
        (("command",), OSError(28, "No space left on device"), "cannot record now what the session would do"),
        (("command",), TeleportError("gone"), "cannot record now what the session would do"),
    ],
)
async def test_what_cannot_be_watched_is_not_started(
    launcher_end: LauncherEnd, tmp_path: Path, kinds: tuple[str, ...], error: Exception | None, told: str
) -> None:
    """Never silently less than the roles ask for."""
    watcher = Scripted()
    watcher.error = error
    async with running_lab(Launcher(launcher_end), watcher=watcher) as lab:
        lab.rules.options(enhanced_recording=kinds)
        ran = await run_client(*ssh(lab, tmp_path), f"touch {tmp_path}/ran")
        assert ran.status != 0
        assert told in ran.stderr
        (end,) = await lab.events.wait_for("session.end")
        assert isinstance(end, SessionEnd)
        assert not end.enhanced_recording
        assert "not started" in end.reason
        assert not (tmp_path / "ran").exists()


async def test_roles_that_ask_for_nothing_get_a_session_that_is_not_watched(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    watcher = Scripted()
    async with running_lab(Launcher(launcher_end), watcher=watcher) as lab:
        lab.rules.options(enhanced_recording=())
        assert (await run_client(*ssh(lab, tmp_path), "true")).status == 0
        (end,) = await lab.events.wait_for("session.end")
        assert isinstance(end, SessionEnd)
        assert not end.enhanced_recording
        assert watcher.asked == []


async def test_what_cannot_be_put_on_record_ends_the_session(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Threat T46."""
    watcher = Scripted()
    began: list[Callable[[Seen], None]] = []
    plain = watcher.watch

    def watch(pid: int, kinds: Collection[Kind], deliver: Callable[[Seen], None]) -> ScriptedWatch:
        began.append(deliver)
        return plain(pid, kinds, deliver)

    watcher.watch = watch  # type: ignore[method-assign]
    async with running_lab(Launcher(launcher_end), watcher=watcher) as lab:
        running = asyncio.ensure_future(run_client(*ssh(lab, tmp_path), "echo on; sleep 60"))
        await wait_until(lambda: bool(lab.recordings.all) and bytes(lab.recordings.all[0].stdout) == b"on\n")
        lab.events.failing = True
        began[0](Command(BY, "/bin/true", ("true",), False))
        ran = await running
        assert ran.status != 0
        assert "what it does cannot be put on record" in ran.stderr
        lab.events.failing = False


async def test_no_watcher_no_change(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        assert (await run_client(*ssh(lab, tmp_path), "true")).status == 0
        (end,) = await lab.events.wait_for("session.end")
        assert isinstance(end, SessionEnd)
        assert not end.enhanced_recording

"""Labels whose values commands find: sanitised, bounded in time, said to fail when they do, repeated."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from teleport.node import dynamic_labels
from teleport.node.dynamic_labels import MAX_VALUE, HostLabels, run_label
from teleport.resources.values import CommandLabel, Duration


def label(name: str, *command: str, period: float = 3600) -> CommandLabel:
    return CommandLabel(name=name, command=command, period=Duration.of(seconds=period))


def sh(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not found():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("echo v1.2", "v1.2"),
        ("printf '  spaces  \\n second line'", "spaces"),
        ("printf 'a\\r\\nb'", "a"),
        ("printf '\\033]0;title\\007\\033[31mred\\033[0m'", "]0;title[31mred[0m"),
        ("printf 'C1 \\302\\233 bidi \\342\\200\\256 zero \\342\\200\\213 end'", "C1  bidi  zero  end"),
        ("printf 'bad \\377 utf-8'", "bad � utf-8"),
        ("printf 'NUL\\000byte'", "NULbyte"),
        ("true", ""),
        ("echo to stderr >&2", ""),
        ("printf 'für 東京'", "für 東京"),
        ("false", "error: exit status 1"),
        ("echo half; exit 3", "error: exit status 3"),
        ("kill -9 $$", "error: exit status -9"),
        ("cat", ""),
    ],
)
async def test_the_first_line_is_the_value_without_what_drives_a_terminal(script: str, value: str) -> None:
    assert await run_label(sh(script)) == value


async def test_long_output_is_cut_and_read_to_its_end() -> None:
    assert await run_label(sh("head -c 3000000 /dev/zero | tr '\\0' x")) == "x" * MAX_VALUE


@pytest.mark.parametrize("command", [("/no/such/command",), ("/etc/passwd",), ("/bin/echo", "a\0b")])
async def test_a_command_that_cannot_start_says_so_in_the_value(command: tuple[str, ...]) -> None:
    value = await run_label(command)
    assert value.startswith("error: ")
    assert len(value) <= MAX_VALUE


async def test_a_command_is_no_shell_line() -> None:
    assert await run_label(("/bin/echo", "$(id); `id` && x")) == "$(id); `id` && x"


async def test_a_command_gets_a_bare_environment_and_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "hunter2")
    assert await run_label(("/usr/bin/env", "sh", "-c", "env | cut -d= -f1 | sort | tr '\\n' ' '")) in (
        "LANG PATH PWD",
        "LANG PATH PWD _",
    )


def _alive(pid_file: Path) -> bool:
    try:
        text = pid_file.read_text().strip()
        os.kill(int(text), 0)
        return Path(f"/proc/{text}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, ValueError):
        return False


@pytest.mark.parametrize(
    "script",
    [
        "echo $$ > {pid}; exec sleep 60",
        "sleep 60 & echo $! > {pid}; wait",
        "sleep 60 & echo $! > {pid}; echo done",
    ],
    ids=["itself", "a child", "a child that outlives it"],
)
async def test_what_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path, script: str) -> None:
    pid = tmp_path / "pid"
    assert await run_label(sh(script.format(pid=pid)), timeout=0.3) == "error: no result within 0.3s"
    await until(lambda: not _alive(pid))


async def test_a_command_ends_with_the_service(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    running = asyncio.create_task(run_label(sh(f"echo $$ > {pid}; exec sleep 60")), name="label")
    await until(lambda: pid.exists() and _alive(pid))
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await until(lambda: not _alive(pid))


async def test_labels_of_both_kinds_are_one_map_in_which_dynamic_ones_win() -> None:
    labels = HostLabels({"env": "prod", "kernel": "unknown"}, [label("kernel", "/bin/echo", "6.1")], lambda: None)
    assert labels.current() == {"env": "prod", "kernel": "unknown"}
    await labels.first()
    assert labels.current() == {"env": "prod", "kernel": "6.1"}
    assert labels.static == {"env": "prod", "kernel": "unknown"}
    state = labels.command_states()["kernel"]
    assert (state.command, state.result) == (("/bin/echo", "6.1"), "6.1")


async def test_a_change_is_told_and_no_change_is_not(tmp_path: Path) -> None:
    changes: list[str] = []
    source = tmp_path / "value"
    source.write_text("one")
    labels = HostLabels(
        {}, [label("x", "/bin/cat", str(source), period=0.05)], lambda: changes.append(labels.current()["x"])
    )
    await labels.first()
    await labels.first()
    assert changes == ["one"]
    running = asyncio.create_task(labels.run(), name="labels")
    source.write_text("two")
    await until(lambda: changes == ["one", "two"])
    source.unlink()
    await until(lambda: len(changes) == 3)
    assert changes[2] == "error: exit status 1", "a label does not keep what is not true any more"
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_one_slow_command_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    release, changed = tmp_path / "release", list[bool]()
    slow = sh(f"while [ ! -e {release} ]; do sleep 0.02; done; echo slow")
    labels = HostLabels({}, [label("slow", *slow), label("quick", "/bin/echo", "quick")], lambda: changed.append(True))
    first = asyncio.create_task(labels.first(), name="first")
    await until(lambda: bool(changed))
    assert labels.current() == {"quick": "quick"}
    release.touch()
    await first
    assert labels.current() == {"slow": "slow", "quick": "quick"}
    assert dynamic_labels.TIMEOUT == 10

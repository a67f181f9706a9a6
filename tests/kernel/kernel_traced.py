"""The kernel's facilities in a test, where this process may use them, and a shell whose doings they see."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from teleport.kernel.bpf import BpfWatcher
from teleport.kernel.seen import Command, Kind, Seen
from teleport.kernel.watcher import Buffers, Unavailable, Watch, Watcher

Test = Callable[..., Coroutine[Any, Any, None]]


def open_watcher() -> BpfWatcher:
    """In the running loop. Skips the test, with the reason, where the kernel gives none."""
    try:
        return BpfWatcher.open(Buffers())
    except Unavailable as error:
        pytest.skip(f"this host does not give it: {error.message}")


def traced(test: Test) -> Test:
    """The test's first argument is a watcher, closed when it ends."""

    async def run(**fixtures: Any) -> None:
        watcher = open_watcher()
        try:
            await test(watcher, **fixtures)
        finally:
            watcher.close()

    _, *others = inspect.signature(test).parameters.values()
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]
    return run


@dataclass
class Watched:
    """A shell that waits, watched; what it and its children do is in `seen`."""

    shell: asyncio.subprocess.Process
    watch: Watch
    seen: list[Seen] = field(default_factory=list)

    async def run(self, script: str) -> None:
        """Runs the script to its end."""
        assert self.shell.stdin is not None
        self.shell.stdin.write(script.encode())
        self.shell.stdin.close()
        async with asyncio.timeout(20):
            await self.shell.wait()
        self.watch.collect()

    @property
    def commands(self) -> list[tuple[str, ...]]:
        return [seen.argv for seen in self.seen if isinstance(seen, Command)]

    @property
    def names(self) -> list[str]:
        return [os.path.basename(seen.path) for seen in self.seen if isinstance(seen, Command)]

    def of(self, kind: type[Seen]) -> list[Seen]:
        return [seen for seen in self.seen if isinstance(seen, kind)]


@contextlib.asynccontextmanager
async def watched(watcher: Watcher, kinds: Sequence[Kind] = (Kind.COMMAND,)) -> AsyncIterator[Watched]:
    """The shell waits for what to do, as a session's first process waits until it is watched."""
    shell = await asyncio.create_subprocess_exec("/bin/sh", "-s", stdin=asyncio.subprocess.PIPE)
    seen: list[Seen] = []
    watch = watcher.watch(shell.pid, kinds, seen.append)
    try:
        yield Watched(shell, watch, seen)
    finally:
        watch.close()
        if shell.returncode is None:
            shell.kill()
            await shell.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - other processes give no event
            await asyncio.sleep(0.02)

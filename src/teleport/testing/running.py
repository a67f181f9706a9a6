"""Clients that are started, services in tasks of their own, and waiting for what nothing announces."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any


def listener() -> socket.socket:
    """A bound loopback socket; serving it is somebody else's part."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    sock.setblocking(False)
    return sock


@asynccontextmanager
async def served(run: Callable[[Callable[[], None]], Coroutine[Any, Any, None]], name: str) -> AsyncIterator[None]:
    """Runs a service in a task of its own, until the context ends."""
    started = asyncio.Event()
    task = asyncio.create_task(run(started.set), name=name)
    waiting = asyncio.create_task(started.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            task.result()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


async def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for a condition that nothing announces (a file, a process, bytes); `TimeoutError` when it never holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # nobody could set an event
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Ran:
    """How a client ended."""

    status: int
    stdout: bytes
    stderr: str


async def run_client(*command: str, stdin: bytes = b"", seconds: float = 30.0) -> Ran:
    """Runs a client program with a plain environment until it ends."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "xterm"}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(seconds):
            stdout, stderr = await process.communicate(stdin)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ran(process.returncode, stdout, stderr.decode(errors="replace"))

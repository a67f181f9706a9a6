"""Running programs: commands that must succeed, servers that are waited for and always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


class BenchmarkFailed(Exception):
    """Something did not work; its message is shown in place of the row."""


def environment(**more: str) -> dict[str, str]:
    """What programs under measurement see: nothing of the caller's own settings."""
    return {"PATH": f"{BIN}:{os.environ.get('PATH', os.defpath)}", "HOME": "/nonexistent", "LANG": "C.UTF-8", **more}


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, stdin: str | None = None) -> str:
    """Standard output of a command that succeeded. Raises `BenchmarkFailed` with what it said otherwise."""
    text = [str(part) for part in command]
    done = subprocess.run(
        text,
        env=dict(env or environment()),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}),
    )
    if done.returncode != 0:
        raise BenchmarkFailed(f"{' '.join(text)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def wait_until(reached: Callable[[], bool], what: str, *, seconds: float = 60.0, every: float = 0.02) -> None:
    """Polls `reached`. Raises `BenchmarkFailed` when it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def answers(port: int) -> bool:
    """Whether something listens on this loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def server(command: Sequence[str | Path], log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is asked to end, and killed when it does not; its output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tail(log: Path) -> str:
    """The last lines of a log, for a message."""
    return log.read_text(errors="replace")[-1500:] if log.exists() else ""

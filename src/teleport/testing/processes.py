"""Commands that tests run to their end, and the processes of this machine as tests look at them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")
BIN = Path(sys.executable).parent


def wait_until(what: str, found: Callable[[], T | None], seconds: float = 30.0) -> T:
    """The first answer of `found` that is neither None nor False. Raises `AssertionError` naming `what` otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        answer = found()
        if answer is not None and answer is not False:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def processes_with(marker: str, *, environment: bool = False) -> list[int]:
    """The processes, this one aside, whose command line (or also environment) contains `marker`."""
    wanted, found = marker.encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        for name in ("cmdline", "environ") if environment else ("cmdline",):
            with contextlib.suppress(OSError):
                if wanted in (entry / name).read_bytes():
                    found.append(int(entry.name))
                    break
    return found


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, at whatever depth."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    """Whether the process runs: it exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    arguments: tuple[str, ...]
    status: int
    out: bytes
    err: bytes

    @property
    def stdout(self) -> str:
        return self.out.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.err.decode(errors="replace")

    def ok(self) -> Self:
        """This, when the command succeeded."""
        assert self.status == 0, f"{' '.join(self.arguments)} ended with {self.status}\n{self.stdout}\n{self.stderr}"
        return self

    def json(self) -> Any:
        return json.loads(self.ok().out)


def plain_environment(home: Path) -> dict[str, str]:
    """What a command needs, and nothing of this process's own."""
    path = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(home), "TELEPORT_HOME": str(home / ".tsh"), "LANG": "C.UTF-8", "TERM": "xterm"}


def run(
    *arguments: str | Path,
    environment: Mapping[str, str],
    stdin: bytes | str = b"",
    seconds: float = 30.0,
    cwd: Path | None = None,
) -> Ran:
    """Runs a command to its end, which must come within `seconds`."""
    words = tuple(str(word) for word in arguments)
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        words, env=dict(environment), input=given, capture_output=True, timeout=seconds, check=False, cwd=cwd
    )
    return Ran(words, done.returncode, done.stdout, done.stderr)

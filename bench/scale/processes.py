"""Processes of the simulator, spoken to by lines; and what a process uses."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.memory import processor, resident
from bench.programs import ROOT, BenchmarkFailed, environment, tail
from bench.scale.values import Ask, Said


class Process:
    """One of the simulator's, spoken to by lines."""

    def __init__(self, module: str, file: Path, log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(file)],
                env=environment(PYTHONPATH=str(ROOT)),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, ask: Ask) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(ask) + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Said:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkFailed(f"a process of the simulator ended: {tail(self._log)}")
        return msgspec.json.decode(line, type=Said)

    def ask(self, ask: Ask) -> Said:
        self.begin(ask)
        return self.answer()

    def end(self) -> None:
        if self._process.poll() is not None and self._process.stdin is not None and self._process.stdin.closed:
            return
        with contextlib.suppress(OSError):
            self.begin(Ask(do="end"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one daemon at one moment: memory in KiB, processor seconds."""

    rss: float
    cpu: float
    when: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        return cls(resident(pid).rss * 1024, processor(pid), time.monotonic())

    def share_since(self, before: Usage) -> float:
        """Of one core, in percent."""
        return 100 * (self.cpu - before.cpu) / max(self.when - before.when, 0.001)

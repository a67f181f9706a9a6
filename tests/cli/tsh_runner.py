"""Runs tsh as its users do: a process, an environment, lines on stdin."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAM = [sys.executable, "-c", "from teleport.cli.tsh import main; main()"]


@dataclass(frozen=True)
class Ran:
    """How a run ended."""

    status: int
    stdout: str
    stderr: str


@dataclass
class Tsh:
    """One user's home folder."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "tsh"

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TELEPORT_HOME": str(self.home),
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            **more,
        }

    def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> Ran:
        ran = subprocess.run(
            [*PROGRAM, *arguments],
            input=stdin.encode(),
            capture_output=True,
            env=self.environment(**environment),
            cwd=self.folder,
            timeout=60,
            check=False,
        )
        return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())

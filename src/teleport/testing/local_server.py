"""A server that is not ours: a process on loopback, for tests, with its data in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

PATIENCE: Final = 60.0  # seconds


class LocalServer(ABC):
    """`with Server() as server:`; it is up then. Blocking: call it from a thread where a loop runs."""

    what: ClassVar[str]
    """What it is, in words."""
    port: int

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=f"{type(self).__name__}-")
        self.path = Path(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        self.kill()
        self._folder.cleanup()

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The program and its arguments. Raises `RuntimeError` when it is not installed."""

    @property
    @abstractmethod
    def ready(self) -> str:
        """A URL that is answered without an error once it is up."""

    def start(self) -> None:
        """Also again, after `kill`."""
        command = self.command()
        with (self.path / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self.path, env={**os.environ, "HOME": str(self.path)}
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                told = (self.path / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.what} did not start: {told}")
            time.sleep(0.05)

    def kill(self) -> None:
        """At once: nothing is written or said any more."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.ready, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

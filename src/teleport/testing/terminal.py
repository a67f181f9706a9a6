"""A person at a terminal: runs a command on a pseudo-terminal of its own, types, and waits for what is shown."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Terminal:
    """`with Terminal([...], environment, folder) as terminal: terminal.expect(...)`."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path | None = None,
        *,
        columns: int = 100,
        rows: int = 30,
    ) -> None:
        self._master, slave = pty.openpty()
        self.shown = b""  # everything
        self._seen = 0
        self.resize(columns, rows)
        try:
            # setsid makes the terminal the controlling one, so that changes of its size are signalled
            self._process = subprocess.Popen(
                ["setsid", "--ctty", *arguments],
                env=dict(environment),
                cwd=cwd,
                stdin=slave,
                stdout=slave,
                stderr=slave,
            )
        finally:
            os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def pid(self) -> int:
        """Of the command: it takes the place of what starts it."""
        return self._process.pid

    def echoes(self) -> bool:
        """Whether the terminal reads lines and echoes, as it does for a shell."""
        return self._slave_modes & (termios.ECHO | termios.ICANON) == termios.ECHO | termios.ICANON

    @property
    def _slave_modes(self) -> int:
        return int(termios.tcgetattr(self._master)[3])

    def wait_stopped(self) -> None:
        """Returns when the command was stopped by a signal, as by Ctrl-Z."""
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, seconds: float = 30.0) -> re.Match[bytes]:
        """The first match of `pattern` in what was shown after the last match."""
        deadline = time.monotonic() + seconds
        wanted = re.compile(pattern.encode(), re.DOTALL)
        while True:
            if match := wanted.search(self.shown, self._seen):
                self._seen = match.end()
                return match
            assert self._more(deadline), f"not shown: {pattern!r} in\n{self.shown[-3000:].decode(errors='replace')}"

    def ended(self, seconds: float = 30.0) -> int:
        """The status, once the command has ended; what it shows on the way is kept."""
        deadline = time.monotonic() + seconds
        while self._more(deadline):
            pass
        return self._process.wait(max(0.1, deadline - time.monotonic()))

    def _more(self, deadline: float) -> bool:
        """Reads what is shown next. False at the end and when it is too late."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.shown += data
        return bool(data)

"""A cluster in one daemon that signals replace by another one, and what is known of the two processes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from teleport.testing.cluster import BIN, Cluster, DaemonProcess, alive, descendants, wait_until


class Restarting(Cluster):
    """A cluster in one daemon that may be replaced by another one."""

    def __init__(
        self,
        folder: Path,
        program: Path = BIN / "teleport",
        *,
        storage: dict[str, Any] | None = None,
        **auth_service: Any,
    ) -> None:
        """`storage`: of the section `teleport`, where it is not what a cluster has by itself."""
        super().__init__(folder, **auth_service)
        if storage is not None:
            self.config["teleport"]["storage"] = storage
            self.write()
        self.pid_file = folder / "teleport.pid"
        self.daemon = DaemonProcess(
            folder,
            ["--config", self.config_path, "--pid-file", self.pid_file],
            diag_port=self.diag_port,
            program=program,
        )

    def __enter__(self) -> Self:
        self.begun = len(self.daemon.log())
        self._orphaned = False
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whoever serves is stopped and must be gone; nobody may have met an unexpected error."""
        pid = self.serving() if self.pid_file.exists() else self.daemon.pid
        below = descendants(pid)
        if pid != self.daemon.pid:
            os.kill(pid, signal.SIGTERM)
        if not self._orphaned:
            super().__exit__(kind, error, trace)
        wait_until("the last process is gone", lambda: not any(map(alive, [pid, *below])))
        assert not self.pid_file.exists()
        assert "Traceback" not in self.daemon.log(), self.daemon.log()

    def kill_parent(self) -> None:
        """KILL to the process that was started first: what it started itself goes on without it."""
        self.signal(signal.SIGKILL)
        assert self.daemon.ended() == -signal.SIGKILL
        self._orphaned = True

    def start_again(self) -> None:
        """A new first process, after every one was killed."""
        self.daemon.start()
        self._orphaned = False

    def serving(self) -> int:
        return int(self.pid_file.read_text())

    def signal(self, number: int) -> None:
        os.kill(self.daemon.pid, number)

    def wait_successor(self) -> int:
        """The pid of the new process, once it is the one that serves."""
        former = self.daemon.pid
        wait_until("the pid file follows the child", lambda: self.serving() != former, 40)
        return self.serving()

    def wait_log(self, pattern: str) -> None:
        """Once it says so, in the run of this test."""
        wait_until(f"the log says {pattern!r}", lambda: re.search(pattern, self.daemon.log()[self.begun :]), 30)

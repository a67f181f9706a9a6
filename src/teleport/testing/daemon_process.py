"""`teleport start` as a process: started, asked whether it is ready, stopped or killed by its pid, never left behind.

A daemon that is stopped must end with status 0 and without a traceback in its log.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from teleport.testing.loopback import LOOPBACK, at, free_port
from teleport.testing.processes import BIN, Ran, alive, descendants, plain_environment, run, wait_until

READY_SECONDS = 40.0
RUNNING: list[DaemonProcess] = []  # whose logs a failing test shows


class DaemonProcess:
    """One `teleport start`."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str | Path],
        *,
        diag_port: int = 0,
        environment: Mapping[str, str] | None = None,
        program: Path = BIN / "teleport",
    ) -> None:
        """`arguments` of the start command; `diag_port` is asked for readiness when it is not 0."""
        self.folder = folder
        self.log_path = folder / "daemon.log"
        self._arguments = [str(program), "start", *(str(word) for word in arguments)]
        self._diag_port = diag_port
        self.environment = dict(environment or plain_environment(folder))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.abandon()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def log(self) -> str:
        """Everything it said on stdout and stderr so far, over all its runs."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def begin(self) -> Self:
        """Starts it and waits for nothing."""
        assert self._process is None or self._process.poll() is not None, "runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        RUNNING.append(self)
        return self

    def start(self) -> Self:
        """Starts it and waits until every service takes connections."""
        self.begin()
        try:
            wait_until(f"ready: {self.folder.name}", self.ready, READY_SECONDS)
        except BaseException:
            self.abandon()
            raise
        return self

    def ready(self) -> bool:
        """Whether `/readyz` says so. Raises `AssertionError` once the daemon has ended."""
        return self.readiness()[0] == 200

    def readiness(self) -> tuple[int, str]:
        """Status and body of `/readyz`; 0 when nothing answers. Raises `AssertionError` once the daemon has ended."""
        assert self._process is not None
        status = self._process.poll()
        assert status is None, f"the daemon ended with {status}:\n{self.log()}"
        connection = http.client.HTTPConnection(LOOPBACK, self._diag_port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    def ended(self, seconds: float = READY_SECONDS) -> int:
        """The status with which it ended by itself."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        finally:
            self._forget()

    def stop(self, seconds: float = 20.0) -> None:
        """TERM: it must end with status 0, soon, having met no unexpected error, and leave no process behind."""
        assert self._process is not None
        below = descendants(self.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.abandon()
            raise AssertionError(f"did not stop within {seconds:g} s:\n{self.log()}") from None
        finally:
            self._forget()
        assert status == 0, f"ended with {status}:\n{self.log()}"
        assert "Traceback" not in self.log(), self.log()
        _wait_gone(below)

    def kill(self) -> None:
        """KILL, as a crash. The launcher and all sessions must be gone soon after."""
        below = descendants(self.pid)
        self.abandon()
        _wait_gone(below)

    def abandon(self) -> None:
        """Makes sure that it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self in RUNNING:
            RUNNING.remove(self)


def _wait_gone(pids: Sequence[int]) -> None:
    wait_until("nothing that the daemon started is left", lambda: not any(map(alive, pids)))


@dataclass
class Host(contextlib.AbstractContextManager["Host"]):
    """A daemon with a folder, a configuration and ports of its own."""

    folder: Path
    config: dict[str, Any]
    diag_port: int = field(default_factory=free_port)
    arguments: Sequence[str | Path] = ()
    daemon: DaemonProcess = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config["teleport"].setdefault("data_dir", str(self.data_dir))
        self.config["teleport"].setdefault("diag_addr", at(self.diag_port))
        self.write()
        self.daemon = DaemonProcess(
            self.folder, ["--config", self.config_path, *self.arguments], diag_port=self.diag_port
        )

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def config_path(self) -> Path:
        return self.folder / "teleport.yaml"

    def write(self) -> None:
        """Writes the configuration again after `config` was changed."""
        self.config_path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        self.config_path.chmod(0o600)

    def __enter__(self) -> Self:
        self.daemon.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.__exit__(kind, error, trace)

    def tctl(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 60.0) -> Ran:
        """`tctl` as the administrator of this host."""
        return run(
            BIN / "tctl",
            "--config",
            self.config_path,
            *arguments,
            environment=plain_environment(self.folder),
            stdin=stdin,
            seconds=seconds,
        )

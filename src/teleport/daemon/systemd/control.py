"""Runs a unit by `systemctl`, and waits until its daemon says that it serves."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Final

from teleport.errors import ConnectionProblem, NotFound, TeleportError

SYSTEM: Final = Path("/run/systemd/system")  # there while systemd is what runs this machine
_SECONDS: Final = 120.0  # for one call
_PAUSE: Final = 0.25
_SERVES: Final = re.compile(r"pid \d+ serves(?!.*beside)")  # `restarts.supervisor`, by `succession`
_FAILED: Final = "the new process failed"


def check_runs() -> None:
    """Raises `NotFound` where no systemd runs."""
    if not SYSTEM.is_dir():
        raise NotFound("systemd does not run this machine", hint="leave --systemd out, and start the daemon otherwise")


class Running:
    """One unit."""

    def __init__(self, name: str) -> None:
        self._name = name

    def bring_up(self, *, reread: bool, changed: bool, seconds: float) -> bool:
        """Enables and starts it; one that runs goes over to a `changed` configuration without cutting anybody off.

        Returns whether anything was done. Raises `TeleportError` with what the journal says when the daemon ends, and
        `ConnectionProblem` when it does not serve within `seconds`.
        """
        if reread:
            self._call("daemon-reload")
        done = False
        if self._show("UnitFileState") != "enabled":
            self._call("enable", self._name)
            done = True
        before = ""
        if self._show("ActiveState") != "active":
            # one that is tried again every 2 s would have the start wait for that, and end as it did before
            self._call("stop", self._name, may_fail=True)
            self._call("reset-failed", self._name, may_fail=True)
            self._call("start", "--no-block", self._name)
            done = True
        elif changed or reread:
            before = self._show("StatusText")
            self._call("reload", self._name)
            done = True
        self._wait(before, self._restarts(), seconds)
        return done

    def _wait(self, before: str, restarts: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            text = self._show("StatusText")
            active = self._show("ActiveState") == "active"
            if _FAILED in text and text != before:
                raise TeleportError(f"the daemon serves on with its former configuration: {text}", hint=self._journal())
            if active and text != before and _SERVES.match(text):
                return
            if self._show("SubState") in ("auto-restart", "failed") or self._restarts() > restarts:
                raise TeleportError(
                    f"the daemon of {self._name} does not start: {self._last_words()}",
                    hint=f"systemd goes on trying every 2 s: mend it, or systemctl disable --now {self._name}",
                )
            if time.monotonic() > until:
                raise ConnectionProblem(
                    f"this host is not listed after {seconds:g} s; its daemon says: {text or 'nothing yet'}",
                    hint=self._journal(),
                )
            time.sleep(_PAUSE)

    def _journal(self) -> str:
        return f"the daemon goes on trying; its log: journalctl --unit={self._name}"

    def _last_words(self) -> str:
        """What the daemon wrote of its end, in a line."""
        words = ["journalctl", f"--unit={self._name}", "--output=cat", "--no-pager", "--lines=40"]
        try:
            told = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            return "see its log"
        said = [line.removeprefix("teleport: ") for line in told.splitlines() if line.startswith("teleport: ")]
        return said[-1] if said else "see its log"

    def _restarts(self) -> int:
        text = self._show("NRestarts")
        return int(text) if text.isdecimal() else 0

    def _show(self, name: str) -> str:
        return self._call("show", self._name, f"--property={name}", "--value").strip()

    def _call(self, *words: str, may_fail: bool = False) -> str:
        shown = " ".join(words)
        try:
            done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=_SECONDS, check=False)
        except FileNotFoundError:
            raise NotFound("this host has no systemctl", hint="leave --systemd out") from None
        except subprocess.TimeoutExpired:
            raise TeleportError(f"systemctl {shown} does not come to an end", hint="systemctl list-jobs") from None
        if done.returncode and not may_fail:
            raise TeleportError(f"systemctl {shown}: {done.stderr.strip()}", hint=f"systemctl status {self._name}")
        return done.stdout

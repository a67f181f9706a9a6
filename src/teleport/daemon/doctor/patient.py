"""Whom the checks look at: a configuration, what it was read from, and the processes that use its directory."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from teleport.daemon.config.values import Config


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend` is a shell command, to be run on this host unless it says where."""

    check: str
    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Unseen:
    """What could not be looked at, and the command that would. `blind`: without it nothing good can be said."""

    check: str
    what: str
    mend: str
    blind: bool = False


Said = Iterator[Finding | Unseen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """`pids` are the daemon's processes, as far as this user sees them. `root` is where the machine's own files are."""

    file: Path | None  # of the configuration; None: it comes from the environment
    text: str
    config: Config
    now: datetime
    pids: tuple[int, ...] = ()
    root: Path = Path("/")

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    @property
    def again(self) -> str:
        """The command with which root looks at the same."""
        return "sudo teleport doctor" + (f" -c {quoted(self.file)}" if self.file is not None else "")

    @property
    def seen(self) -> bool:
        """Whether this user sees the daemon's processes and files."""
        try:
            return os.geteuid() in (0, self.config.data_dir.stat().st_uid)
        except FileNotFoundError:
            return True
        except OSError:
            return os.geteuid() == 0

    def edit(self, word: str = "") -> str:
        """The command that opens the configuration, at the first line that has `word`."""
        return edit(self.file, next((n for n, line in enumerate(self.text.splitlines(), 1) if word in line), 1))

    def replace(self, old: str, new: str) -> str:
        """The command that writes `new` for `old` into the configuration."""
        if self.file is None or old not in self.text:
            return self.edit(old)
        quotes = "[\"']\\{0,1\\}"  # around the old value; an address in brackets has to have them
        old, new = (f"{quotes}{_sed(old)}{quotes}", f'"{new}"') if "[" in new else (_sed(old), new)
        return f"sed -i {shlex.quote(f's|{old}|{new}|')} {quoted(self.file)}"


def _sed(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\.[]*^$|" else letter for letter in text)


def quoted(path: Path | str) -> str:
    return shlex.quote(str(path))


def edit(file: Path | None, line: int = 1) -> str:
    """The command that opens a configuration at a line."""
    return f"${{EDITOR:-vi}} +{line} {quoted(file)}" if file is not None else "systemctl edit teleport"


def processes_of(data_dir: Path, proc: Path = Path("/proc")) -> tuple[int, ...]:
    """The processes that hold the lock of a directory; those of other users are seen by root alone."""
    try:
        wanted = os.stat(data_dir / "daemon.lock")
    except OSError:
        return ()
    return tuple(pid for pid in pids(proc) if any(os.path.samestat(wanted, one) for one in _files(proc, pid)))


def pids(proc: Path) -> list[int]:
    return sorted(int(one.name) for one in proc.iterdir() if one.name.isdecimal())


def _files(proc: Path, pid: int) -> Iterator[os.stat_result]:
    """What a process has open; nothing of one that has ended, or that may not be looked at."""
    try:
        found = list(os.scandir(proc / str(pid) / "fd"))
    except OSError:
        return
    for one in found:
        try:
            yield os.stat(one.path)
        except OSError:
            continue

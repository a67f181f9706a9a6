"""Records of logins, as the system's own programs read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from teleport.launcher.login_records import LastLogin, LoginRecords

NOW = 1_700_000_000


def records(folder: Path) -> LoginRecords:
    made = LoginRecords(str(folder / "utmp"), str(folder / "wtmp"), str(folder / "lastlog"))
    for path in (made.utmp, made.wtmp, made.lastlog):
        Path(path).touch()
    return made


def said(*arguments: str | Path) -> str:
    environment = {"PATH": os.environ["PATH"], "TZ": "UTC", "LC_ALL": "C"}
    return subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout


def test_who_and_last_read_what_is_written(tmp_path: Path) -> None:
    for program in ("who", "last"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    made = records(tmp_path)
    made.log_in("alice", 1000, "/dev/pts/7", "192.0.2.9", os.getpid(), NOW)
    made.log_in("bob", 1001, "/dev/pts/12", "2001:db8::9", os.getpid(), NOW + 60)
    shown = said("who", made.utmp).splitlines()
    assert [line.split()[:2] for line in shown] == [["alice", "pts/7"], ["bob", "pts/12"]]
    assert "(192.0.2.9)" in shown[0]
    made.log_out("/dev/pts/7", os.getpid(), NOW + 3660)
    assert [line.split()[0] for line in said("who", made.utmp).splitlines()] == ["bob"]
    last = said("last", "-f", made.wtmp).splitlines()
    (alice,) = [line for line in last if line.startswith("alice")]
    assert "pts/7" in alice
    assert "192.0.2.9" in alice
    assert "(01:01)" in alice
    assert "Nov 14 22:13" in alice


def test_the_last_login_is_told_once_there_was_one(tmp_path: Path) -> None:
    made = records(tmp_path)
    assert made.log_in("alice", 1000, "/dev/pts/7", "192.0.2.9", 5, NOW) is None
    assert made.log_in("bob", 1001, "/dev/pts/8", "192.0.2.10", 5, NOW) is None
    assert made.log_in("alice", 1000, "/dev/pts/9", "x" * 400, 5, NOW + 1) == LastLogin(NOW, "pts/7", "192.0.2.9")
    again = made.log_in("alice", 1000, "/dev/pts/9", "", 5, NOW + 2)
    assert again == LastLogin(NOW + 1, "pts/9", "x" * 255)


def test_what_is_in_the_file_reaches_no_terminal_as_it_is(tmp_path: Path) -> None:
    """Threat T45: others may write there."""
    made = records(tmp_path)
    made.log_in("alice", 0, "/dev/pts/7", "a\x1b]0;x\x07b", 5, NOW)
    last = made.log_in("alice", 0, "/dev/pts/7", "", 5, NOW)
    assert last is not None
    assert last.host == "a?]0;x?b"


def test_files_that_are_not_there_are_not_made(tmp_path: Path) -> None:
    made = LoginRecords(str(tmp_path / "utmp"), str(tmp_path / "wtmp"), str(tmp_path / "lastlog"))
    assert made.log_in("alice", 1000, "/dev/pts/7", "192.0.2.9", 5, time.time()) is None
    made.log_out("/dev/pts/7", 5, time.time())
    assert list(tmp_path.iterdir()) == []

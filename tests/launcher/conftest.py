"""A launcher, and a Unix user whose sessions it starts."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from teleport import launcher
from teleport.launcher import LauncherEnd


@pytest.fixture
def end() -> Iterator[LauncherEnd]:
    """A launcher of the test's own process; whatever it still runs dies with its socket, and it is reaped."""
    deadline = time.monotonic() + 5
    while len(os.listdir("/proc/self/task")) > 1:  # a joined thread of an earlier test may take a moment to go
        assert time.monotonic() < deadline, "an earlier test left a thread, and a process with threads cannot fork this"
        time.sleep(0.001)
    started = launcher.start()
    yield started
    started.socket.close()
    try:
        os.waitpid(started.pid, 0)
    except ChildProcessError:
        return  # the test has done it


@pytest.fixture(scope="session")
def person() -> Iterator[pwd.struct_passwd]:
    """A Unix user with a home, bash, and a second group."""
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("needs root and useradd: it acts as another Unix user")
    name = f"tplaunch{os.getpid()}"
    subprocess.run(["groupadd", f"{name}x"], check=True)
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", "--groups", f"{name}x", name], check=True)
    try:
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["userdel", "--remove", name], check=True, capture_output=True)
        subprocess.run(["groupdel", grp.getgrnam(f"{name}x").gr_name], check=True)


@pytest.fixture
def shut_account(person: pwd.struct_passwd) -> Iterator[Callable[..., None]]:
    """Changes the person's account with usermod; it is put back afterwards."""

    def change(*options: str) -> None:
        subprocess.run(["usermod", *options, person.pw_name], check=True, capture_output=True)

    yield change
    change("--expiredate", "", "--shell", person.pw_shell)

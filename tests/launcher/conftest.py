"""A launcher, and a Unix user whose sessions it starts."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from teleport.launcher import LauncherEnd
from teleport.testing.launching import forked_launcher


@pytest.fixture
def end() -> Iterator[LauncherEnd]:
    """A launcher of the test's own process; whatever it still runs dies with its socket, and it is reaped."""
    with forked_launcher() as started:
        yield started


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

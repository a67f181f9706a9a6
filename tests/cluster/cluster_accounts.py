"""Accounts of this machine that exist for a test only, and programs that they can run."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import teleport
from teleport.testing.cluster import wait_until


@dataclass(frozen=True, slots=True)
class UnixAccount:
    """An ordinary user with a home, in a supplementary group of its own."""

    name: str
    group: str
    home: Path
    uid: int
    gid: int


@contextmanager
def unix_account() -> Iterator[UnixAccount]:
    """A fresh account with the shell /bin/bash; needs root."""
    name = f"tp{uuid.uuid4().hex[:8]}"
    group = f"{name}-extra"
    with tempfile.TemporaryDirectory(prefix="teleport-home-") as folder:
        _change("groupadd", group)
        try:
            _change("useradd", "--no-create-home", "-d", folder, "-s", "/bin/bash", "-G", group, name)
            try:
                entry = pwd.getpwnam(name)
                os.chown(folder, entry.pw_uid, entry.pw_gid)
                yield UnixAccount(name, group, Path(folder), entry.pw_uid, entry.pw_gid)
            finally:
                wait_until(f"no process of {name} is left", lambda: _left(entry.pw_uid) == [])
                _change("userdel", name)
        finally:
            _change("groupdel", group)


def _left(uid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == uid:
                found.append(int(folder.name))
    return found


def _change(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{arguments[0]} does not work here: {done.stderr.decode(errors='replace').strip()}")


def programs_for_everyone(folder: Path) -> Path:
    """A folder with `python`, `teleport`, `tctl` and `tsh` that every user of this machine may run.

    The interpreter and the checkout may lie where others cannot read. Then the system's own Python of the same version
    runs a copy of the packages.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = shutil.which(f"python{version}", path="/usr/local/bin:/usr/bin:/bin")
    if python is None:
        pytest.skip(f"this machine has no python{version} that every user may run")
    _change(python, "-m", "venv", "--without-pip", str(folder))
    libraries = folder / "packages"
    shutil.copytree(sysconfig.get_path("purelib"), libraries, ignore=_not_needed)
    shutil.rmtree(libraries / "teleport", ignore_errors=True)
    package = Path(teleport.__file__).parent
    shutil.copytree(package, libraries / "teleport")
    (folder / "lib" / f"python{version}" / "site-packages" / "packages.pth").write_text(f"{libraries}\n")
    programs = folder / "bin"
    for name in ("teleport", "tctl", "tsh"):
        path = programs / name
        path.write_text(f"#!{programs / 'python'}\nfrom teleport.cli.{name} import main\nmain()\n")
        path.chmod(0o755)
    return programs


def _not_needed(_: str, names: list[str]) -> set[str]:
    """What the programs themselves do not import."""
    unwanted = (
        "pip",
        "mypy",
        "ruff",
        "pytest",
        "_pytest",
        "hypothesis",
        "setuptools",
        "bin",
        "pyte",
        "librt",
        "testing_extensions",
    )
    return {name for name in names if name.partition("-")[0] in unwanted or name.endswith((".pth", ".so.dbg"))}

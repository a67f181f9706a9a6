"""The Unix account whose sessions are measured."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
from collections.abc import Iterator

from bench.programs import run


@contextlib.contextmanager
def account() -> Iterator[str]:
    """Root makes an account for the run, with a plain shell: else the start-up files of root's own shell are measured.

    Anybody else can only be themselves, on our side and with sshd.
    """
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        yield getpass.getuser()
        return
    name = f"tpbench{os.getpid()}"
    # `*` is no password that could be typed, and not the mark of a locked account either, which sshd refuses
    run(["useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", name])
    try:
        yield name
    finally:
        run(["userdel", "--remove", name])

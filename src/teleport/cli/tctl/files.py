"""Files that hold secrets: mode 0600 from the first byte, never over an existing file unasked."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from teleport.errors import AlreadyExists, TeleportError


def check_free(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Asks before `paths` are overwritten; raises `AlreadyExists` when the answer is no or nobody can be asked."""
    there = [path for path in paths if os.path.lexists(path)]
    if overwrite or not there:
        return
    shown = ", ".join(map(str, there))
    if not (sys.stdin.isatty() and sys.stderr.isatty() and click.confirm(f"Overwrite {shown}?", err=True)):
        raise AlreadyExists(f"{shown} exists already", hint="--overwrite replaces it")


def write_private(path: Path, data: bytes) -> None:
    """Replaces `path` whole, by rename, with mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
    except OSError as error:
        raise TeleportError(f"cannot write {path}: {error.strerror}", hint="name another place with --out") from None

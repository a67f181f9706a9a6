"""The configuration: whether it can be used, and who can read and change it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from teleport.daemon.config.file import InvalidConfig
from teleport.daemon.credentials import has_any
from teleport.daemon.doctor.patient import Finding, Patient, Said, Unseen, edit, quoted
from teleport.errors import NotFound, TeleportError

CHECK = "config"


def of_mistakes(error: TeleportError, file: Path) -> Said:
    """What is wrong with a configuration with which nothing can be started."""
    if isinstance(error, NotFound):
        yield Finding(CHECK, error.message, f"teleport configure -o {quoted(f'file://{file.absolute()}')}")
    elif isinstance(error, InvalidConfig):
        for problem in error.problems:
            yield Finding(CHECK, str(problem), edit(file, problem.line))
    else:
        yield Finding(CHECK, error.message, edit(file))


def looked(patient: Patient) -> Said:
    if patient.file is not None:
        yield from _of_file(patient, patient.file)
    token = patient.config.token
    if token is not None and token.path is not None and patient.config.auth is None:
        yield from _of_token(patient, token.path)


def _of_file(patient: Patient, file: Path) -> Said:
    try:
        found = file.stat()
    except OSError:
        return
    mode, name = stat.S_IMODE(found.st_mode), quoted(file)
    if mode & 0o022:
        yield Finding(CHECK, f"others than its owner can change {file} (mode {mode:04o})", f"chmod go-w {name}")
    if mode & 0o004 and (what := _secrets(patient)):
        yield Finding(CHECK, f"everybody on this host can read {file}, which holds {what}", f"chmod o-r {name}")
    owner = _owner(patient)
    if found.st_uid not in (0, owner):
        yield Finding(CHECK, f"{file} belongs to the uid {found.st_uid}, who can change it", f"chown {owner} {name}")


def _owner(patient: Patient) -> int:
    """The user of the daemon."""
    try:
        return patient.config.data_dir.stat().st_uid
    except OSError:
        return os.geteuid()


def _secrets(patient: Patient) -> str:
    """Which kinds of secrets the file itself holds."""
    config = patient.config
    found = []
    if config.token is not None and config.token.path is None:
        found.append("a join token")
    if config.auth is not None and any(token.token.path is None for token in config.auth.static_tokens):
        found.append("join tokens")
    if config.storage.postgresql is not None and config.storage.postgresql.password:
        found.append("the password of PostgreSQL")
    if config.auth is not None and config.auth.key_token is not None and config.auth.key_token.pin:
        found.append("the PIN of the hardware module")
    return " and ".join(found)


def _of_token(patient: Patient, path: Path) -> Said:
    """The file of a join token, which is needed until this host has joined."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except PermissionError:
        yield Unseen(CHECK, f"the token file {path}", patient.again)
        return
    except OSError as error:
        if not has_any(patient.config.data_dir / "proc"):
            kind = "proxy" if patient.config.proxy is not None else "node"
            yield Finding(
                CHECK,
                f"the token file {path} cannot be read ({error.strerror}), and this host has not joined",
                f"tctl tokens add --type={kind} --out={quoted(path)}   # on the auth server; then copy it here",
            )
        return
    if mode & 0o044:
        yield Finding(
            CHECK, f"others can read the join token in {path} (mode {mode:04o})", f"chmod 0600 {quoted(path)}"
        )

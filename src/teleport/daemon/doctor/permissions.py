"""Owners and modes below the data directory: what is secret is the daemon's alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from teleport.backend.sqlite_file import FILE_NAME
from teleport.daemon.doctor.patient import Finding, Patient, Said, Unseen, quoted

CHECK = "permissions"
MOST = 50_000  # files that are looked at
FEW = 5  # files that are told one by one


def looked(patient: Patient) -> Said:
    folder = patient.config.data_dir
    try:
        found = folder.stat()
    except FileNotFoundError:
        yield from _absent(folder)
        return
    except OSError as error:
        yield _closed(patient, error)
        return
    owner = found.st_uid
    if stat.S_IMODE(found.st_mode) & 0o077:
        yield Finding(
            CHECK,
            f"others can look into {folder} (mode {stat.S_IMODE(found.st_mode):04o})",
            f"chmod 0700 {quoted(folder)}",
        )
    if os.geteuid() not in (0, owner):
        yield _closed(patient, f"it belongs to the uid {owner}, and this is the uid {os.geteuid()}")
        return
    for root in dict.fromkeys((folder, patient.config.storage.path)):
        strangers = []
        for path, seen in _below(root):
            if not path.is_relative_to(folder) and not path.name.startswith(FILE_NAME):
                continue  # a storage may lie among other things
            if seen.st_uid != owner:
                strangers.append((path, seen.st_uid))
            yield from _of_mode(patient, path, seen)
        yield from _of_owners(root, strangers, owner)


def _of_owners(root: Path, strangers: list[tuple[Path, int]], owner: int) -> Said:
    """Each file by itself, or all at once where somebody changed a whole tree."""
    if len(strangers) > FEW:
        yield Finding(
            CHECK,
            f"{len(strangers)} files below {root} do not belong to the daemon's user (uid {owner})",
            f"chown -Rh {owner} {quoted(root)}",
        )
        return
    for path, uid in strangers:
        yield Finding(
            CHECK,
            f"{path} belongs to the uid {uid}, not to the daemon's ({owner})",
            f"chown -h {owner} {quoted(path)}",
        )


def _closed(patient: Patient, why: object) -> Unseen:
    said = f"{patient.config.data_dir}: {getattr(why, 'strerror', why)}"
    return Unseen(CHECK, said, patient.again, blind=True)


def _absent(folder: Path) -> Said:
    """Made by the first start, where that may be."""
    parent = next(one for one in folder.parents if one.exists())
    if not os.access(parent, os.W_OK):
        yield Finding(
            CHECK,
            f"there is no {folder}, and this user cannot make it",
            f"sudo install -d -m 0700 -o {os.geteuid()} -g {os.getegid()} {quoted(folder)}",
        )


def _below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything in the directory, links not followed; recordings and what waits for auth count with their folders."""
    waiting = [folder]
    for _ in range(MOST):
        if not waiting:
            return
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # it has gone, or belongs to somebody else, which was said
        for entry in entries[:MOST]:
            try:
                yield Path(entry.path), entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False) and entry.name not in ("records", "upload", "upload-proxy"):
                    waiting.append(Path(entry.path))
            except OSError:
                continue


def _of_mode(patient: Patient, path: Path, seen: os.stat_result) -> Said:
    if stat.S_ISLNK(seen.st_mode):
        return
    mode = stat.S_IMODE(seen.st_mode)
    if _secret(patient, path) and mode & 0o077:
        right = "0700" if stat.S_ISDIR(seen.st_mode) else "0600"
        yield Finding(CHECK, f"others can get at {path} (mode {mode:04o})", f"chmod {right} {quoted(path)}")
    elif mode & 0o002:
        yield Finding(CHECK, f"everybody can change {path} (mode {mode:04o})", f"chmod o-w {quoted(path)}")


def _secret(patient: Patient, path: Path) -> bool:
    """Whether this is a key, or leads to keys. Certificates may be read; the folder above closes all of it anyway."""
    data = patient.config.data_dir
    return path.suffix not in (".cert", ".crt") and (
        path.is_relative_to(data / "proc")
        or (path.is_relative_to(patient.config.storage.path) and path.name.startswith(FILE_NAME))
        or path in (data / "webproxy_key.pem", data / "host_uuid")
    )

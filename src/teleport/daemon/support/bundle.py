"""A bundle for support: its parts collected, scrubbed, looked through for secrets, and written as one archive."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from teleport.daemon.doctor.patient import Patient
from teleport.daemon.support.scrub import SHORTEST, scrubbed, scrubbed_values
from teleport.errors import AlreadyExists, TeleportError

FOLDER: Final = "teleport-support"
MANIFEST: Final = "manifest.json"


def collected(
    patient: Patient, parts: Mapping[str, Callable[[Patient], Any]], secrets: Iterable[str]
) -> dict[str, bytes]:
    """The files of a bundle, by name. A part that cannot be had is named in the manifest, with the reason."""
    known = tuple({one for one in secrets if len(one) >= SHORTEST})
    found: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    for name, part in parts.items():
        try:
            value = part(patient)
        except (OSError, ValueError, TeleportError) as error:
            missing[name] = scrubbed(f"{error}", known)
            continue
        if isinstance(value, str):
            found[name] = scrubbed(value, known).encode(errors="replace")
        else:
            found[name] = _json(scrubbed_values(value, known))
    sizes = {name: len(content) for name, content in found.items()}
    found[MANIFEST] = _json({"made": patient.now.isoformat(), "files": sizes, "missing": missing})
    check(found, known)
    return found


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n").encode(errors="replace")


def check(files: Mapping[str, bytes], known: Iterable[str]) -> None:
    """Raises `TeleportError` when a secret is in one of the files after all; it is not told which. A secret that is a
    plain word is in the names of our own keys, too, so it is not looked for here."""
    sought = [one.encode() for one in known if len(one) >= SHORTEST and not (one.isalpha() and one.islower())]
    for name, content in files.items():
        if any(secret in content for secret in sought):
            raise TeleportError(
                f"a secret of this host would be in {name} of the bundle, so it is not written",
                hint="this is a fault of ours: leave that file out with --without=" + name,
            )


def write(path: Path, files: Mapping[str, bytes], made: float) -> None:
    """Writes the archive, for its owner alone. Raises `AlreadyExists`, `TeleportError`."""
    held = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=held, mode="wb", mtime=int(made)) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mtime, entry.mode = len(files[name]), int(made), 0o600
            archive.addfile(entry, io.BytesIO(files[name]))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AlreadyExists(f"{path} exists already", hint="name another file: --out=FILE") from None
    except OSError as error:
        raise TeleportError(f"cannot write {path}: {error.strerror}", hint="name another file: --out=FILE") from None
    with open(descriptor, "wb") as file:
        file.write(held.getvalue())

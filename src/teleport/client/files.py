"""Credentials written where a person wants them (`tsh login -o`): mode 0600, replaced whole."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from teleport.client.login import Login, identity_content
from teleport.client.system import CREATE, make_private
from teleport.errors import TeleportError
from teleport.pki.sshformat import parse_certificate_line


def paths(out: str, form: str) -> list[Path]:
    """The files of a form: key and certificate for `openssh`, one for the others (`certificates.md` 9)."""
    return [Path(out), Path(f"{out}-cert.pub")] if form == "openssh" else [Path(out)]


def existing(out: str, form: str) -> list[Path]:
    """Those that are there already."""
    return [path for path in paths(out, form) if os.path.lexists(path)]


def write_login(login: Login, out: str, form: str) -> list[Path]:
    """Writes the credentials of a login. Raises `TeleportError`."""
    written = paths(out, form)
    if form == "file":
        write_private(written[0], identity_content(login))
    elif form == "ppk":
        from teleport.pki.ppk import comment_of, write_ppk

        certificate = parse_certificate_line(login.certificates.ssh)
        comment = comment_of(login.profile.user, login.profile.root_cluster)
        write_private(written[0], write_ppk(login.key, certificate, comment).reveal())
    else:
        write_private(written[0], login.key.pkcs8_pem().reveal())
        write_private(written[1], login.certificates.ssh.strip().encode() + b"\n")
    return written


def write_private(path: Path, data: bytes) -> None:
    """Replaces `path` by a file with mode 0600. What stood there is replaced itself, never written through."""
    temporary = path.parent / f".{os.urandom(8).hex()}.new"
    try:
        file = os.open(temporary, CREATE, 0o600)
        try:
            with open(file, "wb") as stream:
                make_private(file)
                stream.write(data)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
    except OSError as error:
        raise TeleportError(
            f"cannot write {path}: {error.strerror}", hint="give a path that you may write: --out=FILE"
        ) from None

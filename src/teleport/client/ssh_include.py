"""The one line in `~/.ssh/config` that takes our file in, and what else stands there.

The person's file is kept byte for byte around that line. It is replaced whole, by rename, with the mode that it had; a
symbolic link stays one, and what it leads to is replaced. OpenSSH takes the first value that it finds, and an `Include`
below a `Host` line counts for that host only: so ours stands at the top.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from teleport.client.ssh_config import quoted_path
from teleport.errors import BadRequest, TeleportError

COMMENT = "# hosts of clusters, by tsh config --install"
_MOST = 4 * 1024 * 1024  # bytes of a configuration
_DEPTH = 3  # of Includes in Includes
_FILES = 50


def user_config(environment: Mapping[str, str]) -> Path:
    """`~/.ssh/config`."""
    return Path(environment.get("HOME") or Path.home()) / ".ssh" / "config"


def include_line(included: Path) -> str:
    """Raises `BadRequest` for a path that would be read otherwise."""
    if any(char in str(included) for char in "*?[]{}"):
        raise BadRequest(f"{str(included)!r} cannot be named in OpenSSH's configuration", hint="set TELEPORT_HOME")
    return f"Include {quoted_path(included)}"


def install(config: Path, included: Path) -> bool:
    """Puts the line at the top unless it is in force already; whether the file changed. Raises `TeleportError`."""
    line = include_line(included)
    before = _read(config) or b""
    if any(included in _included(words, config.parent) for words in _words_at_top(before)):
        return False
    _replace(config, f"{COMMENT}\n{line}\n".encode() + before)
    return True


def uninstall(config: Path, included: Path) -> bool:
    """Takes our line away, with the comment above it; whether it was there. Raises `TeleportError`."""
    line, comment = include_line(included).encode(), COMMENT.encode()
    before = _read(config)
    if before is None:
        return False
    kept: list[bytes] = []
    for one in before.splitlines(keepends=True):
        if one.rstrip(b"\r\n") != line:
            kept.append(one)
        elif kept and kept[-1].rstrip(b"\r\n") == comment:
            kept.pop()
    after = b"".join(kept)
    if after == before:
        return False
    _replace(config, after)
    return True


def host_patterns(config: Path, without: Path) -> list[str]:
    """The patterns of all `Host` lines of the configuration outside the file `without`, as far as it can be read."""
    found: list[str] = []
    for words in _all_words(config, without):
        if words[0].lower() == "host":
            found += words[1:]
    return found


def _all_words(config: Path, without: Path) -> Iterator[list[str]]:
    waiting, seen = [(config, 0)], {without}
    while waiting and len(seen) <= _FILES:
        path, depth = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        try:
            data = _read(path)
        except TeleportError:
            continue
        for words in _words(data or b""):
            yield words
            if depth < _DEPTH:
                waiting += [(one, depth + 1) for one in _included(words, config.parent)]


def _words(data: bytes) -> Iterator[list[str]]:
    for line in data.decode("utf-8", "replace").splitlines():
        keyword, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if keyword and not keyword.startswith("#"):
            with contextlib.suppress(ValueError):  # an odd quote: ssh will say so
                yield [keyword, *shlex.split(rest)]


def _words_at_top(data: bytes) -> Iterator[list[str]]:
    """The lines above the first `Host` or `Match`."""
    for words in _words(data):
        if words[0].lower() in ("host", "match"):
            return
        yield words


def _included(words: list[str], folder: Path) -> list[Path]:
    if words[0].lower() != "include":
        return []
    found: list[Path] = []
    for word in words[1:]:
        path = Path(word.replace("~", str(folder.parent), 1) if word.startswith("~/") else word)
        path = path if path.is_absolute() else folder / path
        found += [Path(name) for name in glob.glob(str(path))] if glob.has_magic(str(path)) else [path]
    return found


def _read(config: Path) -> bytes | None:
    try:
        # a pipe in its place must not make us wait
        with open(os.open(config, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise TeleportError(f"{config} is not a plain file", hint="make it one, or remove it")
            data = file.read(_MOST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TeleportError(f"cannot read {config}: {error.strerror}", hint=_BY_HAND) from None
    if len(data) > _MOST:
        raise TeleportError(f"{config} is larger than {_MOST} bytes", hint=_BY_HAND)
    return data


_BY_HAND = "put the Include line there yourself: tsh config --help"


def _replace(config: Path, data: bytes) -> None:
    """Writes the file that `config` is, or leads to. Its folder is made 0700 when there is none."""
    try:
        if not config.parent.exists():
            config.parent.mkdir(mode=0o700, parents=True)
        path = Path(os.path.realpath(config, strict=False))
        mode = 0o600
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)
        temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.chmod(mode)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a link leads to itself"
        raise TeleportError(f"cannot write {config}: {reason}", hint=_BY_HAND) from None

"""What is inside a backup: a tar archive whose members come in a fixed order, with a list of their hashes at its end.

    manifest.json               what this is, of which cluster, from when
    state.jsonl                 every stored item, one JSON object a line, all of one moment
    audit/HOST/DAY.log          the audit log, each file up to where it was when its turn came, after the state
    recordings/SESSION.rec      whole recordings; SESSION.HOST.rec where a host's is not the session's first
    end.json                    name, size and SHA-256 of every member before it

The order matters: what the log and the recordings hold beyond the state is what a restore brings up to date
(`settle`), and never the reverse. A member of another name or kind is refused: nothing is written where a name says.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, BinaryIO, Final, Protocol, TypeVar

import msgspec

from teleport import __version__
from teleport.backup.age import Broken
from teleport.errors import TeleportError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
STATE: Final = "state.jsonl"
END: Final = "end.json"
PIECE: Final = 256 * 1024  # bytes read at once
MAX_SMALL: Final = 64 * 1024 * 1024  # bytes of the manifest and the list at the end
MAX_LINE: Final = 4 * 1024 * 1024  # bytes of an item's line
_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
AUDIT_NAME: Final = re.compile(rf"audit/({_UUID})/(\d{{4}}-\d\d-\d\d\.00:00:00\.log)")
RECORDING_NAME: Final = re.compile(rf"recordings/({_UUID}(?:\.{_UUID})?)\.rec")
_BLOCK: Final = tarfile.BLOCKSIZE
T = TypeVar("T")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself. Fields are only added, with defaults."""

    format: int = FORMAT
    version: str  # of the program that made it
    cluster: str
    cluster_id: str = ""
    created: datetime
    host_id: str  # of the auth server that made it
    host_name: str = ""
    revision: int = 0  # of its storage
    audit: bool = True  # whether the log is in it
    recordings: bool = True  # whether the recordings are in it
    pins: list[str] = []  # of the cluster


class StoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of the storage. Its value may be a secret and is not shown."""

    key: str
    value: bytes
    expires: datetime | None = None

    def __repr__(self) -> str:
        return f"StoredItem({self.key})"


class Summed(msgspec.Struct, frozen=True, kw_only=True):
    """One member, as the list at the end has it."""

    name: str
    size: int
    sha256: str  # hex


class _End(msgspec.Struct, frozen=True, kw_only=True):
    members: list[Summed]


class _Format(msgspec.Struct, frozen=True):
    format: int = 0
    version: str = ""


# writing


def member_head(name: str, size: int, when: datetime) -> bytes:
    """What stands before the content of a member."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(when.timestamp())
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """What stands behind it."""
    return bytes(-size % _BLOCK)


def whole_member(name: str, content: bytes, when: datetime) -> tuple[bytes, Summed]:
    """A member that is held whole, and its line of the list."""
    summed = Summed(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return member_head(name, len(content), when) + content + padding(len(content)), summed


def archive_end(members: Sequence[Summed], when: datetime) -> bytes:
    """The list of all members, and the archive's own end."""
    member, _ = whole_member(END, msgspec.json.encode(_End(members=list(members))), when)
    return member + bytes(2 * _BLOCK)


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest)


def encode_items(items: Sequence[StoredItem]) -> bytes:
    return b"".join(msgspec.json.encode(item) + b"\n" for item in items)


# reading


class Content(Protocol):
    """A member's bytes, read once from the first on."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(slots=True)
class Member:
    """One member; what is not read of it is skipped, but counts for its hash."""

    name: str
    size: int
    content: _Hashing


class _Hashing:
    """Reads a member and remembers the hash of all that was read."""

    def __init__(self, file: IO[bytes], name: str, size: int) -> None:
        self._file = file
        self._name = name
        self._left = size
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        if wanted and not data:
            raise Broken(f"the backup ends inside {self._name}", hint="use another copy")
        self._left -= len(data)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        """Of the whole member, reading what is left."""
        while self._left:
            self.read(PIECE)
        return self._hash.hexdigest()


def read_members(stream: BinaryIO) -> Iterator[Member]:
    """Every member but the list at the end, in order, each to be read before the next is asked for.

    Raises `Broken` where the archive is not what `tctl backup create` writes; only who has been given all members and
    no error knows that it is whole.
    """
    seen: list[Summed] = []
    stated: list[Summed] | None = None
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE) as archive:
            for info in archive:
                file = archive.extractfile(info) if info.isreg() else None
                if file is None or stated is not None or not _in_order(info.name, [one.name for one in seen[-1:]]):
                    raise Broken(f"the backup holds {info.name[:80]!r} where it cannot be", hint="use another copy")
                content = _Hashing(file, info.name, info.size)
                if info.name == END:
                    stated = _decoded(_small(content, info.size), _End).members
                    continue
                yield Member(info.name, info.size, content)
                seen.append(Summed(name=info.name, size=info.size, sha256=content.digest()))
    except tarfile.TarError as error:
        raise Broken(f"the backup's archive cannot be read: {error}", hint="use another copy") from None
    while stream.read(PIECE):
        pass  # to the very end, where the encryption proves that nothing is missing
    if stated is None or stated != seen:
        raise Broken("the backup is not whole: its list at the end does not fit", hint="use another copy")


def _in_order(name: str, before: Sequence[str]) -> bool:
    """Whether a member may follow: manifest, state, then log, then recordings, each name once and in order."""
    rank = _rank(name)
    if not before:
        return rank == 0
    last = _rank(before[0])
    return rank == last + 1 == 1 or (last >= 1 and rank > 1 and (rank, name) > (last, before[0]))


def _rank(name: str) -> int:
    match name:
        case "manifest.json":
            return 0
        case "state.jsonl":
            return 1
        case "end.json":
            return 4
    if AUDIT_NAME.fullmatch(name):
        return 2
    return 3 if RECORDING_NAME.fullmatch(name) else -1


def _small(content: Content, size: int) -> bytes:
    if size > MAX_SMALL:
        raise Broken(f"the backup holds a list of {size} bytes", hint="use another copy")
    parts = list[bytes]()
    while part := content.read(PIECE):
        parts.append(part)
    return b"".join(parts)


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Broken(f"the backup holds what cannot be read: {error}", hint="use another copy") from None


def read_manifest(member: Member) -> Manifest:
    """Raises `TeleportError` for a backup of a format that came later."""
    data = _small(member.content, member.size)
    found = _decoded(data, _Format)
    if found.format > FORMAT:
        raise TeleportError(
            f"this backup has format {found.format}, of version {found.version[:40]}; this one reads up to {FORMAT}",
            hint="use the version that made it, or a later one",
        )
    if _release(found.version) > _release(__version__):
        raise TeleportError(
            f"this backup was made by version {found.version[:40]}, which is newer than {__version__}",
            hint="use the version that made it, or a later one",
        )
    return _decoded(data, Manifest)


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, as far as they go."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def read_items(member: Member) -> Iterator[StoredItem]:
    """The items of the state, one after the other."""
    held = b""
    while part := member.content.read(PIECE):
        *lines, held = (held + part).split(b"\n")
        if len(held) > MAX_LINE:
            raise Broken("the backup holds an item that is too large", hint="use another copy")
        for line in lines:
            yield _decoded(line, StoredItem)
    if held:
        raise Broken("the backup ends inside an item", hint="use another copy")

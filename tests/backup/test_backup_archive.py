"""What is inside a backup: a fixed order, a list with hashes, and nothing of another kind."""

from __future__ import annotations

import io
import tarfile
from datetime import UTC, datetime

import pytest

from teleport import __version__
from teleport.backup import archive
from teleport.backup.age import Broken
from teleport.backup.archive import Manifest, StoredItem, Summed, read_items, read_manifest, read_members
from teleport.errors import TeleportError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOST = "11111111-2222-4333-8444-555555555555"
ITEMS = [StoredItem(key="users/a", value=b"\0\xff"), StoredItem(key="users/b", value=b"x", expires=NOW)]
MANIFEST = Manifest(version=__version__, cluster="c", created=NOW, host_id=HOST)
LOG = f"audit/{HOST}/2026-01-02.00:00:00.log"
RECORDING = f"recordings/{HOST}.rec"


def made(*members: tuple[str, bytes], end: list[Summed] | None = None) -> bytes:
    parts, sums = [], []
    for name, content in members:
        data, summed = archive.whole_member(name, content, NOW)
        parts.append(data)
        sums.append(summed)
    return b"".join(parts) + archive.archive_end(sums if end is None else end, NOW)


def whole(*more: tuple[str, bytes], manifest: Manifest = MANIFEST) -> bytes:
    first = (archive.MANIFEST, archive.encode_manifest(manifest)), (archive.STATE, archive.encode_items(ITEMS))
    return made(*first, *more)


def names(data: bytes) -> list[str]:
    return [member.name for member in read_members(io.BytesIO(data))]


def test_it_is_a_plain_tar_archive() -> None:
    """So that it can be looked into without our programs."""
    data = whole((LOG, b"one\n"), (RECORDING, b"frames"))
    with tarfile.open(fileobj=io.BytesIO(data)) as plain:
        assert plain.getnames() == [archive.MANIFEST, archive.STATE, LOG, RECORDING, archive.END]
        assert {info.mode for info in plain} == {0o600}
    assert names(data) == [archive.MANIFEST, archive.STATE, LOG, RECORDING]


def test_manifest_and_items_come_back() -> None:
    found: list[StoredItem] = []
    for member in read_members(io.BytesIO(whole())):
        if member.name == archive.MANIFEST:
            assert read_manifest(member) == MANIFEST
        else:
            found += read_items(member)
    assert found == ITEMS
    assert "xff" not in repr(ITEMS[0])


@pytest.mark.parametrize(
    "members",
    [
        [],
        [(archive.STATE, b"")],
        [(archive.MANIFEST, b"{}"), (LOG, b""), (archive.STATE, b"")],
        [(archive.MANIFEST, b"{}"), (archive.STATE, b""), (archive.STATE, b"")],
        [(archive.MANIFEST, b"{}"), (archive.STATE, b""), (RECORDING, b""), (LOG, b"")],
        [(archive.MANIFEST, b"{}"), (archive.STATE, b""), (LOG, b""), (LOG, b"")],
        [(archive.MANIFEST, b"{}"), (archive.STATE, b""), ("../../etc/passwd", b"x")],
        [(archive.MANIFEST, b"{}"), (archive.STATE, b""), (f"audit/{HOST}/../x.log", b"x")],
        [(archive.MANIFEST, b"{}"), (archive.STATE, b""), ("/etc/passwd", b"x")],
        [(archive.MANIFEST, b"{}"), (archive.STATE, b""), (f"recordings/{HOST}.rec/x", b"x")],
    ],
)
def test_members_of_other_names_or_orders_are_refused(members: list[tuple[str, bytes]]) -> None:
    """Nothing is ever written where a name says (T42)."""
    with pytest.raises(Broken):
        names(made(*members))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_members_that_are_no_files_are_refused(kind: bytes) -> None:
    info = tarfile.TarInfo(LOG)
    info.type, info.linkname = kind, "/etc/passwd"
    data = whole()
    at = data.rindex(archive.END.encode())
    with pytest.raises(Broken):
        names(data[:at] + info.tobuf() + data[at:])


def test_a_list_that_does_not_fit_is_refused() -> None:
    good = [archive.whole_member(*one, NOW)[1] for one in ((archive.MANIFEST, b"{}"), (archive.STATE, b"s\n"))]
    members = [(archive.MANIFEST, b"{}"), (archive.STATE, b"s\n")]
    assert names(made(*members, end=good)) == [archive.MANIFEST, archive.STATE]
    for wrong in (good[:1], [*good, good[1]], [good[0], Summed(name="state.jsonl", size=2, sha256="0" * 64)]):
        with pytest.raises(Broken, match="list at the end"):
            names(made(*members, end=wrong))


def test_an_archive_without_its_end_is_refused() -> None:
    data = whole((LOG, b"one\n" * 1000))
    at = data.rindex(archive.END.encode())
    for cut in (data[: len(data) // 2], data[:at], data[:at] + bytes(1024), data[:600], b""):
        with pytest.raises(Broken):
            names(cut)


@pytest.mark.parametrize(
    ("change", "words"), [({"format": 2}, "has format 2"), ({"version": "99.0"}, "newer than"), ({}, "")]
)
def test_a_downgrade_is_refused(change: dict[str, object], words: str) -> None:
    """A later version may keep what this one would lose."""
    import msgspec

    data = whole(manifest=msgspec.structs.replace(MANIFEST, **change))
    member = next(read_members(io.BytesIO(data)))
    if not words:
        assert read_manifest(member).version == __version__
        return
    with pytest.raises(TeleportError, match=words):
        read_manifest(member)

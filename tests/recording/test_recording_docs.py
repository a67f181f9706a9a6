"""`docs/recording-format.md` says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from teleport.recording.directory import Suffix
from teleport.recording.format import (
    CHUNK_HEAD_SIZE,
    HASH_SIZE,
    MAGIC,
    VERSION,
    EndRecord,
    ExecDetail,
    FileDetail,
    ForwardDetail,
    FrameKind,
    RecordingHeader,
    Signature,
    Totals,
)

PAGE = (Path(__file__).parents[2] / "docs" / "recording-format.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_frame_kind_is_listed_with_its_number() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", section("Frame"), re.MULTILINE)
    assert rows == [(str(kind.value), kind.name.lower()) for kind in FrameKind]


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (RecordingHeader, "File"),
        (ExecDetail, "Frame"),
        (FileDetail, "Frame"),
        (ForwardDetail, "Frame"),
        (EndRecord, "End"),
        (Totals, "End"),
        (Signature, "End"),
    ],
)
def test_every_field_is_named(kind: type[msgspec.Struct], title: str) -> None:
    for field in msgspec.structs.fields(kind):
        assert f"`{field.name}`" in section(title), f"{kind.__name__}.{field.name}"


def test_the_chunk_layout_adds_up() -> None:
    sizes = re.findall(r"^\| [\w ]+ \| (\d+) \|", section("Chunk"), re.MULTILINE)
    assert sum(map(int, sizes)) == CHUNK_HEAD_SIZE + HASH_SIZE


def test_magic_and_version_are_the_codes() -> None:
    assert f"`{MAGIC.hex(' ')}`" in section("File")
    assert f"| version | 2 | {VERSION} |" in section("File")


def test_every_file_name_is_listed() -> None:
    for suffix in Suffix:
        assert f"`<sid>{suffix.value}`" in section("On disk")

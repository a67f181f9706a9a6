"""The inputs that runs begin with: a file for each, by target. What once showed a fault stays here for ever."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def corpus_of(name: str) -> list[bytes]:
    """In order of file name, so that runs are the same everywhere."""
    return [path.read_bytes() for path in sorted((FOLDER / name).glob("*")) if path.is_file()]

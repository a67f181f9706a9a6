"""The kernel's tracepoints: their numbers, and where their fields lie (`format` files of tracefs)."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.kernel.syscalls import private_mount

_PLACES: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_FIELD: Final = re.compile(r"field:[^;]*?(\w+)(?:\[[^\]]*\])?;\s*offset:(\d+);\s*size:(\d+);")


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """One of the kernel's tracepoints."""

    name: str  # group/event
    number: int
    fields: Mapping[str, int]  # offset of each field in what a program is given

    @classmethod
    def parse(cls, name: str, number: str, layout: str) -> Tracepoint:
        """From the texts of its files `id` and `format`; `ValueError` when they are none."""
        fields = {field: int(offset) for field, offset, _ in _FIELD.findall(layout)}
        return cls(name, int(number), fields)


class Tracepoints:
    """Reads tracepoints. Where no tracefs is mounted, from a mount of its own that no directory shows."""

    def __init__(self) -> None:
        """`OSError` when the kernel gives no tracefs."""
        self._mount = -1
        for place in _PLACES:
            if (place / "events" / "sched").is_dir():
                self._root = place / "events"
                return
        self._mount = private_mount("tracefs")
        self._root = Path(f"/proc/self/fd/{self._mount}/events")

    def find(self, name: str) -> Tracepoint:
        """The tracepoint `group/event`; `FileNotFoundError` when this kernel has none of that name."""
        folder = self._root / name
        return Tracepoint.parse(name, (folder / "id").read_text(), (folder / "format").read_text())

    def find_some(self, *names: str) -> list[Tracepoint]:
        """Those of the names that this kernel has."""
        found = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found.append(self.find(name))
        return found

    def close(self) -> None:
        if self._mount >= 0:
            os.close(self._mount)
            self._mount = -1

"""Memory in large pages: where it may be, and that the kernel gives some."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from teleport.daemon import large_pages
from teleport.daemon.large_pages import LARGE, mappings


def _mapping(head: str, rss: int) -> str:
    return f"{head}\nSize:  {8 * 1024} kB\nRss:   {rss} kB\nPss:   {rss} kB\nVmFlags: rd wr mr mw me ac sd \n"


@pytest.mark.parametrize(
    ("head", "rss", "whole"),
    [
        ("7f0000000000-7f0000800000 rw-p 00000000 00:00 0 ", 8192, [(0x7F0000000000, 0x7F0000800000)]),
        ("7f0000001000-7f0000801000 rw-p 00000000 00:00 0 ", 8192, [(0x7F0000200000, 0x7F0000800000)]),
        ("55d000000000-55d000800000 rw-p 00000000 00:00 0          [heap]", 8000, [(0x55D000000000, 0x55D000800000)]),
        ("7f0000000000-7f0000800000 rw-p 00000000 00:00 0 ", 4096, []),  # half of it would become memory
        ("7f0000000000-7f0000100000 rw-p 00000000 00:00 0 ", 1024, []),  # no large page has room
        ("7f0000000000-7f0000800000 rw-s 00000000 00:01 77   /dev/zero (deleted)", 8192, []),
        ("7f0000000000-7f0000800000 r--p 00000000 fe:00 1234 /usr/lib/libpython3.11.so", 8192, []),
        ("7f0000000000-7f0000800000 rw-p 00000000 fe:00 1234 /usr/lib/libpython3.11.so", 8192, []),
        ("7ffc00000000-7ffc00800000 rw-p 00000000 00:00 0          [stack]", 8192, []),
    ],
)
def test_only_the_memory_of_the_process_itself_that_is_nearly_full(
    head: str, rss: int, whole: list[tuple[int, int]]
) -> None:
    other = _mapping("7e0000000000-7e0000001000 r-xp 00000000 fe:00 1 /bin/true", 4)
    assert list(mappings(other + _mapping(head, rss) + other)) == whole


def test_nothing_is_asked_for_where_they_are_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = tmp_path / "enabled"
    switch.write_text("always madvise [never]\n")
    monkeypatch.setattr(large_pages, "_SWITCH", switch)
    monkeypatch.setattr(large_pages, "mappings", lambda _: pytest.fail("it looked"))
    assert large_pages.collapse() == 0
    monkeypatch.setattr(large_pages, "_SWITCH", tmp_path / "absent")
    assert large_pages.collapse() == 0


def test_the_kernel_gives_some_and_nothing_is_lost() -> None:
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 1):
        pytest.skip(f"Linux {os.uname().release} has no MADV_COLLAPSE (6.1 has)")
    if not large_pages._SWITCH.exists() or "[never]" in large_pages._SWITCH.read_text():
        pytest.skip("this kernel has no transparent large pages, or they are switched off")
    program = (
        "from teleport.daemon.large_pages import collapse\n"
        "kept = [str(number) * 20 for number in range(400_000)]\n"
        "print(collapse())\n"
        "assert kept == [str(number) * 20 for number in range(400_000)]\n"
        "print(next(line for line in open('/proc/self/smaps_rollup') if line.startswith('AnonHugePages')).split()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    given, there = done.stdout.split()
    assert int(given) >= 10 * LARGE
    assert int(there) * 1024 >= 5 * LARGE, "what it gave is there"

"""Output without end: the tab's memory stays as it is, and Ctrl-C answers. A minute of it in the long form."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page
from tests.webui.browsing import Windows
from tests.webui.terminals import node_path, opened, run, shows, text

from teleport.testing.cluster import Cluster, Person

MIB = 1024 * 1024
LONG = bool(os.environ.get("TELEPORT_LONG"))
SECONDS = 60.0 if LONG else 3.0
HEAP = 30 * MIB  # that a flood may add, at any moment
RESIDENT = 120 * MIB  # the same for the process of the tab: its garbage and its pictures count
FLOODS = {
    "yes": "yes 0123456789012345678901234567890123456789",
    "random": "cat /dev/urandom | base64",
}


class Tab:
    """What a page takes, as the browser and the kernel say it."""

    def __init__(self, page: Page) -> None:
        self._page = page.context.new_cdp_session(page)
        browser = page.context.browser
        assert browser is not None
        self._browser = browser.new_browser_cdp_session()

    def heap(self) -> int:
        """Bytes that are reachable."""
        self._page.send("HeapProfiler.collectGarbage")
        return int(self._page.send("Runtime.getHeapUsage")["usedSize"])

    def resident(self) -> int:
        """Bytes of the largest process that draws pages."""
        processes = self._browser.send("SystemInfo.getProcessInfo")["processInfo"]
        return max(_resident(int(one["id"])) for one in processes if one["type"] == "renderer")


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_takes_no_memory_and_is_interrupted_at_once(
    windows: Windows, cluster: Cluster, alice: Person, login: str, flood: str
) -> None:
    page = opened(windows, alice, node_path(cluster, login))
    tab = Tab(page)
    run(page, "clear; seq 12000; echo fill''ed", "filled")  # the scrollback has its full size
    heap, resident = tab.heap(), tab.resident()
    page.keyboard.type(f"{FLOODS[flood]}\n")
    most = [0, 0]
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        before = text(page)
        page.wait_for_timeout(1000)
        assert text(page) != before or flood == "yes", "it is drawn on"
        most = [max(most[0], tab.heap() - heap), max(most[1], tab.resident() - resident)]
    begun = time.monotonic()
    page.keyboard.press("Control+c")
    shows(page, "^C")
    run(page, "clear; echo ov''er", "over")
    took = time.monotonic() - begun
    print(
        f"{flood}: heap {heap / MIB:.1f} MiB and {most[0] / MIB:.1f} more; "
        f"resident {resident / MIB:.0f} MiB and {most[1] / MIB:.0f} more; Ctrl-C took {took:.2f} s"
    )
    assert most[0] < HEAP
    assert most[1] < RESIDENT
    assert took < 5

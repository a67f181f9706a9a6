"""Files that are too large for the page: the browser saves them by itself, by a link that works once, here, for 30 s.

The long form saves all of it and compares; the short one sees it begin.
"""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

from playwright.sync_api import Page, expect
from tests.webui.browsing import Windows
from tests.webui.terminals import node_path, opened
from tests.webui.test_webui_flood import MIB, Tab

from teleport.testing.cluster import Cluster, Person

LONG = bool(os.environ.get("TELEPORT_LONG"))
SIZE = 700 * MIB + 17  # `BY_LINK` of webui/src/pages/terminal/transfer.ts is 512 MiB
SAVED = 300_000  # milliseconds for all of it
RESIDENT = 120 * MIB  # that it may add to the process of the tab, which holds nothing of it


def written(path: Path) -> str:
    """A file of that size, most of it a hole, something at its beginning, its end and each 64 MiB; its hash."""
    source = random.Random(3)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for place in (*range(0, SIZE, 64 * MIB), SIZE - 1000):
            file.seek(place)
            file.write(source.randbytes(1000))
    return hash_of(path)


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def status(page: Page, url: str) -> int:
    """What this window's browser gets for that address."""
    return page.context.request.get(url, fail_on_status_code=False).status


def test_a_large_file_is_saved_by_the_browser_itself(
    windows: Windows, cluster: Cluster, alice: Person, admin: Person, login: str, tmp_path: Path
) -> None:
    path = tmp_path / "large.bin"
    digest = written(path)
    page = opened(windows, alice, node_path(cluster, login))
    tab = Tab(page)
    page.get_by_role("button", name="Files").click()
    page.get_by_label("Download this file").fill(str(path))
    before = tab.resident()
    with page.expect_download(timeout=SAVED) as begun:
        page.get_by_role("button", name="Download", exact=True).click()
    saved = begun.value
    expect(page.get_by_text("Done: large.bin: your browser saves it")).to_be_visible()
    assert saved.suggested_filename == "large.bin"
    assert "ticket=" in saved.url
    assert saved.url.startswith(f"https://{cluster.web_address}/webapi/")
    if LONG:
        assert hash_of(Path(saved.path())) == digest
        saved.delete()
    else:
        saved.cancel()
    grown = tab.resident() - before
    print(f"{SIZE / MIB:.0f} MiB; resident {before / MIB:.0f} MiB and {grown / MIB:.0f} more")
    assert grown < RESIDENT
    assert status(page, saved.url) == 401, "once"
    assert status(windows.of(admin), saved.url) == 401, "and not for others"
    assert status(windows.open(), saved.url) == 401
    assert "ticket=" not in page.url
    event = cluster.wait_event("sftp", path=str(path), direction="download", user="alice")
    if LONG:  # the other one is of the look at its size, which was broken off
        event = cluster.wait_event("sftp", path=str(path), direction="download", sha256=digest)
    assert event["login"] == login

"""Another cluster in the pages: chosen, looked at, worked in, as far as it allows; and what it may not do to them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.cluster.cluster_trust import LEAF, ROOT, Trusting, trusting
from tests.webui.browsing import Chromium, Watched, Windows, axe_in_both, screenshot
from tests.webui.terminals import ready, run

from teleport.testing.cluster import NODE, Person

MARKUP = "<img src=x onerror=alert(1)>"
REACHES = """kind: role
version: v4
metadata: {name: reaches}
spec:
  allow:
    logins: ['{{internal.logins}}']
    node_labels: {'*': '*'}
"""
NODES = f"/web/cluster/{LEAF}/nodes"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusting]:
    """The leaf maps `access` to what reaches its hosts, `auditor` to its own. A label is of a stranger's making."""
    with trusting(tmp_path_factory.mktemp("both")) as both:
        both.leaf.config["ssh_service"]["labels"] = {"env": "leaf", "note": MARKUP}
        both.leaf.write()
        both.leaf.daemon.stop()
        both.leaf.daemon.start()
        both.leaf.tctl("create", "-f", "-", stdin=REACHES).ok()
        both.trust({"access": ["reaches"], "auditor": ["auditor"]})
        yield both


@pytest.fixture(scope="module")
def ann(both: Trusting, login: str) -> Person:
    """Reaches hosts of both clusters, and may nothing else."""
    ann = both.root.add_person("ann", logins=[login])
    ann.log_in()
    both.wait_online(ann)
    return ann


@pytest.fixture(scope="module")
def auditor(both: Trusting, ann: Person, login: str) -> Person:
    return both.root.add_person("mia", roles=("access", "auditor"), logins=[login])


@pytest.fixture
def windows(browser: Chromium, both: Trusting, logins: dict[str, Any]) -> Iterator[Windows]:
    with browser.used() as used:
        opened = Windows(used, both.root, logins, Watched(f"https://{both.root.web_address}"))
        try:
            yield opened
            opened.watched.check()
        finally:
            opened.close()


def to(page: Page, cluster: str) -> None:
    page.get_by_role("button", name="Cluster: ").click()
    page.get_by_role("menuitemradio", name=cluster).click()


def test_a_cluster_is_chosen_and_stays_chosen(windows: Windows, ann: Person) -> None:
    page = windows.of(ann)
    expect(page.get_by_role("cell", name=NODE, exact=True)).to_be_visible()
    page.get_by_role("button", name=f"Cluster: {ROOT}").focus()
    page.keyboard.press("ArrowDown")
    entries = page.get_by_role("menuitemradio", name=".test")
    expect(entries).to_have_text([ROOT, LEAF])
    expect(entries.first).to_have_attribute("aria-checked", "true")
    axe_in_both(page)
    screenshot(page, "clusters-menu")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{windows.origin}{NODES}")
    expect(page.get_by_role("button", name="Only nodes with env=leaf")).to_be_visible()
    expect(page.get_by_text(f"This is {LEAF}, by way of {ROOT}.")).to_be_visible()
    expect(page).to_have_title(f"Nodes · {LEAF}")
    expect(page.get_by_role("link", name="Users")).to_have_count(0)
    axe_in_both(page)
    screenshot(page, "nodes-of-a-leaf")
    page.reload()
    expect(page.get_by_role("button", name="Only nodes with env=leaf")).to_be_visible()
    to(page, ROOT)
    expect(page.get_by_role("button", name="Only nodes with env=test")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("button", name="Only nodes with env=leaf")).to_be_visible()
    to(page, ROOT)
    page.get_by_role("link", name="Active sessions").click()
    to(page, LEAF)
    expect(page).to_have_url(f"{windows.origin}/web/cluster/{LEAF}/sessions")


def test_nodes_are_searched_there_and_their_labels_are_text(windows: Windows, ann: Person) -> None:
    page = windows.of(ann, f"{NODES}?search=env%3Dleaf")
    expect(page.get_by_role("button", name=f"Only nodes with note={MARKUP}")).to_be_visible()
    assert page.locator("img").count() == 0
    page.get_by_label("Search").fill("env=test")
    expect(page.get_by_text("No node fits.")).to_be_visible()


def test_a_terminal_and_files_of_a_host_over_there(windows: Windows, ann: Person, login: str, tmp_path: Path) -> None:
    page = windows.of(ann, NODES)
    page.get_by_role("button", name=f"Connect to {NODE}").click()
    with page.context.expect_page() as opened:
        page.get_by_role("menuitem", name=login).click()
    terminal = opened.value
    assert f"/web/cluster/{LEAF}/node/" in terminal.url
    ready(terminal)
    run(terminal, f"echo a-lea''f > {tmp_path}/file; cat {tmp_path}/file", "a-leaf")
    terminal.get_by_role("button", name="Files").click()
    terminal.get_by_label("Download this file").fill(f"{tmp_path}/file")
    with terminal.expect_download() as download:
        terminal.get_by_role("button", name="Download", exact=True).click()
    assert Path(download.value.path()).read_text() == "a-leaf\n"


def test_what_is_on_record_there_is_shown_to_whoever_that_cluster_lets(
    windows: Windows, both: Trusting, ann: Person, auditor: Person, login: str
) -> None:
    marker = f"seen-{time.monotonic_ns()}"
    ann.tsh("ssh", f"--cluster={LEAF}", f"{login}@{NODE}", f"echo {marker}").ok()
    both.leaf.wait_event("session.end")
    windows.watched.expect("403")
    page = windows.of(ann, f"/web/cluster/{LEAF}/audit")
    expect(page.get_by_text(f"The cluster {LEAF} refuses: ")).to_be_visible()
    axe_in_both(page)
    page = windows.of(auditor, f"/web/cluster/{LEAF}/audit")
    expect(page.get_by_text(f"remote-ann-{ROOT}").first).to_be_visible()
    page.get_by_role("link", name="Recordings").click()
    expect(page).to_have_url(f"{windows.origin}/web/cluster/{LEAF}/recordings")
    expect(page.get_by_text(f"remote-ann-{ROOT}").first).to_be_visible()
    axe_in_both(page)


def test_a_cluster_that_nobody_knows_is_none(windows: Windows, ann: Person) -> None:
    windows.watched.expect("404")
    page = windows.of(ann, "/web/cluster/nowhere.test/nodes")
    expect(page.get_by_text("is not known here")).to_be_visible()


def test_a_cluster_that_is_away_says_so_at_once(windows: Windows, both: Trusting, ann: Person) -> None:
    both.leaf.daemon.stop()
    windows.watched.expect("502")
    page = windows.of(ann, NODES)
    expect(page.get_by_text(f"the cluster {LEAF} is not connected now")).to_be_visible()
    expect(page.get_by_role("table")).to_have_count(0)
    expect(page.get_by_role("button", name=f"Cluster: {LEAF}")).to_have_text(f"{LEAF} (offline) ▾")
    axe_in_both(page)
    to(page, ROOT)
    expect(page.get_by_role("button", name="Only nodes with env=test")).to_be_visible()

"""A terminal in a page, as somebody who types sees it."""

from __future__ import annotations

import time

from playwright.sync_api import Page, expect
from tests.webui.browsing import Windows

from teleport.testing.cluster import NODE, Cluster, Person

ROWS = ".terminal-tab:not([hidden]) .xterm-rows"
HIDDEN_SCREEN = (".xterm",)  # xterm.js draws text there that programs on the host choose: axe does not look at it


def text(page: Page) -> str:
    """What the shown terminal shows."""
    return page.locator(ROWS).inner_text().replace("\xa0", " ")


def shows(page: Page, wanted: str, seconds: float = 30.0) -> str:
    """Waits until the terminal shows it."""
    deadline = time.monotonic() + seconds
    while wanted not in (found := text(page)):
        assert time.monotonic() < deadline, f"not shown: {wanted!r} in\n{found}"
        page.wait_for_timeout(20)
    return found


def run(page: Page, command: str, wanted: str) -> str:
    """Types a command, and waits for what it prints."""
    page.keyboard.type(f"{command}\n")
    return shows(page, wanted)


def ready(page: Page) -> None:
    """A shell that takes commands, with a short prompt."""
    expect(page.get_by_text("Connecting…")).to_have_count(0)
    expect(page.get_by_role("textbox", name="Terminal input").last).to_be_focused()
    run(page, "exec env LC_ALL=C.UTF-8 PS1='rea''dy> ' HISTFILE= bash --norc --noprofile", "ready>")
    run(page, "clear; echo be''gun", "begun")


def node_path(cluster: Cluster, login: str, host: str = NODE) -> str:
    """Where the terminal on a host is."""
    nodes = cluster.tctl("nodes", "ls", "--format=json").json()
    made = next(node["metadata"]["name"] for node in nodes if node["spec"]["hostname"] == host)
    return f"/web/cluster/{cluster.name}/node/{made}/{login}"


def opened(windows: Windows, person: Person, path: str) -> Page:
    page = windows.of(person, path)
    ready(page)
    return page

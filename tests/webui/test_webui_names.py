"""What strangers and users name things, as it is shown to others in a browser: text, and nothing else (threat T56)."""

from __future__ import annotations

import json

from playwright.sync_api import Page, expect
from tests.webui.browsing import Windows

from teleport.testing.cluster import Cluster, Person

SITE = "/web/cluster/example.test"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><a href=javascript:alert(1)>click</a>"
ROLE = {
    "kind": "role",
    "version": "v4",
    "metadata": {"name": "hostile", "description": HOSTILE, "labels": {"why": HOSTILE}},
    "spec": {"allow": {"logins": ["{{internal.logins}}"], "node_labels": {"env": [HOSTILE]}}},
}


def name_things(windows: Windows, cluster: Cluster) -> None:
    """A stranger fails to log in under such a name; a lock and a role hold it, too."""
    windows.watched.expect("403")
    page = windows.open()
    page.get_by_label("User name").fill(HOSTILE)
    page.get_by_label("Password").fill("x" * 12)
    page.get_by_label("Code of your authenticator app").fill("000000")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()
    cluster.wait_event("user.login", success=False, user=HOSTILE)
    cluster.tctl("lock", "--user=nobody-at-all", f"--message={HOSTILE}", "--force").ok()
    cluster.tctl("create", "-f", "-", stdin=json.dumps(ROLE)).ok()


def is_text(page: Page, wanted: str = "onerror") -> None:
    """The page shows it, and has not one element of it."""
    expect(page.get_by_text(wanted).first).to_be_visible()
    assert page.locator("img[src='x'], a[href^='javascript'], [onerror]").count() == 0
    assert "owned" not in page.title()


def test_names_are_text_wherever_they_are_shown(windows: Windows, admin: Person, cluster: Cluster) -> None:
    name_things(windows, cluster)
    page = windows.of(admin, f"{SITE}/audit")
    page.get_by_label("User", exact=True).fill(HOSTILE)
    page.get_by_label("User", exact=True).press("Enter")
    is_text(page)
    page.get_by_role("button", name="Details of user.login").first.press("Enter")
    is_text(page)
    page.goto(f"{SITE}/locks")
    is_text(page)
    page.goto(f"{SITE}/roles")
    expect(page.get_by_text("hostile").first).to_be_visible()
    page.goto(f"{SITE}/roles/hostile")
    expect(page.get_by_role("heading").first).to_be_visible()
    assert page.locator("img[src='x'], a[href^='javascript'], [onerror]").count() == 0
    page.goto(f"{SITE}/nodes?search={'%3Cimg%20src=x%20onerror=alert(1)%3E'}")
    expect(page.get_by_text("No node fits.")).to_be_visible()
    assert page.locator("img[src='x'], [onerror]").count() == 0
    windows.watched.expect("404")
    page.goto(f"{SITE}/session/%3Cimg%20src=x%20onerror=alert(1)%3E")
    expect(page.get_by_role("heading").first).to_be_visible()
    assert page.locator("img[src='x'], [onerror]").count() == 0

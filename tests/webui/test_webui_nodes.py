"""The node list: search, labels, sorting, pages, and what it does while it is looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from tests.webui.browsing import Windows, axe_in_both, focus_order, screenshot

from teleport.testing.cluster import Cluster, DaemonProcess, Host, Person

NODES = "/web/cluster/example.test/nodes"


@pytest.fixture(scope="module")
def beta(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A second node."""
    token = cluster.tctl("tokens", "add", "--type=node", "--format=json").json()["token"]
    folder = tmp_path_factory.mktemp("beta")
    config = cluster.node_config("beta", auth_token=token, ca_pin=cluster.ca_pin())
    with Host(folder, config) as host:
        yield host.daemon


def shows(page: Page, *wanted: str) -> None:
    """The first column."""
    expect(page.locator("tbody tr td:first-child")).to_have_text(list(wanted))


def shows_first(page: Page, wanted: str) -> None:
    expect(page.locator("tbody tr td:first-child").first).to_have_text(wanted)


def test_nodes_are_searched_filtered_and_sorted(windows: Windows, alice: Person, beta: DaemonProcess) -> None:
    page = windows.of(alice, NODES)
    shows(page, "alpha", "beta")
    axe_in_both(page)
    screenshot(page, "nodes")
    page.get_by_role("button", name="Name").click()
    shows(page, "beta", "alpha")
    expect(page.get_by_role("columnheader", name="Name")).to_have_attribute("aria-sort", "descending")
    page.get_by_label("Search").press_sequentially("alp")
    shows(page, "alpha")
    expect(page.get_by_label("Search")).to_be_focused()
    page.get_by_label("Search").fill("")
    shows(page, "beta", "alpha")
    page.get_by_role("button", name="Only nodes with host=beta").click()
    shows(page, "beta")
    assert "label=host%3Dbeta" in page.url
    axe_in_both(page)
    page.reload()
    shows(page, "beta")
    page.get_by_role("button", name="No longer only host=beta").click()
    shows(page, "beta", "alpha")
    page.get_by_label("Search").fill("nothing has this name")
    expect(page.get_by_text("No node fits.")).to_be_visible()
    axe_in_both(page)
    page.go_back()
    shows(page, "beta")


def test_the_list_is_kept_up_to_date_and_nobody_loses_their_place(windows: Windows, alice: Person) -> None:
    page = windows.of(alice, NODES)
    shows_first(page, "alpha")
    connect = page.get_by_role("button", name="Connect to alpha")
    connect.focus()
    connect.press("Enter")
    chosen = page.get_by_role("menuitem").first
    expect(chosen).to_be_focused()
    for _ in range(2):
        with page.expect_response(lambda answer: "/nodes?" in answer.url) as asked:
            pass
        assert asked.value.request.headers["x-background"] == "true"
    expect(chosen).to_be_focused()


def test_choosing_a_login_opens_a_terminal_in_a_tab(windows: Windows, alice: Person, login: str) -> None:
    windows.watched.expect(".")  # what the terminal's page does is not looked at here
    page = windows.of(alice, NODES)
    page.get_by_role("button", name="Connect to alpha").click()
    with page.context.expect_page() as opened:
        page.get_by_role("menuitem", name=login, exact=True).click()
    opened.value.wait_for_url(f"**/web/cluster/example.test/node/*/{login}")


def test_the_node_list_by_keyboard(windows: Windows, alice: Person) -> None:
    page = windows.of(alice, NODES)
    shows_first(page, "alpha")
    reached = focus_order(page, 40)
    wanted = ["Skip to the content", "Search", "Name ▲", "Address ↕", "Only nodes with env=test", "Connect to alpha"]
    assert [name for name in reached if name in wanted][: len(wanted)] == wanted
    page.get_by_role("link", name="Skip to the content").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Search")).to_be_focused()

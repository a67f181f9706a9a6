"""What is around every page: signing in, the menu, the theme, errors, the size of what is loaded first."""

from __future__ import annotations

from playwright.sync_api import expect
from tests.webui.browsing import Windows, axe_in_both, focus_order, screenshot, sign_in

from teleport.testing.cluster import Person

MOST = 300_000  # bytes, compressed, until the node list is there


def test_who_is_not_signed_in_is_led_to_the_sign_in_page_and_back(windows: Windows, alice: Person) -> None:
    page = windows.open("/web/cluster/example.test/nodes?search=alp")
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()
    axe_in_both(page)
    screenshot(page, "sign-in")
    sign_in(page, alice)
    expect(page.get_by_role("heading", name="Nodes")).to_be_focused()
    assert page.url == f"{windows.origin}/web/cluster/example.test/nodes?search=alp"
    expect(page).to_have_title("Nodes · example.test")
    expect(page.get_by_role("cell", name="alpha", exact=True)).to_be_visible()


def test_the_menu_and_the_account_are_reached_by_keyboard(windows: Windows, alice: Person) -> None:
    page = windows.of(alice)
    expect(page.get_by_role("cell", name="alpha", exact=True)).to_be_visible()
    assert focus_order(page, 4)[:3] == ["Skip to the content", "example.test", "alice ▾"]
    axe_in_both(page)
    account = page.get_by_role("button", name="alice")
    account.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem", name="Account")).to_be_focused()
    page.keyboard.press("End")
    expect(page.get_by_role("menuitem", name="Sign out")).to_be_focused()
    axe_in_both(page)
    page.keyboard.press("Escape")
    expect(account).to_be_focused()


def test_a_theme_that_was_chosen_stays(windows: Windows, alice: Person) -> None:
    page = windows.of(alice)
    page.get_by_role("button", name="alice").click()
    page.get_by_role("menuitemradio", name="Theme: dark").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == "rgb(15, 20, 25)"
    page.reload()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_a_path_that_is_no_page_says_so(windows: Windows, alice: Person) -> None:
    page = windows.of(alice, "/web/nothing/here")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    axe_in_both(page)


def test_the_first_load_is_small(windows: Windows, alice: Person) -> None:
    """All that a browser fetches until the node list is there, as it comes over the wire."""
    page = windows.of(alice)
    sizes: dict[str, int] = {}
    page.on("requestfinished", lambda request: sizes.__setitem__(request.url, request.sizes()["responseBodySize"]))
    page.reload()
    expect(page.get_by_role("cell", name="alpha", exact=True)).to_be_visible()
    assert any("/web/app/" in url for url in sizes), sizes
    assert sum(sizes.values()) < MOST, sizes

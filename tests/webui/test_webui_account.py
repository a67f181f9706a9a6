"""What is one's own: password, second factors, where one is signed in."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from tests.webui.browsing import Windows, axe_in_both, focus_order, screenshot, sign_in
from tests.webui.test_webui_sign_in import key_for

from teleport.testing.cluster import PASSWORD, Cluster, Person

ANOTHER = "a quite different secret"


def account_of(windows: Windows, person: Person) -> Page:
    page = windows.of(person, "/web/account")
    expect(page.get_by_role("heading", name="Second factors")).to_be_visible()
    expect(page.get_by_role("cell", name="Authenticator app")).to_be_visible()
    return page


def test_second_factors_are_added_and_removed(windows: Windows, cluster: Cluster) -> None:
    gil = cluster.add_person("gil")
    page = account_of(windows, gil)
    axe_in_both(page)
    screenshot(page, "account")
    key_for(page)
    page.get_by_role("button", name="Add a second factor").click()
    dialog = page.get_by_role("dialog")
    axe_in_both(page)
    dialog.get_by_label("Kind").select_option("webauthn")
    dialog.get_by_label("Name").fill("yubi")
    dialog.get_by_label("Code of your authenticator app").fill(gil.code())
    dialog.get_by_role("button", name="Next", exact=True).click()
    dialog.get_by_role("button", name="Add").click()
    expect(page.get_by_role("cell", name="yubi", exact=True)).to_be_visible()
    expect(page.get_by_text("yubi is one of your second factors.")).to_be_visible()
    page.get_by_role("button", name="Remove yubi").click()
    dialog.get_by_role("button", name="Remove with a security key").click()
    expect(page.get_by_role("cell", name="yubi", exact=True)).to_have_count(0)
    expect(page.get_by_text("yubi is removed.")).to_be_visible()


def test_the_last_second_factor_stays(windows: Windows, cluster: Cluster) -> None:
    windows.watched.expect("status of 400")
    hal = cluster.add_person("hal")
    page = account_of(windows, hal)
    page.get_by_role("button", name="Remove ").click()
    page.get_by_role("dialog").get_by_label("Code of your authenticator app").fill(hal.code())
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
    axe_in_both(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Remove ")).to_be_focused()


def test_the_password_is_changed(windows: Windows, cluster: Cluster) -> None:
    windows.watched.expect("status of 40[013]")
    ida = cluster.add_person("ida")
    page = account_of(windows, ida)
    page.get_by_role("button", name="Change the password").click()
    dialog = page.get_by_role("dialog")
    axe_in_both(page)
    dialog.get_by_label("Old password").fill(PASSWORD)
    dialog.get_by_label("New password", exact=True).fill(ANOTHER)
    dialog.get_by_label("New password again").fill(ANOTHER + "!")
    dialog.get_by_label("Code").fill("000000")
    dialog.get_by_role("button", name="Change", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("The two new passwords differ.")
    dialog.get_by_label("New password again").fill(ANOTHER)
    dialog.get_by_label("Code").fill(ida.code())
    dialog.get_by_role("button", name="Change", exact=True).click()
    expect(page.get_by_text("Your password is another one now.")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Second factors")).to_be_visible()


def test_other_browsers_are_signed_out(windows: Windows, cluster: Cluster) -> None:
    windows.watched.expect("status of 401")
    jo = cluster.add_person("jo")
    page = account_of(windows, jo)
    other = windows.open("/web/account")
    sign_in(other, jo)
    expect(other.get_by_text("this one")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Sign out the browser")).to_be_visible()
    page.get_by_role("button", name="Sign out the browser").click()
    expect(page.get_by_role("button", name="Sign out the browser")).to_have_count(0)
    other.reload()
    expect(other.get_by_role("heading", name="Sign in to example.test")).to_be_visible()
    page.get_by_role("button", name="Sign out everywhere", exact=True).click()
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()


def test_the_account_page_by_keyboard(windows: Windows, alice: Person) -> None:
    page = account_of(windows, alice)
    expect(page.get_by_text("this one")).to_be_visible()
    reached = focus_order(page, 12)
    wanted = ["Skip to the content", "example.test", "alice ▾", "Nodes", "Change the password", "Add a second factor"]
    assert [name for name in reached if name in wanted] == wanted

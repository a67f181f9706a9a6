"""Passkeys in a real browser: added on the account page or behind an invitation, they sign in by themselves."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect
from tests.webui.browsing import Chromium, Watched, Windows, axe_in_both, focus_order
from tests.webui.test_webui_account import account_of
from tests.webui.test_webui_sign_in import invited, path_of

from teleport.testing.cluster import PASSWORD, PUBLIC, Cluster

BUTTON = "Sign in with a passkey"


def passkeys_for(page: Page) -> None:
    """A machine that keeps passkeys, and whose owner is there."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})


def sign_out(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    page.get_by_role("menuitem", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()


def test_a_passkey_is_added_and_signs_in_by_keyboard_until_it_is_removed(windows: Windows, cluster: Cluster) -> None:
    windows.watched.expect("status of 40[13]")  # refused, and the other window of hers that is signed out as well
    lea = cluster.add_person("lea")
    page = account_of(windows, lea)
    passkeys_for(page)
    page.get_by_role("button", name="Add a passkey").click()
    dialog = page.get_by_role("dialog", name="Add a passkey")
    axe_in_both(page)
    dialog.get_by_label("Name").fill("laptop")
    dialog.get_by_label("Code of your authenticator app").fill(lea.code())
    dialog.get_by_role("button", name="Next", exact=True).click()
    dialog.get_by_role("button", name="Add").click()
    expect(page.get_by_text("laptop signs you in from now on.")).to_be_visible()
    expect(page.get_by_role("cell", name="Passkey", exact=True)).to_be_visible()
    sign_out(page, "lea")
    page.get_by_role("button", name=BUTTON).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    cluster.wait_event("user.login", user="lea", method="passwordless", success=True)
    page.goto("/web/account")
    page.get_by_role("button", name="Remove laptop").click()
    page.get_by_role("dialog").get_by_label("Code of your authenticator app").fill(lea.code())
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_text("laptop is removed.")).to_be_visible()
    sign_out(page, "lea")
    page.get_by_role("button", name=BUTTON).click()
    expect(page.get_by_role("alert")).to_contain_text("The user name, the password or the code is wrong.")
    expect(page.get_by_role("button", name=BUTTON)).to_be_focused()
    axe_in_both(page)


def test_an_invitation_is_followed_with_a_passkey(windows: Windows, cluster: Cluster, login: str) -> None:
    page = windows.open(path_of(invited(cluster, "moe", login)))
    passkeys_for(page)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("radio", name="Passkey").check()
    axe_in_both(page)
    page.get_by_role("button", name="Set password").click()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    sign_out(page, "moe")
    page.get_by_role("button", name=BUTTON).click()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()


def test_the_sign_in_page_offers_passkeys_by_keyboard(windows: Windows) -> None:
    page = windows.open("/web/signin")
    expect(page.get_by_role("button", name=BUTTON)).to_be_visible()
    assert focus_order(page, 6)[-1] == BUTTON
    axe_in_both(page)


def test_where_passkeys_do_not_log_in_there_is_no_button(browser: Chromium, tmp_path: Path) -> None:
    """The configuration file says so; the page offers none, and neither does an invitation."""
    factors = {"second_factor": "on", "u2f": {"app_id": f"https://{PUBLIC}"}, "passwordless": False}
    with Cluster(tmp_path, authentication=factors) as own, browser.used() as used:
        windows = Windows(used, own, {}, Watched(f"https://{own.web_address}"))
        try:
            page = windows.open("/web/signin")
            expect(page.get_by_role("button", name="Use a security key")).to_be_visible()
            expect(page.get_by_role("button", name=BUTTON)).to_have_count(0)
            page = windows.open(path_of(invited(own, "nan", "root")))
            expect(page.get_by_role("radio", name="Security key")).to_be_visible()
            expect(page.get_by_role("radio", name="Passkey")).to_have_count(0)
            windows.watched.check()
        finally:
            windows.close()


def test_an_invitation_is_followed_with_a_passkey_alone(windows: Windows, cluster: Cluster, login: str) -> None:
    """No password is typed; with anything else one has to be."""
    page = windows.open(path_of(invited(cluster, "noa", login)))
    passkeys_for(page)
    expect(page.get_by_label("Password", exact=True)).to_have_attribute("required", "")
    page.get_by_role("radio", name="Passkey").check()
    expect(page.get_by_text("May stay empty: the passkey is enough.")).to_be_visible()
    axe_in_both(page)
    page.get_by_role("radio", name="Authenticator app").check()
    expect(page.get_by_label("Password", exact=True)).to_have_attribute("required", "")
    page.get_by_role("radio", name="Passkey").check()
    page.get_by_role("button", name="Register the passkey").press("Enter")
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    sign_out(page, "noa")
    page.get_by_role("button", name=BUTTON).click()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    event = cluster.wait_event("user.login", user="noa", method="passwordless", success=True)
    assert event["mfa_device"]["mfa_device_type"] == "webauthn"

"""Signing in and out, invitations and resets, in a real browser before a real cluster."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect
from tests.webui.browsing import Windows, axe_in_both, focus_order, screenshot, sign_in

from teleport.testing.cluster import PASSWORD, Cluster, Person, wait_until

REFUSED = r"status of 40[13]"


def key_for(page: Page) -> None:
    """A security key that is touched whenever it is asked."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "usb",
        "hasResidentKey": False,
        "hasUserVerification": False,
        "automaticPresenceSimulation": True,
    }
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})


def test_the_sign_in_page_by_keyboard(windows: Windows) -> None:
    page = windows.open("/web/signin")
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()
    expect(page.get_by_label("Code of your authenticator app")).to_be_visible()
    assert focus_order(page, 6) == [
        "User name",
        "Password",
        "Code of your authenticator app",
        "Sign in",
        "Use a security key",
        "Sign in with a passkey",
    ]
    axe_in_both(page)


@pytest.mark.parametrize("user", ["alice", "nobody-of-that-name"])
def test_a_refused_login_says_one_thing(windows: Windows, alice: Person, user: str) -> None:
    windows.watched.expect(REFUSED)
    page = windows.open("/web/signin")
    page.get_by_label("User name").fill(user)
    page.get_by_label("Password").fill("wrong wrong wrong")
    page.get_by_label("Code of your authenticator app").fill("000000")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The user name, the password or the code is wrong.")
    expect(page.get_by_label("User name")).to_be_focused()
    expect(page.get_by_label("Code of your authenticator app")).to_have_value("")
    axe_in_both(page)


@pytest.mark.parametrize("to", ["https://evil.example/web", "//evil.example/web", "/webapi/ping"])
def test_a_login_leads_to_no_other_place(windows: Windows, alice: Person, to: str) -> None:
    windows.watched.expect("401")  # the login that the tests share ends with the first of these
    page = windows.of(alice)
    with page.expect_navigation():
        page.goto(f"/web/signin?next={to}")
    windows.cluster.tctl("users", "unlock", alice.name)
    sign_in(page, alice)
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    assert page.url.startswith(f"{windows.origin}/web/cluster/")


def invited(cluster: Cluster, name: str, login: str) -> str:
    added = cluster.tctl("users", "add", name, "--roles=access", f"--logins={login}", "--format=json").json()
    return str(added["url"])


def path_of(url: str) -> str:
    return url[url.index("/web/") :]


def test_an_invitation_is_followed_with_an_app(windows: Windows, cluster: Cluster, login: str) -> None:
    bob = Person(cluster, "bob", cluster.folder / "homes" / "bob")
    page = windows.open(path_of(invited(cluster, "bob", login)))
    expect(page.get_by_role("heading", name="Welcome to example.test")).to_be_visible()
    expect(page.get_by_label("Password", exact=True)).to_be_focused()
    axe_in_both(page)
    screenshot(page, "invitation")
    bob.totp_secret = page.locator("#secret").inner_text()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_label("Code").fill(bob.code())
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    page.get_by_role("button", name="bob").click()
    page.get_by_role("menuitem", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()
    page.goto("/web/account")
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()


def test_an_invitation_is_followed_with_a_security_key(windows: Windows, cluster: Cluster, login: str) -> None:
    page = windows.open(path_of(invited(cluster, "kim", login)))
    key_for(page)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("radio", name="Security key").check()
    page.get_by_role("button", name="Set password").click()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    page.get_by_role("button", name="kim").click()
    page.get_by_role("menuitem", name="Sign out").click()
    page.get_by_label("User name").fill("kim")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Use a security key").click()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()


def test_who_may_not_log_in_is_signed_in_by_no_link(windows: Windows, cluster: Cluster, login: str) -> None:
    """The password is set all the same: it serves once the lock is lifted."""
    gus = Person(cluster, "gus", cluster.folder / "homes" / "gus")
    page = windows.open(path_of(invited(cluster, "gus", login)))
    gus.totp_secret = page.locator("#secret").inner_text()
    made = cluster.tctl("lock", "--user=gus", "--format=json").json()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_label("Code").fill(gus.code())
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    axe_in_both(page)
    expect(page.get_by_role("button", name="Sign in")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()
    cluster.tctl("rm", f"lock/{made[0]['name']}").ok()
    sign_in(page, gus)
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()


def test_a_link_that_cannot_be_used_says_what_to_do(windows: Windows) -> None:
    windows.watched.expect("status of 404")
    page = windows.open("/web/reset/" + "0" * 32)
    expect(page.get_by_role("heading", name="This link cannot be used")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("Ask an administrator for a new one.")
    axe_in_both(page)


def test_a_session_that_ended_elsewhere_leads_to_the_sign_in_page_and_back(windows: Windows, cluster: Cluster) -> None:
    windows.watched.expect("status of 401")
    eve = cluster.add_person("eve")
    page = windows.of(eve, "/web/cluster/example.test/nodes?search=a")
    expect(page.get_by_role("cell", name="alpha", exact=True)).to_be_visible()
    eve.cluster.tctl("lock", "--user=eve", "--ttl=1h").ok()
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible(timeout=30_000)
    assert re.search(r"next=%2Fweb%2Fcluster%2Fexample.test%2Fnodes%3Fsearch%3Da", page.url)


def test_the_cookie_of_a_window_that_signed_out_is_worth_nothing(windows: Windows, cluster: Cluster) -> None:
    windows.watched.expect("status of 401")
    fay = cluster.add_person("fay")
    page = windows.of(fay)
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    kept = page.context.storage_state()
    page.get_by_role("button", name="fay").click()
    page.get_by_role("menuitem", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()
    again = windows.open(state=kept)
    expect(again.get_by_role("heading", name="Sign in to example.test")).to_be_visible()
    wait_until("the end on record", lambda: [e for e in cluster.events("--type=web_session.end") if e["user"] == "fay"])

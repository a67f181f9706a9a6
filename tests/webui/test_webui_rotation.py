"""Rotating authorities in a browser: the plan before, each step behind a dialog, the way back; logins go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.webui.browsing import Chromium, Watched, Windows, axe_in_both, screenshot, sign_in

from teleport.testing.cluster import PUBLIC, Cluster, Person

HERE = "/web/cluster/example.test/authorities"
KEEPERS = """\
kind: role
version: v4
metadata: {name: keepers}
spec:
  allow:
    rules:
    - {resources: [cert_authority], verbs: [list, readnosecrets, rotate]}
"""
GUESTS = 4
FOLLOWED = 60_000  # milliseconds for hosts to follow


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose keys may be replaced."""
    factors = {"second_factor": "on", "u2f": {"app_id": f"https://{PUBLIC}"}}
    with Cluster(tmp_path_factory.mktemp("rotated"), authentication=factors) as cluster:
        cluster.tctl("create", stdin=KEEPERS).ok()
        yield cluster


@pytest.fixture(scope="module", autouse=True)
def people(own: Cluster) -> dict[str, Person]:
    """Made before anything is rotated: they go by the proxy's self-signed certificate."""
    roles: dict[str, tuple[str, ...]] = {"kim": ("access", "keepers"), "otto": ("access", "editor")}
    roles |= {f"guest{number}": ("access",) for number in range(GUESTS)}
    return {name: own.add_person(name, roles=given) for name, given in roles.items()}


@pytest.fixture(scope="module")
def keeper(people: dict[str, Person]) -> Person:
    """May rotate authorities, and reach hosts."""
    return people["kim"]


@pytest.fixture(scope="module")
def editor(people: dict[str, Person]) -> Person:
    return people["otto"]


@pytest.fixture(scope="module")
def guests(people: dict[str, Person]) -> list[Person]:
    """Each logs in once: a code of an authenticator app counts once, and the next comes after half a minute."""
    return [person for name, person in people.items() if name.startswith("guest")]


@pytest.fixture
def theirs(browser: Chromium, own: Cluster, logins: dict[str, Any]) -> Iterator[Windows]:
    """Windows on the pages of that cluster."""
    with browser.used() as used:
        opened = Windows(used, own, logins, Watched(f"https://{own.web_address}"))
        try:
            yield opened
            opened.watched.check()
        finally:
            opened.close()


def works(windows: Windows, person: Person) -> None:
    """A login from nothing, with a certificate of the keys that sign now, sees the hosts."""
    page = windows.open()
    sign_in(page, person)
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    expect(page.get_by_role("button", name="Connect to alpha")).to_be_visible()


def begin(page: Page, which: str, how: str) -> None:
    page.get_by_role("button", name="Replace keys…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Keys of").select_option(which)
    dialog.get_by_label("How").select_option(how)
    expect(dialog.get_by_text("Looking who")).to_have_count(0)
    axe_in_both(page)
    dialog.get_by_role("button", name="Begin").click()
    expect(dialog).to_be_hidden()


def take(page: Page, step: str, button: str) -> None:
    """The next step, once every host has followed."""
    expect(page.get_by_text("Every host that is here has followed.")).to_be_visible(timeout=FOLLOWED)
    page.get_by_role("button", name=f"{step}…").click()
    dialog = page.get_by_role("dialog", name=step)
    expect(dialog.get_by_text("Looking who")).to_have_count(0)
    dialog.get_by_role("button", name=button, exact=True).click()
    expect(dialog).to_be_hidden()


def test_a_rotation_begins_by_hand_and_is_rolled_back(
    theirs: Windows, own: Cluster, keeper: Person, guests: list[Person], tmp_path: Path
) -> None:
    """Its plan names a file that nothing renews, hosts follow, and people log in in each phase."""
    own.tctl("auth", "sign", "--user=kim", "--ttl=20h", f"--out={tmp_path}/kim.pem").ok()
    page = theirs.of(keeper, HERE)
    page.get_by_role("button", name="Replace keys…").click()
    dialog = page.get_by_role("dialog")
    plan = dialog.get_by_role("region", name="Who would be left behind")
    dialog.get_by_label("Hours until the old keys end").fill("0")
    expect(dialog.get_by_text("Between 1 and 2160 hours.")).to_be_visible()
    dialog.get_by_label("Hours until the old keys end").fill("48")
    expect(plan.get_by_text("No certificate that is known would be left behind.")).to_be_visible()
    dialog.get_by_label("Hours until the old keys end").fill("1")
    expect(plan.get_by_role("cell", name="user kim").first).to_be_visible()
    expect(plan).to_contain_text("a file of tctl auth sign, which nothing renews")
    axe_in_both(page)
    screenshot(page, "rotation")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Replace keys…")).to_be_focused()

    begin(page, "", "manual")
    rotation = page.get_by_role("region", name="Rotation of host, user and jwt")
    expect(rotation.get_by_role("status")).to_contain_text("Phase init, step by step.")
    expect(page.get_by_role("region", name="Host authority", exact=True).get_by_text("only trusted")).to_have_count(2)
    axe_in_both(page)
    page.get_by_role("button", name="Replace keys…").click()
    expect(dialog.get_by_label("Keys of")).to_have_value("openssh")  # the only one that is not under way
    page.keyboard.press("Escape")
    works(theirs, guests.pop())
    event = own.wait_event("authority.rotate", user="kim", authority="user", phase="init")
    assert event["addr"]

    take(page, "Go on to update_clients", "Go on")
    expect(rotation.get_by_role("status")).to_contain_text("Phase update_clients")
    works(theirs, guests.pop())
    page.get_by_role("button", name="Go back to the old keys…").click()
    expect(page.get_by_role("dialog")).to_contain_text("The old keys sign again at once")
    page.get_by_role("dialog").get_by_role("button", name="Go back").click()
    expect(rotation.get_by_role("status")).to_contain_text("Phase rollback")
    take(page, "End the rotation with the old keys", "End it")
    expect(rotation).to_be_hidden()
    expect(page.get_by_text("only trusted")).to_have_count(0)
    works(theirs, guests.pop())
    own.wait_event("authority.rotate", user="kim", authority="host", phase="standby", previous_phase="rollback")


def test_a_rotation_goes_to_its_end_while_the_page_is_open(
    theirs: Windows, keeper: Person, guests: list[Person]
) -> None:
    """The browser's session goes on with certificates of the new keys; the pin on the page is the new one."""
    page = theirs.of(keeper, HERE)
    pins = page.get_by_role("region", name="Pins")
    former = pins.locator("pre").inner_text()
    begin(page, "", "manual")
    expect(pins.locator("pre")).to_have_count(2)
    take(page, "Go on to update_clients", "Go on")
    take(page, "Go on to update_servers", "Go on")
    take(page, "End the old keys", "End the old keys")
    expect(page.get_by_role("region", name="Rotation of host, user and jwt")).to_be_hidden()
    expect(pins.locator("pre")).to_have_count(1)
    assert pins.locator("pre").inner_text() != former
    expect(page.get_by_role("button", name="Replace keys…")).to_be_visible()
    works(theirs, guests.pop())


def test_a_rotation_that_goes_by_itself_is_taken_over_and_a_step_that_was_overtaken_is_not_taken(
    theirs: Windows, own: Cluster, keeper: Person
) -> None:
    theirs.watched.expect(r"status of 412")
    page = theirs.of(keeper, HERE)
    begin(page, "jwt", "auto")
    rotation = page.get_by_role("region", name="Rotation of jwt")
    expect(rotation.get_by_role("status")).to_contain_text("Phase init, by itself.")
    expect(rotation.get_by_text("update_servers")).to_be_visible()
    page.get_by_role("button", name="Go on to update_clients…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("From this step on it waits for somebody")
    own.tctl("auth", "rotate", "--type=jwt", "--phase=rollback").ok()
    dialog.get_by_role("button", name="Go on", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("is in the phase rollback by now, not in init")
    axe_in_both(page)
    dialog.get_by_role("button", name="Cancel").click()
    take(page, "End the rotation with the old keys", "End it")
    expect(rotation).to_be_hidden()


def test_who_may_not_rotate_sees_the_state_and_no_buttons(theirs: Windows, editor: Person) -> None:
    """The preset editor is none who may."""
    page = theirs.of(editor, HERE)
    expect(page.get_by_role("region", name="Host authority", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Replace keys…")).to_have_count(0)
    axe_in_both(page)

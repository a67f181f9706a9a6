"""Running the cluster in a browser, without tctl: users, roles, hosts, locks, other clusters, authorities."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.cluster.test_cluster_first_run import code
from tests.webui.browsing import Windows, axe_in_both, focus_order, screenshot
from tests.webui.terminals import ready, run

from teleport.testing.cluster import PASSWORD, Cluster, DaemonProcess, Person, at, free_port, plain_environment

HERE = "/web/cluster/example.test"
REFUSED = r"status of (400|404|409|412)"  # a refusal that a test provokes


def open_menu(page: Page, name: str, item: str) -> None:
    page.get_by_role("button", name=f"Change {name}", exact=True).click()
    page.get_by_role("menuitem", name=item).click()


def invite(page: Page, name: str, *roles: str, login: str = "") -> str:
    """Invites somebody; the link."""
    page.get_by_role("button", name="Invite a user").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill(name)
    for role in roles:
        dialog.get_by_role("checkbox", name=re.compile(f"^{role}(:|$)")).check()
    dialog.get_by_label("Accounts on hosts").fill(login)
    dialog.get_by_role("button", name="Invite", exact=True).click()
    expect(page.get_by_role("heading", name=f"{name} is invited")).to_be_visible()
    link = dialog.get_by_role("region", name="Link").locator("pre").inner_text()
    dialog.get_by_role("button", name="Done").click()
    return link


def followed(windows: Windows, link: str) -> Page:
    """The window of somebody who opened that link in a browser of theirs, and is signed in."""
    page = windows.open(link)
    secret = page.locator("#secret").inner_text()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_label("Code").fill(code(secret, 0))
    page.get_by_role("button", name="Set password").click()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    return page


def connected(page: Page, host: str, login: str) -> Page:
    """The terminal that the list of nodes opens in another tab."""
    page.get_by_role("button", name=f"Connect to {host}").click()
    with page.context.expect_page() as new:
        page.get_by_role("menuitem", name=login, exact=True).click()
    ready(new.value)
    return new.value


def test_an_administrator_runs_the_cluster_without_tctl(
    windows: Windows, cluster: Cluster, admin: Person, login: str, tmp_path: Path
) -> None:
    """A role and a user are made, a host joins with the command that is shown, the user works there in a page and is
    locked, and the open shell ends; the log tells of it, and the recording is played."""
    page = windows.of(admin, f"{HERE}/new-role")
    page.get_by_label("Name", exact=True).fill("deployers")
    page.get_by_role("group", name="Hosts").get_by_label("Logs in as").fill(login)
    page.get_by_role("group", name="Hosts").get_by_label("On hosts with").fill("tier = web")
    expect(page.get_by_text(f"Logs in as {login} on hosts with tier = web.")).to_be_visible()
    expect(page.get_by_label("As text (YAML)")).to_have_value(re.compile(r"name: deployers\n.*tier:\n", re.DOTALL))
    axe_in_both(page)
    screenshot(page, "role")
    page.get_by_role("button", name="Create").click()
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="Role deployers")).to_be_visible()

    page.get_by_role("link", name="Users").click()
    link = invite(page, "dora", "deployers")
    assert link.startswith(f"https://{cluster.web_address}/web/invite/")
    expect(page.get_by_role("cell", name=re.compile("^dora"))).to_contain_text("invited, not come yet")
    hers = followed(windows, link)
    expect(hers.get_by_text("No nodes that you may reach.")).to_be_visible()
    expect(page.get_by_role("cell", name=re.compile("^dora"))).not_to_contain_text("not come yet")

    page.get_by_role("link", name="Join tokens").click()
    page.get_by_role("button", name="Add a host").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Labels of the host").fill("tier = web")
    axe_in_both(page)
    dialog.get_by_role("button", name="Make the token").click()
    command = dialog.get_by_role("region", name="Command").locator("pre").inner_text()
    expect(dialog.get_by_text("Waiting for the host")).to_be_visible()
    axe_in_both(page)
    screenshot(page, "join")
    with joined(command, tmp_path):
        # the preset auditor keeps this administrator from hosts, so that the host's name is not shown
        expect(dialog.get_by_text(re.compile("^A host has joined; its id is "))).to_be_visible()
        dialog.get_by_role("button", name="Done").click()
        expect(page.get_by_role("table", name="Join tokens")).to_contain_text("used by")

        shell = connected(hers, "beta", login)
        run(shell, "echo ready-$((40+2))", "ready-42")
        page.get_by_role("link", name="Users").click()
        open_menu(page, "dora", "Lock")
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Why").fill("left the company")
        windows.watched.expect("401|403|WebSocket")
        dialog.get_by_role("button", name="Lock", exact=True).click()
        expect(dialog).to_be_hidden()
        expect(shell.get_by_role("heading", name="Sign in to")).to_be_visible()  # it ended, and so did her login
        expect(shell.locator(".xterm")).to_have_count(0)
        expect(page.get_by_role("cell", name=re.compile("^dora"))).to_contain_text("locked by 1 lock")
        page.get_by_role("link", name="Locks").click()
        row = page.get_by_role("row", name=re.compile("dora"))
        expect(row).to_contain_text("left the company")
        axe_in_both(page)
        screenshot(page, "locks")
        event = cluster.wait_event("lock.created", user="admin")
        assert event["addr"]
        cluster.wait_event("session.upload", sid=cluster.wait_event("session.end", user="dora")["sid"])

    page.get_by_role("link", name="Audit log").click()
    page.get_by_label("User", exact=True).fill("dora")
    page.get_by_label("User", exact=True).press("Enter")
    rows = page.get_by_role("table", name="Events").get_by_role("row")
    expect(rows.filter(has_text="session.end").first).to_be_visible()
    page.get_by_role("link", name="Recordings").click()
    row = page.get_by_role("table", name="Recordings").get_by_role("row").filter(has_text="dora")
    row.get_by_role("link").click()
    page.get_by_label("Speed").select_option("8")
    page.get_by_role("button", name="Play", exact=True).press("Enter")
    expect(page.locator(".screen")).to_contain_text("ready-42")


class Joined(DaemonProcess):
    """A host started with the command that the page shows."""

    def __init__(self, arguments: list[str], folder: Path, port: int) -> None:
        super().__init__(folder, arguments, diag_port=port, environment=plain_environment(folder))


def joined(command: str, folder: Path) -> Joined:
    """Does what the command says, below `folder` instead of in /etc; the daemon runs until the block ends."""
    first, _, start = command.partition("\n")
    written = re.search(r"printf '%s\\n' (\S+) > /etc/teleport\.token\)$", first)
    assert written is not None, first
    token = folder / "token"
    token.write_text(f"{written[1]}\n")
    token.chmod(0o600)
    words = shlex.split(start.replace("\\\n", " "))
    assert words[:2] == ["teleport", "start"]
    port = free_port()
    config = folder / "teleport.yaml"
    document = {
        "teleport": {"data_dir": str(folder / "data")},
        "auth_service": {"enabled": False},
        "proxy_service": {"enabled": False},
        "ssh_service": {"enabled": True, "listen_addr": at(free_port())},
    }
    config.write_text(json.dumps(document))
    given = [word.replace("/etc/teleport.token", str(token)) for word in words[2:]]
    return Joined([*given, f"--config={config}", "--nodename=beta", f"--diag-addr={at(port)}"], folder, port)


def test_the_pages_of_administration_are_for_everybody_s_eyes_and_keys(windows: Windows, admin: Person) -> None:
    """Each page by the rules of WCAG in light and dark, and its first stops by keyboard."""
    page = windows.of(admin, f"{HERE}/nodes")
    for title, text in (
        ("Users", "admin"),
        ("Roles", "editor"),
        ("Join tokens", "Join tokens"),
        ("Locks", "Locks"),
        ("Trusted clusters", "No other cluster is trusted."),
        ("Authorities", "Host authority"),
        ("Diagnostics", "Version of auth"),
    ):
        page.get_by_role("link", name=title, exact=True).click()
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_focused()
        expect(page.locator("main").get_by_text(text, exact=True).first).to_be_visible()
        axe_in_both(page)
        assert page.get_by_role("link", name=title, exact=True).get_attribute("aria-current") == "page"
        if title in ("Users", "Roles", "Authorities", "Diagnostics"):
            screenshot(page, title.lower())
    page.get_by_role("link", name="Users", exact=True).click()
    expect(page.get_by_role("cell", name=re.compile("^admin"))).to_be_visible()
    stops = focus_order(page, 30)
    assert "Invite a user" in stops
    assert stops.index("Invite a user") < stops.index("Search") < stops.index("Users", stops.index("Search"))
    page.get_by_role("button", name="Invite a user").press("Enter")
    expect(page.get_by_role("dialog").get_by_label("Name", exact=True)).to_be_visible()
    expect(page.get_by_role("checkbox", name=re.compile("^access"))).to_be_visible()
    axe_in_both(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Invite a user")).to_be_focused()


def test_a_user_is_changed_reset_and_deleted(windows: Windows, admin: Person) -> None:
    page = windows.of(admin, f"{HERE}/users")
    invite(page, "temp", "access", login="deploy, web")
    row = page.get_by_role("row", name=re.compile("^temp"))
    expect(row).to_contain_text("logins: deploy, web")
    open_menu(page, "temp", "Change roles and traits")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("checkbox", name=re.compile("^auditor")).check()
    dialog.get_by_label("Traits").fill("logins = deploy\nteam")
    expect(dialog.get_by_text("is not written as key = value")).to_be_visible()
    dialog.get_by_label("Traits").fill("logins = deploy\nteam = blue")
    axe_in_both(page)
    dialog.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("auditor")
    expect(row).to_contain_text("team: blue")
    page.get_by_label("Search").fill("team=blue")
    expect(page.get_by_text(re.compile("^1.1 of 1 users$"))).to_be_visible()
    open_menu(page, "temp", "Reset password")
    dialog.get_by_role("button", name="Reset").click()
    expect(dialog.get_by_role("region", name="Link")).to_contain_text("/web/reset/")
    dialog.get_by_role("button", name="Done").click()
    open_menu(page, "temp", "Delete")
    expect(dialog).to_contain_text("Certificates of temp are refused from now on")
    axe_in_both(page)
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No user fits.")).to_be_visible()


def test_the_last_administrator_is_asked_for_twice_and_kept(windows: Windows, admin: Person) -> None:
    windows.watched.expect(REFUSED)
    page = windows.of(admin, f"{HERE}/users?search=admin")
    open_menu(page, "admin", "Delete")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog.get_by_text("Nobody would be left who may edit roles")).to_be_visible()
    expect(dialog.get_by_role("button", name="Delete, all the same")).to_be_visible()
    axe_in_both(page)
    dialog.get_by_role("button", name="Cancel").click()
    open_menu(page, "admin", "Lock")
    dialog.get_by_role("button", name="Lock", exact=True).click()
    expect(dialog.get_by_role("button", name="Lock, all the same")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("cell", name=re.compile("^admin"))).not_to_contain_text("locked")


def test_form_and_text_of_a_role_stay_in_step_and_mistakes_have_their_place(windows: Windows, admin: Person) -> None:
    page = windows.of(admin, f"{HERE}/new-role")
    text = page.get_by_label("As text (YAML)")
    form = page.get_by_role("group", name="As a form")
    expect(form.get_by_label("Name", exact=True)).to_have_value("new-role")
    form.get_by_label("Name", exact=True).fill("stepped")
    expect(text).to_have_value(re.compile("name: stepped"))
    form.get_by_label("Certificates hold for at most").fill("8")
    expect(form.get_by_label("Certificates hold for at most")).to_have_attribute("aria-invalid", "true")
    form.get_by_label("Certificates hold for at most").press_sequentially("h")
    expect(page.get_by_text("Certificates hold for 8h at most.")).to_be_visible()
    expect(text).to_have_value(re.compile("max_session_ttl: 8h"))

    good = "kind: role\nversion: v4\nmetadata:\n  name: stepped\nspec:\n"
    good += "  allow:\n    logins: [deploy]\n    %s: {env: prod}\n"
    text.fill(good % "node_labls")
    mistake = page.get_by_role("list", name="Mistakes").get_by_role("button")
    expect(mistake).to_contain_text("Line 8, spec.allow.node_labls")
    expect(form.get_by_label("Description")).to_be_disabled()
    axe_in_both(page)
    mistake.click()
    chosen = "e => e.value.slice(e.selectionStart, e.selectionEnd)"
    assert text.evaluate(chosen) == "    node_labls: {env: prod}"
    text.fill(good % "node_labels")
    expect(form.get_by_role("group", name="Hosts").get_by_label("On hosts with")).to_have_value("env = prod")
    expect(page.get_by_text("Logs in as deploy on hosts with env = prod.")).to_be_visible()
    form.get_by_role("button", name="Add a rule").click()
    expect(page.get_by_text("In the cluster, may list and read recordings and running sessions.")).to_be_visible()
    expect(text).to_have_value(re.compile("resources:\n"))
    page.get_by_role("button", name="Create").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("0 users with this role")
    dialog.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="Role stepped")).to_be_visible()


def test_nobody_s_change_of_a_role_is_overwritten(windows: Windows, cluster: Cluster, admin: Person) -> None:
    windows.watched.expect(REFUSED)
    document = "kind: role\nversion: v4\nmetadata: {name: shared}\nspec:\n  allow: {logins: [%s]}\n"
    cluster.tctl("create", stdin=document % "one").ok()
    page = windows.of(admin, f"{HERE}/roles/shared")
    form = page.get_by_role("group", name="As a form")
    form.get_by_label("Description").fill("mine")
    expect(page.get_by_label("As text (YAML)")).to_have_value(re.compile("description: mine"))
    cluster.tctl("create", "-f", stdin=document % "two").ok()
    page.get_by_role("button", name="Save").click()
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("was changed by somebody else in the meantime")
    axe_in_both(page)
    page.get_by_role("button", name="Load it as it is now").click()
    expect(form.get_by_role("group", name="Hosts").get_by_label("Logs in as")).to_have_value("two")
    form.get_by_label("Description").fill("mine")
    expect(page.get_by_label("As text (YAML)")).to_have_value(re.compile("description: mine"))
    page.get_by_role("button", name="Save").click()
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_text("The role shared is stored.")).to_be_visible()
    page.get_by_role("link", name="All roles").click()
    page.get_by_role("button", name="Delete the role shared").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("link", name="shared", exact=True)).to_be_hidden()


def test_a_lock_of_a_name_that_nobody_has_says_so_and_is_lifted(windows: Windows, admin: Person) -> None:
    page = windows.of(admin, f"{HERE}/locks")
    page.get_by_role("button", name="Lock…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("What").select_option("role")
    dialog.get_by_label("Which").fill("no-such-role")
    expect(dialog).to_contain_text("everybody who has this role is stopped")
    axe_in_both(page)
    dialog.get_by_role("button", name="Lock", exact=True).click()
    expect(dialog).to_contain_text("there is no role of this name")
    dialog.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Lift the lock on no-such-role").click()
    dialog.get_by_role("button", name="Lift").click()
    expect(page.get_by_role("button", name="Lift the lock on no-such-role")).to_be_hidden()


def test_a_cluster_that_cannot_be_reached_is_not_trusted(windows: Windows, admin: Person) -> None:
    windows.watched.expect(r"status of 502|status of 400")
    page = windows.of(admin, f"{HERE}/trusted-clusters")
    page.get_by_role("button", name="Trust a cluster").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill("root.example.test")
    dialog.get_by_label("Token").fill("t" * 32)
    dialog.get_by_label("Address of its proxy").fill(at(free_port()))
    axe_in_both(page)
    dialog.get_by_role("button", name="Trust", exact=True).click()
    expect(dialog.get_by_role("alert")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("No other cluster is trusted.")).to_be_visible()


def test_who_may_not_run_the_cluster_sees_none_of_it(windows: Windows, alice: Person) -> None:
    windows.watched.expect(r"status of 403")
    page = windows.of(alice, f"{HERE}/users")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("button", name="Invite a user")).to_be_hidden()
    for title in ("Users", "Roles", "Join tokens", "Locks", "Trusted clusters"):
        assert page.get_by_role("link", name=title, exact=True).count() == 0
    axe_in_both(page)


@pytest.mark.parametrize("path", ["users", "roles", "locks", "diagnostics", "new-role"])
def test_another_cluster_is_run_at_its_own_address(windows: Windows, admin: Person, path: str) -> None:
    page = windows.of(admin, f"/web/cluster/other.example.test/{path}")
    expect(page.get_by_text("The cluster other.example.test is administered at its own address.")).to_be_visible()

"""What happened, in a browser: the audit log, sessions that run, recordings and their player, numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.webui.browsing import Windows, axe_in_both, focus_order, screenshot, sign_in

from teleport.testing.cluster import NODE, Cluster, Person, wait_until
from teleport.testing.processes import BIN
from teleport.testing.terminal import Terminal

SITE = "/web/cluster/example.test"
# Sets the title and the clipboard, hides a link, asks the terminal what it is, and looks like HTML.
HOSTILE = (
    r"printf '\033]0;evil\007\033]52;c;ZXZpbA==\007\033]8;;https://evil.example.com\033\\click\033]8;;\033\\\033[c "
    r"<img src=x onerror=alert(1)> <a href=\"/web/account\">here</a>\n'"
)


@pytest.fixture(scope="module")
def sam(cluster: Cluster, login: str) -> Person:
    """Somebody whose sessions are looked at."""
    person = cluster.add_person("sam", logins=[login])
    person.log_in()
    return person


@pytest.fixture(scope="module")
def sid(cluster: Cluster, sam: Person, login: str) -> str:
    """A recorded session at a terminal."""
    with Terminal([str(BIN / "tsh"), "ssh", f"{login}@{NODE}"], sam.environment) as terminal:
        terminal.type(f"{HOSTILE}\r")
        terminal.expect("here")
        terminal.type("sleep 2; printf 'the \\033[31mrare\\033[0m wor'; printf 'd is %s\\n' zebra\r")
        terminal.expect("is zebra")
        terminal.type("exit\r")
        terminal.ended()
    found = str(cluster.wait_event("session.end", user="sam", interactive=True)["sid"])
    cluster.wait_event("session.upload", sid=found)
    return found


@pytest.fixture
def terminal(sam: Person, login: str) -> Iterator[Terminal]:
    """A session that runs."""
    with Terminal([str(BIN / "tsh"), "ssh", f"{login}@{NODE}"], sam.environment) as running:
        running.type("echo is-$((40+2))\r")
        running.expect("is-42")
        yield running
        running.type("exit\r")
        running.ended()


def ran(cluster: Cluster, sam: Person, login: str, command: str) -> str:
    """The session of a command without a terminal, once its recording is there."""
    sam.tsh("ssh", f"{login}@{NODE}", command).ok()
    found = str(cluster.wait_event("session.start", user="sam", initial_command=[command])["sid"])
    cluster.wait_event("session.upload", sid=found)
    return found


def kept(page: Page, item: str) -> Path:
    """The file that an entry of an open menu makes."""
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=item).click()
    return Path(download.value.path())


# the audit log


def test_events_are_searched_shown_and_exported(windows: Windows, admin: Person, sid: str) -> None:
    page = windows.of(admin, f"{SITE}/audit")
    rows = page.get_by_role("table", name="Events").get_by_role("row")
    expect(rows.filter(has_text="session.end").first).to_be_visible()
    page.get_by_label("User", exact=True).fill("sam")
    page.get_by_label("User", exact=True).press("Enter")
    page.wait_for_url("**user=sam**")
    expect(rows.filter(has_text="session.end").first).to_be_visible()
    expect(rows.filter(has_text="user.create")).to_have_count(0)
    assert "user=sam" in page.url
    axe_in_both(page)
    screenshot(page, "audit-log")
    page.locator(".see-types summary").click()
    page.get_by_role("checkbox", name="session.start").check()
    expect(rows.filter(has_text="session.end")).to_have_count(0)
    expect(rows.filter(has_text="session.start").first).to_be_visible()
    axe_in_both(page)
    page.reload()
    expect(rows.filter(has_text="session.start").first).to_be_visible()
    expect(page.get_by_label("User", exact=True)).to_have_value("sam")
    page.get_by_role("button", name="Details of session.start").first.press("Enter")
    dialog = page.get_by_role("dialog", name="session.start")
    event = json.loads(dialog.locator("pre").inner_text())
    assert (event["event"], event["user"], event["code"]) == ("session.start", "sam", "T2000I")
    axe_in_both(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    dialog.get_by_role("button", name="Copy").click()
    expect(dialog.get_by_text("Copied.")).to_be_visible()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == event
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Export").click()
    lines = kept(page, "JSON lines, as stored").read_text().splitlines()
    assert {json.loads(line)["event"] for line in lines} == {"session.start"}
    page.get_by_role("button", name="Export").click()
    assert kept(page, "Table (CSV)").read_text().startswith("time,event,code,user")
    page.get_by_role("button", name="Clear").click()
    expect(rows.filter(has_text="user.create").first).to_be_visible()


def test_the_log_is_followed_while_it_grows(
    windows: Windows, admin: Person, sam: Person, cluster: Cluster, login: str
) -> None:
    page = windows.of(admin, f"{SITE}/audit?types=exec&range=1h")
    expect(page.get_by_role("heading", name="Audit log")).to_be_visible()
    page.get_by_role("checkbox", name="Live").press("Space")
    expect(page.get_by_text("Following the log")).to_be_visible()
    ran(cluster, sam, login, "echo followed")
    expect(page.get_by_role("cell", name=re.compile("echo followed"))).to_be_visible()


def test_a_range_that_ends_before_it_begins_is_told(windows: Windows, admin: Person) -> None:
    page = windows.of(admin, f"{SITE}/audit?range=custom&from=2026-01-02T00:00&to=2026-01-01T00:00")
    expect(page.get_by_text("The end is before the beginning.")).to_be_visible()
    axe_in_both(page)


def test_who_may_not_list_events_is_told(windows: Windows, cluster: Cluster) -> None:
    windows.watched.expect("403")
    editor = cluster.add_person("edith", roles=["editor"], logins=[])
    page = windows.of(editor, f"{SITE}/audit")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("link", name="Audit log")).to_have_count(0)
    expect(page.get_by_role("link", name="Dashboard")).to_have_count(0)


# sessions that run


def test_sessions_that_run_are_shown_and_joined_from_there(
    windows: Windows, sam: Person, alice: Person, terminal: Terminal
) -> None:
    page = windows.of(sam, f"{SITE}/sessions")
    row = page.get_by_role("table", name="Active sessions").get_by_role("row").filter(has_text="sam")
    expect(row).to_have_count(1)
    join = row.get_by_role("link", name=re.compile("^Join"))
    expect(join).to_have_attribute("href", re.compile(rf"^{SITE}/session/[0-9a-f-]{{36}}\?mode=peer$"))
    axe_in_both(page)
    screenshot(page, "active-sessions")
    other = windows.of(alice, f"{SITE}/sessions")
    expect(other.get_by_text("No session runs now that you may see")).to_be_visible()
    axe_in_both(other)
    terminal.type("exit\r")
    expect(page.get_by_text("No session runs now that you may see")).to_be_visible(timeout=30_000)


# recordings


def test_a_recording_is_found_by_what_it_showed(windows: Windows, admin: Person, cluster: Cluster, sid: str) -> None:
    wait_until("it is prepared", lambda: sid in cluster.tctl("recordings", "search", "zebra").stdout, 120.0)
    page = windows.of(admin, f"{SITE}/recordings")
    expect(page.get_by_role("table", name="Recordings").get_by_role("row").filter(has_text="sam").first).to_be_visible()
    axe_in_both(page)
    page.get_by_label("Text that was shown").fill("rare word is zebra")
    page.get_by_label("Text that was shown").press("Enter")
    hit = page.locator(".see-hits li").filter(has_text="the rare word is zebra")
    expect(hit).to_be_visible()
    axe_in_both(page)
    screenshot(page, "recordings")
    hit.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Recording")).to_be_focused()
    expect(page.locator(".screen")).to_contain_text("the rare word is zebra")
    expect(page.get_by_text("1 of 1")).to_be_visible()


def test_a_recording_is_played_by_keyboard(windows: Windows, sam: Person, sid: str) -> None:
    page = windows.of(sam, f"{SITE}/recording/{sid}")
    seek = page.get_by_role("slider", name="Time")
    expect(seek).to_be_visible()
    axe_in_both(page)
    screen = page.locator(".screen")
    page.get_by_label("Speed").select_option("0.5")
    page.get_by_role("button", name="Play", exact=True).press("Enter")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.get_by_role("button", name="Pause").press("Enter")
    page.get_by_label("Speed").select_option("8")
    page.get_by_role("button", name="Play", exact=True).press("Enter")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible(timeout=30_000)
    expect(screen).to_contain_text("the rare word is zebra")
    red = screen.get_by_text("rare", exact=True)
    assert red.evaluate("e => getComputedStyle(e).color") == "rgb(239, 95, 95)"
    page.set_viewport_size({"width": 900, "height": 760})
    screenshot(page, "player")
    page.set_viewport_size({"width": 1200, "height": 800})
    seek.press("Home")
    expect(screen).not_to_contain_text("zebra")
    expect(seek).to_have_attribute("aria-valuetext", re.compile("^0 seconds of "))
    seek.press("End")
    expect(screen).to_contain_text("zebra")
    seek.press("Home")
    page.get_by_label("Search in the recording").fill("RARE WORD is")
    page.get_by_label("Search in the recording").press("Enter")
    expect(page.get_by_text("1 of 1")).to_be_visible()
    expect(screen).to_contain_text("rare")
    axe_in_both(page)
    page.get_by_label("Search in the recording").fill("never shown")
    page.get_by_label("Search in the recording").press("Enter")
    expect(page.get_by_text("Not found")).to_be_visible()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy all text").click()
    expect(page.get_by_text("All text was copied.")).to_be_visible()
    assert "the rare word is zebra" in page.evaluate("navigator.clipboard.readText()")


def test_a_hostile_recording_is_text_and_nothing_else(windows: Windows, sam: Person, sid: str) -> None:
    """T44: no title, no clipboard, no link, no element and no answer comes of what a session printed."""
    page = windows.of(sam, f"{SITE}/recording/{sid}")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("navigator.clipboard.writeText('mine')")
    page.get_by_role("slider", name="Time").press("End")
    screen = page.locator(".screen")
    expect(screen).to_contain_text("<img src=x onerror=alert(1)>")
    expect(screen).to_contain_text("click")
    assert screen.locator("img, a, script, style, textarea").count() == 0
    assert set(screen.evaluate("e => [...e.querySelectorAll('*')].map((one) => one.tagName)")) <= {"DIV", "SPAN"}
    expect(page).to_have_title("Recording · example.test")
    assert page.evaluate("navigator.clipboard.readText()") == "mine"


def test_a_recording_that_is_costly_to_draw_does_not_stop_the_page(
    windows: Windows, sam: Person, cluster: Cluster, login: str
) -> None:
    """T44: short sequences that draw ten thousand characters each, and colours for each of them."""
    command = r"for i in $(seq 40000); do printf '\033[3%dma\033[9999b\r' $((i % 8)); done; echo; echo the end"
    found = ran(cluster, sam, login, command)
    page = windows.of(sam, f"{SITE}/recording/{found}")
    seek = page.get_by_role("slider", name="Time")
    expect(seek).to_be_visible(timeout=60_000)
    page.evaluate(
        """() => {
            window.longest = 0;
            let last = performance.now();
            const turn = () => {
                const now = performance.now();
                window.longest = Math.max(window.longest, now - last);
                last = now;
                setTimeout(turn, 0);
            };
            turn();
        }"""
    )
    seek.press("End")
    seek.press("Home")
    expect(seek).to_have_attribute("aria-valuetext", re.compile("^0 seconds of "))
    seek.press("End")
    expect(page.locator(".screen")).to_contain_text("the end", timeout=60_000)
    longest = page.evaluate("window.longest")
    assert longest < 2000, f"the page had no turn for {longest} ms"


def test_a_recording_is_taken_along(windows: Windows, sam: Person, cluster: Cluster, sid: str) -> None:
    """No address of a download holds a token, and no export is a page of this origin."""
    page = windows.of(sam, f"{SITE}/recording/{sid}")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for item, ending, begins in (
        ("asciicast (.cast)", "cast", '{"version":2'),
        ("Page that plays it (.html)", "html", "<!doctype html>"),
        ("Text", "txt", ""),
    ):
        page.get_by_role("button", name="Download").click()
        axe_in_both(page)
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=item).click()
        assert download.value.suggested_filename == f"{sid}.{ending}"
        assert Path(download.value.path()).read_text().startswith(begins)
    assert not any("token" in url for url in asked), asked
    cluster.wait_event("session_recording.access", user="sam", sid=sid, format="html")


def test_commands_and_files_are_shown_readably(
    windows: Windows, admin: Person, sam: Person, cluster: Cluster, login: str, tmp_path: Path
) -> None:
    found = ran(cluster, sam, login, "echo from a command; echo to stderr >&2")
    page = windows.of(admin, f"{SITE}/recording/{found}?t=100")
    expect(page.locator(".screen")).to_contain_text("to stderr")
    rows = page.locator(".screen > div")
    expect(rows.nth(0)).to_have_text("from a command")
    axe_in_both(page)
    (tmp_path / "sent.txt").write_text("content\n")
    sam.tsh("scp", str(tmp_path / "sent.txt"), f"{login}@{NODE}:{tmp_path}/there.txt").ok()
    moved = cluster.wait_event("session.upload", user="sam", sid=str(cluster.wait_event("sftp", user="sam")["sid"]))
    page = windows.of(admin, f"{SITE}/recording/{moved['sid']}")
    table = page.get_by_role("table", name="Files")
    expect(table.get_by_role("row").filter(has_text="there.txt").first).to_be_visible()
    expect(page.get_by_text("Nothing was shown in this session.")).to_be_visible()
    axe_in_both(page)


def test_nobody_plays_what_is_not_theirs(windows: Windows, login: str, sid: str) -> None:
    nina = windows.cluster.add_person("nina", logins=[login])  # who has no recording of her own
    windows.watched.expect("403")
    page = windows.of(nina, f"{SITE}/recording/{sid}")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator(".screen")).to_have_count(0)
    axe_in_both(page)
    page.goto(f"{SITE}/recordings")
    expect(page.get_by_text("There is no recording that you may play")).to_be_visible()


# all of them


def reached(page: Page, first: str, stops: int) -> list[str]:
    """The names that Tab comes to from the one called `first` on."""
    order = focus_order(page, 40)
    return order[order.index(first) :][:stops]


def test_all_is_reached_by_keyboard_in_the_order_in_which_it_is_read(windows: Windows, admin: Person, sid: str) -> None:
    page = windows.of(admin, f"{SITE}/audit")
    expect(page.get_by_role("table", name="Events")).to_be_visible()
    order = reached(page, "Live", 9)
    assert [re.sub(r" .*", "", name) for name in order] == [
        "Live", "Export", "Time", "User", "Host", "Text", "Search", "All", "Events",
    ]  # fmt: skip
    page = windows.of(admin, f"{SITE}/recordings")
    expect(page.get_by_role("table", name="Recordings")).to_be_visible()
    order = reached(page, "Time", 8)
    assert order[:7] == ["Time", "Kind", "User", "Host", "Text that was shown", "Search", "Recordings"]
    assert order[7].startswith("Play the session of ")
    page = windows.of(admin, f"{SITE}/recording/{sid}")
    expect(page.get_by_role("slider", name="Time")).to_be_visible()
    assert reached(page, "Download ▾", 11) == [
        "Download ▾", "The recorded screen", "Play", "Time", "Speed", "Skip pauses", "Copy screen", "Copy all text",
        "Search in the recording", "Next", "Previous",
    ]  # fmt: skip
    page = windows.of(admin, f"{SITE}/dashboard")
    expect(page.get_by_role("heading", name="Refusals")).to_be_visible()
    assert [name for name in reached(page, "24 hours", 5) if not name.isdecimal()] == [
        "24 hours", "Sessions as a table", "Logins as a table", "Refusals as a table",
    ]  # fmt: skip


def test_who_was_signed_out_meanwhile_is_led_to_the_sign_in_page(windows: Windows, sam: Person, sid: str) -> None:
    windows.watched.expect("401")
    page = windows.open(f"{SITE}/recording/{sid}")
    sign_in(page, sam)
    expect(page.get_by_role("slider", name="Time")).to_be_visible()
    page.context.clear_cookies(name="__Host-session")
    page.get_by_role("button", name="Download").click()
    page.get_by_role("menuitem", name="Text").click()
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()


# numbers


def test_numbers_are_plots_and_tables(windows: Windows, admin: Person, sid: str) -> None:
    page = windows.of(admin, f"{SITE}/dashboard")
    for title in ("Sessions", "Logins", "Refusals"):
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    plot = page.get_by_role("img", name=re.compile(r"^Logins\. Logins: [1-9]"))
    expect(plot).to_be_visible()
    axe_in_both(page)
    screenshot(page, "dashboard")
    page.get_by_role("tab", name="24 hours").press("ArrowRight")
    expect(page.get_by_role("tab", name="7 days")).to_be_focused()
    expect(plot).to_be_visible()
    page.get_by_text("Logins as a table").click()
    expect(page.get_by_role("region", name="Logins as a table").get_by_role("row")).to_have_count(9)
    axe_in_both(page)

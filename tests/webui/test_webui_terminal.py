"""The terminal in the browser: typed into, resized, reloaded, flooded, attacked; and files beside it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.webui.browsing import Windows, axe, focus_order, screenshot
from tests.webui.terminals import HIDDEN_SCREEN, ROWS, node_path, opened, ready, run, shows, text

from teleport.testing.cluster import Cluster, Person, wait_until

MIB = 1024 * 1024
ROLE = """kind: role
version: v4
metadata: {{name: {name}}}
spec: {{options: {options}, allow: {{logins: [{login}], node_labels: {{'*': '*'}}, {more}}}}}
"""


@pytest.fixture(scope="session")
def path(cluster: Cluster, login: str) -> str:
    return node_path(cluster, login)


def size_of(page: Page) -> tuple[int, int]:
    """Rows and columns, as the program sees them."""
    words = run(page, "clear; echo si''ze: $(stty size) :e''nd", " :end").partition("size: ")[2].split()
    return int(words[0]), int(words[1])


def test_a_shell_is_typed_into_and_knows_its_size(windows: Windows, alice: Person, path: str) -> None:
    page = opened(windows, alice, path)
    run(page, "echo $((6*7))-grüße", "42-grüße")
    before = size_of(page)
    assert before[0] > 20
    assert before[1] > 80
    screenshot(page, "terminal")
    page.set_viewport_size({"width": 700, "height": 500})

    def smaller() -> bool:
        rows, columns = size_of(page)
        return rows < before[0] and columns < before[1]

    wait_until("the size reaches the program", smaller)
    page.get_by_role("button", name="A+ larger text").click()
    page.keyboard.press("Control+F6")
    expect(page.get_by_role("textbox", name="Terminal input")).to_be_focused()


def test_the_end_is_said_and_a_new_session_is_one_button_away(windows: Windows, alice: Person, path: str) -> None:
    page = opened(windows, alice, path)
    page.keyboard.type("exit 3\n")
    expect(page.get_by_text("The session has ended: exit status 3.")).to_be_visible()
    axe(page, without=HIDDEN_SCREEN)
    page.get_by_role("button", name="New session").click()
    ready(page)
    page.reload()
    shows(page, "begun")


def test_a_full_screen_program_is_there_again_after_a_reload(
    windows: Windows, alice: Person, path: str, tmp_path: Path
) -> None:
    """Issue 7, done-when 2: the alternate screen is repainted, and the program goes on."""
    page = opened(windows, alice, path)
    (tmp_path / "lines").write_text("".join(f"line {number}\n" for number in range(1, 501)))
    run(page, "clear; echo be''low", "below")
    page.keyboard.type(f"vi -u NONE -i NONE {tmp_path}/lines\n")
    shows(page, "line 12\n")
    page.keyboard.type("250Gzz")
    shows(page, "line 250")
    page.reload()
    found = shows(page, "line 250")
    assert "ready>" not in found, "the shell lies under the alternate screen"
    expect(page.get_by_role("textbox", name="Terminal input")).to_be_focused()
    page.keyboard.type("500G")
    shows(page, "line 500")
    page.keyboard.type(":q!\n")
    shows(page, "below")


def test_a_lost_connection_comes_back_by_itself(windows: Windows, alice: Person, path: str) -> None:
    page = opened(windows, alice, path)
    windows.watched.expect("ERR_INTERNET_DISCONNECTED")
    page.context.set_offline(True)
    page.evaluate("() => performance.now()")
    page.context.set_offline(False)
    run(page, "echo sti''ll", "still")


def test_several_tabs_are_several_shells(windows: Windows, alice: Person, path: str) -> None:
    page = opened(windows, alice, path)
    run(page, "name=first; echo $name-$((1+1))", "first-2")
    page.get_by_role("button", name="New tab").click()
    ready(page)
    run(page, 'clear; echo "[$name]"', "[]")
    page.get_by_role("tab", name="1").click()
    page.keyboard.press("Control+F6")
    run(page, "clear; echo $name-$((2+2))", "first-4")
    page.reload()
    expect(page.get_by_role("tab")).to_have_count(2)
    shows(page, "first-4")
    page.get_by_role("tab", name="2").click()
    shows(page, "[]")
    page.get_by_role("button", name="Close tab").click()
    expect(page.get_by_role("tab")).to_have_count(1)
    page.keyboard.press("Control+F6")
    run(page, "clear; echo $name-$((3+3))", "first-6")


ATTACKS = {
    "html": "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>",
    "title": "\\033]0;Sign in to your bank\\nnext\\u202e\\007",
    "icon": "\\033]2;<b>bold</b>\\033\\\\",
    "clipboard": "\\033]52;c;b3duZWQ=\\007",
    "asked clipboard": "\\033]52;c;?\\007",
    "link": "\\033]8;;https://evil.example.com/\\033\\\\click me\\033]8;;\\033\\\\ https://evil.example.com/x",
    "title report": "\\033]2;echo owned\\007\\033[21t",
    "notification": "\\033]9;owned\\007\\033]777;notify;owned;owned\\007",
    "colours": "\\033[38;2;255;0;0mred\\033[48;2;0;0;255mblue\\033[0m",
    "file": "\\033]1337;File=name=b3duZWQ=;inline=1:b3duZWQ=\\007",
}


def test_hostile_output_drives_neither_page_nor_browser(windows: Windows, alice: Person, path: str) -> None:
    """T16, T19, T44: no HTML, no link, no clipboard, no title that could pass for another page's, nothing typed."""
    page = opened(windows, alice, path)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=windows.origin)
    page.evaluate("navigator.clipboard.writeText('mine')")
    page.get_by_role("textbox", name="Terminal input").focus()
    for name, attack in ATTACKS.items():
        page.keyboard.type(f"clear; printf '{attack}'; echo; echo {name.replace(' ', '-')}-do''ne\n")
        shows(page, f"{name.replace(' ', '-')}-done")
    own = page.title()
    assert own.startswith(f"{path.rpartition('/')[2]}@alpha · "), own
    assert page.evaluate("navigator.clipboard.readText()") == "mine"
    assert page.locator(".xterm a, .xterm img, .xterm script, .xterm iframe").count() == 0
    page.keyboard.type("clear; printf '\\033]8;;https://evil.example.com/\\033\\\\click\\033]8;;\\033\\\\ me'; echo\n")
    shows(page, "click me")
    box = page.locator(f"{ROWS} > div").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 15, box["y"] + 8)
    assert len(page.context.pages) == 1
    assert page.url == windows.origin + path
    run(page, "clear; echo typed: [$(history | grep -c 'echo owned$')]", "typed: [0]")


def test_what_is_pasted_is_text_alone(windows: Windows, alice: Person, path: str) -> None:
    """It ends no bracketed paste: a program that asked for that is told where it ends."""
    page = opened(windows, alice, path)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=windows.origin)
    page.keyboard.type("clear; printf '\\033[?2004h'; echo o''n; cat -v\n")
    shows(page, "on")
    page.evaluate("navigator.clipboard.writeText('one\\x1b[201~two')")
    page.get_by_role("textbox", name="Terminal input").focus()
    page.keyboard.press("Control+Shift+V")
    shows(page, "^[[200~one[201~two^[[201~")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+c")
    run(page, "clear; echo copy''-me", "copy-me")
    first = page.locator(f"{ROWS} > div").first.bounding_box()
    assert first is not None
    page.mouse.dblclick(first["x"] + 20, first["y"] + 8)
    page.keyboard.press("Control+Shift+C")
    wait_until("it is copied", lambda: "copy" in page.evaluate("navigator.clipboard.readText()"))


def test_the_output_is_searched(windows: Windows, alice: Person, path: str) -> None:
    page = opened(windows, alice, path)
    run(page, "clear; echo need''le; seq 300; echo shown''-last", "shown-last")
    assert "needle" not in text(page)
    page.keyboard.press("Control+Shift+F")
    field = page.get_by_role("searchbox", name="Search in the output")
    expect(field).to_be_focused()
    page.keyboard.type("needle")
    page.keyboard.press("Enter")
    shows(page, "needle")
    axe(page, without=HIDDEN_SCREEN)
    page.keyboard.press("Escape")
    expect(page.get_by_role("textbox", name="Terminal input")).to_be_focused()


def test_it_is_all_reached_by_keyboard(windows: Windows, alice: Person, path: str) -> None:
    """The terminal takes Tab; Ctrl+F6 leaves it, and the page says so. axe has nothing to say, in light and dark."""
    page = opened(windows, alice, path)
    page.keyboard.press("Tab")
    expect(page.get_by_role("textbox", name="Terminal input")).to_be_focused()
    expect(page.get_by_text("leaves the terminal")).to_be_visible()
    page.keyboard.press("Control+F6")
    expect(page.get_by_role("button", name="New tab")).to_be_focused()
    stops = focus_order(page, 9)
    assert stops[:8] == [
        "New tab", "End session", "Search", "Copy", "Files", "A- smaller text", "A+ larger text", "Colours ▾",
    ]  # fmt: skip
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        axe(page, without=HIDDEN_SCREEN)
    page.get_by_role("button", name="Colours").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Files").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Upload to this folder")).to_be_focused()
    axe(page, without=HIDDEN_SCREEN)
    screenshot(page, "terminal-files")


def test_the_cursor_blinks_without_keeping_the_browser_drawing(windows: Windows, alice: Person, path: str) -> None:
    """A cursor that an animation blinks costs a frame for each echo, and frames without end for nothing."""
    page = opened(windows, alice, path)
    cursor = page.locator(f"{ROWS}.xterm-focus .xterm-cursor")
    blinking = page.locator(f"{ROWS}.xterm-focus .xterm-cursor-blink")
    unlit = page.locator(".terminal-screen[data-unlit]")
    run(page, r"printf '\033[1 q'; echo as''ked", "asked")
    expect(blinking).to_have_count(1)
    assert page.evaluate("document.getAnimations().length") == 0
    page.emulate_media(reduced_motion="no-preference")
    for number, shape in ((1, "background-color"), (3, "border-bottom-color"), (5, "box-shadow")):
        run(page, rf"printf '\033[{number} q'; echo form''{number}", f"form{number}")
        nothing = "none" if shape == "box-shadow" else "rgba(0, 0, 0, 0)"
        expect(cursor).to_have_css(shape, nothing)
        expect(unlit).to_have_count(1)
        expect(cursor).not_to_have_css(shape, nothing)
        assert page.evaluate("document.getAnimations().length") == 0
    run(page, r"printf '\033[2 q'; echo ste''ady", "steady")
    expect(cursor).to_have_count(1)
    expect(blinking).to_have_count(0)
    page.keyboard.press("Control+F6")
    expect(unlit).to_have_count(0)


def test_files_go_up_and_come_down_unchanged(
    windows: Windows, alice: Person, path: str, tmp_path: Path, cluster: Cluster
) -> None:
    content = random.Random(3).randbytes(5 * MIB + 11)
    (tmp_path / "local ✓.bin").write_bytes(content)
    (tmp_path / "host").mkdir()
    page = opened(windows, alice, path)
    page.get_by_role("button", name="Files").click()
    page.get_by_label("Upload to this folder").fill(str(tmp_path / "host"))
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose files").click()
    chooser.value.set_files(tmp_path / "local ✓.bin")
    expect(page.get_by_text(f"Done: {tmp_path}/host/local ✓.bin")).to_be_visible()
    assert (tmp_path / "host" / "local ✓.bin").read_bytes() == content
    page.get_by_label("Download this file").fill(f"{tmp_path}/host/local ✓.bin")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download", exact=True).click()
    assert saved.value.suggested_filename == "local ✓.bin"
    digest = hashlib.sha256(Path(saved.value.path()).read_bytes()).hexdigest()
    assert digest == hashlib.sha256(content).hexdigest()
    event = cluster.wait_event("sftp", path=f"{tmp_path}/host/local ✓.bin", direction="download")
    assert event["sha256"] == digest
    windows.watched.expect("404")
    page.get_by_label("Download this file").fill("/no/such/file")
    page.get_by_role("button", name="Download", exact=True).click()
    expect(page.get_by_text("There is no such file. Check the path on the host.")).to_be_visible()
    axe(page, without=HIDDEN_SCREEN)


DROP = """([name, size, to]) => {
    const given = new DataTransfer();
    given.items.add(new File([new Uint8Array(size)], name));
    document.querySelector(to).dispatchEvent(
        new DragEvent('drop', {dataTransfer: given, bubbles: true, cancelable: true}));
}"""


def test_files_that_are_dropped_go_up_and_are_cancelled(
    windows: Windows, alice: Person, path: str, tmp_path: Path
) -> None:
    page = opened(windows, alice, path)
    page.get_by_role("button", name="Files").click()
    page.get_by_label("Upload to this folder").fill(str(tmp_path))
    page.evaluate(DROP, ["dropped.txt", 1000, ".files"])
    expect(page.get_by_text(f"Done: {tmp_path}/dropped.txt")).to_be_visible()
    page.evaluate(DROP, ["onto-the-terminal.txt", 2000, ".terminal-screen"])
    expect(page.get_by_text(f"Done: {tmp_path}/onto-the-terminal.txt")).to_be_visible()
    assert (tmp_path / "onto-the-terminal.txt").stat().st_size == 2000
    windows.watched.expect("ERR_")
    page.evaluate(DROP, ["large.bin", 400 * MIB, ".files"])
    page.get_by_role("button", name="Cancel the upload of large.bin").click()
    expect(page.get_by_text("Cancelled")).to_be_visible()


def test_a_second_factor_is_asked_in_the_page(
    windows: Windows, cluster: Cluster, login: str, path: str, tmp_path: Path
) -> None:
    role = ROLE.format(name="careful", options="{require_session_mfa: true}", login=login, more="")
    cluster.tctl("create", "-f", "-", stdin=role).ok()
    person = cluster.add_person("careful", roles=["careful"], logins=[])
    (tmp_path / "file").write_text("content")
    page = windows.of(person, path)
    expect(page.get_by_text("needs a second factor")).to_be_visible()
    expect(page.get_by_label("Code of your authenticator app")).to_be_focused()
    axe(page, without=HIDDEN_SCREEN)
    page.keyboard.type("000000")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Code of your authenticator app").fill(person.code())
    page.keyboard.press("Enter")
    ready(page)
    windows.watched.expect("403")
    page.get_by_role("button", name="Files").click()
    page.get_by_label("Download this file").fill(f"{tmp_path}/file")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Moving files needs a second factor")).to_be_visible()
    page.get_by_label("Code of your authenticator app").fill(person.code())
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    assert Path(saved.value.path()).read_text() == "content"


def test_a_running_session_is_watched_and_joined(windows: Windows, cluster: Cluster, login: str, path: str) -> None:
    join = "join_sessions: [{name: all, roles: ['*'], kinds: [ssh], modes: [observer, peer]}]"
    cluster.tctl("create", "-f", "-", stdin=ROLE.format(name="joiner", options="{}", login=login, more=join)).ok()
    owner = cluster.add_person("owner", roles=["joiner"], logins=[])
    guest = cluster.add_person("guest", roles=["joiner"], logins=[])
    page = opened(windows, owner, path)

    def sid() -> Any:
        sessions = cluster.tctl("sessions", "ls", "--format=json").json()
        return next((one["sid"] for one in sessions if one["user"] == "owner"), None)

    found = wait_until("the session is known", sid)
    other = windows.of(guest, f"/web/cluster/{cluster.name}/session/{found}?mode=peer")
    expect(other.get_by_role("button", name="Type along")).to_be_visible()
    axe(other)
    joins = cluster.events("--type=session.join")
    assert not [one for one in joins if one["user"] == "guest"], "a link of anybody's lets nobody in"
    other.get_by_role("button", name="Watch").click()
    expect(other.get_by_text("You are in this session as observer.")).to_be_visible()
    run(page, "clear; echo se''en", "seen")
    shows(other, "seen")
    other.reload()
    expect(other.get_by_text("You are in this session as observer.")).to_be_visible()
    other.goto(f"/web/cluster/{cluster.name}/sessions")
    with other.context.expect_page() as tab:
        other.get_by_role("link", name="Join: session of owner").click()
    other = tab.value
    expect(other.get_by_text("You are in this session as peer.")).to_be_visible()
    shows(other, "seen")
    other.get_by_role("textbox", name="Terminal input").focus()
    other.keyboard.type("clear; echo by-gu''est\n")
    shows(page, "by-guest")


def test_refusals_are_said_with_what_to_do(windows: Windows, alice: Person, path: str) -> None:
    page = windows.of(alice, path.rpartition("/")[0] + "/nobody-there")
    expect(page.get_by_role("alert")).to_be_visible()
    axe(page, without=HIDDEN_SCREEN)
    windows.watched.expect("404")
    page = windows.of(alice, path.split("/node/")[0] + "/session/00000000-0000-0000-0000-000000000000")
    expect(page.get_by_role("alert")).to_contain_text("no session with this id")


def test_why_a_large_upload_is_refused_is_said(
    windows: Windows, cluster: Cluster, login: str, path: str, tmp_path: Path
) -> None:
    """The proxy answers before the file has come, and the page reads why."""
    role = ROLE.format(name="reader", options="{file_transfer: {upload: false}}", login=login, more="")
    cluster.tctl("create", "-f", "-", stdin=role).ok()
    page = opened(windows, cluster.add_person("reader", roles=["reader"], logins=[]), path)
    windows.watched.expect("403|ERR_")
    page.get_by_role("button", name="Files").click()
    page.get_by_label("Upload to this folder").fill(str(tmp_path))
    page.evaluate(DROP, ["large.bin", 300 * MIB, ".files"])
    expect(page.get_by_role("alert")).to_contain_text("Your roles do not allow upload of")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_the_terminal_and_leads_to_the_sign_in_page(
    windows: Windows, cluster: Cluster, login: str, path: str
) -> None:
    person = cluster.add_person("walter", logins=[login])
    page = opened(windows, person, path)
    windows.watched.expect("401|403|WebSocket")
    made = cluster.tctl("lock", "--user=walter", "--format=json").json()
    try:
        expect(page.get_by_role("heading", name="Sign in to")).to_be_visible()
        expect(page.locator(".xterm")).to_have_count(0)
    finally:
        cluster.tctl("rm", f"lock/{made[0]['name']}").ok()

"""From `make run` to work on a host and out again, in a browser alone: by mouse, and by keyboard."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.cluster.cluster_packages import install
from tests.cluster.test_cluster_first_run import Printed, code, make_run
from tests.webui.browsing import Chromium, looking
from tests.webui.terminals import ready, run, shows

from teleport.testing.cluster import BIN, PASSWORD

pytestmark = pytest.mark.timeout(300)  # others may have the ports

MIB = 1024 * 1024
FOCUSED = """() => {
    const e = document.activeElement;
    if (!e || e === document.body) return '';
    return (e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent || '')
        .trim().replace(/\\s+/g, ' ');
}"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Printed]:
    """What `make run` prints in an empty folder; the cluster runs beside it."""
    with make_run(tmp_path_factory.mktemp("first-run"), BIN, []) as found:
        yield found


@pytest.fixture(scope="module")
def program() -> str:
    """A program that takes the whole screen beside vim, installed where that is possible."""
    for name in ("vim", "htop"):
        if shutil.which(name) is None and (why := install(name, name)):
            pytest.skip(why)
    return "htop"


def invited(printed: Printed, name: str) -> str:
    """The printed command, for a user of that name; the printed link."""
    command = printed.command("users", "add")
    command[command.index("add") + 1] = name
    added = printed.type(command).ok()
    return next(word for word in added.stdout.split() if word.startswith("https://"))


def origin_of(link: str) -> str:
    return link[: link.index("/web/")]


def edit(page: Page, file: Path) -> None:
    """Writes a file with vim, in the terminal that has the focus."""
    page.keyboard.type(f"clear; vim -u NONE -i NONE -N {file}\n")
    shows(page, "[New]")
    page.keyboard.type("iwritten in vim")
    page.keyboard.press("Escape")
    page.keyboard.type(":wq\n")
    shows(page, "ready>")
    run(page, f"clear; sha256sum < {file}", hashlib.sha256(b"written in vim\n").hexdigest())


def look(page: Page, program: str) -> None:
    """Runs a program that redraws its screen, and leaves it."""
    page.keyboard.type(f"clear; TERM=xterm-256color {program}\n")
    shows(page, "F10")
    page.keyboard.press("F10")
    shows(page, "ready>")
    run(page, "clear; echo le''ft", "left")


def signed_out(page: Page, shell: Page, place: str) -> None:
    """Here and in the other tab, whose terminal is gone, and for whoever goes to a page that was open."""
    for one in (page, shell):
        expect(one.get_by_role("heading", name="Sign in to local")).to_be_visible()
    expect(shell.locator(".xterm")).to_have_count(0)
    page.goto(place)
    expect(page.get_by_role("heading", name="Sign in to local")).to_be_visible()


def test_from_make_run_to_a_shell_files_and_out_again(
    browser: Chromium, printed: Printed, program: str, login: str, tmp_path: Path
) -> None:
    link = invited(printed, "alice")
    content = random.Random(1).randbytes(MIB + 17)
    (tmp_path / "local.bin").write_bytes(content)
    with looking(browser, origin_of(link)) as opened:
        opened.watched.expect("status of 401|WebSocket")  # the terminal whose session was signed out
        page = opened.open(link)
        expect(page.get_by_role("heading", name="Welcome to local")).to_be_visible()
        secret = page.locator("#secret").inner_text()
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_label("Password again").fill(PASSWORD)
        page.get_by_label("Code").fill(code(secret, 0))
        page.get_by_role("button", name="Set password").click()
        expect(page.get_by_role("heading", name="Nodes")).to_be_visible()

        nodes = page.url
        page.get_by_role("button", name="Connect to localhost").click()
        with page.context.expect_page() as new:
            page.get_by_role("menuitem", name=login, exact=True).click()
        shell = new.value
        ready(shell)
        edit(shell, tmp_path / "text")
        look(shell, program)

        (tmp_path / "host").mkdir()
        shell.get_by_role("button", name="Files").click()
        shell.get_by_label("Upload to this folder").fill(str(tmp_path / "host"))
        with shell.expect_file_chooser() as chooser:
            shell.get_by_role("button", name="Choose files").click()
        chooser.value.set_files(tmp_path / "local.bin")
        expect(shell.get_by_text(f"Done: {tmp_path}/host/local.bin")).to_be_visible()
        shell.get_by_label("Download this file").fill(f"{tmp_path}/host/local.bin")
        with shell.expect_download() as saved:
            shell.get_by_role("button", name="Download", exact=True).click()
        assert Path(saved.value.path()).read_bytes() == content

        page.get_by_role("button", name="alice").click()
        page.get_by_role("menuitem", name="Sign out").click()
        signed_out(page, shell, nodes)


def tab_to(page: Page, wanted: str, most: int = 60) -> None:
    """Presses Tab until what has the focus is called that."""
    passed = []
    for _ in range(most):
        page.keyboard.press("Tab")
        passed.append(str(page.evaluate(FOCUSED)))
        if passed[-1] == wanted or passed[-1].startswith(f"{wanted} "):
            return
    raise AssertionError(f"Tab does not reach {wanted!r}: {passed}")


def typed(page: Page, *fields: tuple[str, Callable[[], str]]) -> None:
    for name, value in fields:
        tab_to(page, name)
        page.keyboard.type(value())


def test_the_same_way_is_gone_by_keyboard_alone(
    browser: Chromium, printed: Printed, program: str, login: str, tmp_path: Path
) -> None:
    """Tab, Enter, the arrows and letters; Ctrl+F6 leaves the terminal, which takes Tab for itself."""
    link = invited(printed, "kay")
    content = random.Random(2).randbytes(70_001)
    (tmp_path / "local.bin").write_bytes(content)
    (tmp_path / "host").mkdir()
    with looking(browser, origin_of(link)) as opened:
        opened.watched.expect("status of 401|WebSocket")
        page = opened.open(link)
        expect(page.get_by_label("Password", exact=True)).to_be_focused()
        secret = page.locator("#secret").inner_text()
        page.keyboard.type(PASSWORD)
        typed(page, ("Password again", lambda: PASSWORD), ("Code", lambda: code(secret, 0)))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
        expect(page.get_by_role("button", name="Connect to localhost")).to_be_visible()

        nodes = page.url
        tab_to(page, "Connect to localhost")
        page.keyboard.press("Enter")
        expect(page.get_by_role("menuitem", name=login, exact=True)).to_be_focused()
        with page.context.expect_page() as new:
            page.keyboard.press("Enter")
        shell = new.value
        ready(shell)
        edit(shell, tmp_path / "text")
        look(shell, program)

        shell.keyboard.press("Control+F6")
        tab_to(shell, "Files")
        shell.keyboard.press("Enter")
        expect(shell.get_by_label("Upload to this folder")).to_be_focused()
        shell.keyboard.press("Control+a")
        shell.keyboard.type(str(tmp_path / "host"))
        with shell.expect_file_chooser() as chooser:
            tab_to(shell, "Choose files")
            shell.keyboard.press("Enter")
        chooser.value.set_files(tmp_path / "local.bin")
        expect(shell.get_by_text(f"Done: {tmp_path}/host/local.bin")).to_be_visible()
        typed(shell, ("Download this file", lambda: f"{tmp_path}/host/local.bin"))
        with shell.expect_download() as saved:
            shell.keyboard.press("Enter")
        assert Path(saved.value.path()).read_bytes() == content
        shell.keyboard.press("Control+F6")
        expect(shell.get_by_role("textbox", name="Terminal input")).to_be_focused()

        page.bring_to_front()
        tab_to(page, "kay")
        page.keyboard.press("Enter")
        expect(page.get_by_role("menuitem", name="Account")).to_be_focused()
        page.keyboard.press("End")
        expect(page.get_by_role("menuitem", name="Sign out")).to_be_focused()
        page.keyboard.press("Enter")
        signed_out(page, shell, nodes)

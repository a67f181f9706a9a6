"""A terminal in a browser goes on through reloads, a HUP of its proxy, and a proxy that was away."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.cluster.cluster_packages import install
from tests.cluster.cluster_restarting import Restarting
from tests.cluster.test_cluster_web_terminal import Split
from tests.webui.browsing import Chromium, Opening, looking, sign_in
from tests.webui.terminals import node_path, ready, run, shows, text

from teleport.testing.cluster import Cluster, wait_until

AWAY = r"WebSocket|ERR_|status of 50[234]"  # while no proxy listens
LINES = "".join(f"line {number}\n" for number in range(1, 101))


@pytest.fixture(scope="module", autouse=True)
def vim() -> None:
    if shutil.which("vim") is None and (why := install("vim", "vim")):
        pytest.skip(why)


@pytest.fixture
def split(tmp_path: Path) -> Iterator[Split]:
    """Auth and node in one daemon, the proxy in another one."""
    with Split(tmp_path / "cluster") as cluster:
        cluster.join()
        try:
            yield cluster
        finally:
            daemon = cluster.proxy.daemon
            if cluster.pid_file.exists() and (successor := cluster.serving()) != daemon.pid:
                os.kill(successor, signal.SIGTERM)
                wait_until("the proxy is gone", lambda: not cluster.pid_file.exists())
            daemon.stop()  # asked once: a second signal could come when it handles none any more


def in_vim(opened: Opening, cluster: Cluster, login: str, file: Path) -> Page:
    """Somebody who edits that file in a page; at its top is `line 1`."""
    file.write_text(LINES)
    person = cluster.add_person("erin", logins=[login])
    page = opened.open("/web/signin")
    sign_in(page, person)
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    page.goto(node_path(cluster, login))
    ready(page)
    run(page, "clear; echo un''der", "under")
    page.keyboard.type(f"vim -u NONE -i NONE -N {file}\n")
    shows(page, "line 12")
    return page


def repainted(page: Page, wanted: str) -> None:
    """The alternate screen, and not the shell below it; and it takes what is typed."""
    shows(page, wanted, 60)
    assert "under" not in text(page)
    expect(page.get_by_text("connecting…")).to_have_count(0)
    expect(page.get_by_role("textbox", name="Terminal input")).to_be_focused()


def write(page: Page, line: str) -> None:
    """A new line at the top of the file."""
    page.keyboard.type("ggO")
    page.keyboard.type(line)
    page.keyboard.press("Escape")
    shows(page, line)


def leave(page: Page, file: Path, *lines: str) -> None:
    page.keyboard.type(":wq\n")
    shows(page, "under")
    wait_until("vim has ended", lambda: text(page).count("ready>") == 2)
    run(page, "clear; echo st''ill", "still")
    assert file.read_text() == "".join(f"{line}\n" for line in lines) + LINES


def test_vim_in_a_page_survives_reloads_a_hup_and_an_absence_of_the_proxy(
    browser: Chromium, split: Split, login: str, tmp_path: Path
) -> None:
    file = tmp_path / "text"
    with looking(browser, f"https://{split.web_address}") as opened:
        opened.watched.expect(AWAY)
        page = in_vim(opened, split, login, file)
        page.reload()
        repainted(page, "line 12")
        write(page, "after a reload")

        former = split.proxy.daemon.pid
        os.kill(former, signal.SIGHUP)
        wait_until("a new process serves", lambda: split.serving() != former, 60)
        write(page, "after a HUP")
        page.reload()
        repainted(page, "after a HUP")
        write(page, "after a HUP and a reload")
        assert split.proxy.daemon.ended() == 0, "nobody is left in the old process"

        os.kill(split.serving(), signal.SIGTERM)
        wait_until("the proxy is gone", lambda: not split.pid_file.exists())
        expect(page.get_by_text("What runs on the host goes on for two minutes")).to_be_visible()
        split.proxy.daemon.start()
        repainted(page, "after a HUP and a reload")
        write(page, "after an absence")
        leave(page, file, "after an absence", "after a HUP and a reload", "after a HUP", "after a reload")


def test_vim_in_a_page_survives_a_hup_of_the_daemon_that_is_proxy_and_node(
    browser: Chromium, login: str, tmp_path: Path
) -> None:
    """As `make run` has it: what was opened stays in the old process, to which the new one leads the page."""
    file = tmp_path / "text"
    with Restarting(tmp_path / "cluster") as cluster, looking(browser, f"https://{cluster.web_address}") as opened:
        opened.watched.expect(AWAY)
        page = in_vim(opened, cluster, login, file)
        former = cluster.daemon.pid
        os.kill(former, signal.SIGHUP)
        cluster.wait_successor()
        write(page, "after a HUP")
        for _ in range(2):
            page.reload()
            repainted(page, "after a HUP")
        write(page, "after a HUP and a reload")
        leave(page, file, "after a HUP and a reload", "after a HUP")
        page.keyboard.type("exit\n")
        expect(page.get_by_text("The session has ended")).to_be_visible()
        assert cluster.daemon.ended() == 0, "nobody is left in the old process"

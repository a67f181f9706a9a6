"""A balancer with a certificate of its own ends TLS before two proxies, which it takes in turn: the pages behind it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.cluster.cluster_haproxy import SOURCE
from tests.cluster.test_cluster_ends_tls import Ended, before_two_proxies
from tests.webui.browsing import Chromium, looking
from tests.webui.terminals import node_path, ready, run, shows

from teleport.testing.cluster import LOOPBACK, PASSWORD, PUBLIC, at


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """`teleport start --insecure --roles=proxy`, twice."""
    with before_two_proxies("--insecure", tmp_path_factory.mktemp("ended")) as found:
        yield found


def test_pages_and_terminals_behind_a_balancer_that_ends_tls(
    browser: Chromium, ended: Ended, login: str, tmp_path: Path
) -> None:
    """The invitation, the node list, a terminal, files, a reload, and the sign-in page: every request at another proxy
    than the one before; events have the browser's address."""
    farm = ended.farm
    origin = f"https://{at(farm.web_port, PUBLIC)}"
    added = farm.tctl("users", "add", "bea", "--roles=access", f"--logins={login}", "--format=json").json()
    content = random.Random(5).randbytes(200_003)
    (tmp_path / "file").write_bytes(content)
    with looking(browser, origin) as opened:
        page = opened.open(added["url"])
        bea = ended.person("bea")
        bea.totp_secret = page.locator("#secret").inner_text()
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_label("Password again").fill(PASSWORD)
        page.get_by_label("Code").fill(bea.code())
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
        expect(page.get_by_role("cell", name="joined", exact=True)).to_be_visible()
        sign_out(page)

        page.get_by_label("User name").fill("bea")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("Code of your authenticator app").fill(bea.code())
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
        page.goto(node_path(farm, login, "joined"))
        ready(page)
        run(page, "name=kept; clear; echo $((6*7))-he''re", "42-here")
        for _ in range(2):  # with an even number of proxies a reload may find the same one
            page.reload()
            shows(page, "42-here")
            run(page, "echo $name-$((1+1))", "kept-2")
            page.keyboard.type("clear; echo 42-he''re\n")
            shows(page, "42-here")
        page.get_by_role("button", name="Files").click()
        page.get_by_label("Download this file").fill(str(tmp_path / "file"))
        with page.expect_download() as saved:
            page.get_by_role("button", name="Download", exact=True).click()
        assert Path(saved.value.path()).read_bytes() == content
        page.get_by_role("button", name="Close files").click()
        page.get_by_role("textbox", name="Terminal input").focus()
        page.keyboard.type("exit\n")
        expect(page.get_by_text("The session has ended")).to_be_visible()
    farm.wait_event("session.end", user="bea")
    seen = {event["addr.remote"].rpartition(":")[0] for event in farm.events() if event.get("addr.remote")}
    seen |= {event["addr"].rpartition(":")[0] for event in farm.events("--type=web_session.create")}
    assert LOOPBACK in seen
    assert SOURCE not in seen, "the balancer stands for its client"


def sign_out(page: Page) -> None:
    page.get_by_role("button", name="bea").click()
    page.get_by_role("menuitem", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in to example.test")).to_be_visible()

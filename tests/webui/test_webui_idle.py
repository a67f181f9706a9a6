"""A cluster that greets and that signs out who is idle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.webui.browsing import Chromium, Watched, Windows, axe_in_both, sign_in

from teleport.testing.cluster import Cluster

GREETING = "Authorised use only.\nAsk the desk."


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("idle")
    with Cluster(folder, web_idle_timeout="15m", message_of_the_day=GREETING) as cluster:
        yield cluster


def test_who_is_idle_is_signed_out_in_all_tabs(browser: Chromium, own: Cluster) -> None:
    ann = own.add_person("ann")
    logins: dict[str, Any] = {}
    with browser.used() as used:
        windows = Windows(used, own, logins, Watched(f"https://{own.web_address}"))
        windows.watched.expect("status of 401")
        try:
            page = windows.open("/web/signin")
            expect(page.get_by_role("status").filter(has_text="Authorised use only.")).to_have_text(GREETING)
            axe_in_both(page)
            page.clock.install()
            sign_in(page, ann)
            expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
            page.clock.fast_forward("14:00")
            page.keyboard.press("Shift")
            page.clock.fast_forward("14:00")
            expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
            page.clock.fast_forward("02:00")
            expect(page.get_by_text("You were signed out because nothing was done for a while.")).to_be_visible()
            assert "next=%2Fweb%2Fcluster%2Fexample.test%2Fnodes" in page.url
            axe_in_both(page)
            own.wait_event("web_session.end", user="ann")
            windows.watched.check()
        finally:
            windows.close()

"""More nodes than one page shows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.webui.browsing import Chromium, Watched, Windows, axe_in_both

from teleport.testing.cluster import Cluster

HOSTS = 60  # beside the cluster's own node


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("many")
    with Cluster(folder) as cluster:
        documents = [
            {
                "kind": "node",
                "version": "v2",
                "sub_kind": "openssh",
                "metadata": {"name": str(uuid.uuid4()), "labels": {"rack": str(number % 3)}},
                "spec": {"hostname": f"host-{number:02}", "addr": f"192.0.2.{number + 1}:22"},
            }
            for number in range(HOSTS)
        ]
        hosts = folder / "hosts.yaml"
        hosts.write_text("\n---\n".join(json.dumps(one) for one in documents))
        cluster.tctl("create", str(hosts)).ok()
        yield cluster


def first(page: Page) -> str:
    return page.locator("tbody tr td:first-child").first.inner_text()


def shows(page: Page, first: int, last: int, total: int) -> None:
    expect(page.get_by_text(f"{first}\u2013{last} of {total} nodes")).to_be_visible()


def test_pages_follow_one_another(browser: Chromium, own: Cluster) -> None:
    ann = own.add_person("ann")
    logins: dict[str, Any] = {}
    with browser.used() as used:
        windows = Windows(used, own, logins, Watched(f"https://{own.web_address}"))
        try:
            page = windows.of(ann)
            shows(page, 1, 50, 61)
            assert first(page) == "alpha"
            page.get_by_role("button", name="Next").click()
            shows(page, 51, 61, 61)
            assert first(page) == "host-49"
            axe_in_both(page)
            expect(page.get_by_role("button", name="Next")).to_be_disabled()
            page.get_by_role("button", name="Next").press("Enter")
            page.reload()
            shows(page, 51, 61, 61)
            page.get_by_role("button", name="Only nodes with rack=1").first.click()
            shows(page, 1, 20, 20)
            page.goto("/web/cluster/example.test/nodes?start=500")
            shows(page, 1, 50, 61)
            windows.watched.check()
        finally:
            windows.close()

"""The Kubernetes clusters in the pages: listed, searched, and what to type for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from tests.cluster.cluster_kube import KubeHost
from tests.webui.browsing import Windows, axe_in_both, screenshot

from teleport.testing.cluster import Cluster, Person, wait_until
from teleport.testing.kube_api import running_kube_api

KUBE = "/web/cluster/example.test/kube"
ROLE = """kind: role
version: v5
metadata: {name: kube-of-kurt}
spec: {allow: {kubernetes_labels: {env: dev}, kubernetes_groups: [developers]}}
"""


@pytest.fixture(scope="module")
def kurt(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Somebody who may use one of two Kubernetes clusters that services lead to."""
    folder = tmp_path_factory.mktemp("kube")
    cluster.tctl("create", "-f", stdin=ROLE).ok()
    with running_kube_api(folder) as api:
        labels = ({"env": "dev", "team": "blue"}, {"env": "prod"})
        dev, prod = (
            KubeHost(folder / one["env"], cluster, f"kube-{one['env']}", api, context=f"{one['env']} 1", labels=one)
            for one in labels
        )
        with dev, prod:
            wait_until("both are here", lambda: cluster.tctl("kube", "ls").stdout.count(" 1 ") >= 2)
            yield cluster.add_person("kurt", roles=["kube-of-kurt"])


def test_clusters_are_listed_with_what_to_type(windows: Windows, kurt: Person) -> None:
    """Only the own ones. A name is one word of the shell, whatever it is."""
    page = windows.of(kurt, KUBE)
    expect(page.locator("tbody tr td:first-child")).to_have_text(["dev 1"])
    expect(page.get_by_text("team=blue")).to_be_visible()
    axe_in_both(page)
    screenshot(page, "kubernetes")
    page.get_by_role("button", name="Connect to dev 1").click()
    host, _, port = windows.origin.removeprefix("https://").partition(":")
    command = page.get_by_role("region", name="Command").locator("pre")
    expect(command).to_have_text(
        f"tsh login --proxy={host}:{port} --user=kurt\ntsh kube login 'dev 1'\nkubectl get pods"
    )
    axe_in_both(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Connect to dev 1")).to_be_focused()
    page.get_by_label("Search").fill("nothing")
    expect(page.get_by_text("No Kubernetes cluster fits.")).to_be_visible()


def test_who_may_use_none_reads_so(windows: Windows, alice: Person) -> None:
    page = windows.of(alice)
    page.get_by_role("link", name="Kubernetes").click()
    page.wait_for_url(f"**{KUBE}")
    expect(page.get_by_role("heading", name="Kubernetes", exact=True)).to_be_visible()

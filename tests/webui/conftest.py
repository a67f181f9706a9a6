"""The web pages in a real browser before a real cluster.

    def test_nodes(windows: Windows, alice: Person) -> None:
        page = windows.of(alice, "/web/cluster/example.test/nodes")

A test fails when a page wrote an error to its console or asked another origin for anything.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest
from tests.webui.browsing import Chromium, Watched, Windows, chromium, missing

from teleport.testing.cluster import PUBLIC, RUNNING, Cluster, Person, why_no_loopback


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for daemon in RUNNING:
            report.sections.append((f"log of {daemon.folder}", daemon.log()[-6000:]))
    return report


@pytest.fixture(scope="session", autouse=True)
def possible() -> None:
    """Skips the folder where there is no browser, or nothing can listen on the address that was asked for."""
    if why := missing() or why_no_loopback():
        pytest.skip(why)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Auth, proxy and node, which no test may kill or reconfigure."""
    factors = {"second_factor": "on", "u2f": {"app_id": f"https://{PUBLIC}"}}
    with Cluster(tmp_path_factory.mktemp("webui"), authentication=factors) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def login() -> str:
    """The Unix account whose sessions a daemon of this process's user may start."""
    import os
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="session")
def alice(cluster: Cluster, login: str) -> Person:
    """Reaches every node, and may nothing else."""
    return cluster.add_person("alice", logins=[login])


@pytest.fixture(scope="session")
def admin(cluster: Cluster, login: str) -> Person:
    """May everything."""
    return cluster.add_person("admin", roles=ADMIN_ROLES, logins=[login])


ADMIN_ROLES = ("access", "editor", "auditor")


@pytest.fixture(scope="session")
def browser(possible: None) -> Iterator[Chromium]:
    """One for all tests; each test has windows of its own."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def logins() -> dict[str, Any]:
    """Whose windows are signed in already, and with what cookies: of a module, since tests that sign in again and again
    end the oldest sessions of a user."""
    return {}


@pytest.fixture
def windows(browser: Chromium, cluster: Cluster, logins: dict[str, Any]) -> Iterator[Windows]:
    """Opens windows, and watches them."""
    with browser.used() as used:
        opened = Windows(used, cluster, logins, Watched(f"https://{cluster.web_address}"))
        try:
            yield opened
            opened.watched.check()
        finally:
            opened.close()

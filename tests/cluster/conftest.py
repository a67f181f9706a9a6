"""One cluster of real processes for most end-to-end tests; a failing test shows the logs of the daemons that run."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
from tests.cluster import cluster_accounts
from tests.cluster.cluster_accounts import UnixAccount

from teleport.testing.cluster import RUNNING, Cluster, Person, why_no_loopback


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for daemon in RUNNING:
            report.sections.append((f"log of {daemon.folder}", daemon.log()[-6000:]))
    return report


@pytest.fixture(scope="session", autouse=True)
def loopback() -> None:
    """Skips the folder where nothing can listen on the address that was asked for."""
    if why := why_no_loopback():
        pytest.skip(why)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Auth, proxy and node, which no test may kill or reconfigure."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def login() -> str:
    """The Unix account whose sessions a daemon of this process's user may start."""
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="session")
def alice(cluster: Cluster, login: str) -> Person:
    """Logged in; reaches every node."""
    person = cluster.add_person("alice", logins=[login])
    person.log_in()
    return person


@pytest.fixture(scope="session")
def unix_account() -> Iterator[UnixAccount]:
    """Another account than the daemon's."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a Unix account")
    with cluster_accounts.unix_account() as account:
        yield account

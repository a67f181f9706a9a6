"""Authorities are rotated while people work: no connection fails, sessions go on, what was is refused afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_rotation import look_now, phase, working

from teleport.testing.cluster import Cluster, Host, Person

MANUAL = ("init", "update_clients", "update_servers", "standby")


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own, with two hosts."""
    with Cluster(tmp_path_factory.mktemp("rotated")) as cluster:
        token = cluster.tctl("tokens", "add", "--type=node", "--format=json").ok().json()["token"]
        config = cluster.node_config("beta", auth_token=token, ca_pin=cluster.ca_pin())
        with Host(cluster.folder / "beta", config):
            yield cluster


@pytest.fixture(scope="module")
def worker(rotated: Cluster, login: str) -> Person:
    person = rotated.add_person("worker", logins=[login])
    person.log_in()
    return person


def test_a_rotation_by_hand_fails_no_connection(rotated: Cluster, worker: Person, login: str, tmp_path: Path) -> None:
    with working(worker, login, "alpha", "beta") as (work, session):
        look_now(worker)
        for name in MANUAL:
            phase(rotated, work, name)
            assert session.answers(name)

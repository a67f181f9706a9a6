"""A whole cluster whose state is in PostgreSQL."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from teleport.backend.sqlite_file import FILE_NAME
from teleport.testing import postgresql
from teleport.testing.cluster import NODE, Cluster

ME = getpass.getuser()


@pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.MISSING)
def test_people_log_in_and_have_sessions_and_all_is_there_after_restarts(tmp_path: Path) -> None:
    with postgresql.PostgresqlServer() as server:
        cluster = Cluster(tmp_path / "cluster")
        cluster.config["teleport"]["storage"] = {"type": "postgresql", "conn_string": server.url()}
        cluster.write()
        with cluster:
            ann = cluster.add_person("ann", logins=[ME])
            ann.log_in()
            assert ann.ssh(f"{ME}@{NODE}.{cluster.name}", "echo here").stdout == "here\n"
            server.restart()
            assert ann.ssh(f"{ME}@{NODE}.{cluster.name}", "echo again").stdout == "again\n"
            cluster.daemon.stop()
            cluster.daemon.start()
            ann.log_in()
            assert ann.ssh(f"{ME}@{NODE}.{cluster.name}", "echo after").stdout == "after\n"
            assert not list((tmp_path / "cluster").rglob(FILE_NAME))
            assert server.sql("SELECT count(*) > 10 FROM teleport_access.item") == "t"

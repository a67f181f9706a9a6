"""The state of a cluster goes from its directory to etcd, to PostgreSQL, to DynamoDB and back, and is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from teleport.testing import dynamodb, etcd, postgresql
from teleport.testing.cluster import BIN, Cluster, Ran, plain_environment, run


def migrate(cluster: Cluster, *arguments: str) -> Ran:
    return run(BIN / "tctl", "migrate", *arguments, environment=plain_environment(cluster.folder))


@pytest.mark.skipif(etcd.program() is None, reason=etcd.MISSING)
@pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.MISSING)
@pytest.mark.skipif(dynamodb.program() is None, reason=dynamodb.MISSING)
def test_from_a_directory_to_etcd_to_postgresql_to_dynamodb_and_back(tmp_path: Path) -> None:
    (tmp_path / "etcd").mkdir()
    with (
        etcd.EtcdCluster(tmp_path / "etcd") as servers,
        postgresql.PostgresqlServer() as server,
        dynamodb.DynamoServer() as service,
    ):
        cluster = Cluster(tmp_path / "cluster")
        storages: list[dict[str, Any]] = [
            {"type": "etcd", "peers": list(servers.urls), "insecure": True},
            {"type": "postgresql", "conn_string": server.url()},
            service.storage("state"),
            {"type": "dir", "path": str(tmp_path / "cluster" / "back")},
        ]
        with cluster:
            cluster.add_person("ann", logins=["root"])
            cluster.tctl("lock", "--user=nobody", "--force").ok()
            first = cluster.tctl("get", "all", "--with-secrets").ok().stdout
            old = tmp_path / "old.yaml"
            new = tmp_path / "new.yaml"
            for storage in storages:
                old.write_text(cluster.config_path.read_text())
                cluster.config["teleport"]["storage"] = storage
                new.write_text(yaml.safe_dump(cluster.config))
                where = (f"--from={old}", f"--to={new}")
                running = migrate(cluster, *where)
                assert (running.status, "a daemon uses data_dir" in running.stderr) == (4, True), running
                cluster.daemon.stop()
                assert migrate(cluster, *where, "--dry-run", "--format=json").json()["migrated"] is False
                assert "the same in both" in migrate(cluster, *where).ok().stdout
                assert migrate(cluster, *where).status == 4, "it is not empty any more"
                cluster.write()
                cluster.daemon.start()
                assert cluster.tctl("get", "all", "--with-secrets").ok().stdout == first
            assert migrate(cluster, f"--from={tmp_path / 'none.yaml'}", f"--to={new}").status == 3

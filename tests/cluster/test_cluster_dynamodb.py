"""Clusters whose state is in DynamoDB: one auth server, and two of which either may be killed."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
from tests.cluster.cluster_auth_servers import NODE_NAME, AuthPair
from tests.cluster.cluster_shells import open_shell

from teleport.backend.sqlite_file import FILE_NAME
from teleport.testing import dynamodb
from teleport.testing.cluster import NODE, Cluster

ME = getpass.getuser()

pytestmark = pytest.mark.skipif(dynamodb.program() is None, reason=dynamodb.MISSING)


def test_people_log_in_and_have_sessions_and_all_is_there_after_a_restart(tmp_path: Path) -> None:
    with dynamodb.DynamoServer() as server:
        cluster = Cluster(tmp_path / "cluster")
        cluster.config["teleport"]["storage"] = server.storage("state")
        cluster.write()
        with cluster:
            ann = cluster.add_person("ann", logins=[ME])
            ann.log_in()
            assert ann.ssh(f"{ME}@{NODE}.{cluster.name}", "echo here").stdout == "here\n"
            cluster.daemon.stop()
            cluster.daemon.start()
            ann.log_in()
            assert ann.ssh(f"{ME}@{NODE}.{cluster.name}", "echo after").stdout == "after\n"
            assert not list((tmp_path / "cluster").rglob(FILE_NAME))


def test_a_second_cluster_in_the_same_table_is_refused(tmp_path: Path) -> None:
    with dynamodb.DynamoServer() as server:
        first = Cluster(tmp_path / "first")
        second = Cluster(tmp_path / "second", name="another.example.com")
        for cluster in (first, second):
            cluster.config["teleport"]["storage"] = server.storage("state")
            cluster.write()
        with first:
            before = first.tctl("get", "all", "--with-secrets").ok().stdout
            second.daemon.begin()
            try:
                assert second.daemon.ended() != 0
            finally:
                second.daemon.abandon()
            assert first.name in second.daemon.log()
            assert "Traceback" not in second.daemon.log()
            assert first.tctl("get", "all", "--with-secrets").ok().stdout == before


@pytest.mark.timeout(300)
def test_any_auth_server_may_be_killed(tmp_path: Path) -> None:
    with dynamodb.DynamoServer() as server:
        pair = AuthPair(tmp_path, server.storage("state"), authentication={"type": "local", "second_factor": "off"})
        target = f"{ME}@{NODE_NAME}.{pair.name}"
        with pair.served():
            ann = pair.add_person("ann", logins=[ME])
            ann.log_in()
            for letter, left in (("a", pair.other), ("b", pair)):
                ended = pair.auth_of(letter)
                with open_shell(ann, ME, host=NODE_NAME) as shell:
                    ended.daemon.kill()
                    assert ann.ssh(target, f"echo without-{letter}").stdout == f"without-{letter}\n"
                    ann.log_in()
                    left.tctl("users", "add", f"while-{letter}-is-dead", "--roles=access", f"--logins={ME}").ok()
                    assert shell.client.poll() is None
                ended.daemon.start()
            for host in (pair, pair.other):
                names = {row["metadata"]["name"] for row in host.tctl("get", "users", "--format=json").json()}
                assert {"ann", "while-a-is-dead", "while-b-is-dead"} <= names
                host.tctl("audit", "verify").ok()

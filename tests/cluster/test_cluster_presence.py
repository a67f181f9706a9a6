"""Who is here: clean stops, lost hosts, rebuilt hosts and equal names, with real daemons."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from teleport.backend.sqlite import SqliteBackend
from teleport.backend.sqlite_file import FILE_NAME
from teleport.clock import SystemClock
from teleport.resources.server import LOST_AFTER
from teleport.store.records import AUTH_SERVERS, NODES, PROXIES, ROLES
from teleport.testing.cluster import Cluster, Host, Person, wait_until


def token_file(cluster: Cluster, path: Path) -> Path:
    cluster.tctl("tokens", "add", "--type=node", f"--out={path}").ok()
    return path


def host(cluster: Cluster, folder: Path, name: str) -> Host:
    folder.mkdir(parents=True)
    token = token_file(cluster, folder / "token")
    return Host(folder, cluster.node_config(name, auth_token=str(token), ca_pin=cluster.ca_pin()))


def listed(cluster: Cluster, name: str) -> list[dict[str, str]]:
    """The specs of the hosts with this name."""
    nodes = cluster.tctl("nodes", "ls", "--format=json").json()
    return [{**node["spec"], "id": node["metadata"]["name"]} for node in nodes if node["spec"].get("hostname") == name]


def test_a_clean_stop_withdraws_auth_proxy_and_node_at_once(tmp_path: Path) -> None:
    with Cluster(tmp_path / "stopping") as cluster:
        for kind in ("auth_server", "proxy", "node"):
            assert len(cluster.tctl("get", kind, "--format=json").json()) == 1, kind
        cluster.daemon.stop()

        async def present() -> list[str]:
            backend = SqliteBackend(next(cluster.data_dir.rglob(FILE_NAME)).parent, SystemClock())
            await backend.open()
            try:
                assert await backend.range(ROLES), "this is the database"
                return [item.key for kind in (NODES, PROXIES, AUTH_SERVERS) for item in await backend.range(kind)]
            finally:
                await backend.close()

        assert asyncio.run(present()) == []
        cluster.daemon.start()


def test_hosts_of_one_name_are_reached_by_their_ids(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path
) -> None:
    with host(cluster, tmp_path / "one", "twin"), host(cluster, tmp_path / "two", "twin"):
        wait_until("both are listed", lambda: len(listed(cluster, "twin")) == 2)
        ids = sorted(one["id"] for one in listed(cluster, "twin"))
        wait_until("tsh lists both", lambda: set(ids) <= set(alice.tsh("ls", "-f", "names").stdout.split()))
        text = alice.tsh("ls").ok().stdout
        assert all(f"twin ({one})" in text for one in ids)
        refused = alice.tsh("ssh", f"{login}@twin", "true")
        assert refused.status != 0
        assert all(one in refused.stderr for one in ids)
        for one in ids:
            done = alice.tsh("ssh", f"{login}@{one}", "echo", "$SSH_TELEPORT_HOST_UUID").ok()
            assert done.stdout == f"{one}\n"
    wait_until("both have withdrawn", lambda: not listed(cluster, "twin"))


@pytest.mark.long
def test_a_killed_host_is_shown_as_lost_and_its_rebuilt_successor_takes_its_place(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path
) -> None:
    seconds = LOST_AFTER.total_seconds() + 20
    with host(cluster, tmp_path / "phoenix", "phoenix") as phoenix:
        (first,) = wait_until("it is listed", lambda: listed(cluster, "phoenix"))
        phoenix.daemon.kill()
        assert "silent_for" not in listed(cluster, "phoenix")[0], "nobody can know yet"
        wait_until("it is lost", lambda: "silent_for" in listed(cluster, "phoenix")[0], seconds)
        for text in (cluster.tctl("nodes", "ls").ok().stdout, alice.tsh("ls").ok().stdout):
            assert "(lost, silent for 2m" in text, text
        shutil.rmtree(phoenix.data_dir)
        token_file(cluster, tmp_path / "again").rename(phoenix.config["teleport"]["auth_token"])
        phoenix.daemon.start()
        (second,) = listed(cluster, "phoenix")
        assert second["id"] != first["id"]
        assert second["addr"] == first["addr"]
        assert "silent_for" not in second
        cluster.wait_event("node.delete", name=first["id"], keep_identity=True)
        assert alice.tsh("ssh", f"{login}@phoenix", "echo", "again").ok().stdout == "again\n"

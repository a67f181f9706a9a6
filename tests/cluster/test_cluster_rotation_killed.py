"""kill -9 of auth in each phase of a rotation (threat T15): it comes back in that phase, and the rotation goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from teleport.testing.cluster import Cluster, Host, at, free_port, wait_until


@pytest.fixture
def auth(tmp_path: Path) -> Iterator[Host]:
    """A host that runs auth alone."""
    address = at(free_port())
    config = {
        "teleport": {"nodename": "keeper", "auth_servers": [address]},
        "auth_service": {"enabled": True, "cluster_name": "example.test", "listen_addr": address},
        "proxy_service": {"enabled": False},
        "ssh_service": {"enabled": False},
    }
    with Host(tmp_path / "auth", config) as host:
        yield host


def authorities(auth: Host) -> dict[str, dict[str, Any]]:
    found = auth.tctl("status", "--format=json").ok().json()
    return {one["kind"]: one for one in found["authorities"]}


def killed(auth: Host) -> None:
    """Dies without a word, and starts again."""
    auth.daemon.kill()
    auth.daemon.start()


def steps_on_record(auth: Host) -> list[str]:
    """The phases that the host authority went into, as the audit log has them."""
    lines = auth.tctl("audit", "ls", "--type=authority.rotate", "--format=json").ok().stdout.splitlines()
    found = sorted((json.loads(line) for line in lines), key=lambda event: (event["time"], event["seq"]))
    return [event["phase"] for event in found if event["authority"] == "host"]


def test_a_killed_auth_service_comes_back_in_each_phase_and_the_rotation_goes_on(auth: Host) -> None:
    """A kill right after each step, before anything of the host has followed; each next step needs that the services
    have followed, so it also shows that they do after the start. Every step is on record once."""
    auth.tctl("auth", "rotate", "--manual").ok()
    for phase in ("init", "update_clients", "update_servers", "standby"):
        if phase != "init":
            auth.tctl("auth", "rotate", f"--phase={phase}").ok()
        killed(auth)
        found = authorities(auth)
        # that of hosts with a plain sshd changes when it is named
        assert {one["phase"] for kind, one in found.items() if kind != "openssh"} == {phase}
    (after,) = found["host"]["ca_pins"]

    auth.tctl("auth", "rotate", "--type=host", "--manual").ok()
    auth.tctl("auth", "rotate", "--type=host", "--phase=update_clients").ok()
    auth.tctl("auth", "rotate", "--type=host", "--phase=rollback").ok()
    killed(auth)
    assert authorities(auth)["host"]["phase"] == "rollback"
    auth.tctl("auth", "rotate", "--rollback").ok()
    assert authorities(auth)["host"]["ca_pins"] == [after]
    wait_until(
        "every step is on record, once",
        lambda: (
            steps_on_record(auth)
            == ["init", "update_clients", "update_servers", "standby", "init", "update_clients", "rollback", "standby"]
        ),
    )


@pytest.mark.long
def test_a_rotation_by_itself_goes_on_after_a_kill(auth: Host) -> None:
    auth.tctl("auth", "rotate", "--type=host", "--grace-period=9s").ok()
    killed(auth)
    assert authorities(auth)["host"]["mode"] == "auto"
    wait_until("the rotation has ended", lambda: authorities(auth)["host"]["phase"] == "standby", 60)
    assert steps_on_record(auth) == ["init", "update_clients", "update_servers", "standby"]


@pytest.mark.long
def test_a_host_that_was_off_for_a_phase_catches_up(tmp_path: Path) -> None:
    """Off during init, so that the next step had to be forced; back again it follows, and the rest needs no force."""
    with Cluster(tmp_path / "cluster") as cluster:
        token = cluster.tctl("tokens", "add", "--type=node", "--format=json").ok().json()["token"]
        config = cluster.node_config("beta", auth_token=token, ca_pin=cluster.ca_pin())
        with Host(cluster.folder / "beta", config) as beta:
            beta.daemon.kill()
            cluster.tctl("auth", "rotate", "--manual").ok()
            refused = cluster.tctl("auth", "rotate", "--phase=update_clients", "--wait=1s")
            assert refused.status == 1
            assert "node beta" in refused.stderr
            cluster.tctl("auth", "rotate", "--phase=update_clients", "--force").ok()
            beta.daemon.start()
            for phase in ("update_servers", "standby"):
                cluster.tctl("auth", "rotate", f"--phase={phase}").ok()
            beta.daemon.stop()
            beta.daemon.start()
            assert "beta" in cluster.tctl("nodes", "ls").ok().stdout

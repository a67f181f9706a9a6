"""Two clusters of real daemons: a leaf trusts a root through its proxy, both are rotated in turn, and they part."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from teleport.testing.cluster import LOOPBACK, Cluster, plain_environment, run, wait_until

LONG = bool(os.environ.get("TELEPORT_LONG"))
PHASES = ("init", "update_clients", "update_servers", "standby")
DOCUMENT = """
kind: trusted_cluster
version: v2
metadata: {{name: whatever}}
spec:
  enabled: {enabled}
  token: {token}
  web_proxy_addr: '{web}'
  ca_pins: ['{pin}']
  role_map:
  - {{remote: access, local: [access]}}
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Cluster]]:
    """Root and leaf, running. Each test leaves them apart."""
    folder = tmp_path_factory.mktemp("both")
    root, leaf = Cluster(folder / "root", name="root.test"), Cluster(folder / "leaf", name="leaf.test")
    with root, leaf:
        yield root, leaf


def pin_of(cluster: Cluster) -> str:
    """The pin of now: rotations change it."""
    words = cluster.tctl("status").ok().stdout.split()
    return next(word for word in words if word.startswith("sha256:"))


def document(root: Cluster, token: str, *, enabled: str = "true") -> str:
    return DOCUMENT.format(token=token, web=root.web_address, pin=pin_of(root), enabled=enabled)


def authority(cluster: Cluster, kind: str, name: str) -> list[str]:
    """The SSH keys of an authority, as `tctl get` prints them."""
    (found,) = cluster.tctl("get", f"cert_authority/{kind}/{name}", "--format=json").ok().json()
    sets = (found["spec"].get("active_keys", {}), found["spec"].get("additional_trusted_keys", {}))
    return [pair["public_key"] for keys in sets for pair in keys.get("ssh", [])]


def _taken(cluster: Cluster, step: list[str]) -> bool:
    return cluster.tctl(*step).status == 0


def rotate(cluster: Cluster, kinds: tuple[str, ...], between: Any) -> None:
    """All phases by hand, each as soon as everybody has followed."""
    types = [f"--type={kind}" for kind in kinds]
    for phase in PHASES:
        step = ["auth", "rotate", "--manual", f"--phase={phase}", *types]
        wait_until(f"{cluster.name} goes into {phase}", partial(_taken, cluster, step), 60)
        between()


def test_a_leaf_trusts_a_root_follows_its_rotations_and_parts(both: tuple[Cluster, Cluster]) -> None:
    root, leaf = both
    made = root.tctl("tokens", "add", "--type=trusted_cluster", "--labels=env=prod", "--format=json").ok().json()
    wanted = document(root, made["token"])
    created = leaf.tctl("create", stdin=wanted).ok()
    assert "its name is 'root.test'" in created.stdout
    assert created.stderr == ""
    assert made["token"] not in leaf.tctl("get", "tc", "--with-secrets").ok().stdout
    assert "root.test: enabled, authorities exchanged" in leaf.tctl("status").ok().stdout
    assert "Remote cluster" in root.tctl("status").ok().stdout
    table = root.tctl("get", "rc", "--format=text").ok().stdout
    assert "leaf.test" in table
    assert "env=prod" in table
    assert root.tctl("update", "rc/leaf.test", "--set-labels=env=dev").ok()
    assert "env=dev" in root.tctl("get", "rc", "--format=text").ok().stdout
    again = leaf.tctl("create", stdin=wanted)
    assert (again.status, "exists already" in again.stderr) == (4, True)

    named = wanted.replace("whatever", "root.test")

    def exchanged() -> None:
        """By itself within a minute; asked for, at once."""
        assert "could not be exchanged" not in leaf.tctl("create", "-f", stdin=named).ok().stderr

    before = authority(root, "user", "root.test") + authority(root, "host", "root.test")
    rotate(root, ("user", "host"), exchanged)
    for kind in ("user", "host"):
        now = authority(root, kind, "root.test")
        assert len(now) == 1
        assert set(now).isdisjoint(before)
        assert authority(leaf, kind, "root.test") == now
    if LONG:
        before = authority(leaf, "host", "leaf.test")
        rotate(leaf, ("host",), exchanged)
        now = authority(leaf, "host", "leaf.test")
        assert set(now).isdisjoint(before)
        assert authority(root, "host", "leaf.test") == now

    off = named.replace("enabled: true", "enabled: false")
    leaf.tctl("create", "-f", stdin=off).ok()
    assert "root.test: disabled" in leaf.tctl("status").ok().stdout
    removed = leaf.tctl("rm", "tc/root.test").ok()
    assert removed.stderr == ""
    assert "removed" in root.tctl("get", "rc", "--format=text").ok().stdout
    root.tctl("rm", "rc/leaf.test").ok()
    assert root.tctl("get", "rc/leaf.test").status == 3
    assert leaf.tctl("get", "cert_authority/user/root.test").status == 3
    asked = leaf.events("--type=trusted_cluster.create,trusted_cluster.delete")
    told = {event["event"]: event["code"] for event in asked}
    assert told == {"trusted_cluster.create": "T7000I", "trusted_cluster.delete": "T7001I"}


def test_what_stands_in_the_way_is_said(both: tuple[Cluster, Cluster]) -> None:
    root, leaf = both
    refused = leaf.tctl("create", stdin=document(root, "0" * 32))
    assert refused.status == 5
    assert "was used up, or is not for trusted clusters" in refused.stderr
    assert "tctl tokens add --type=trusted_cluster" in refused.stderr
    unpinned = document(root, "0" * 32).replace(f"ca_pins: ['{pin_of(root)}']", "ca_pins: []")
    refused = leaf.tctl("create", stdin=unpinned)
    assert refused.status != 0
    assert "ca_pins" in refused.stderr
    pinned = document(root, "0" * 32).replace(pin_of(root), pin_of(leaf))
    refused = leaf.tctl("create", stdin=pinned)
    assert refused.status != 0
    assert json.loads(leaf.tctl("get", "tc", "--format=json").ok().stdout) == []
    event = root.wait_event("remote_cluster.create", code="T9321W")
    assert event["error"] == "the token is unknown or has expired"


def test_an_open_session_ends_when_the_trust_does(both: tuple[Cluster, Cluster], tmp_path: Path, login: str) -> None:
    """T31: straight at the leaf's node, which judges by what it watches; and the leaf's proxy is not the way in."""
    root, leaf = both
    token = root.tctl("tokens", "add", "--type=trusted_cluster", "--format=json").ok().json()["token"]
    wanted = document(root, token).replace("whatever", "root.test")
    leaf.tctl("create", stdin=wanted).ok()
    root.tctl("users", "add", "alice", "--roles=access", f"--logins={login}").ok()
    key = tmp_path / "alice"
    root.tctl("auth", "sign", "--user=alice", f"--out={key}", "--format=openssh").ok()

    def ssh(port: int, *command: str) -> list[str]:
        options = [f"-o{option}" for option in ("BatchMode=yes", "StrictHostKeyChecking=no", "IdentitiesOnly=yes")]
        options.append(f"-oUserKnownHostsFile={tmp_path / 'known_hosts'}")
        return ["ssh", "-F", "/dev/null", *options, "-i", str(key), "-p", str(port), f"{login}@{LOOPBACK}", *command]

    def let_in() -> bool:
        return run(*ssh(leaf.node_port, "true"), environment=plain_environment(tmp_path)).status == 0

    wait_until("the node has heard of the trust", let_in, 30)
    with subprocess.Popen(
        ssh(leaf.node_port, "echo here; sleep 600"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as session:
        try:
            assert session.stdout is not None
            assert session.stdout.readline() == "here\n"
            assert leaf.wait_event("session.start", user="remote-alice-root.test")["login"] == login
            through = run(*ssh(leaf.proxy_ssh_port, "true"), environment=plain_environment(tmp_path))
            assert through.status == 255
            assert "of the cluster root.test: its users come in through its own proxy" in through.stderr
            leaf.tctl("create", "-f", stdin=wanted.replace("enabled: true", "enabled: false")).ok()
            assert session.wait(30) != 0
        finally:
            session.kill()
    assert not let_in()
    leaf.tctl("rm", "tc/root.test").ok()
    root.tctl("rm", "rc/leaf.test").ok()

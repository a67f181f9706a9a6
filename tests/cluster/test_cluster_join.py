"""A second host joins, with its token in a file, and the token stays a secret (threats T12, T13)."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from tests.cluster.cluster_mitm import Middleman

from teleport.testing.cluster import Cluster, DaemonProcess, Host, Person, at, plain_environment, wait_until


@pytest.fixture
def token_file(cluster: Cluster, tmp_path: Path) -> Path:
    path = tmp_path / "join-token"
    cluster.tctl("tokens", "add", "--type=node", f"--out={path}").ok()
    return path


@pytest.fixture
def token(token_file: Path) -> str:
    return token_file.read_text().strip()


def names(cluster: Cluster) -> set[str]:
    """The nodes that auth knows now."""
    return {node["spec"]["hostname"] for node in cluster.tctl("get", "nodes", "--format=json").json()}


def wait_listed(person: Person, name: str) -> None:
    wait_until(f"{name} in tsh ls", lambda: name in person.tsh("ls", "--format=names").ok().stdout.split())


def check_session(person: Person, login: str, name: str) -> None:
    done = person.tsh("ssh", f"{login}@{name}", "echo", "$SSH_TELEPORT_CLUSTER_NAME").ok()
    assert done.stdout == f"{person.cluster.name}\n"


def test_a_host_joins_by_its_file_takes_a_session_and_needs_no_token_again(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path, token_file: Path
) -> None:
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    pins = ["sha256:" + "0" * 64, cluster.ca_pin()]  # as during a rotation: any one of them proves the cluster
    config = cluster.node_config("bravo", auth_token=str(token_file), ca_pin=pins)
    with Host(tmp_path / "bravo", config) as host:
        wait_listed(alice, "bravo")
        check_session(alice, login, "bravo")
        assert "without a CA pin" not in host.daemon.log(), "there is nothing to warn of"
        host.daemon.stop()
        del config["teleport"]["auth_token"], config["teleport"]["ca_pin"]
        host.write()
        token_file.unlink()
        host.daemon.start()
        wait_listed(alice, "bravo")
        check_session(alice, login, "bravo")
    wait_until("a clean stop withdraws its presence", lambda: "bravo" not in names(cluster))


def test_a_host_joins_by_flags(cluster: Cluster, alice: Person, login: str, tmp_path: Path, token_file: Path) -> None:
    folder = tmp_path / "charlie"
    config = cluster.node_config("charlie")
    del config["teleport"]["auth_servers"]
    flags = [
        "--roles=node",
        f"--auth-server={at(cluster.auth_port)}",
        f"--token={token_file}",
        f"--ca-pin={cluster.ca_pin()}",
        "--labels=by=flags",
    ]
    with Host(folder, config, arguments=flags):
        wait_listed(alice, "charlie")
        check_session(alice, login, "charlie")
        assert alice.tsh("ls", "by=flags", "--format=names").ok().stdout.split() == ["charlie"]


def test_a_host_joins_through_the_proxy(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path, token_file: Path
) -> None:
    config = cluster.node_config("delta", auth_token=str(token_file), ca_pin=cluster.ca_pin())
    config["teleport"]["auth_servers"] = [at(cluster.web_port)]
    with Host(tmp_path / "delta", config) as host:
        wait_listed(alice, "delta")
        check_session(alice, login, "delta")
        host.daemon.stop()
        host.daemon.start()
        wait_listed(alice, "delta")


def test_a_single_use_token_lets_one_host_in(cluster: Cluster, alice: Person, login: str, tmp_path: Path) -> None:
    secret = tmp_path / "once"
    made = cluster.tctl("tokens", "add", "--type=node", "--single-use", f"--out={secret}").ok()
    assert "It lets one host join as node" in made.stdout
    settings = {"auth_token": str(secret), "ca_pin": cluster.ca_pin()}
    with Host(tmp_path / "golf", cluster.node_config("golf", **settings)) as host:
        wait_listed(alice, "golf")
        check_session(alice, login, "golf")
        status, said = refused(cluster, tmp_path / "foxtrot", **settings)
        assert status == 5
        assert "was used up" in said
        assert "tctl nodes add --roles=node" in said
        (listed,) = [one for one in cluster.tctl("tokens", "ls", "--format=json").json() if one["single_use"]]
        assert listed["used_by"] in cluster.tctl("tokens", "ls").ok().stdout
        host.daemon.stop()
        host.daemon.start()
        wait_listed(alice, "golf")


def test_a_host_without_a_pin_joins_and_warns(cluster: Cluster, tmp_path: Path, token_file: Path) -> None:
    with Host(tmp_path / "echo", cluster.node_config("echo", auth_token=str(token_file), ca_pin="")) as host:
        wait_until("echo has joined", lambda: "echo" in names(cluster))
        assert "without a CA pin" in host.daemon.log()


def refused(cluster: Cluster, folder: Path, **teleport: object) -> tuple[int, str]:
    """A host that cannot join: how it ended and what it said."""
    host = Host(folder, cluster.node_config("foxtrot", **teleport))
    status = host.daemon.begin().ended()
    assert "Traceback" not in host.daemon.log()
    assert "foxtrot" not in names(cluster)
    assert not list(host.data_dir.rglob("*.crt"))
    return status, host.daemon.log()


def test_a_wrong_pin_stops_the_host_with_a_clear_message(cluster: Cluster, tmp_path: Path, token_file: Path) -> None:
    wrong = "sha256:" + "0" * 64
    status, said = refused(cluster, tmp_path / "foxtrot", auth_token=str(token_file), ca_pin=wrong)
    assert status == 5
    assert "does not have the pin" in said
    assert cluster.ca_pin() in said
    assert "tctl status" in said


def test_a_pin_that_lost_a_digit_is_refused_before_anything_starts(
    cluster: Cluster, tmp_path: Path, token_file: Path
) -> None:
    short = cluster.ca_pin()[:-1]
    status, said = refused(cluster, tmp_path / "foxtrot", auth_token=str(token_file), ca_pin=short)
    assert status == 1
    assert "ca_pin" in said
    assert "64" in said


def test_a_wrong_token_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "wrong"
    path.write_text("0123456789abcdef0123456789abcdef")
    status, said = refused(cluster, tmp_path / "foxtrot", auth_token=str(path), ca_pin=cluster.ca_pin())
    assert status == 5
    assert "token" in said
    assert path.read_text() not in said
    cluster.wait_event("host.join_failed")


@pytest.mark.parametrize("pinned", [True, False], ids=["with the pin", "without a pin"])
@pytest.mark.parametrize("place", ["auth", "proxy"])
async def test_a_man_in_the_middle_with_the_true_authority_never_sees_the_token(
    cluster: Cluster, tmp_path: Path, token_file: Path, token: str, place: str, pinned: bool
) -> None:
    """Decision 18: the authority's certificate is public, so that showing it proves nothing."""
    middleman = Middleman(tmp_path, cluster.name, cluster.authority(), cluster.auth_port)
    pin = cluster.ca_pin() if pinned else ""
    config = cluster.node_config("golf", auth_token=str(token_file), ca_pin=pin)
    async with middleman.before_auth() if place == "auth" else middleman.before_proxy():
        config["teleport"]["auth_servers"] = [at(middleman.port)]
        host = Host(tmp_path / "golf", config)
        status = await asyncio.to_thread(host.daemon.begin().ended)
    assert b"/v1/ca" in middleman.seen, "he was asked, and read the question"
    assert cluster.name.encode() in middleman.seen, "and read the answer"
    assert token.encode() not in middleman.seen
    assert status == 6, host.daemon.log()
    assert "cannot prove" in host.daemon.log()
    assert "golf" not in names(cluster)
    assert not list(host.data_dir.rglob("*.crt"))


async def test_a_proxy_that_keeps_what_it_relays_never_has_the_token(
    cluster: Cluster, tmp_path: Path, token_file: Path, token: str
) -> None:
    middleman = Middleman(tmp_path, cluster.name, cluster.authority(), cluster.auth_port)
    middleman.intercepts = False
    middleman.tunnel_address = at(cluster.tunnel_port)
    config = cluster.node_config("hotel", auth_token=str(token_file), ca_pin=cluster.ca_pin())
    async with middleman.before_proxy():
        config["teleport"]["auth_servers"] = [at(middleman.port)]
        host = Host(tmp_path / "hotel", config)
        await asyncio.to_thread(host.daemon.start)
        try:
            await asyncio.to_thread(wait_until, "hotel has joined", lambda: "hotel" in names(cluster))
            await asyncio.to_thread(host.daemon.stop)
        finally:
            host.daemon.abandon()
    assert len(middleman.passed) > 1000
    assert token.encode() not in middleman.seen + middleman.passed


def test_the_token_is_nowhere_but_in_its_file(cluster: Cluster, tmp_path: Path, token_file: Path, token: str) -> None:
    """Threat T12: logs, processes, listings, audit log, what is stored."""
    assert len(token) >= 32
    folder = tmp_path / "india"
    with Host(folder, cluster.node_config("india", auth_token=str(token_file), ca_pin=cluster.ca_pin())) as host:
        cluster.wait_event("host.join", hostname="india")
        secret = token.encode()
        assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if secret in read(path)]
        assert not [path for path in Path("/proc").glob("[0-9]*/environ") if secret in read(path)]
        for arguments in (
            ["tokens", "ls"],
            ["tokens", "ls", "--format=json"],
            ["get", "tokens", "--format=json"],
            ["get", "tokens", "--format=yaml", "--with-secrets"],
            ["audit", "ls", "--format=json"],
        ):
            assert token not in (said := cluster.tctl(*arguments)).stdout + said.stderr, arguments
        host.daemon.stop()
        every = [path for root in (folder, cluster.folder) for path in root.rglob("*") if path.is_file()]
        assert len(every) > 20
        assert [path for path in every if secret in read(path)] == []


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_host_that_was_given_no_token_says_how_to_get_one(cluster: Cluster, tmp_path: Path) -> None:
    status, said = refused(cluster, tmp_path / "foxtrot", ca_pin=cluster.ca_pin())
    assert status != 0
    assert "tctl nodes add" in said


def test_a_second_daemon_on_one_data_dir_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "copy.yaml"
    config.write_text(cluster.config_path.read_text())
    daemon = DaemonProcess(tmp_path, ["--config", config], environment=plain_environment(tmp_path)).begin()
    assert daemon.ended() == 4
    assert "another daemon" in daemon.log()

"""Plain OpenSSH with what `tctl auth sign` and `tctl auth export` print, and nothing of ours on the client's side."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from teleport.testing.cluster import NODE, PUBLIC, Cluster, Person, Ran, at, plain_environment, run

WAYS = ["ProxyCommand", "ProxyJump"]
Ssh = Callable[..., Ran]


@pytest.fixture(scope="module")
def identity(cluster: Cluster, alice: Person, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """alice's key, with its certificate beside it."""
    path = tmp_path_factory.mktemp("signed") / "alice"
    cluster.tctl("auth", "sign", "--user=alice", "--format=openssh", f"--out={path}").ok()
    assert (path.stat().st_mode & 0o777) == 0o600
    return path


@pytest.fixture(scope="module")
def known_hosts(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("known") / "known_hosts"
    line = cluster.tctl("auth", "export", "--type=host").ok().stdout
    assert line.startswith(f"@cert-authority *.{cluster.name} ")
    # the proxy is reached under a name which the pattern of the line does not cover
    path.write_text(line + line.replace(f"*.{cluster.name}", f"{PUBLIC},[{PUBLIC}]:*"))
    return path


def ssh_by(way: str, cluster: Cluster, identity: Path, known_hosts: Path, login: str) -> Ssh:
    """`ssh(*arguments)`: to the node through the proxy, by one of the two ways."""
    options = [
        *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"),
        *("-o", f"UserKnownHostsFile={known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null"),
        *("-i", str(identity), "-l", login),
    ]
    config = identity.parent / "jump_config"
    lines = [f"  {name} {value}\n" for name, _, value in (o.partition("=") for o in options if "=" in o)]
    config.write_text(f"Host *\n{''.join(lines)}  IdentityFile {identity}\n  User {login}\n")
    inner = " ".join(["ssh", "-F", "none", *options, "-p", str(cluster.proxy_ssh_port), PUBLIC])
    by = {
        "ProxyCommand": ["-F", "none", *options, "-o", f"ProxyCommand={inner} -s proxy:%h:%p"],
        "ProxyJump": ["-F", str(config), "-J", f"{login}@{at(cluster.proxy_ssh_port, PUBLIC)}"],
    }

    def ssh(*arguments: str, host: str = f"{NODE}.{cluster.name}", stdin: bytes = b"") -> Ran:
        environment = plain_environment(identity.parent)
        return run("ssh", *by[way], *arguments[:-1], host, *arguments[-1:], environment=environment, stdin=stdin)

    return ssh


@pytest.fixture(params=WAYS)
def ssh(request: pytest.FixtureRequest, cluster: Cluster, identity: Path, known_hosts: Path, login: str) -> Ssh:
    return ssh_by(request.param, cluster, identity, known_hosts, login)


def test_a_command_runs_and_its_output_comes_through(ssh: Ssh) -> None:
    done = ssh("cat; echo to stderr >&2", stdin=b"in and out\x00\xff\n").ok()
    assert done.out == b"in and out\x00\xff\n"
    assert done.err == b"to stderr\n"


@pytest.mark.parametrize("status", [0, 3])
def test_exit_statuses_come_through(ssh: Ssh, status: int) -> None:
    assert ssh(f"exit {status}").status == status


def test_death_by_signal_comes_through(ssh: Ssh) -> None:
    """OpenSSH ends with 255 then; a status of the shell's own making (137) would be another thing."""
    assert ssh("kill -KILL $$").status == 255


def test_the_signal_is_named_to_who_looks(ssh: Ssh) -> None:
    assert (
        "TERM" in ssh("-v", "kill -TERM $$").stderr.partition("exit-signal")[2]
        or "exit-signal" in ssh("-v", "kill -TERM $$").stderr
    )


def test_the_host_is_proved_by_its_certificate(ssh: Ssh) -> None:
    done = ssh("-v", "true").ok()
    assert f"Host '{NODE}.example.test' is known and matches the ED25519-CERT host certificate." in done.stderr


def test_another_authority_s_line_refuses_the_host(
    cluster: Cluster, identity: Path, known_hosts: Path, login: str, tmp_path: Path
) -> None:
    """The host's own certificate is good; what this client trusts is not the cluster."""
    made = tmp_path / "other"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made, environment=plain_environment(tmp_path)).ok()
    wrong = tmp_path / "known_hosts"
    proxy_line = known_hosts.read_text().splitlines()[-1]
    key = " ".join(made.with_suffix(".pub").read_text().split()[:2])
    wrong.write_text(f"@cert-authority *.{cluster.name} {key}\n{proxy_line}\n")
    for way in WAYS:
        copy = tmp_path / way / "alice"
        copy.parent.mkdir()
        for suffix in ("", "-cert.pub"):
            shutil.copy(f"{identity}{suffix}", f"{copy}{suffix}")
        done = ssh_by(way, cluster, copy, wrong, login)("true")
        assert done.status == 255
        assert "Host key verification failed" in done.stderr or "host certificate" in done.stderr.lower()


def test_the_host_is_found_by_uuid_and_by_name_alone(
    cluster: Cluster, identity: Path, known_hosts: Path, login: str
) -> None:
    uuid = (cluster.data_dir / "host_uuid").read_text().strip()
    ssh = ssh_by("ProxyCommand", cluster, identity, known_hosts, login)
    assert ssh("echo found", host=f"{uuid}.{cluster.name}").ok().stdout == "found\n"


def test_an_unknown_host_is_refused_in_a_sentence(ssh: Ssh, cluster: Cluster) -> None:
    done = ssh("true", host=f"nowhere.{cluster.name}")
    assert done.status == 255
    assert "nowhere" in done.stderr

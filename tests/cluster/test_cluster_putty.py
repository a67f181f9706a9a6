"""PuTTY's own client with a key file of `tctl auth sign --format=ppk`: through the proxy to a host, proved by the
cluster's authority; refused by what refuses everybody."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from tests.cluster import cluster_packages

from teleport.testing.cluster import LOOPBACK, NAME, NODE, PASSWORD, Cluster, Person, Ran, plain_environment, run


@pytest.fixture(scope="module")
def plink() -> str:
    """The program, 0.78 or newer."""
    if shutil.which("plink") is None and (why := cluster_packages.install("putty-tools", "plink")):
        pytest.skip(why)
    return str(shutil.which("plink"))


@pytest.fixture(scope="module")
def home(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which PuTTY trusts the cluster's hosts, as its dialogue of certificate authorities writes it."""
    home = tmp_path_factory.mktemp("putty")
    authorities = home / ".putty" / "sshhostcas"
    authorities.mkdir(parents=True)
    line = cluster.tctl("auth", "export", "--type=host").ok().stdout
    address = LOOPBACK.replace(":", "?")  # PuTTY takes no colon in these expressions
    (authorities / NAME).write_text(f"PublicKey={line.split()[3]}\nValidity=*.{NAME} || {address}\n")
    return home


def plinked(plink: str, home: Path, key: Path, cluster: Cluster, login: str, *command: str) -> Ran:
    """Two plinks, as PuTTY's manual has it: one leads through the proxy, the other is the session inside."""
    through = f"{plink} -batch -i {key} -P {cluster.proxy_ssh_port} -nc {NODE}:0 -l {login} {LOOPBACK}"
    inner = ["-batch", "-i", str(key), "-proxycmd", through, "-l", login, f"{NODE}.{NAME}"]
    return run(plink, *inner, *command, environment={**plain_environment(home), "HOME": str(home)})


def test_plink_runs_a_command_through_the_proxy(
    plink: str, home: Path, cluster: Cluster, alice: Person, login: str, tmp_path: Path
) -> None:
    key = tmp_path / "alice.ppk"
    cluster.tctl("auth", "sign", "--user=alice", "--format=ppk", f"--out={key}").ok()
    assert plinked(plink, home, key, cluster, login, "echo", "hello").ok().stdout == "hello\n"
    refused = plinked(plink, home, key, cluster, "nobody", "echo", "hello")
    assert (refused.status != 0, refused.stdout) == (True, "")
    assert "No supported authentication methods" in refused.stderr


def test_a_login_writes_a_key_file_for_plink(
    plink: str, home: Path, cluster: Cluster, login: str, tmp_path: Path
) -> None:
    """`tsh login --format=ppk` is the same for people who log in themselves."""
    paula = cluster.add_person("paula", logins=[login])
    where = (f"--proxy={cluster.web_address}", f"--user={paula.name}", f"--ca-pin={cluster.ca_pin()}")
    form = ("--format=ppk", f"--out={tmp_path / 'paula.ppk'}")
    paula.tsh("login", *where, *form, stdin=f"{PASSWORD}\n{paula.code()}\n").ok()
    assert plinked(plink, home, tmp_path / "paula.ppk", cluster, login, "echo", "self").ok().stdout == "self\n"


def test_plink_refuses_a_damaged_key_file_and_an_unknown_host(
    plink: str, home: Path, cluster: Cluster, alice: Person, login: str, tmp_path: Path
) -> None:
    """So that the session above is known to come from what was checked."""
    key = tmp_path / "alice.ppk"
    cluster.tctl("auth", "sign", "--user=alice", "--format=ppk", f"--out={key}").ok()
    stranger = plinked(plink, tmp_path, key, cluster, login, "echo", "hello")
    assert (stranger.status != 0, stranger.stdout) == (True, "")
    text = key.read_text()
    key.write_text(text.replace("Comment: alice", "Comment: clara"))
    damaged = plinked(plink, home, key, cluster, login, "echo", "hello")
    assert (damaged.status != 0, damaged.stdout) == (True, "")


@pytest.mark.parametrize("program", ["pscp", "psftp"])
def test_its_programs_for_files_move_them(
    plink: str, home: Path, cluster: Cluster, alice: Person, login: str, tmp_path: Path, program: str
) -> None:
    """Both speak SFTP; what they moved is on record with its hash."""
    key, here, there = tmp_path / "alice.ppk", tmp_path / "here", tmp_path / "there"
    cluster.tctl("auth", "sign", "--user=alice", "--format=ppk", f"--out={key}").ok()
    here.write_text(program)
    through = f"{plink} -batch -i {key} -P {cluster.proxy_ssh_port} -nc {NODE}:0 -l {login} {LOOPBACK}"
    common = ["-batch", "-i", str(key), "-proxycmd", through, "-l", login]
    environment = {**plain_environment(home), "HOME": str(home)}
    target = f"{NODE}.{NAME}"
    if program == "pscp":
        run("pscp", *common, here, f"{target}:{there}", environment=environment).ok()
    else:
        batch = tmp_path / "batch"
        batch.write_text(f"put {here} {there}\nquit\n")
        run("psftp", *common, "-b", batch, target, environment=environment).ok()
    assert there.read_text() == program
    event = cluster.wait_event("sftp", path=str(there), action="write")
    assert event["sha256"] == hashlib.sha256(program.encode()).hexdigest()

"""Files moved with plain clients through a real cluster: what `sha256sum` says is what the audit log says."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster_accounts import UnixAccount
from tests.cluster.cluster_packages import install

from teleport.testing.cluster import NODE, Cluster, Person, Ran, run, wait_until

ROLE = """kind: role
version: v4
metadata: {{name: {name}}}
spec:
  allow: {{logins: ['{login}'], node_labels: {{'*': '*'}}}}
  options: {{exec: transfer, file_transfer: {{upload: {upload}, download: {download}}}}}
"""


def host(cluster: Cluster) -> str:
    return f"{NODE}.{cluster.name}"


def client(person: Person, program: str, *arguments: str | Path, stdin: str = "") -> Ran:
    """A plain client of OpenSSH that goes by the person's configuration."""
    return run(program, "-F", person.ssh_config, *arguments, environment=person.environment, stdin=stdin, seconds=60)


def rsync(person: Person, *arguments: str | Path) -> Ran:
    shell = f"ssh -F {shlex.quote(str(person.ssh_config))}"
    return run("rsync", "-e", shell, *arguments, environment=person.environment, seconds=60)


def needs(program: str) -> None:
    if shutil.which(program) is None and (why := install(program, program)):
        pytest.skip(why)


def events(cluster: Cluster, kind: str, path: Path, count: int = 1) -> list[dict[str, Any]]:
    """The events of a kind about a path."""

    def found() -> list[dict[str, Any]]:
        known = [one for one in cluster.events(f"--type={kind}") if one.get("path") == str(path)]
        return known if len(known) >= count else []

    return wait_until(f"{kind} of {path} on record", found)


def test_what_plain_clients_move_is_on_record_with_its_hash(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path
) -> None:
    """Done-when 1: sftp and both protocols of scp, up and down, through proxy and node."""
    data = random.Random(11).randbytes(1_500_000)
    source = tmp_path / "source"
    source.write_bytes(data)
    digest = subprocess.run(["sha256sum", source], capture_output=True, check=True, text=True).stdout.split()[0]
    assert digest == hashlib.sha256(data).hexdigest()
    at = f"{login}@{host(cluster)}"
    for name, kind, options in (("scp", "sftp", []), ("scp-O", "scp", ["-O"])):
        there, back = tmp_path / f"{name}-there", tmp_path / f"{name}-back"
        client(alice, "scp", *options, source, f"{at}:{there}").ok()
        client(alice, "scp", *options, f"{at}:{there}", back).ok()
        assert back.read_bytes() == data
        up, down = sorted(events(cluster, kind, there, 2), key=lambda one: str(one["time"]))
        for event in (up, down):
            assert (event["sha256"], event["user"], event["login"]) == (digest, "alice", login)
            assert event["len" if kind == "scp" else "size"] == len(data)
    there = tmp_path / "sftp-there"
    client(alice, "sftp", "-b", "-", at, stdin=f"put {source} {there}\nget {there} {tmp_path}/sftp-back\n").ok()
    assert [one["sha256"] for one in events(cluster, "sftp", there, 2)] == [digest] * 2
    sid = events(cluster, "sftp", there)[0]["sid"]
    kinds = [one["event"] for one in cluster.events() if one.get("sid") == sid]
    assert {"session.start", "subsystem", "sftp", "session.end"} <= set(kinds)


def test_rsync_moves_trees(cluster: Cluster, alice: Person, login: str, tmp_path: Path) -> None:
    needs("rsync")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("c")
    rsync(alice, "-a", f"{tmp_path}/a/", f"{login}@{host(cluster)}:{tmp_path}/there/").ok()
    rsync(alice, "-a", f"{login}@{host(cluster)}:{tmp_path}/there/", f"{tmp_path}/back/").ok()
    assert (tmp_path / "back" / "b" / "c").read_text() == "c"
    event = cluster.wait_event("rsync", action="download")
    assert (event["code"], event["paths"], event["hash_reason"]) == ("T9221I", [f"{tmp_path}/there/"], "rsync")


@pytest.mark.parametrize(("name", "denied"), [("only-down", "upload"), ("only-up", "download")])
def test_a_role_for_one_way_is_the_same_to_every_client(
    cluster: Cluster, login: str, tmp_path: Path, name: str, denied: str
) -> None:
    """Done-when 2: with `exec: transfer`, for sftp, both protocols of scp, and rsync."""
    needs("rsync")
    ways = {"upload": "yes", "download": "yes", denied: "no"}
    cluster.tctl("create", "-f", "-", stdin=ROLE.format(name=name, login=login, **ways)).ok()
    person = cluster.add_person(name, roles=[name], logins=[])
    person.log_in()
    at = f"{login}@{host(cluster)}"
    here = tmp_path / "here"
    here.write_text("x")
    moves: dict[str, Callable[[Path, Path], tuple[Ran, Ran]]] = {
        "sftp": lambda up, down: (
            client(person, "sftp", "-b", "-", at, stdin=f"put {here} {up}\n"),
            client(person, "sftp", "-b", "-", at, stdin=f"get {here} {down}\n"),
        ),
        "scp": lambda up, down: (
            client(person, "scp", here, f"{at}:{up}"),
            client(person, "scp", f"{at}:{here}", down),
        ),
        "scp-O": lambda up, down: (
            client(person, "scp", "-O", here, f"{at}:{up}"),
            client(person, "scp", "-O", f"{at}:{here}", down),
        ),
        "rsync": lambda up, down: (rsync(person, here, f"{at}:{up}"), rsync(person, f"{at}:{here}", down)),
    }
    for program, move in moves.items():
        up, down = tmp_path / f"up-{program}", tmp_path / f"down-{program}"
        went_up, went_down = move(up, down)
        bad, good = (went_up, went_down) if denied == "upload" else (went_down, went_up)
        good.ok()
        assert bad.status != 0, program
        assert f"Your roles do not allow {denied} of" in bad.stderr, program
        assert (up.exists(), down.exists()) == (denied != "upload", denied != "download"), program
    assert client(person, "ssh", at, "id").status == 255


def test_an_ordinary_account_moves_files_with_its_own_rights(cluster: Cluster, unix_account: UnixAccount) -> None:
    """As that account, in its groups; under rules about paths, whose questions need the process's own /proc."""
    needs("rsync")
    limited = ROLE.format(name="home-only", login=unix_account.name, upload="yes", download="yes").replace(
        "{upload: yes", "{upload_paths: ['~/**'], download_paths: ['~/**'], upload: yes"
    )
    cluster.tctl("create", "-f", "-", stdin=limited).ok()
    at, home = f"{unix_account.name}@{host(cluster)}", unix_account.home
    for name, role in (("free-mover", "access"), ("home-mover", "home-only")):
        person = cluster.add_person(name, roles=[role], logins=[unix_account.name])
        person.log_in()
        here = person.home / "here"
        here.write_text(name)
        client(person, "sftp", "-b", "-", at, stdin=f"put {here} {name}\nget {name} {here}2\nmkdir d-{name}\n").ok()
        client(person, "scp", "-O", here, f"{at}:scp-{name}").ok()
        client(person, "scp", "-O", f"{at}:~/scp-{name}", f"{here}3").ok()
        synced = rsync(person, here, f"{at}:d-{name}/")
        if role == "access":
            synced.ok()
        else:
            assert "rsync cannot be held to the paths that your roles name" in synced.stderr
            client(person, "scp", here, f"{at}:d-{name}/here").ok()
        made = [home / name, home / f"scp-{name}", home / f"d-{name}", home / f"d-{name}/here"]
        assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(unix_account.uid, unix_account.gid)}
        assert (person.home / "here2").read_text() == name == (person.home / "here3").read_text()
        for secret in ("/etc/shadow", "/proc/1/environ", "/proc/self/mem"):
            assert client(person, "scp", "-O", f"{at}:{secret}", f"{here}4").status != 0
            assert client(person, "scp", f"{at}:{secret}", f"{here}4").status != 0
        assert client(person, "scp", here, f"{at}:/usr/local/bin/x").status != 0
        assert (client(person, "scp", f"{at}:/etc/hostname", f"{here}5").status == 0) is (role == "access")


def test_a_home_that_is_not_there_is_not_the_whole_host(cluster: Cluster, unix_account: UnixAccount) -> None:
    """A session starts in `/` then; rules about `~` still mean the home."""
    limited = ROLE.format(name="no-home", login=unix_account.name, upload="yes", download="yes").replace(
        "{upload: yes", "{upload_paths: ['~/**'], download_paths: ['~/**'], upload: yes"
    )
    cluster.tctl("create", "-f", "-", stdin=limited).ok()
    person = cluster.add_person("no-home", roles=["no-home"], logins=[])
    person.log_in()
    at, moved = f"{unix_account.name}@{host(cluster)}", unix_account.home.with_name(f"{unix_account.name}-moved")
    unix_account.home.rename(moved)
    try:
        for options in ([], ["-O"]):
            for path in ("etc/hostname", "/etc/hostname"):
                ran = client(person, "scp", *options, f"{at}:{path}", person.home / "got")
                assert ran.status != 0
                assert "Your roles do not allow" in ran.stderr
        assert not (person.home / "got").exists()
    finally:
        moved.rename(unix_account.home)


def test_a_lock_ends_a_transfer(cluster: Cluster, login: str, tmp_path: Path) -> None:
    """Within two seconds (five times that here); what had moved is on record."""
    person = cluster.add_person("locked-mover", logins=[login])
    person.log_in()
    target = tmp_path / "fifo-less"
    command = ["ssh", "-F", str(person.ssh_config), f"{login}@{host(cluster)}", f"scp -t {target}"]
    with subprocess.Popen(command, env=person.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as moving:
        assert moving.stdin is not None
        assert moving.stdout is not None
        moving.stdin.write(b"C0644 100000 x\nabc")
        moving.stdin.flush()
        assert moving.stdout.read(2) == b"\0\0"
        begun = time.monotonic()
        cluster.tctl("lock", "--user=locked-mover", "--message=stop").ok()
        assert moving.wait(timeout=10) == 255
        assert time.monotonic() - begun < 10
    (event,) = events(cluster, "scp", target)
    assert (event["len"], event["code"]) == (3, "T3005E")


def test_files_of_a_mounted_host_are_on_record(cluster: Cluster, alice: Person, login: str, tmp_path: Path) -> None:
    """sshfs, where FUSE is available."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    needs("sshfs")
    there, mount = tmp_path / "there", tmp_path / "mount"
    there.mkdir()
    mount.mkdir()
    mounted = run(
        "sshfs", "-F", alice.ssh_config, f"{login}@{host(cluster)}:{there}", mount,
        environment={**alice.environment, "PATH": os.environ["PATH"]}, seconds=60,
    )  # fmt: skip
    if mounted.status != 0:
        pytest.skip(f"sshfs cannot mount here: {mounted.stderr.strip()[-200:]}")
    try:
        (mount / "f").write_bytes(b"mounted")
        assert (mount / "f").read_bytes() == b"mounted"
        (mount / "f").rename(mount / "g")
        assert os.listdir(mount) == ["g"]
    finally:
        run("fusermount3" if shutil.which("fusermount3") else "fusermount", "-u", mount, environment=dict(os.environ))
    assert (there / "g").read_bytes() == b"mounted"
    written = events(cluster, "sftp", there / "f")
    assert hashlib.sha256(b"mounted").hexdigest() in [one["sha256"] for one in written]

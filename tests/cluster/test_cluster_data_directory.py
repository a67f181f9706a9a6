"""docs/data-directory.md knows every file that a daemon keeps: after each service's run no other exists."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from teleport.testing.cluster import NODE, Cluster, Host, Person, at, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "data-directory.md"
WORDS = {
    "HOST_UUID": r"[0-9a-f-]{36}",
    "SID": r"[0-9a-f-]{36}",
    "EPOCH": r"\d{20}",
    "DAY": r"\d{4}-\d\d-\d\d",
    "SEQ": r"\d{12}",
    "ROLE": r"(?:admin|auth|proxy|node|kube)",
    "N": r"\d+",
    "RECEIVER": r"[a-z0-9_-]+",
}


def rows() -> list[tuple[re.Pattern[str], str, set[str]]]:
    """Of the page: what a path looks like, its mode, and the services that have it."""
    found = re.findall(r"^\| `([^`]+)` \| (\d{4}|link) \| ([a-z, ]+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(found) > 40
    return [(pattern(path), mode, set(services.split(", "))) for path, mode, services in found]


def pattern(path: str) -> re.Pattern[str]:
    parts = re.split(rf"\b({'|'.join(WORDS)})\b", path)
    return re.compile("".join(WORDS.get(part) or re.escape(part) for part in parts))


def kept(folder: Path) -> dict[str, os.stat_result]:
    """Everything below, folders with a slash at the end. What goes while it is looked at is not kept, nor what is
    being written, or was when the daemon was killed (`.NAME.PID.new`, as the page says)."""
    found = {}
    for path in folder.rglob("*"):
        try:
            seen = path.lstat()
        except FileNotFoundError:
            continue
        if re.fullmatch(r"\..+\.\d+\.new", path.name):
            continue
        found[str(path.relative_to(folder)) + ("/" if stat.S_ISDIR(seen.st_mode) else "")] = seen
    return found


def strangers(folder: Path, services: set[str]) -> list[str]:
    """What is not on the page, is there for other services only, or lets others do more than the page says."""
    found = []
    for name, seen in kept(folder).items():
        matching = [(mode, on) for shape, mode, on in rows() if shape.fullmatch(name)]
        allowed = [mode for mode, on in matching if on & {"all", *services}]
        if not allowed:
            found.append(f"{name}: {'of other services' if matching else 'not on the page'}")
        elif (allowed[0] == "link") != stat.S_ISLNK(seen.st_mode):
            found.append(f"{name}: a link or not")
        elif allowed[0] != "link" and stat.S_IMODE(seen.st_mode) & ~int(allowed[0], 8):
            found.append(f"{name}: mode {stat.S_IMODE(seen.st_mode):04o}, not {allowed[0]}")
    return found


def test_what_is_not_on_the_page_is_found(tmp_path: Path) -> None:
    """So that finding nothing means something."""
    for name in ("host_uuid", "backend/sqlite.db", "other"):
        (tmp_path / name).parent.mkdir(mode=0o700, exist_ok=True)
        (tmp_path / name).touch(0o600)
    assert strangers(tmp_path, {"auth"}) == ["other: not on the page"]
    (tmp_path / "other").unlink()
    assert sorted(strangers(tmp_path, {"node"})) == [
        "backend/: of other services",
        "backend/sqlite.db: of other services",
    ]
    (tmp_path / "host_uuid").chmod(0o640)
    assert strangers(tmp_path, {"auth"}) == ["host_uuid: mode 0640, not 0600"]


@pytest.fixture(scope="module")
def dagny(cluster: Cluster, login: str) -> Person:
    person = cluster.add_person("dagny", logins=[login])
    person.log_in()
    return person


@pytest.mark.parametrize("way", ["directly", "by a tunnel"])
def test_after_the_run_of_a_node_there_is_nothing_else(
    cluster: Cluster, dagny: Person, login: str, tmp_path: Path, way: str
) -> None:
    """While it runs, after it stopped, and after it was killed with a session."""
    token, name = tmp_path / "token", "india" if way == "directly" else "juliet"
    cluster.tctl("tokens", "add", "--type=node", f"--out={token}").ok()
    config = cluster.node_config(name, auth_token=str(token), ca_pin=cluster.ca_pin())
    if way == "by a tunnel":
        config["teleport"]["auth_servers"] = [at(cluster.web_port)]
    with Host(tmp_path / name, config) as host:
        target = f"{login}@{name}.{cluster.name}"
        wait_until("a session", lambda: dagny.ssh(target, "echo here").stdout == "here\n")
        assert strangers(host.data_dir, {"node"}) == []
        host.daemon.stop()
        assert strangers(host.data_dir, {"node"}) == []
        host.daemon.start()
        host.daemon.kill()
        host.daemon.start()
        assert strangers(host.data_dir, {"node"}) == []


def test_after_the_run_of_auth_and_proxy_there_is_nothing_else(cluster: Cluster, dagny: Person, login: str) -> None:
    """With a node beside them, since a proxy alone keeps nothing of its own."""
    assert dagny.ssh(f"{login}@{NODE}.{cluster.name}", "echo here").ok().stdout == "here\n"
    cluster.tctl("audit", "verify").ok()
    assert strangers(cluster.data_dir, {"auth", "proxy", "node"}) == []


def test_auth_and_proxy_without_a_node_keep_nothing_of_one(tmp_path: Path) -> None:
    apart = Cluster(tmp_path / "apart")
    apart.config["ssh_service"] = {"enabled": False}
    apart.write()
    with apart:
        apart.add_person("erin").log_in()
        assert strangers(apart.data_dir, {"auth", "proxy"}) == []
        apart.daemon.stop()
        assert strangers(apart.data_dir, {"auth", "proxy"}) == []
        apart.daemon.start()

"""The recipes of docs/access-control.md, as they stand there, do what the page says of them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.testing.cluster import BIN, Cluster, Person, Ran, plain_environment, run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "access-control.md"
HOSTS = {
    "recipe-web": "{env: prod, tier: web}",
    "recipe-db": "{env: prod, tier: db}",
    "recipe-pci": "{pci: 'yes'}",
}
HOST = """\
kind: node
version: v2
sub_kind: openssh
metadata: {{name: {id}, labels: {labels}}}
spec: {{addr: '127.0.0.1:1', hostname: {name}}}
"""


@pytest.fixture(scope="module", autouse=True)
def recipes(cluster: Cluster) -> Iterator[None]:
    """Every role of the page, and hosts to judge, which nobody else finds in the cluster that tests share."""
    documents = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(documents) > 5
    for document in documents:
        cluster.tctl("create", "-f", "-", stdin=document).ok()
    hosts = {str(uuid.uuid4()): name for name in HOSTS}
    for host_id, hostname in hosts.items():
        host = HOST.format(id=host_id, labels=HOSTS[hostname], name=hostname)
        cluster.tctl("create", "-f", "-", stdin=host).ok()
    yield
    for host_id in hosts:
        cluster.tctl("rm", f"node/{host_id}").ok()


def name() -> str:
    return f"recipe-{uuid.uuid4().hex[:8]}"


def somebody(cluster: Cluster, *roles: str, logins: tuple[str, ...] = ()) -> Person:
    return cluster.add_person(name(), roles=list(roles), logins=list(logins))


def tctl(person: Person, *arguments: str) -> Ran:
    """As a person who is logged in, from another machine."""
    environment = {**plain_environment(person.home), "TELEPORT_CONFIG_FILE": ""}
    return run(BIN / "tctl", *arguments, environment=environment)


def explained(cluster: Cluster, person: Person, target: str) -> tuple[bool, dict[str, str]]:
    """Whether it would be allowed, and the parts of the permit."""
    done = cluster.tctl("access", "explain", person.name, target, "--format=json")
    assert done.status in (0, 5), done.stderr
    found = json.loads(done.stdout)
    assert found["allowed"] is (done.status == 0)
    return found["allowed"], {part["name"]: part["value"] for part in found.get("parts") or []}


def test_the_web_team_reaches_its_hosts_as_themselves_and_never_as_root(cluster: Cluster) -> None:
    person = somebody(cluster, "web-team", logins=("ann",))
    for target, allowed in (
        ("ann@recipe-web", True),
        ("deploy@recipe-web", True),
        ("root@recipe-web", False),
        ("ann@recipe-db", False),
    ):
        assert explained(cluster, person, target)[0] is allowed, target
    both = somebody(cluster, "web-team", "pci-root", logins=("ann",))
    assert explained(cluster, both, "root@recipe-pci")[0] is False, "what one role denies no other allows"


def test_deployers_move_files_and_have_neither_shell_nor_forwards(cluster: Cluster) -> None:
    allowed, parts = explained(cluster, somebody(cluster, "deployers"), "deploy@recipe-web")
    assert allowed
    assert parts["shell and all commands"] == "no"
    assert parts["port forwarding"] == "no"
    assert "file transfer" in parts


def test_who_is_on_call_is_bound_to_an_address_and_does_not_idle(cluster: Cluster) -> None:
    allowed, parts = explained(cluster, somebody(cluster, "on-call"), "root@recipe-web")
    assert allowed
    assert parts["bound to the address of the login"] == "yes"
    assert parts["ends with the certificate"] == "yes"
    assert parts["idle time"] == "15m"
    assert parts["connections"] == "4"


def test_nobody_is_alone_on_pci_hosts(cluster: Cluster) -> None:
    """A plain sshd is a host at which nobody can join, so nobody gets in; on nodes it is tried elsewhere."""
    done = cluster.tctl("access", "explain", somebody(cluster, "pci-root").name, "root@recipe-pci")
    assert done.status == 5
    assert "requires somebody as moderator or observer (somebody watches)" in done.stdout


def test_who_is_on_duty_stops_somebody_and_changes_nothing_else(cluster: Cluster, login: str) -> None:
    person = somebody(cluster, "duty", logins=())
    person.log_in()
    stopped = somebody(cluster, "access", logins=(login,))
    stopped.log_in()
    tctl(person, "users", "ls").ok()
    tctl(person, "lock", f"--user={stopped.name}", "--ttl=1h").ok()
    assert stopped.tsh("ls").status == 5
    for refused in (("users", "add", name(), "--roles=editor"), ("get", "roles"), ("tokens", "ls")):
        assert tctl(person, *refused).status == 5, refused

"""A trust between two clusters over time: rotated at both ends while people work, switched off, away, and removed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_rotation import Work, follows, working
from tests.cluster.cluster_shells import open_shell
from tests.cluster.cluster_trust import LEAF, ROOT, Trusting, trusting

from teleport.testing.cluster import NODE, Cluster, Person, wait_until

pytestmark = pytest.mark.long


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Trusting]:
    with trusting(tmp_path) as found:
        found.trust({"access": ["access"]})
        yield found


@pytest.fixture
def ann(both: Trusting, login: str) -> Person:
    person = both.root.add_person("ann", logins=[login])
    person.log_in()
    both.wait_online(person)
    return person


def phase(cluster: Cluster, work: Work, name: str, kind: str) -> None:
    """Goes into a phase, as soon as everybody has followed into the one before, and waits for the login."""

    def went() -> bool:
        done = cluster.tctl("auth", "rotate", f"--type={kind}", "--manual", f"--phase={name}", seconds=90)
        if done.status:
            print(f"{cluster.name} {kind} {name}: {done.stderr}")
        return done.status == 0

    wait_until(f"{cluster.name} goes into {name}", went, 90)
    wait_until(f"the login follows into {name}", lambda: follows(work.person), 60)
    work.wait_more()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["user", "host"])
def test_both_authorities_of_both_clusters_are_rotated_in_turn_while_people_work(
    both: Trusting, ann: Person, login: str, kind: str
) -> None:
    ann.tsh("login", LEAF).ok()
    there = copy.copy(ann)
    there.cluster = both.leaf
    with working(there, login, NODE) as (work, session):
        for cluster in (both.leaf, both.root):
            for name in ("init", "update_clients", "update_servers", "standby"):
                phase(cluster, work, name, kind)
                assert session.answers(name)


def enable(cluster: Cluster, enabled: bool) -> None:
    (found,) = cluster.tctl("get", f"tc/{ROOT}", "--format=json").json()
    found["spec"]["enabled"] = enabled
    found.pop("status", None)
    cluster.tctl("create", "-f", "-", stdin=json.dumps(found)).ok()


def says(person: Person, login: str) -> str:
    """What `tsh ssh` to the leaf says on stderr; empty when it worked."""
    done = person.tsh("ssh", f"--cluster={LEAF}", f"{login}@{NODE}", "true")
    return done.stderr if done.status else ""


OFFLINE = f"The cluster {LEAF} is not connected to this proxy now"


def test_a_trust_that_is_switched_off_ends_what_runs_and_comes_back_when_it_is_switched_on(
    both: Trusting, ann: Person, login: str
) -> None:
    with open_shell(ann, login, cluster=LEAF) as shell:
        enable(both.leaf, False)
        shell.ends()
    wait_until("the tunnel is gone", lambda: both.listed(ann) == {ROOT: "online", LEAF: "offline"})
    assert OFFLINE in says(ann, login)
    enable(both.leaf, True)
    wait_until("it works again", lambda: says(ann, login) == "")

    both.leaf.daemon.stop()
    wait_until("the leaf is away", lambda: both.listed(ann) == {ROOT: "online", LEAF: "offline"})
    assert OFFLINE in says(ann, login)
    both.leaf.daemon.start()
    wait_until("the leaf is back", lambda: says(ann, login) == "")


def test_a_leaf_is_removed_cleanly_at_either_end(both: Trusting, ann: Person, login: str) -> None:
    with open_shell(ann, login, cluster=LEAF) as shell:
        both.root.tctl("rm", f"rc/{LEAF}").ok()
        shell.ends()
    assert both.listed(ann) == {ROOT: "online"}
    assert f"The cluster {LEAF} is not known here" in says(ann, login)
    assert both.root.tctl("get", "cas", "--format=json").ok().stdout.count(LEAF) == 0

    both.leaf.tctl("rm", f"tc/{ROOT}").ok()
    both.trust({"access": ["access"]})
    both.wait_online(ann)
    assert says(ann, login) == ""
    with open_shell(ann, login, cluster=LEAF) as shell:
        both.leaf.tctl("rm", f"tc/{ROOT}").ok()
        shell.ends()
    wait_until("the root knows", lambda: both.listed(ann).get(LEAF) in (None, "offline"))
    assert says(ann, login) != ""
    assert both.leaf.tctl("get", "cas", "--format=json").ok().stdout.count(ROOT) == 0

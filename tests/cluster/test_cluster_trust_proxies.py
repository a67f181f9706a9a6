"""A root with several proxies behind a balancer and a leaf with several: whichever is met, and whichever is killed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.cluster.cluster_proxies import Farm, ProxyHost
from tests.cluster.cluster_trust import LEAF, ROOT, Trusting

from teleport.testing.cluster import NODE, Person, wait_until

LONG = bool(os.environ.get("TELEPORT_LONG"))
TURNS = 4 if LONG else 2  # the balancer takes the proxies in turn: each is met
ONE = {"type": "proxy_peering", "agent_connection_count": 1}


class LeafFarm(Farm):
    """Whose auth daemon has a node, which the leaf's proxies dial."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        super().__init__(folder, names, name=LEAF)
        self.config["ssh_service"] = self.node_config(NODE)["ssh_service"]
        self.write()


@contextmanager
def several(folder: Path) -> Iterator[tuple[Farm, LeafFarm, Trusting]]:
    """Two proxies on each side; a root whose hosts keep one tunnel, so that its proxies ask each other."""
    root = Farm(folder / "root", ["one", "two"], name=ROOT, tunnel_strategy=ONE)
    leaf = LeafFarm(folder / "leaf", ["three", "four"])
    with root.served(["one", "two"], []), leaf.served(["three", "four"], []):
        yield root, leaf, Trusting(root, leaf)


def reaches(person: Person, login: str) -> None:
    """By tsh and by plain ssh, as often as the balancer needs to lead to each proxy."""
    for number in range(TURNS):
        ran = person.tsh("ssh", "--cluster", LEAF, f"{login}@{NODE}", "echo $SSH_TELEPORT_CLUSTER_NAME", seconds=60)
        assert ran.ok().stdout.strip() == LEAF, number
        ran = person.ssh(f"{login}@{NODE}.{LEAF}", "echo $SSH_TELEPORT_CLUSTER_NAME", seconds=60)
        assert ran.ok().stdout.strip() == LEAF, number


def connected(proxy: ProxyHost, since: int) -> bool:
    """Whether a proxy of the leaf, as its log says after so many characters, keeps a tunnel to both of the root."""
    said = re.findall(r"tunnels to (\d+) proxies", proxy.daemon.log()[since:])
    return bool(said) and said[-1] == "2"


@pytest.mark.timeout(900)
def test_a_leaf_is_reached_whichever_proxies_are_met_while_one_of_each_side_is_killed(
    tmp_path: Path, login: str
) -> None:
    with several(tmp_path) as (root, leaf, both):
        both.trust({"access": ["access"]})
        ann = root.add_person("ann", logins=[login])
        ann.log_in()
        wait_until("the leaf is connected", lambda: both.listed(ann).get(LEAF) == "online", 60)
        leaf.proxies["three"].daemon.kill()
        reaches(ann, login)
        root.proxies["one"].daemon.kill()
        reaches(ann, login)
        # a proxy of the root that has just started has no tunnel yet: the other one leads there
        root.proxies["one"].begin()
        leaf.proxies["three"].begin()
        wait_until("it serves again", root.proxies["one"].daemon.ready, 60)
        reaches(ann, login)
        wait_until("it serves again", leaf.proxies["three"].daemon.ready, 60)
        if not LONG:
            return
        for farm, name in ((leaf, "four"), (root, "two"), (leaf, "three"), (root, "one")) * 3:
            marks = {one.name: len(one.daemon.log()) for one in leaf.proxies.values()}
            victim = farm.proxies[name]
            victim.daemon.kill()
            reaches(ann, login)
            victim.begin()
            reaches(ann, login)
            for one in [victim] if farm is leaf else leaf.running:
                wait_until("its tunnels stand again", partial(connected, one, marks[one.name]), 60)

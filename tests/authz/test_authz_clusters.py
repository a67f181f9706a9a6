"""Whether somebody may go to another cluster, as a table."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from teleport.authz.clusters import why_no_cluster
from teleport.authz.decision import Policy
from teleport.identity import UserIdentity
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, LabelSelector, Role, RoleSpec

PROD = {"env": "prod"}


def role(name: str, allow: LabelSelector | None = None, deny: LabelSelector | None = None) -> Role:
    spec = RoleSpec(allow=Conditions(cluster_labels=allow), deny=Conditions(cluster_labels=deny))
    return Role(metadata=Metadata(name=name), spec=spec)


@pytest.mark.parametrize(
    ("roles", "labels", "allowed"),
    [
        pytest.param([role("a")], {}, True, id="nobody says anything"),
        pytest.param([role("a")], PROD, False, id="the cluster has labels, no role selects any"),
        pytest.param([role("a", {"env": ("prod",)})], PROD, True, id="selected"),
        pytest.param([role("a", {"env": ("test",)})], PROD, False, id="another one is selected"),
        pytest.param([role("a", {"env": ("prod",)})], {}, False, id="a role selects, and the cluster has none"),
        pytest.param([role("a", {"*": ("*",)})], {}, True, id="everything"),
        pytest.param([role("a", {})], {}, False, id="an empty selector selects nothing"),
        pytest.param([role("a"), role("b", {"env": ("prod",)})], PROD, True, id="one of several"),
        pytest.param([role("a", {"*": ("*",)}, {"env": ("prod",)})], PROD, False, id="deny beats allow"),
        pytest.param([role("a", {"*": ("*",)}), role("b", None, {"*": ("*",)})], {}, False, id="deny of another role"),
        pytest.param([role("a", {"env": ("^($",)})], PROD, False, id="what cannot be read grants nothing"),
        pytest.param([role("a", {"*": ("*",)}, {"env": ("^($",)})], PROD, False, id="and denies everything"),
        pytest.param([], {}, False, id="without roles nothing is granted"),
    ],
)
def test_who_may_go_to_a_cluster(roles: list[Role], labels: dict[str, str], allowed: bool) -> None:
    names = tuple(one.name for one in roles)
    identity = UserIdentity("alice", "root", names, ("root",), datetime(2030, 1, 1, tzinfo=UTC))
    policy = Policy({one.name: one for one in roles})
    refused = why_no_cluster(identity, policy, remote="leaf", labels=labels)
    assert (refused is None) == allowed
    if refused is not None:
        assert refused.reasons


def test_roles_that_somebody_was_given_since_deny_and_do_not_allow() -> None:
    denying = role("since", {"*": ("*",)}, {"env": ("prod",)})
    allowing = role("a", {"env": ("prod",)})
    policy = Policy({"since": denying, "a": allowing})
    identity = UserIdentity("alice", "root", ("a",), ("root",), datetime(2030, 1, 1, tzinfo=UTC), denying=("since",))
    assert why_no_cluster(identity, policy, remote="leaf", labels=PROD) is not None

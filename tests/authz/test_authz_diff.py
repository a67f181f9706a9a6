"""What a change of roles does to access is what the decision says before and after it, for everybody and everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.authz.decision import Policy
from teleport.authz.diff import Host, Somebody, changed_access, login_identity, why_session_ends
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access
from teleport.identity import UserIdentity
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER = "example.com"
TTL = timedelta(hours=12)


def role(name: str, logins: tuple[str, ...], labels: Mapping[str, tuple[str, ...]], **more: object) -> Role:
    allow = Conditions(logins=logins, node_labels=labels)
    return Role(metadata=Metadata(name=name), spec=RoleSpec(allow=allow, **more))  # type: ignore[arg-type]


ANY = {"*": ("*",)}
HOSTS = [
    Host("1", "web1", {"env": "prod"}, "default"),
    Host("2", "web2", {"env": "prod"}, "default"),
    Host("3", "dev1", {"env": "dev"}, "default"),
]
ANN = Somebody("ann", ("dev",), {})
BEN = Somebody("ben", ("dev", "ops"), {})


def diff(before: Policy, after: Policy, *users: Somebody) -> list[tuple[str, str, str, bool]]:
    found = changed_access(users, HOSTS, before, after, cluster=CLUSTER, now=NOW, ttl=TTL)
    return [(one.user, one.login, one.host.hostname, one.gained) for one in found]


def test_a_login_that_is_taken_is_lost_only_where_no_other_role_gives_it() -> None:
    ops = role("ops", ("root",), {"env": ("prod",)})
    before = Policy({"dev": role("dev", ("root",), ANY), "ops": ops})
    after = Policy({"dev": role("dev", ("deploy",), {"env": ("dev",)}), "ops": ops})
    assert diff(before, after, ANN, BEN) == [
        ("ann", "root", "web1", False),
        ("ann", "root", "web2", False),
        ("ann", "deploy", "dev1", True),
        ("ann", "root", "dev1", False),
        ("ben", "deploy", "dev1", True),
        ("ben", "root", "dev1", False),
    ]


def test_a_denial_is_a_loss_with_its_reason() -> None:
    before = Policy({"dev": role("dev", ("root",), ANY)})
    after = Policy({"dev": role("dev", ("root",), ANY, deny=Conditions(node_labels={"env": ("prod",)}))})
    found = list(changed_access([ANN], HOSTS, before, after, cluster=CLUSTER, now=NOW, ttl=TTL))
    assert [(one.host.hostname, one.gained) for one in found] == [("web1", False), ("web2", False)]
    assert found[0].reasons == ("role 'dev' denies the labels of this host",)


def test_a_role_that_cannot_last_gives_nothing_and_a_second_factor_takes_nothing_away() -> None:
    base = Policy({"dev": role("dev", ("root",), ANY)})
    asks = Policy({"dev": role("dev", ("root",), ANY, options=Options(require_session_mfa=True))})
    assert diff(base, asks, ANN) == []
    pins = Policy({"dev": role("dev", ("root",), ANY, options=Options(pin_source_ip=True))})
    assert diff(base, pins, ANN) == [], "a login gives a certificate that is bound"
    assert diff(base, Policy({}), ANN) == [("ann", "root", name, False) for name in ("web1", "web2", "dev1")]
    assert diff(base, base, ANN, BEN) == []


LOGINS = ("root", "deploy")
ENVS = ("prod", "dev", "*")
conditions = st.builds(
    lambda logins, env: Conditions(logins=tuple(logins), node_labels=ANY if env == "*" else {"env": (env,)}),
    st.sets(st.sampled_from(LOGINS)),
    st.sampled_from(ENVS),
)
denials = st.builds(
    lambda logins, env: Conditions(logins=tuple(logins), node_labels={"env": (env,)} if env else None),
    st.sets(st.sampled_from(LOGINS)),
    st.sampled_from(("", "prod")),
)


def policies() -> st.SearchStrategy[Policy]:
    def build(parts: list[tuple[Conditions, Conditions]]) -> Policy:
        return Policy(
            {
                name: Role(metadata=Metadata(name=name), spec=RoleSpec(allow=allow, deny=deny))
                for name, (allow, deny) in zip(("dev", "ops"), parts, strict=True)
            }
        )

    return st.lists(st.tuples(conditions, denials), min_size=2, max_size=2).map(build)


@settings(max_examples=60, deadline=None)
@given(before=policies(), after=policies())
def test_the_diff_is_the_difference_of_all_decisions(before: Policy, after: Policy) -> None:
    """Against asking about every user, login and host one by one."""

    def may(policy: Policy, user: Somebody, login: str, host: Host) -> bool:
        identity = login_identity(user, policy, cluster=CLUSTER, now=NOW, ttl=TTL)
        request = SSHAccessRequest(
            identity=identity, login=login, cluster=CLUSTER, now=NOW, node_id=host.node_id, node_labels=host.labels
        )
        return isinstance(evaluate_ssh_access(request, policy), SSHAccessPermit)

    expected = {
        (user.name, login, host.hostname, may(after, user, login, host))
        for user, login, host in itertools.product((ANN, BEN), LOGINS, HOSTS)
        if may(before, user, login, host) != may(after, user, login, host)
    }
    assert set(diff(before, after, ANN, BEN)) == expected


def test_a_session_ends_only_by_the_change() -> None:
    before = Policy({"dev": role("dev", ("root",), ANY)})
    after = Policy({"dev": role("dev", ("deploy",), ANY)})
    identity = UserIdentity("ann", CLUSTER, ("dev",), ("root",), NOW - timedelta(hours=1))  # over, the session goes on
    request = SSHAccessRequest(
        identity=identity, login="root", cluster=CLUSTER, now=NOW, node_id="1", node_labels={"env": "prod"}
    )
    assert why_session_ends(request, before, after) == ("role 'dev' does not give the login 'root'",)
    assert why_session_ends(request, before, before) == ()
    assert why_session_ends(request, after, Policy({})) == (), "it is refused already"
    asks = Policy({"dev": role("dev", ("root",), ANY, options=Options(require_session_mfa=True))})
    assert why_session_ends(request, before, asks) != ()
    marked = replace(identity, mfa_device="d", mfa_target="1")
    assert why_session_ends(replace(request, identity=marked), before, asks) == ()
    assert why_session_ends(request, asks, asks) == (), "a lease let it in that has lapsed"
    assert why_session_ends(request, asks, Policy({})) != ()

"""When a second factor for one session counts as given: by a mark for its target, by a lease for what it covers."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from teleport.authz.decision import AccessDenial, ClusterDefaults, DenialCode, Policy
from teleport.authz.ssh import (
    SSHAccessPermit,
    SSHAccessRequest,
    evaluate_ssh_access,
    lease_lifetime,
    why_out_of_reach,
    why_second_factor_due,
)
from teleport.identity import UserIdentity
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease, MfaLeaseSpec, lease_name
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
NODE = "11111111-2222-3333-4444-555555555555"
KEY, ADDRESS = "SHA256:key", "192.0.2.7"
ROLES_TEXT = """
kind: role
version: v4
metadata: {name: asks}
spec: {options: {require_session_mfa: yes}, allow: {logins: [root], node_labels: {env: prod}}}
---
kind: role
version: v4
metadata: {name: leases}
spec: {options: {require_session_mfa: yes, mfa_lease_ttl: 20m}, allow: {logins: [root], node_labels: {env: prod}}}
---
kind: role
version: v4
metadata: {name: leases-short}
spec: {options: {mfa_lease_ttl: 5m}, allow: {logins: [root], node_labels: {env: prod}}}
---
kind: role
version: v4
metadata: {name: leases-dev}
spec: {options: {mfa_lease_ttl: 20m}, allow: {logins: [root, web], node_labels: {env: dev}}}
---
kind: role
version: v4
metadata: {name: free}
spec: {allow: {logins: [root], node_labels: {env: [prod, dev]}}}
---
kind: role
version: v4
metadata: {name: careful-end}
spec: {options: {disconnect_expired_cert: yes}}
"""
ROLES = {role.name: role for role in parse_resources(ROLES_TEXT, "roles") if isinstance(role, Role)}
ALICE = UserIdentity("alice", "c", ("leases",), ("root", "web"), NOW + timedelta(hours=10))


def lease(**changes: Any) -> MfaLease:
    fields: dict[str, Any] = {
        "user": "alice", "key": KEY, "client_address": ADDRESS, "device": "device-1",
        "granted": NOW - timedelta(minutes=1), "expires": NOW + timedelta(minutes=19), **changes,
    }  # fmt: skip
    name = lease_name(fields["user"], fields["key"], fields["client_address"])
    return MfaLease(metadata=Metadata(name=name, expires=fields["expires"]), spec=MfaLeaseSpec(**fields))


def request(*roles: str, identity: dict[str, Any] | None = None, **changes: Any) -> SSHAccessRequest:
    who = dataclasses.replace(ALICE, **{"roles": roles or ALICE.roles, **(identity or {})})
    fields: dict[str, Any] = {
        "login": "root", "cluster": "c", "now": NOW, "node_id": NODE, "node_labels": {"env": "prod"},
        "client_address": ADDRESS, "key": KEY, "vouched": True, **changes,
    }  # fmt: skip
    return SSHAccessRequest(identity=who, **fields)


def ask(asked: SSHAccessRequest, cluster: ClusterDefaults | None = None) -> SSHAccessPermit | AccessDenial:
    return evaluate_ssh_access(asked, Policy(roles=ROLES, cluster=cluster or ClusterDefaults()))


GIVEN: dict[str, SSHAccessRequest] = {
    "marked for this node": request(identity={"mfa_device": "d", "mfa_target": NODE}),
    "leased": request(leases=[lease()]),
    "leased, other spelling of the address": request(client_address="::ffff:192.0.2.7", leases=[lease()]),
    "leased, one of several": request(leases=[lease(user="bob"), lease(key="SHA256:other"), lease()]),
    "leased where another role asks": request("asks", "leases-short", leases=[lease()]),
}
DUE: dict[str, SSHAccessRequest] = {
    "nothing given": request(),
    "marked for another node": request(identity={"mfa_device": "d", "mfa_target": "another"}),
    "marked for calls to the API": request(identity={"mfa_device": "d", "mfa_target": "api"}),
    "marked for nothing": request(identity={"mfa_device": "d"}),
    "target without a device": request(identity={"mfa_target": NODE}),
    "no lease in view": request(leases=[]),
    "lease of another user": request(leases=[lease(user="bob")]),
    "lease of another key": request(leases=[lease(key="SHA256:other")]),
    "lease from another address": request(leases=[lease(client_address="192.0.2.8")]),
    "lease, but no proxy vouched": request(vouched=False, leases=[lease()]),
    "lease, address unknown": request(client_address="", leases=[lease()]),
    "lease, key unknown": request(key="", leases=[lease()]),
    "lease that is over": request(leases=[lease(expires=NOW)]),
    "lease longer than the role gives now": request(leases=[lease(granted=NOW - timedelta(minutes=20))]),
    "lease longer than the shortest of two": request(
        "leases", "leases-short", leases=[lease(granted=NOW - timedelta(minutes=6))]
    ),
    "lease by a role that does not reach this host": request("asks", "leases-dev", leases=[lease()]),
    "lease where no role gives any": request("asks", leases=[lease()]),
}


@pytest.mark.parametrize("asked", GIVEN.values(), ids=GIVEN)
def test_a_second_factor_that_was_given_lets_in(asked: SSHAccessRequest) -> None:
    outcome = ask(asked)
    assert isinstance(outcome, SSHAccessPermit)
    assert outcome.mfa_verified
    assert (outcome.lease is not None) == bool(asked.leases)


@pytest.mark.parametrize("asked", DUE.values(), ids=DUE)
def test_everything_else_is_refused_for_that_reason_alone(asked: SSHAccessRequest) -> None:
    """And so where the cluster asks, whatever the roles say."""
    for cluster in (ClusterDefaults(), ClusterDefaults(require_session_mfa=True)):
        outcome = ask(asked, cluster)
        assert isinstance(outcome, AccessDenial)
        assert outcome.code is DenialCode.MFA_REQUIRED
        assert outcome.public == "This session needs a second factor."
        assert not why_out_of_reach(
            asked.identity, Policy(roles=ROLES, cluster=cluster), cluster="c", now=NOW, node_id=NODE,
            node_labels=asked.node_labels,
        )  # fmt: skip


def test_a_lock_on_the_device_stops_what_its_lease_gave() -> None:
    lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(mfa_device="device-1")))
    outcome = ask(request(leases=[lease()], locks=[lock]))
    assert isinstance(outcome, AccessDenial)
    assert outcome.code is DenialCode.LOCKED


def test_where_nothing_is_due_no_lease_is_used() -> None:
    outcome = ask(request("free", leases=[lease()]))
    assert isinstance(outcome, SSHAccessPermit)
    assert (outcome.lease, outcome.mfa_verified) == (None, False)


def test_who_leads_asks_for_what_every_login_needs() -> None:
    """The proxy does not learn the login: it refuses where each one that lets in is due."""
    policy = Policy(roles=ROLES)
    due = why_second_factor_due(request(login=""), policy)
    assert due is not None
    assert due.code is DenialCode.MFA_REQUIRED
    assert why_second_factor_due(request(login="", leases=[lease()]), policy) is None
    assert why_second_factor_due(request("free", login=""), policy) is None
    assert why_second_factor_due(request("asks", "leases-dev", login="", node_labels={"env": "dev"}), policy) is None
    nowhere = request(login="", node_labels={"env": "test"})
    assert why_second_factor_due(nowhere, policy) is None  # the node says why


@pytest.mark.parametrize(
    ("asked", "end"),
    [
        (request("leases", "careful-end", leases=[lease()]), lease().spec.expires),
        (
            request("leases", "careful-end", identity={
                "mfa_device": "d", "mfa_target": NODE, "expires": NOW + timedelta(seconds=40),
                "login_expires": NOW + timedelta(hours=3),
            }),
            NOW + timedelta(hours=3),
        ),
        (request("leases", leases=[lease()]), None),
        (request("free", "careful-end", leases=[lease()]), ALICE.expires),
    ],
    ids=["lease", "marked: the login's end", "not asked for", "nothing due"],
)  # fmt: skip
def test_an_end_that_counts_is_that_of_the_lease_or_of_the_login(asked: SSHAccessRequest, end: datetime | None) -> None:
    """A session outlives the minute of its certificate; where the options say so it ends with what let it in."""
    outcome = ask(asked)
    assert isinstance(outcome, SSHAccessPermit)
    assert outcome.disconnect_expired_cert == end


def _lifetime(*roles: str, cluster: ClusterDefaults | None = None, **changes: Any) -> timedelta | None:
    identity = dataclasses.replace(ALICE, roles=roles, **changes.pop("identity", {}))
    policy = Policy(roles=ROLES, cluster=cluster or ClusterDefaults())
    given: dict[str, Any] = {"key": KEY, "client_address": ADDRESS, "leases": (), "now": NOW, **changes}
    return lease_lifetime(identity, policy, **given)


def test_a_lease_is_asked_for_only_where_one_is_of_use() -> None:
    assert _lifetime("leases") == timedelta(minutes=20)
    assert _lifetime("leases", "leases-short") == timedelta(minutes=5)
    assert _lifetime("asks", "leases-dev") == timedelta(minutes=20)
    assert _lifetime("leases-short", cluster=ClusterDefaults(require_session_mfa=True)) == timedelta(minutes=5)
    assert _lifetime("leases-short") is None  # nobody asks for a second factor
    assert _lifetime("asks") is None  # nobody gives leases
    assert _lifetime("leases", leases=[lease()]) is None
    assert _lifetime("leases", leases=[lease(client_address="192.0.2.8")]) == timedelta(minutes=20)
    assert _lifetime("leases", identity={"mfa_device": "d", "mfa_target": NODE}) is None

"""Which roles users of other clusters get, and that nothing else of their certificates counts here."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from teleport.authz.decision import AccessDenial, ClusterDefaults, DenialCode, Policy
from teleport.authz.role_map import map_user, mapped_roles, still_mapped
from teleport.authz.session_mfa import call_denial
from teleport.authz.ssh import (
    SSHAccessPermit,
    SSHAccessRequest,
    evaluate_ssh_access,
    why_out_of_reach,
    why_second_factor_due,
)
from teleport.errors import AccessDenied
from teleport.identity import RemoteOrigin, UserIdentity
from teleport.resources.authority import RoleMapping
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def one(remote: str, *local: str) -> RoleMapping:
    return RoleMapping(remote=remote, local=local)


@pytest.mark.parametrize(
    ("role_map", "roles", "expected"),
    [
        ([one("admin", "access")], ["admin"], ("access",)),
        ([one("admin", "access")], ["Admin"], ()),
        ([one("admin", "access")], ["admin2", "xadmin"], ()),
        ([one("admin", "access", "dev"), one("admin", "dev", "ops")], ["admin"], ("access", "dev", "ops")),
        ([one("*", "guest")], ["anything", "else"], ("guest",)),
        ([one("dev-*", "dev")], ["dev-a", "xdev-a", "dev"], ("dev",)),
        ([one("dev-*", "dev-$1")], ["dev-a", "dev-b"], ("dev-a", "dev-b")),
        ([one("*-*", "$2-$1")], ["a-b"], ("b-a",)),
        ([one("a.b", "x")], ["aXb"], ()),
        ([one("a.b*", "x")], ["aXbc"], ()),
        ([one("^ad(min)?$", "x")], ["ad", "admin", "admins"], ("x",)),
        ([one("^team-([a-z]+)$", "team-${1}")], ["team-blue", "team-7"], ("team-blue",)),
        ([one("^(.*)$", "$1")], ["../up", "a b", "*", "ok"], ("ok",)),
        ([one("^(x)?y$", "$1")], ["y"], ()),
        ([one("^(broken$", "x"), one("b", "y")], ["(broken", "b"], ("y",)),
        ([one("", "x")], [""], ()),
        ([], ["admin"], ()),
        ([one("admin", "access")], [], ()),
    ],
)
def test_the_role_map(role_map: list[RoleMapping], roles: list[str], expected: tuple[str, ...]) -> None:
    if expected or roles != [""]:
        assert mapped_roles(role_map, roles) == expected


def of_root(**changes: object) -> UserIdentity:
    identity = UserIdentity(
        name="alice",
        cluster="root",
        roles=("admin",),
        logins=("ubuntu", "no such login"),
        expires=NOW + timedelta(hours=1),
        traits={"logins": ("root",), "team": ("blue",), "kubernetes_groups": ("system:masters",)},
        mfa_device="device",
        denying=("other",),
        serial="7",
        source_ip="192.0.2.1",
        force_command="true",
    )
    return replace(identity, **changes)  # type: ignore[arg-type]


def test_what_comes_out_is_an_identity_of_this_cluster() -> None:
    found = map_user(of_root(), [one("admin", "access")], "leaf")
    assert (found.name, found.cluster, found.roles) == ("remote-alice-root", "leaf", ("access",))
    assert found.origin == RemoteOrigin("root", "alice", ("admin",))
    assert dict(found.traits) == {"logins": ("ubuntu",), "team": ("blue",)}, "what one may be comes from the fields"
    assert (found.mfa_device, found.mfa_target, found.denying) == ("", "", ())
    assert (found.serial, found.source_ip, found.force_command) == ("7", "192.0.2.1", "true"), "restrictions stay"


def test_who_is_not_mapped_is_refused_in_words() -> None:
    with pytest.raises(AccessDenied, match=r"None of your roles in the cluster root \(admin\)") as refused:
        map_user(of_root(), [one("dev", "access")], "leaf")
    assert "tctl get tc/root" in refused.value.hint


def test_a_certificate_that_a_proxy_of_the_root_records_with_is_no_good() -> None:
    """A node would keep no recording of what is begun with it."""
    with pytest.raises(AccessDenied, match="made for a proxy of the cluster root"):
        map_user(of_root(recorded_by="p"), [one("admin", "access")], "leaf")


@pytest.mark.parametrize("target", ["node-1", "kube:one", "api"])
def test_a_certificate_for_one_session_over_there_is_no_good(target: str) -> None:
    """It is good for that session alone, and a mapped one would be for all of them."""
    with pytest.raises(AccessDenied, match="for one session in the cluster root"):
        map_user(of_root(mfa_target=target), [one("admin", "access")], "leaf")


def test_only_users_of_other_clusters_are_mapped() -> None:
    mapped = map_user(of_root(), [one("admin", "access")], "leaf")
    with pytest.raises(AccessDenied, match="does not say who somebody of another cluster is here"):
        map_user(mapped, [one("access", "editor")], "other")
    with pytest.raises(ValueError, match="other clusters"):
        map_user(of_root(cluster="leaf"), [one("admin", "access")], "leaf")


def test_a_changed_map_is_asked_anew_about_the_roles_of_the_origin() -> None:
    """What is left never rests on what was mapped before."""
    mapped = map_user(of_root(), [one("admin", "access")], "leaf")
    fewer = still_mapped(mapped, [one("admin", "guest"), one("access", "editor")], "leaf")
    assert fewer is not None
    assert fewer.roles == ("guest",)
    assert still_mapped(mapped, [], "leaf") is None


@pytest.mark.parametrize("of_cluster", [True, False])
def test_a_second_factor_that_is_asked_for_here_refuses_with_words(*, of_cluster: bool) -> None:
    """The mark of the root's certificate is about the root's devices and hosts; nothing here can ask for another."""
    role = Role(
        metadata=Metadata(name="access"),
        spec=RoleSpec(
            options=Options(require_session_mfa=not of_cluster),
            allow=Conditions(logins=("ubuntu",), node_labels={"*": ("*",)}),
        ),
    )
    defaults = ClusterDefaults(require_session_mfa=of_cluster)
    policy = Policy(roles={"access": role}, cluster=defaults)
    identity = map_user(of_root(source_ip=""), [one("admin", "access")], "leaf")
    request = SSHAccessRequest(identity, "ubuntu", "leaf", NOW, "node-1")
    denial = evaluate_ssh_access(request, policy)
    assert isinstance(denial, AccessDenial)
    assert denial.code is DenialCode.MFA_REQUIRED
    assert "users of the cluster root cannot give one here" in denial.public
    assert not why_out_of_reach(identity, policy, cluster="leaf", now=NOW, node_id="node-1", node_labels={}), (
        "the host is there for them: else they would hear that it is not, and never why"
    )
    assert why_second_factor_due(request, policy) == denial, "the proxy says the same"
    call = call_denial(identity, [role], defaults)
    assert call is not None
    assert "users of the cluster root" in call.public
    free = Policy(
        roles={"access": Role(metadata=role.metadata, spec=RoleSpec(allow=role.allow))}, cluster=ClusterDefaults()
    )
    assert isinstance(evaluate_ssh_access(request, free), SSHAccessPermit)

"""The plan of `tctl apply`, worked out without a cluster."""

from __future__ import annotations

import msgspec
import pytest

from teleport.resources.applying import NOT_APPLIED, ORDER, SET_LABEL, Change, Step, pruned, step_for, still_held
from teleport.resources.authority import RoleMapping
from teleport.resources.cluster import NetworkingConfig, Origin, with_origin
from teleport.resources.codec import TYPES, Resource
from teleport.resources.kinds import Kind
from teleport.resources.metadata import Metadata
from teleport.resources.role import Role
from teleport.resources.secret import SecretText
from teleport.resources.trusted_cluster import TrustedCluster, TrustedClusterSpec
from teleport.resources.user import CreatedBy, Creator, User, UserSpec, UserStatus


def role(name: str, **labels: str) -> Role:
    return Role(metadata=Metadata(name=name, labels={key.replace("_", "-"): text for key, text in labels.items()}))


def user(name: str, *roles: str) -> User:
    return User(metadata=Metadata(name=name), spec=UserSpec(roles=roles))


def mine(name: str) -> Role:
    return Role(metadata=Metadata(name=name, labels={SET_LABEL: "mine"}))


def test_every_kind_is_applied_or_refused_with_a_reason() -> None:
    services = {Kind.PROXY, Kind.AUTH_SERVER, Kind.KUBE_SERVICE, Kind.MFA_LEASE, Kind.CLUSTER_NAME}
    assert set(ORDER) | set(NOT_APPLIED) | services == set(TYPES)


def test_only_what_is_created_belongs_to_the_set() -> None:
    """A resource of a person's stays one; a label in a document decides nothing; presets and settings are nobody's."""
    made = step_for(mine("a"), None, 0, "other")
    assert (made.change, made.resource.metadata.labels) == (Change.CREATE, {SET_LABEL: "other"})
    changed = step_for(mine("a"), role("a", env="x"), 3, "mine")
    assert (changed.change, changed.revision, dict(changed.resource.metadata.labels)) == (Change.UPDATE, 3, {})
    assert step_for(role("access"), None, 0, "mine").resource.metadata.labels == {}
    setting = NetworkingConfig()
    assert step_for(setting, with_origin(setting, Origin.DEFAULTS), 0, "mine").change is Change.NONE


def test_what_documents_do_not_decide_is_no_difference() -> None:
    """Who made a user, the lock after failed logins, revisions, and what is known of another cluster."""
    stored = msgspec.structs.replace(
        user("a", "x"),
        metadata=Metadata(name="a", id=7),
        spec=UserSpec(roles=("x",), created_by=CreatedBy(user=Creator(name="b")), status=UserStatus(is_locked=True)),
    )
    assert step_for(user("a", "x"), stored, 1, "mine").change is Change.NONE
    spec = TrustedClusterSpec(web_proxy_addr="r:443", role_map=(RoleMapping(remote="*", local=("x",)),))
    known = TrustedCluster(metadata=Metadata(name="r", labels={SET_LABEL: "mine"}), spec=spec)
    again = TrustedCluster(
        metadata=Metadata(name="r"), spec=msgspec.structs.replace(spec, token=SecretText("s" * 32), enabled=True)
    )
    step = step_for(again, known, 1, "mine")
    assert [(field.path, field.before, field.after) for field in step.fields] == [("spec.enabled", None, True)]
    assert "ssss" not in repr(step_for(again, None, 0, "mine").fields)


@pytest.mark.parametrize(("holder", "held"), [("out", ["gone"]), ("removed", []), ("changed", [])])
def test_a_role_is_held_by_whoever_has_it_after_the_plan(holder: str, held: list[str]) -> None:
    users = [user("out", *(["gone"] if holder == "out" else [])), user("removed", "gone"), user("changed", "gone")]
    steps = [
        Step(Change.UPDATE, user("changed", "x")),
        Step(Change.REMOVE, user("removed", "gone")),
        Step(Change.REMOVE, mine("gone")),
    ]
    assert still_held(steps, users) == held


def test_users_are_removed_before_roles_and_presets_never() -> None:
    labelled = msgspec.structs.replace(user("u", "a"), metadata=Metadata(name="u", labels={SET_LABEL: "mine"}))
    stored: list[Resource] = [mine("a"), mine("kept"), mine("editor"), role("own"), labelled]
    found = pruned(stored, frozenset({(Kind.ROLE, "kept")}), "mine")
    assert [(step.kind, step.name) for step in found] == [(Kind.USER, "u"), (Kind.ROLE, "a")]

"""Trusted and remote clusters as people write them, and the names that their users get."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from teleport.errors import BadRequest
from teleport.identity import remote_user_name
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import from_json, to_json, without_secrets
from teleport.resources.metadata import Metadata
from teleport.resources.parse import parse_resources
from teleport.resources.references import ResourceRef
from teleport.resources.trusted_cluster import (
    OFFLINE_AFTER,
    RemoteCluster,
    RemoteClusterSpec,
    TrustedCluster,
    TrustedClusterSpec,
    check_local_user,
    names_meet,
)
from teleport.resources.yaml_problems import InvalidDocument

NOW = datetime(2026, 11, 28, tzinfo=UTC)
HEAD = "kind: trusted_cluster\nversion: v2\nmetadata: {name: root}\nspec:\n"
GOOD = HEAD + "  enabled: true\n  token: s3cret-s3cret-s3cret\n  web_proxy_addr: root.example.com:3080\n"
MAPPED = GOOD + "  role_map: [{remote: admin, local: [access]}]\n"


def test_what_an_operator_writes_is_read() -> None:
    (found,) = parse_resources(MAPPED + "  tunnel_addr: root.example.com:3024\n", "tc.yaml")
    assert isinstance(found, TrustedCluster)
    assert found.spec.enabled
    assert found.spec.token is not None
    assert found.spec.token.reveal() == "s3cret-s3cret-s3cret"
    assert (found.web_proxy.host, found.web_proxy.port) == ("root.example.com", 3080)
    assert found.role_map == (RoleMapping(remote="admin", local=("access",)),)
    assert "s3cret" not in repr(found)


def test_the_token_is_a_secret_and_is_not_kept() -> None:
    (found,) = parse_resources(MAPPED, "tc.yaml")
    assert isinstance(found, TrustedCluster)
    with pytest.raises(BadRequest, match="secrets"):
        to_json(found)
    assert without_secrets(found).spec.token is None
    assert b"s3cret" not in to_json(found.without_token())
    assert from_json(to_json(found, with_secrets=True)) == found


def test_the_older_form_gives_every_role_of_the_root_the_same() -> None:
    (found,) = parse_resources(GOOD + "  roles: [access, dev]\n", "tc.yaml")
    assert isinstance(found, TrustedCluster)
    assert found.role_map == (RoleMapping(remote="*", local=("access", "dev")),)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (GOOD, "role_map, or roles"),
        (MAPPED + "  roles: [access]\n", "spec.role_map"),
        (HEAD + "  role_map: [{remote: a, local: [b]}]\n", "spec"),
        (MAPPED.replace("root.example.com:3080", "'root:x'"), "spec.web_proxy_addr"),
        (MAPPED + "  tunnel_addr: ':'\n", "spec.tunnel_addr"),
        (MAPPED + "  ca_pins: ['sha256:12']\n", "spec.ca_pins[0]"),
        (GOOD + "  role_map: [{remote: admin, local: []}]\n", "spec.role_map[0].local"),
        (GOOD + "  role_map: [{remote: admin, local: ['*']}]\n", "spec.role_map[0].local[0]"),
        (GOOD + "  role_map: [{remote: admin, local: ['$1']}]\n", "spec.role_map[0].local[0]"),
        (GOOD + "  role_map: [{remote: '^(a$', local: [b]}]\n", "spec.role_map[0].remote"),
        (GOOD + "  role_map: [{remote: '', local: [b]}]\n", "spec.role_map[0].remote"),
        (MAPPED.replace("enabled: true", "enabled: perhaps"), "spec.enabled"),
        (MAPPED + "  trusts: all\n", "spec.trusts"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, path: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        parse_resources(text, "tc.yaml")
    assert path in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(("text", "name"), [("tc/root", "root"), ("clusters/root", "root")])
def test_the_short_names_mean_trusted_clusters(text: str, name: str) -> None:
    assert ResourceRef.parse(text) == ResourceRef.parse(f"trusted_cluster/{name}")
    assert ResourceRef.parse("rc/leaf") == ResourceRef.parse("remote_cluster/leaf")


def test_a_cluster_is_online_while_it_is_heard_of() -> None:
    cluster = RemoteCluster(metadata=Metadata(name="leaf"))
    assert cluster.as_of(NOW, None, NOW).status.connection == "online"
    assert cluster.as_of(NOW - OFFLINE_AFTER, NOW, NOW).status.connection == "offline"
    assert cluster.as_of(None, NOW, NOW).status.connection == "offline"
    gone = RemoteCluster(metadata=Metadata(name="leaf"), spec=RemoteClusterSpec(removed=NOW))
    assert gone.removed
    assert gone.as_of(NOW, NOW, NOW + timedelta(seconds=1)).status.connection == "offline"


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("prod", "prod", True),
        ("Prod", "prod", True),
        ("east-prod", "prod", True),
        ("prod", "east-prod", True),
        ("eastprod", "prod", False),
        ("prod-east", "prod", False),
    ],
)
def test_names_of_clusters_whose_users_could_be_confused(one: str, other: str, *, meet: bool) -> None:
    """`bob-east` of `prod` and `bob` of `east-prod` would both be `remote-bob-east-prod`."""
    assert names_meet(one, other) is meet
    if meet and one.lower() != other.lower():
        longer, shorter = sorted((one, other), key=len, reverse=True)
        rest = longer.removesuffix(f"-{shorter}")
        assert remote_user_name("bob", longer) == remote_user_name(f"bob-{rest}", shorter)


def test_no_local_user_is_called_like_one_of_another_cluster() -> None:
    check_local_user("bob")
    for name in ("remote-bob-root", "REMOTE-x", "remote-"):
        with pytest.raises(BadRequest, match="other clusters"):
            check_local_user(name)


def test_a_spec_without_anything_trusts_nobody() -> None:
    assert not TrustedClusterSpec().enabled
    assert TrustedCluster(metadata=Metadata(name="r"), spec=TrustedClusterSpec()).role_map == ()

"""Templates filled in, everywhere in a role; what is missing grants nothing."""

from __future__ import annotations

import pytest

from teleport.authz.labels import canonical_labels, match_labels
from teleport.authz.traits import apply_traits, expand, expand_labels
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, ImpersonateConditions, LabelSelector, Role, RoleSpec

TRAITS = {
    "logins": ("root", "alice"),
    "email": ("alice@example.com", "not-an-address", "a@b@c", "@x"),
    "x-y": ("1",),
    "groups": ("dev-web", "dev-db", "ops"),
    "star": ("*",),
    "empty": ("",),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root", ("root",)),
        ("{{internal.logins}}", ("root", "alice")),
        ('{{external["x-y"]}}', ("1",)),
        ("{{external.missing}}", ()),
        ("{{external.empty}}", ()),
        ("IAM#{{external.logins}};", ("IAM#root;", "IAM#alice;")),
        ("{{email.local(external.email)}}", ("alice",)),
        ('{{regexp.replace(external.groups, "^dev-(.*)$", "$1")}}', ("web", "db")),
        ('x-{{regexp.replace(external.groups, "^dev-(.*)$", "$1")}}', ("x-web", "x-db")),
        ('{{regexp.replace(external.groups, "^.*$", "")}}', ()),
        ('{{regexp.match("a")}}', ()),
        ("{{broken", ()),
    ],
)
def test_expansion(text: str, expected: tuple[str, ...]) -> None:
    assert expand(text, TRAITS) == expected


@pytest.mark.parametrize("part", ["allow", "deny"])
def test_templates_are_filled_in_everywhere(part: str) -> None:
    """In allow and deny: logins, names, labels and impersonation."""
    conditions = Conditions(
        logins=("bob", "{{internal.logins}}"),
        node_labels={"{{external.x-y}}": ("a",), "team": ("{{external.groups}}", "core")},
        kubernetes_groups=("{{internal.logins}}",),
        kubernetes_users=("{{internal.logins}}",),
        db_names=("{{internal.logins}}",),
        db_users=("{{internal.logins}}",),
        aws_role_arns=("{{internal.logins}}",),
        impersonate=ImpersonateConditions(users=("{{internal.logins}}",), roles=("{{external.groups}}",)),
    )
    conditions = Conditions(
        **{
            **{name: getattr(conditions, name) for name in conditions.__struct_fields__},
            "node_labels": {'{{external["x-y"]}}': ("a",), "team": ("{{external.groups}}", "core")},
        }
    )
    spec = RoleSpec(allow=conditions) if part == "allow" else RoleSpec(deny=conditions)
    filled: Conditions = getattr(apply_traits(Role(metadata=Metadata(name="r"), spec=spec), TRAITS), part)
    assert filled.logins == ("bob", "root", "alice")
    assert filled.node_labels == {"1": ("a",), "team": ("dev-web", "dev-db", "ops", "core")}
    assert filled.impersonate == ImpersonateConditions(users=("root", "alice"), roles=TRAITS["groups"])
    for name in ("kubernetes_groups", "kubernetes_users", "db_names", "db_users", "aws_role_arns"):
        assert getattr(filled, name) == ("root", "alice")


@pytest.mark.parametrize("login", ["*", "-x", "a b", "root\n", "a" * 40, "", "ro\u200bot", "r\u03bfot", "../x"])
def test_a_trait_that_is_no_unix_account_becomes_no_login(login: str) -> None:
    role = Role(metadata=Metadata(name="r"), spec=RoleSpec(allow=Conditions(logins=("{{internal.logins}}",))))
    assert apply_traits(role, {"logins": (login,)}).allow.logins == ()


@pytest.mark.parametrize(
    ("selector", "labels"),
    [
        ({"env": ("{{external.missing}}",)}, {"env": ""}),
        ({"env": ("{{external.empty}}",)}, {"env": ""}),
        ({"{{external.missing}}": ("*",)}, {}),
        ({"{{external.missing}}": ("*",), "env": ("prod",)}, {"env": "prod"}),
        ({"{{external.missing}}": ("*",), "env": ("prod",)}, {"env": "prod", "": ""}),
        ({"{{external.star}}": ("*",)}, {"env": "prod"}),
        ({"{{external.star}}": ("{{external.star}}",)}, {"env": "prod"}),
    ],
)
def test_a_missing_trait_never_widens_a_selector(selector: LabelSelector, labels: dict[str, str]) -> None:
    assert not match_labels(expand_labels(selector, TRAITS), canonical_labels(labels)).matched


def test_two_keys_that_become_one_both_have_to_match() -> None:
    selector = expand_labels({"1": ("a", "b"), '{{external["x-y"]}}': ("b", "c")}, TRAITS)
    assert selector == {"1": ("b",)}


def test_an_old_role_without_logins_left_keeps_its_labels() -> None:
    """Whether a v3 role reaches every host is decided by what was written, not by whose traits fill it."""
    role = Role(
        version="v3", metadata=Metadata(name="r"), spec=RoleSpec(allow=Conditions(logins=("{{internal.logins}}",)))
    )
    assert apply_traits(role, {}).allowed_node_labels == {"*": ("*",)}

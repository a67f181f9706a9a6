"""Files of resources: several documents, mistakes with their lines, tokens whose secret never shows."""

from __future__ import annotations

import hashlib

import pytest

from teleport.errors import BadRequest
from teleport.resources.kinds import Kind
from teleport.resources.parse import parse_resources, to_yaml
from teleport.resources.references import ResourceRef, kind_by_name
from teleport.resources.secret import SecretText
from teleport.resources.token import Token, token_id
from teleport.resources.user import User
from teleport.resources.yaml_document import InvalidDocument

SECRET = "3f1c9a2b-very-secret-token"
TOKEN = f"""kind: token
version: v2
metadata: {{name: {SECRET}, expires: 2031-01-01T00:00:00Z}}
spec: {{roles: [Node, proxy]}}
"""


def test_a_token_is_hashed_as_it_is_read() -> None:
    """T12: only its public id and its hash are left."""
    (token,) = parse_resources(TOKEN, "token.yaml")
    assert isinstance(token, Token)
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    assert token.name == digest[:8] == token_id(SecretText(SECRET))
    assert token.is_for(SecretText(SECRET))
    assert not token.is_for(SecretText(SECRET + "x"))
    assert {role.value for role in token.system_roles} == {"Node", "Proxy"}
    assert SECRET not in repr(token) + to_yaml(token)
    assert parse_resources(to_yaml(token), "backup.yaml") == [token]


@pytest.mark.parametrize(
    "text",
    [
        TOKEN.replace("Node", "nonsense"),
        TOKEN.replace("roles", "rolls"),
        TOKEN.replace("[Node, proxy]", "[]"),
        TOKEN.replace(SECRET, f'"{SECRET}\\u0007"'),
        TOKEN + "---\n" + TOKEN,
    ],
    ids=["unknown role", "unknown key", "no roles", "control character", "twice"],
)
def test_mistakes_in_a_token_do_not_show_its_secret(text: str) -> None:
    with pytest.raises(InvalidDocument) as raised:
        parse_resources(text, "token.yaml")
    assert SECRET not in str(raised.value)


def test_a_token_with_another_ones_id_is_refused() -> None:
    (token,) = parse_resources(TOKEN, "token.yaml")
    with pytest.raises(InvalidDocument, match="token's id"):
        parse_resources(to_yaml(token).replace(token.name, "00000000", 1), "token.yaml")


def test_mistakes_of_several_documents_come_together() -> None:
    text = """kind: user
version: v2
metadata: {name: -alice}
spec: {roles: [a, a], traits: {logins: [-x]}}
---
kind: usr
---
- a list
---
version: v2
---
kind: node
metadata: {name: n}
spec: {addr: 'nowhere:99999999'}
---
kind: app_server
version: v3
"""
    with pytest.raises(InvalidDocument) as raised:
        parse_resources(text, "many.yaml")
    assert [(problem.line, problem.path) for problem in raised.value.problems] == [
        (3, "metadata.name"),
        (4, "spec.roles"),
        (4, "spec.traits.logins[0]"),
        (6, "kind"),
        (8, ""),
        (10, ""),
        (12, ""),
        (14, "spec.addr"),
        (16, "kind"),
    ]
    assert "not available yet" in str(raised.value)


def test_a_document_may_be_a_list_of_resources() -> None:
    user = '{"kind": "user", "version": "v2", "metadata": {"name": "%s"}, "spec": {}}'
    listed = f"[{user % 'alice'},\n{user % 'bob'}]"
    assert [one.name for one in parse_resources(listed, "u")] == ["alice", "bob"]
    with pytest.raises(InvalidDocument) as raised:
        parse_resources(listed.replace('"spec": {}}]', '"spec": {"rolls": []}},\n[], null]'), "u")
    assert [(problem.line, problem.path) for problem in raised.value.problems] == [(2, "spec.rolls"), (3, ""), (3, "")]


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "[]"])
def test_a_file_without_resources_is_an_error(text: str) -> None:
    with pytest.raises(InvalidDocument):
        parse_resources(text, "empty.yaml")


def test_json_is_read_too_and_yaml_words_stay_text() -> None:
    (user,) = parse_resources(
        '{"kind": "user", "version": "v2", "metadata": {"name": "alice"}, "spec": {"traits": {"x": ["no", "1.10"]}}}',
        "u",
    )
    assert isinstance(user, User)
    assert user.traits == {"x": ("no", "1.10")}
    (same,) = parse_resources("kind: user\nversion: v2\nmetadata: {name: alice}\nspec: {traits: {x: [no, 1.10]}}", "u")
    assert same == user


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("users", Kind.USER),
        ("user", Kind.USER),
        ("Roles", Kind.ROLE),
        ("nodes", Kind.NODE),
        ("tokens", Kind.TOKEN),
        ("ca", Kind.CERT_AUTHORITY),
        ("cas", Kind.CERT_AUTHORITY),
        ("tc", Kind.TRUSTED_CLUSTER),
        ("clusters", Kind.TRUSTED_CLUSTER),
        ("rc", Kind.REMOTE_CLUSTER),
        ("sems", Kind.SEMAPHORE),
        ("connectors", Kind.AUTH_CONNECTOR),
        ("cap", Kind.CLUSTER_AUTH_PREFERENCE),
        ("netconfig", Kind.CLUSTER_NETWORKING_CONFIG),
        ("recconfig", Kind.SESSION_RECORDING_CONFIG),
        ("locks", Kind.LOCK),
    ],
)
def test_kinds_have_short_names(name: str, kind: Kind) -> None:
    assert kind_by_name(name) is kind


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(BadRequest) as raised:
        kind_by_name("usres")
    assert "users" in raised.value.hint or "user" in raised.value.hint


def test_references_name_kind_and_name() -> None:
    assert ResourceRef.parse("users/alice") == ResourceRef(Kind.USER, "alice")
    assert ResourceRef.parse("role") == ResourceRef(Kind.ROLE)
    assert ResourceRef.parse("ca/user") == ResourceRef(Kind.CERT_AUTHORITY, "", "user")
    assert ResourceRef.parse("ca/user/example.com") == ResourceRef(Kind.CERT_AUTHORITY, "example.com", "user")
    for text in ("user/", "user//x", "user/a/b/c", "user/../x", ""):
        with pytest.raises(BadRequest):
            ResourceRef.parse(text)

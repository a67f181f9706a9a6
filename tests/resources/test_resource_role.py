"""The role language: every field is read, kept, checked and, where its feature comes later, named in a warning."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest

from teleport.errors import TeleportError
from teleport.resources.parse import parse_resources, to_yaml
from teleport.resources.presets import PRESET_NAMES, implicit_role, preset_roles
from teleport.resources.role import ANY_LABELS, Conditions, Options, Role
from teleport.resources.values import Duration
from teleport.resources.yaml_document import InvalidDocument, Problems

NO_LOGIN_ID = "12345678-1234-1234-1234-123456789012"
CONDITIONS = """
    namespaces: [default, '*']
    logins: [root, '{{internal.logins}}', '{{email.local(external.email)}}']
    host_groups: [developers, '{{external.team}}']
    node_labels: {env: prod, 'region': ['us-*', '^eu-(west|east)$'], '{{external.key}}': '{{external.value}}'}
    app_labels: {'*': '*'}
    kubernetes_labels: {'*': '*'}
    db_labels: {env: '*'}
    cluster_labels: {env: '*'}
    kubernetes_groups: [viewers, '{{internal.kubernetes_groups}}']
    kubernetes_users: ['IAM#{{external.foo}};']
    kubernetes_resources:
      - {kind: pods, api_group: '', namespace: 'team-{{external.team}}', name: 'web-*', verbs: [get, list, exec]}
    db_names: ['*']
    db_users: ['*']
    aws_role_arns: ['arn:aws:iam::1:role/x']
    rules:
      - resources: [session, event]
        verbs: [list, read]
        where: contains(session.participants, user.metadata.name)
        actions: ['log("info", "read")']
    request:
      roles: [admin, '{{regexp.match("^dev-.*$")}}']
      claims_to_roles: [{claim: groups, value: 'dev-*', roles: [dev]}]
      suggested_reviewers: [bob]
      annotations: {team: [a, b]}
      thresholds: [{name: two, filter: 'equals(request.reason, "x")', approve: 2, deny: 1}]
    review_requests:
      roles: [dev]
      claims_to_roles: [{claim: groups, value: x, roles: [dev]}]
      where: equals(reviewer.name, "bob")
    forward_to: ["*.db.example.com:5432", "unix:/run/*.sock"]
    listen_on: ["localhost:8000-8100"]
    impersonate:
      users: [jenkins]
      roles: [jenkins]
      where: equals(impersonate_user.metadata.name, "jenkins")
    join_sessions: [{name: help, roles: [prod, 'dev-*', '^x$'], kinds: [ssh, k8s], modes: [observer, peer, moderator]}]
    require_session_join: [{name: eyes, filter: 'contains(user.spec.roles, "x")', kinds: ['*'], modes: [observer],
      count: 2, on_leave: pause}]
"""
DENIED = CONDITIONS.partition("    require_session_join")[0].replace(
    "      where: equals(imp", "      # where: equals(imp"
)
FULL = f"""
kind: role
version: v4
metadata: {{name: full, description: all of it, labels: {{team: core}}, expires: 2031-01-01T00:00:00Z}}
spec:
  options:
    max_session_ttl: 8h
    forward_agent: yes
    port_forwarding: no
    client_idle_timeout: 15m
    disconnect_expired_cert: yes
    enhanced_recording: [command, disk]
    permit_x11_forwarding: true
    cert_format: oldssh
    max_connections: 3
    max_sessions: 10
    request_access: reason
    request_prompt: Why?
    require_session_mfa: true
    mfa_lease_ttl: 20m
    pin_source_ip: yes
    lock: strict
    local_forwarding: yes
    remote_forwarding: no
    exec: transfer
    create_host_user: yes
    commands: [uptime, systemctl restart *]
    file_transfer:
      download: no
      upload: no
      download_paths: [/srv/**]
      upload_paths: [~/in/*]
      deny_paths: ["**/.ssh/**"]
      max_file_size: 1000
  allow:{CONDITIONS}
  deny:{DENIED}
"""


def parse_role(text: str) -> Role:
    (role,) = parse_resources(text, "role.yaml")
    assert isinstance(role, Role)
    return role


def small(spec: str, version: str = "v4") -> str:
    return f"kind: role\nversion: {version}\nmetadata: {{name: small}}\nspec:\n{spec}"


def defaults_left(value: msgspec.Struct, path: str = "") -> Iterator[str]:
    """The fields of `value` that are as if they had not been written."""
    for field in msgspec.structs.fields(value):
        found = getattr(value, field.name)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if not field.required and found == default:
            yield f"{path}{field.name}"
        if isinstance(found, msgspec.Struct):
            yield from defaults_left(found, f"{path}{field.name}.")
        if isinstance(found, tuple) and found and isinstance(found[0], msgspec.Struct):
            yield from defaults_left(found[0], f"{path}{field.name}[0].")


def test_every_field_of_the_language_is_read() -> None:
    """A new field of a role fails here until the full example has it."""
    left = set(defaults_left(parse_role(FULL)))
    assert left == {
        "kind",
        "version",
        "metadata.namespace",
        "metadata.id",
        "spec.allow.request.thresholds[0].deny",
        "spec.deny.request.thresholds[0].deny",
        "spec.deny.impersonate.where",
        "spec.deny.require_session_join",
    }


def test_the_full_role_comes_back_as_it_was_written() -> None:
    role = parse_role(FULL)
    assert parse_role(to_yaml(role)) == role
    assert role.options.max_session_ttl == Duration.of(hours=8)
    assert role.options.port_forwarding is False
    assert role.allow.node_labels == {
        "env": ("prod",),
        "region": ("us-*", "^eu-(west|east)$"),
        "{{external.key}}": ("{{external.value}}",),
    }


def test_fields_whose_feature_comes_later_are_named_with_their_lines() -> None:
    problems = Problems()
    (role,) = parse_resources(FULL, "role.yaml", problems)
    assert isinstance(role, Role)
    later = [
        field.name
        for field in msgspec.structs.fields(Conditions)
        if field.name
        not in (
            "namespaces",
            "logins",
            "host_groups",
            "node_labels",
            "cluster_labels",
            "kubernetes_labels",
            "kubernetes_groups",
            "kubernetes_users",
            "kubernetes_resources",
            "rules",
            "forward_to",
            "listen_on",
        )
        and not field.name.endswith(("join_sessions", "session_join"))
    ]
    paths = {warning.path for warning in role.warnings}
    for part in ("allow", "deny"):
        assert {f"spec.{part}.{name}" for name in later} <= paths
        assert f"spec.{part}.rules[0].actions" in paths
        assert f"spec.{part}.join_sessions[0].kinds" not in paths
    assert {f"spec.options.{name}" for name in ("cert_format", "request_access", "request_prompt")} <= paths
    assert len(problems.notices) == len(role.warnings)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("  options: {commands: ['a  b']}", "spec.options.commands[0]"),
        ("  options: {commands: ['* x']}", "spec.options.commands[0]"),
        ("  options: {commands: ['a;b']}", "spec.options.commands[0]"),
        ("  options: {commands: ['a ** b']}", "spec.options.commands[0]"),
        ("  options: {exec: some}", "spec.options.exec"),
        ("  options: {file_transfer: {download_paths: [srv]}}", "spec.options.file_transfer.download_paths[0]"),
        ("  options: {file_transfer: {deny_paths: [/a/../b]}}", "spec.options.file_transfer.deny_paths[0]"),
        ("  options: {file_transfer: {max_file_size: -1}}", "spec.options.file_transfer.max_file_size"),
        ("  allow: {forward_to: [example.com]}", "spec.allow.forward_to[0]"),
        ("  allow: {forward_to: ['example.com:0']}", "spec.allow.forward_to[0]"),
        ("  allow: {forward_to: ['example.com:9-8']}", "spec.allow.forward_to[0]"),
        ("  allow: {forward_to: ['10.0.0.1/8:*']}", "spec.allow.forward_to[0]"),
        ("  allow: {forward_to: ['::1:22']}", "spec.allow.forward_to[0]"),
        ("  allow: {forward_to: ['unix:run/x']}", "spec.allow.forward_to[0]"),
        ("  deny: {listen_on: ['a b:1']}", "spec.deny.listen_on[0]"),
    ],
)
def test_what_is_wrong_with_rules_of_channels_is_named(spec: str, path: str) -> None:
    with pytest.raises(TeleportError, match=re.escape(path)):
        parse_role(small(spec))


def test_a_role_of_what_works_today_has_no_warnings() -> None:
    role = parse_role(
        small("  allow: {logins: [root], node_labels: {env: prod}, rules: [{resources: [node], verbs: ['*']}]}")
    )
    assert role.warnings == ()


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ("  allow: {logins: ['*']}", "logins[0]"),
        ("  allow: {logins: [-x]}", "logins[0]"),
        ("  allow: {logins: [a b]}", "logins[0]"),
        ("  allow: {logins: ['{{internal.nonsense}}']}", "logins[0]"),
        ("  allow: {logins: ['{{regexp.match(\"a\")}}']}", "logins[0]"),
        ("  allow: {aws_role_arns: ['*']}", "aws_role_arns[0]"),
        ("  allow: {node_labels: {'*': prod}}", "node_labels"),
        ("  allow: {node_labels: {env: []}}", "node_labels.env"),
        ("  allow: {node_labels: {env: '^($'}}", "node_labels.env"),
        ("  allow: {node_labels: {env: '^(?=a)$'}}", "node_labels.env"),
        ("  deny: {node_labels: {env: '^[$'}}", "node_labels.env"),
        ("  deny: {logins: ['a/b']}", "logins[0]"),
        ("  allow: {rules: [{resources: [], verbs: [read]}]}", "resources"),
        ("  allow: {rules: [{resources: [node], verbs: []}]}", "verbs"),
        ("  allow: {rules: [{resources: [nodee], verbs: [read]}]}", "resources[0]"),
        ("  allow: {rules: [{resources: [node], verbs: [reed]}]}", "verbs[0]"),
        ("  allow: {rules: [{resources: [node], verbs: [read], where: 'x('}]}", "where"),
        ("  allow: {impersonate: {users: [a]}}", "impersonate"),
        ('  deny: {impersonate: {users: [a], roles: [b], where: \'equals("a", "a")\'}}', "impersonate.where"),
        ("  allow: {request: {thresholds: [{approve: 0}]}}", "thresholds[0]"),
        ("  allow: {review_requests: {roles: [a], where: '('}}", "review_requests.where"),
        ("  allow: {namespaces: ['a/b']}", "namespaces[0]"),
        ("  allow: {join_sessions: [{roles: [a], kinds: [ssh], modes: []}]}", "join_sessions[0].modes"),
        ("  allow: {join_sessions: [{roles: [a], kinds: [], modes: [peer]}]}", "join_sessions[0].kinds"),
        ("  allow: {join_sessions: [{roles: [], kinds: [ssh], modes: [peer]}]}", "join_sessions[0].roles"),
        ("  allow: {join_sessions: [{roles: ['^(a$'], kinds: [ssh], modes: [peer]}]}", "join_sessions[0].roles[0]"),
        ("  allow: {join_sessions: [{roles: [a], kinds: [web], modes: [peer]}]}", "join_sessions[0].kinds[0]"),
        ("  allow: {join_sessions: [{roles: [a], kinds: [ssh], modes: [typist]}]}", "join_sessions[0].modes[0]"),
        ("  allow: {require_session_join: [{kinds: [ssh], count: 0}]}", "require_session_join[0].count"),
        ("  allow: {require_session_join: [{kinds: [ssh], filter: 'x('}]}", "require_session_join[0].filter"),
        ("  allow: {require_session_join: [{kinds: [ssh], on_leave: wait}]}", "require_session_join[0].on_leave"),
        ("  deny: {require_session_join: [{kinds: [ssh]}]}", "deny.require_session_join"),
        ("  allow: {login: [root]}", "allow.login"),
        ("  options: {max_session_ttl: 0s}", "max_session_ttl"),
        ("  options: {max_session_ttl: 8}", "max_session_ttl"),
        ("  options: {forward_agent: maybe}", "forward_agent"),
        ("  options: {max_sessions: -1}", "max_sessions"),
        ("  options: {enhanced_recording: [everything]}", "enhanced_recording[0]"),
        ("  options: {cert_format: other}", "cert_format"),
        ("  options: {max_sesion_ttl: 1h}", "max_sesion_ttl"),
    ],
)
def test_a_mistake_is_found_when_the_role_is_written(spec: str, where: str) -> None:
    with pytest.raises(InvalidDocument) as raised:
        parse_role(small(spec))
    (problem,) = raised.value.problems
    assert problem.path.startswith("spec.")
    assert where in problem.path
    assert problem.line == 5


def test_all_mistakes_are_found_at_once() -> None:
    with pytest.raises(InvalidDocument) as raised:
        parse_role(
            "kind: role\nversion: v9\nmetadata: {name: a/b}\nspec:\n  options: {forward_agent: perhaps}\n"
            "  allow:\n    logins: ['*', root, -x]\n    foo: 1\n"
        )
    assert [(problem.line, problem.path) for problem in raised.value.problems] == [
        (2, "version"),
        (3, "metadata.name"),
        (5, "spec.options.forward_agent"),
        (7, "spec.allow.logins[0]"),
        (7, "spec.allow.logins[2]"),
        (8, "spec.allow.foo"),
    ]


@pytest.mark.parametrize(
    ("version", "spec", "expected"),
    [
        ("v3", "  allow: {logins: [root]}", ANY_LABELS),
        ("v3", "  allow: {}", {}),
        ("v3", "  allow: {logins: [root], node_labels: {}}", {}),
        ("v4", "  allow: {logins: [root]}", {}),
        ("v5", "  allow: {logins: [root]}", {}),
        ("v4", "  allow: {logins: [root], node_labels: {a: b}}", {"a": ("b",)}),
    ],
)
def test_absent_node_labels_mean_what_the_version_says(version: str, spec: str, expected: object) -> None:
    """Only an old role with logins reaches every host without saying so."""
    assert parse_role(small(spec, version)).allowed_node_labels == expected


def test_options_have_the_documented_defaults() -> None:
    options = Options()
    assert options.max_session_ttl == Duration.of(hours=30)
    assert not options.forward_agent
    assert not options.permit_x11_forwarding
    assert not options.require_session_mfa


def test_presets_are_valid_and_come_back_as_they_are() -> None:
    roles = preset_roles(NO_LOGIN_ID)
    assert tuple(role.name for role in roles) == PRESET_NAMES
    for role in roles:
        assert list(role.findings()) == []
        assert parse_role(to_yaml(role)) == role


def test_nobody_may_write_the_implicit_role() -> None:
    with pytest.raises(InvalidDocument, match="the cluster's own"):
        parse_role(to_yaml(implicit_role()))

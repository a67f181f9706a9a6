"""What a role gives, in sentences: each says no more and no less than the decision does."""

from __future__ import annotations

import pytest

from teleport.authz.sentences import Sort, role_sentences
from teleport.resources.parse import parse_resources
from teleport.resources.presets import access, auditor, editor
from teleport.resources.role import Role


def told(spec: str, version: str = "v4") -> dict[str, list[str]]:
    """The sentences about a role, by sort; `spec` is indented by two."""
    (role,) = parse_resources(f"kind: role\nversion: {version}\nmetadata: {{name: r}}\nspec:\n{spec}", "test")
    assert isinstance(role, Role)
    found: dict[str, list[str]] = {str(sort): [] for sort in Sort}
    for one in role_sentences(role):
        found[one.sort].append(one.text)
    return found


CASES = [
    ("  allow: {logins: [root]}\n", "grant", "Reaches no host: it names no node_labels."),
    ("  allow: {node_labels: {'*': '*'}}\n", "grant", "Reaches no host: it names no logins."),
    ("  allow: {logins: [root], node_labels: {'*': '*'}}\n", "grant", "Logs in as root on every host."),
    (
        "  allow: {logins: [a, b, c], node_labels: {env: [x, y], team: blue, zone: '*'}}\n",
        "grant",
        "Logs in as a, b or c on hosts with env = x or y, and team = blue, and any zone.",
    ),
    (
        "  allow: {logins: ['{{internal.logins}}'], node_labels: {'*': '*'}}\n",
        "grant",
        "Logs in as whatever the user's trait logins says on every host.",
    ),
    (
        "  allow: {logins: [root], node_labels: {'*': '*'}}\n  options: {exec: none}\n",
        "grant",
        "Runs nothing there: neither a shell, nor commands, nor transfers.",
    ),
    (
        "  allow: {logins: [root], node_labels: {'*': '*'}}\n  options: {commands: ['uptime', 'df *']}\n",
        "grant",
        "Runs these commands only, without a shell: uptime, df *.",
    ),
    (
        "  allow: {logins: [root], node_labels: {'*': '*'}}\n"
        "  options: {exec: transfer, file_transfer: {upload: false, download_paths: [/srv], max_file_size: 1000000}}\n",
        "grant",
        "By sftp, scp and rsync fetches files under /srv and puts no files; no file above 1,000,000 bytes.",
    ),
    (
        "  allow: {logins: [root], node_labels: {'*': '*'}}\n  options: {port_forwarding: false}\n",
        "term",
        "No ports are forwarded by this role.",
    ),
    (
        "  allow: {rules: [{resources: [user, role], verbs: [list, read]}]}\n",
        "grant",
        "In the cluster, may list and read users and roles.",
    ),
    (
        "  allow: {rules: [{resources: ['*'], verbs: ['*']}]}\n",
        "grant",
        "In the cluster, may do everything with everything.",
    ),
    (
        "  deny: {rules: [{resources: [token], verbs: [create]}]}\n",
        "deny",
        "May never create join tokens.",
    ),
    ("  deny: {logins: [root]}\n", "deny", "Never logs in as root, on any host."),
    ("  deny: {node_labels: {env: prod}}\n", "deny", "Never reaches hosts with env = prod."),
    ("  options: {max_session_ttl: 8h}\n", "term", "Certificates hold for 8h at most."),
    ("  options: {require_session_mfa: true}\n", "term", "Each session asks for a second factor."),
    ("  allow: {cluster_labels: {env: prod}}\n", "grant", "Goes to other clusters with env = prod."),
]


@pytest.mark.parametrize(("spec", "sort", "sentence"), CASES, ids=[case[2][:40] for case in CASES])
def test_a_role_is_told_in_sentences(spec: str, sort: str, sentence: str) -> None:
    assert sentence in told(spec)[sort]


def test_an_old_role_with_logins_and_without_labels_reaches_every_host() -> None:
    assert "Logs in as root on every host." in told("  allow: {logins: [root]}\n", "v3")["grant"]


def test_a_role_without_anything_says_so() -> None:
    found = told("  allow: {}\n")
    assert found["grant"] == ["Reaches no host: it names no logins."]
    assert found["deny"] == []


@pytest.mark.parametrize("role", [access(), auditor("-none-"), editor()], ids=lambda role: role.name)
def test_each_sentence_names_a_place_of_the_document(role: Role) -> None:
    found = role_sentences(role)
    assert found
    assert all(one.field.startswith("spec.") and one.text.endswith(".") for one in found)
    order = [list(Sort).index(one.sort) for one in found]
    assert order == sorted(order), "grants, then terms, then denials"

"""An explanation says the same as the decision, names every obstacle, and whose each part of a permit is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from teleport.authz.decision import AccessDenial, ClusterDefaults, Policy
from teleport.authz.explain import CLUSTER, explain_ssh_access
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access, why_no_session
from teleport.identity import UserIdentity
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
ROLES_TEXT = """
kind: role
version: v4
metadata: {name: prod}
spec: {allow: {logins: [root], node_labels: {env: prod}}, options: {max_sessions: 4, client_idle_timeout: 10m}}
---
kind: role
version: v4
metadata: {name: all}
spec: {allow: {logins: [root, web], node_labels: {'*': '*'}}, options: {forward_agent: yes, max_sessions: 9}}
---
kind: role
version: v4
metadata: {name: no-prod}
spec: {deny: {node_labels: {env: prod}}}
---
kind: role
version: v4
metadata: {name: mfa}
spec: {allow: {logins: [root], node_labels: {env: prod}}, options: {require_session_mfa: yes}}
---
kind: role
version: v4
metadata: {name: dev}
spec: {allow: {logins: [dev], node_labels: {env: dev}}}
"""
ROLES_TEXT += """
---
kind: role
version: v4
metadata: {name: db}
spec:
  options: {remote_forwarding: no}
  allow: {logins: [root], node_labels: {env: prod}, forward_to: ['db:5432', 'localhost:*']}
---
kind: role
version: v4
metadata: {name: no-net}
spec: {deny: {forward_to: ['10.0.0.0/8:*']}}
"""
ROLES: Mapping[str, Role] = {one.name: one for one in parse_resources(ROLES_TEXT, "roles") if isinstance(one, Role)}
ID = "0d6a3f0e-6a3c-4a09-9c2b-1f6f4d7a0a01"


def asked(roles: str, login: str = "root", **changed: Any) -> SSHAccessRequest:
    identity = UserIdentity(
        "ann", "main", tuple(roles.split()), ("root", "web", "dev"), NOW + timedelta(hours=1), issued=NOW
    )
    at = {name: changed.pop(name) for name in ("locks", "node_labels", "cluster") if name in changed}
    request = SSHAccessRequest(
        identity=dataclasses.replace(identity, **changed),
        login=login,
        cluster="main",
        now=NOW,
        node_id=ID,
        node_hostname="alpha",
        node_labels={"env": "prod"},
    )
    return dataclasses.replace(request, **at)


def lock(name: str, **target: str) -> Lock:
    return Lock(metadata=Metadata(name=name), spec=LockSpec(target=LockTarget(**target)))


CASES: dict[str, tuple[SSHAccessRequest, list[str]]] = {
    "locked twice and not granted": (
        asked("dev", locks=(lock("one", user="ann"), lock("two", node="alpha"))),
        ["lock one on user: ann", "lock two on node: alpha", "role 'dev' does not give the login 'root'"],
    ),
    "login not held": (
        asked("dev", "backup"),
        ["login 'backup' is not in the certificate", "role 'dev' does not give the login 'backup'"],
    ),
    "denied": (asked("all no-prod"), ["role 'no-prod' denies the labels of this host"]),
    "labels": (asked("dev", "dev"), ["role 'dev' "]),
    "second factor": (asked("mfa"), ["role 'mfa' requires MFA for each session"]),
    "expired, and not granted": (asked("dev", expires=NOW), ["expired at", "does not give the login"]),
    "of another cluster, locked": (
        asked("all", cluster="mars", locks=(lock("one", login="root"),)),
        ["certificate of cluster", "lock one on login: root"],
    ),
    "no role": (asked("gone"), ["role 'gone' does not exist"]),
    "no login at all": (asked("all", "-x"), ["is not in the certificate"]),
}


@pytest.mark.parametrize(("request_", "reasons"), [pytest.param(*case, id=name) for name, case in CASES.items()])
def test_every_obstacle_is_named(request_: SSHAccessRequest, reasons: list[str]) -> None:
    policy = Policy(ROLES)
    found = explain_ssh_access(request_, policy)
    assert found.decision == evaluate_ssh_access(request_, policy)
    assert isinstance(found.decision, AccessDenial)
    named = [reason for denial in found.denials for reason in denial.reasons]
    assert len(named) == len(reasons), named
    for reason, wanted in zip(named, reasons, strict=True):
        assert wanted in reason


def test_each_part_of_a_permit_says_whose_it_is() -> None:
    policy = Policy(ROLES, ClusterDefaults(client_idle_timeout=timedelta(hours=1), disconnect_expired_cert=True))
    found = explain_ssh_access(asked("prod all"), policy)
    assert found.decision == evaluate_ssh_access(asked("prod all"), policy)
    assert isinstance(found.decision, SSHAccessPermit)
    parts = {part.name: (part.value, part.sources) for part in found.parts}
    assert parts["login and host"] == ("root, by labels", ("prod", "all"))
    assert parts["agent forwarding"] == ("yes", ("all",))
    assert parts["shell and all commands"] == ("yes", ("prod", "all"))
    assert parts["X11 forwarding"] == ("no", ())
    assert parts["sessions on a connection"] == ("4", ("prod",))
    assert parts["idle time"] == ("10m", ("prod",))
    assert parts["ends with the certificate"] == ("yes", (CLUSTER,))
    assert parts["recorded"] == ("yes", (CLUSTER,))
    assert parts["connections"] == ("no limit", ())


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (asked("all"), ""),
        (asked("gone"), "You have no role any more"),
        (asked("all", logins=()), "gave you no login"),
        (asked("all", expires=NOW), "expired"),
        (asked("all", cluster="mars"), "of the cluster 'main'"),
        (asked("all", source_ip="192.0.2.1"), "192.0.2.1"),
        (asked("all", locks=(lock("l", user="ann"),)), "Access is locked."),
        (asked("all", locks=(lock("l", role="all"),)), "Access is locked."),
        (asked("all", denying=("prod",), locks=(lock("l", role="prod"),)), "Access is locked."),
        (asked("all", locks=(lock("l", node="alpha"), lock("m", login="root"))), ""),
    ],
)
def test_what_forbids_every_session_is_said_before_a_host_is_named(request_: SSHAccessRequest, word: str) -> None:
    refused = why_no_session(
        request_.identity,
        Policy(ROLES),
        cluster=request_.cluster,
        now=NOW,
        client_address="198.51.100.1",
        locks=request_.locks,
    )
    if not word:
        assert refused is None
    else:
        assert refused is not None
        assert word in refused.public
        assert refused.hint


def test_what_may_be_run_and_moved_is_said_for_each_role() -> None:
    """Rules of transfers are called advice where another role gives a shell beside them."""
    text = """
kind: role
version: v4
metadata: {name: files}
spec:
  allow: {logins: [root], node_labels: {env: prod}}
  options:
    exec: transfer
    file_transfer: {upload: no, download_paths: [/srv/**], deny_paths: [/srv/x], max_file_size: 5}
---
kind: role
version: v4
metadata: {name: runs}
spec: {allow: {logins: [root], node_labels: {env: prod}}, options: {commands: [/bin/uptime]}}
"""
    more = {one.name: one for one in parse_resources(text, "roles") if isinstance(one, Role)}
    policy = Policy({**ROLES, **more}, ClusterDefaults())
    held = "download of /srv/**; never /srv/x; files up to 5 bytes"
    for roles, shell, files in (
        ("files runs", "no", [held, "none"]),
        ("files prod", "yes", [f"{held} (advice: the role gives a shell)", "download; upload"]),
    ):
        parts = explain_ssh_access(asked(roles), policy).parts
        assert [part.value for part in parts if part.name == "file transfer"] == files
        assert [part.value for part in parts if part.name == "shell and all commands"] == [shell]
        assert [part.value for part in parts if part.name == "commands"] == (["/bin/uptime"] if "runs" in roles else [])


def test_forwards_are_explained_role_by_role() -> None:
    """What each granting role allows by itself, and what is denied whichever grants."""
    found = explain_ssh_access(asked("prod db no-net", node_labels={"env": "prod"}), Policy(ROLES))
    parts = [
        (part.name, part.value, part.sources) for part in found.parts if "lead" in part.name or "listen" in part.name
    ]
    assert parts == [
        ("forwards lead to", "anywhere but reserved ports", ("prod",)),
        ("forwards lead to", "db:5432, localhost:*", ("db",)),
        ("listens for the client at", "loopback", ("prod",)),
        ("listens for the client at", "nowhere", ("db",)),
        ("forwards never lead to", "10.0.0.0/8:*", ("no-net",)),
    ]

"""Refusals explain themselves: what a person sees in plain ssh and in tsh, without any log, and what is on record.

Each asserts the sentence, the next command, and the event of the denied action (threats T04, T05, T08, T34, T46).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster_certificates import Identity, Mint, now, seconds, user_authority

from teleport.pki.keys import generate_ed25519
from teleport.pki.sshformat import flag, value
from teleport.testing.cluster import NODE, PUBLIC, Cluster, Host, Person, Ran, wait_until

HOUR = timedelta(hours=1)
ROLE = """\
kind: role
version: v3
metadata: {{name: {name}}}
spec:
  options: {{{options}}}
  allow:
    logins: [{logins}]
    node_labels: {labels}
"""


@pytest.fixture(scope="module")
def mint(cluster: Cluster, alice: Person, tmp_path_factory: pytest.TempPathFactory) -> Mint:
    """Signs for alice with the cluster's authority."""
    return Mint(cluster, user_authority(cluster), tmp_path_factory.mktemp("minted"))


def add_role(cluster: Cluster, name: str, login: str, labels: str, options: str = "") -> None:
    document = ROLE.format(name=name, logins=login, labels=labels, options=options)
    cluster.tctl("create", "-f", "-", stdin=document).ok()


@pytest.fixture(scope="module")
def elsewhere(cluster: Cluster, login: str) -> Person:
    """Has a login, on hosts that do not exist."""
    add_role(cluster, "elsewhere", login, "{env: [mars]}")
    person = cluster.add_person("erika", roles=["elsewhere"], logins=[login])
    person.log_in()
    return person


@pytest.fixture(scope="module")
def twins(cluster: Cluster, alice: Person, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The ids of two hosts of one name."""
    folder = tmp_path_factory.mktemp("twins")
    token = folder / "token"
    token.write_text(cluster.tctl("tokens", "add", "--type=node", "--format=json").json()["token"])
    token.chmod(0o600)
    found = []
    joined = {"auth_token": str(token), "ca_pin": cluster.ca_pin()}
    with (
        Host(folder / "one", cluster.node_config("twin", **joined)) as one,
        Host(folder / "two", cluster.node_config("twin", **joined)) as two,
    ):
        for host in (one, two):
            found.append((host.data_dir / "host_uuid").read_text().strip())

        def both_listed() -> bool:
            listed = alice.tsh("ls", "--format=json").json()
            return [node["spec"]["hostname"] for node in listed].count("twin") == 2

        wait_until("both are listed", both_listed)
        yield found


def refused(done: Ran, *words: str) -> None:
    """The person is told all of `words`, by a command that failed, and sees nothing of our inside."""
    assert done.status not in (0, None)
    assert done.out == b""
    told = " ".join(done.stderr.split())
    for word in words:
        assert word in told, f"{word!r} not in:\n{done.stderr}"
    assert "Traceback" not in told


def event(cluster: Cluster, kind: str, field: str, word: str, **more: object) -> dict[str, Any]:
    """The event whose `field` holds `word`."""

    def found() -> dict[str, Any] | None:
        for one in cluster.events(f"--type={kind}"):
            if word in str(one.get(field)) and all(one.get(name) == wanted for name, wanted in more.items()):
                return one
        return None

    return wait_until(f"an event {kind} with {word!r}", found)


def certificates_refused(cluster: Cluster) -> list[dict[str, Any]]:
    return [one for one in cluster.events("--type=auth") if not one.get("success")]


def test_a_good_certificate_of_this_making_is_let_in(mint: Mint, login: str) -> None:
    """So that the refusals below can fail."""
    done = mint.identity("alice", login).ssh(f"{NODE}.{mint.cluster.name}", "echo in").ok()
    assert done.stdout == "in\n"
    assert done.stderr == "", "a login that succeeds is silent"


# certificates that do not count, each shown to the proxy and straight to the node

Times = tuple[int, int]
BAD: list[tuple[str, Callable[[], dict[str, Any]], tuple[str, ...], str]] = [
    (
        "expired",
        lambda: {"after": seconds(now() - 2 * HOUR), "before": seconds(now() - HOUR)},
        ("The certificate expired at", "the clock here says", "Next: tsh login."),
        "expired at",
    ),
    (
        "not yet valid",
        lambda: {"after": seconds(now() + HOUR), "before": seconds(now() + 2 * HOUR)},
        ("The certificate is not valid before", "and the clock here says", "is off by", "Next: check the clocks"),
        "is not valid before",
    ),
    ("from the beginning of time", lambda: {"after": 0}, ("unlimited in time", "Next: tsh login."), "unlimited"),
    ("for ever", lambda: {"before": 2**64 - 1}, ("unlimited in time", "Next: tsh login."), "unlimited"),
    (
        "force-command that cannot be run",
        lambda: {"critical": {"force-command": value(" ")}},
        ("forces a command that cannot be run",),
        "forces a command that cannot be run",
    ),
    (
        "unknown restriction",
        lambda: {"critical": {"verify-required": value("")}},
        ("the restriction 'verify-required', which is not enforced here", "tsh login"),
        "verify-required",
    ),
    (
        "source-address",
        lambda: {"critical": {"source-address": value("127.0.0.1/32")}},
        ("the restriction 'source-address', which is not enforced here", "tsh login"),
        "source-address",
    ),
    (
        "an option nobody knows",
        lambda: {"critical": {"moon@example.com": flag()}},
        ("the restriction 'moon@example.com', which is not enforced here", "tsh login"),
        "moon@example.com",
    ),
    ("no role", lambda: {"roles": []}, ("names no role", "Next: ask an administrator for a role"), "no role"),
    (
        "a role that is not",
        lambda: {"roles": ["astronaut"]},
        ("You have no role any more", "Next: ask an administrator for a role"),
        "has none of the roles",
    ),
]


@pytest.mark.parametrize("where", ["proxy", "node"])
@pytest.mark.parametrize(("made", "told", "recorded"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_a_certificate_that_does_not_count_is_explained(
    mint: Mint,
    login: str,
    where: str,
    made: Callable[[], dict[str, Any]],
    told: tuple[str, ...],
    recorded: str,
    request: pytest.FixtureRequest,
) -> None:
    """One sentence, one next step, and one event, though ssh offers the bare key afterwards."""
    cluster = mint.cluster
    before = {one["uid"] for one in certificates_refused(cluster)}
    identity = mint.identity("alice", login, name=request.node.callspec.id.replace(" ", "-"), **made())
    if where == "proxy":
        done = identity.ssh(f"{NODE}.{cluster.name}", "id")
        refused(done, *told)
    else:
        done = identity.ssh(PUBLIC, "id", by=str(cluster.node_port))
        if "You have no role any more" in told:
            told = ("Your roles do not allow the login", "Next: tsh ls shows")
            recorded = "not_granted"
        refused(done, *told)
    assert "Permission denied (publickey)." in done.stderr
    added = wait_until(
        "the refusal is on record",
        lambda: [one for one in certificates_refused(cluster) if one["uid"] not in before] or None,
    )
    assert len(added) == 1, added
    assert recorded in added[0]["error"]
    assert added[0]["login"] == login


def test_an_extension_that_nobody_knows_is_ignored(mint: Mint, login: str) -> None:
    identity = mint.identity("alice", login, name="extended", extensions={"moon@example.com": value("full")})
    assert identity.ssh(f"{NODE}.{mint.cluster.name}", "echo in").ok().stdout == "in\n"


def test_a_certificate_of_another_cluster_is_explained(mint: Mint, login: str) -> None:
    stranger = Mint(mint.cluster, generate_ed25519(), mint.folder / "stranger")
    done = stranger.identity("alice", login, name="stranger").ssh(f"{NODE}.{mint.cluster.name}", "id")
    refused(
        done,
        "was not signed by a user authority that is trusted here",
        f"Next: tsh login to {mint.cluster.name}; tsh status shows where you are logged in",
    )
    event(mint.cluster, "auth", "error", "not signed by a user authority")


def test_a_key_without_a_certificate_is_explained_and_one_event(mint: Mint, login: str, tmp_path: Path) -> None:
    """ssh may leave an expired certificate away, or have none: what it says then must help, too (T08)."""
    cluster = mint.cluster
    identity = mint.identity("alice", login, name="bare")
    bare = Identity(cluster, tmp_path / "bare", login)
    bare.key.write_bytes(identity.key.read_bytes())
    bare.key.chmod(0o600)
    (tmp_path / "known_hosts").write_bytes((identity.key.parent / "known_hosts").read_bytes())
    before = len(certificates_refused(cluster))
    done = bare.ssh(f"{NODE}.{cluster.name}", "id", plain=True)
    refused(done, "Permission denied (publickey,a-certificate-is-needed:run-tsh-login@teleport).")
    for word in ("alice", "access", "expired", "locked"):
        assert word not in done.stderr, "nothing is proved yet"
    event(cluster, "auth", "error", "a certificate is needed")
    assert len(certificates_refused(cluster)) == before + 1


# what the cluster says against a good certificate


def test_a_locked_user_is_told_so_by_ssh_and_tsh(cluster: Cluster, login: str) -> None:
    person = cluster.add_person("lola", logins=[login])
    person.log_in()
    person.tsh("ssh", f"{login}@{NODE}", "true").ok()
    lock = "kind: lock\nversion: v2\nmetadata: {name: lola}\nspec: {target: {user: lola}, message: call 555-1234}\n"
    cluster.tctl("create", "-f", "-", stdin=lock).ok()
    try:
        told = ("Access is locked.", "ask an administrator")
        wait_until("the lock counts", lambda: person.ssh(f"{login}@{NODE}.{cluster.name}", "true").status == 255)
        refused(person.ssh(f"{login}@{NODE}.{cluster.name}", "true"), *told)
        done = person.tsh("ssh", f"{login}@{NODE}", "true")
        refused(done, *told)
        assert done.status == 255
        listed = person.tsh("ls")
        refused(listed, *told)
        assert listed.status == 5
        assert "555" not in done.stderr + listed.stderr, "why there is a lock is for the record"
    finally:
        cluster.tctl("rm", "lock/lola").ok()
    event(cluster, "auth", "error", "lock lola on user: lola", user="lola")


def test_a_user_whose_roles_were_taken_is_told_so_by_ssh_and_tsh(cluster: Cluster, login: str) -> None:
    person = cluster.add_person("norah", logins=[login])
    person.log_in()
    cluster.tctl("users", "update", "norah", "--set-roles=auditor").ok()
    told = ("You have no role any more of those that your certificate names.", "ask an administrator for a role")
    wait_until("it counts", lambda: person.ssh(f"{login}@{NODE}.{cluster.name}", "true").status == 255)
    refused(person.ssh(f"{login}@{NODE}.{cluster.name}", "id"), *told, "Next: ")
    done = person.tsh("ssh", f"{login}@{NODE}", "id")
    refused(done, *told, "hint: ")
    assert done.status == 255
    event(cluster, "auth", "error", "has none of the roles of the certificate any more", user="norah")


def test_a_login_that_the_certificate_lacks_is_explained(cluster: Cluster, alice: Person, login: str) -> None:
    done = alice.ssh(f"nobody@{NODE}.{cluster.name}", "id")
    refused(done, "Your certificate does not hold the login 'nobody'", f"its logins are: {login}", "Next: use one of")
    refused(alice.tsh("ssh", f"nobody@{NODE}", "id"), "you may not log in as nobody", login, "hint: tsh ")
    event(cluster, "auth", "error", "login 'nobody' is not in the certificate", login="nobody")


def test_a_host_that_the_roles_do_not_reach_is_as_if_it_were_not(
    cluster: Cluster, elsewhere: Person, login: str
) -> None:
    """The sentence for a hidden host and for none is one and the same (T34); the record knows better."""
    hidden = elsewhere.ssh(f"{login}@{NODE}.{cluster.name}", "id")
    nothing = elsewhere.ssh(f"{login}@omega.{cluster.name}", "id")
    words = ("is registered here for you.", "Next: tsh ls shows the hosts that you may reach", "tctl access explain")
    refused(hidden, f"No node {NODE}.{cluster.name}", *words)
    assert hidden.stderr.replace(NODE, "X") == nothing.stderr.replace("omega", "X")
    near = elsewhere.ssh(f"{login}@{NODE}x.{cluster.name}", "id")
    assert "Did you mean" not in near.stderr
    refused(elsewhere.tsh("ssh", f"{login}@{NODE}", "id"), f"No node {NODE}", *words[:1], "tsh ls")
    event(cluster, "session.request_denied", "reason", "hidden: ", user="erika")


def test_straight_at_the_node_the_roles_refuse_too(cluster: Cluster, elsewhere: Person, mint: Mint, login: str) -> None:
    done = mint.identity("erika", login, roles=["elsewhere"]).ssh(PUBLIC, "id", by=str(cluster.node_port))
    refused(done, f"Your roles do not allow the login '{login}' on this host.", "Next: tsh ls shows the hosts")
    event(cluster, "auth", "error", "not_granted", user="erika")


def test_an_unknown_host_gets_the_nearest_names(cluster: Cluster, alice: Person, login: str) -> None:
    told = ("No node alpah", f"Did you mean {NODE}", "tsh ls")
    refused(alice.ssh(f"{login}@alpah.{cluster.name}", "id"), *told)
    refused(alice.tsh("ssh", f"{login}@alpah", "id"), *told)
    event(cluster, "session.request_denied", "reason", "No node alpah", user="alice")


def test_an_ambiguous_host_is_listed_with_the_way_on(
    cluster: Cluster, alice: Person, login: str, twins: list[str]
) -> None:
    for done in (alice.ssh(f"{login}@twin.{cluster.name}", "id"), alice.tsh("ssh", f"{login}@twin", "id")):
        refused(done, "fits 2 nodes", *twins, "name one by its id: tsh ssh LOGIN@")
    event(cluster, "session.request_denied", "reason", "fits 2 nodes", user="alice")
    assert alice.tsh("ssh", f"{login}@{twins[0]}", "echo by id").ok().stdout == "by id\n"
    assert alice.ssh(f"{login}@{twins[1]}.{cluster.name}", "echo by id").ok().stdout == "by id\n"


def test_another_cluster_s_name_is_explained(cluster: Cluster, alice: Person, mint: Mint, login: str) -> None:
    identity = mint.identity("alice", login, name="routed", route="mars.test")
    assert identity.ssh(f"{NODE}.{cluster.name}", "echo here").out == b"here\n", "the name says which cluster is meant"
    refused(
        identity.ssh(NODE, "id"),
        "The cluster mars.test is not known here, this one is example.test",
        "Next: tsh clusters",
    )
    event(cluster, "session.request_denied", "reason", "The cluster mars.test is not known", user="alice")
    done = alice.tsh("ssh", "--cluster=mars.test", f"{login}@{NODE}", "id")
    refused(done, "mars.test", "hint: tsh ")
    assert done.status == 255
    listed = alice.tsh("ls", "--cluster=mars.test")
    refused(listed, "the cluster mars.test is not known here", "hint: tsh clusters")
    assert listed.status == 3


def test_a_certificate_that_ends_meanwhile_ends_the_session(mint: Mint, login: str) -> None:
    """With the option to disconnect: within a tick of its end, and the user reads why."""
    cluster = mint.cluster
    add_role(cluster, "brief", login, "{'*': '*'}", "disconnect_expired_cert: true")
    cluster.tctl("users", "update", "alice", "--set-roles=access,brief").ok()
    try:
        identity = mint.identity("alice", login, roles=["brief"], name="brief", before=seconds(now()) + 6)
        done = identity.ssh(f"{NODE}.{cluster.name}", "echo in; exec sleep 60")
        ended = now()
    finally:
        cluster.tctl("users", "update", "alice", "--set-roles=access").ok()
    assert done.status == 255
    assert done.stdout == "in\n"
    assert "the certificate has expired" in done.stderr
    told = event(cluster, "client.disconnect", "reason", "the certificate has expired", user="alice")
    assert told["user"] == "alice"
    assert ended - timedelta(seconds=20) < now(), "long before the command would have ended by itself"

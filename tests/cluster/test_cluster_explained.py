"""`tctl access explain`, the logins of `tsh ls`, a login that has expired, and a clock that is off."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from tests.cluster.cluster_certificates import Mint, now, seconds, user_authority

from teleport.testing.cluster import BIN, NODE, PASSWORD, Cluster, Person, Ran, plain_environment, run
from teleport.testing.terminal import Terminal

ROLE = """\
kind: role
version: v3
metadata: {{name: {name}}}
spec: {{options: {{{options}}}, allow: {{logins: [{logins}], node_labels: {labels}, rules: [{rules}]}}}}
"""


def add_role(cluster: Cluster, name: str, logins: str, labels: str, options: str = "", rules: str = "") -> None:
    document = ROLE.format(name=name, logins=logins, labels=labels, options=options, rules=rules)
    cluster.tctl("create", "-f", "-", stdin=document).ok()


@pytest.fixture(scope="module")
def rob(cluster: Cluster, login: str) -> Person:
    """Two roles: one for hosts of another kind, with a further login."""
    add_role(cluster, "here", login, "{env: [test]}", "max_sessions: 5, forward_agent: true")
    add_role(cluster, "there", "backup", "{env: [mars]}")
    person = cluster.add_person("rob", roles=["here", "there"], logins=[])
    person.log_in()
    return person


# tctl access explain


def test_a_permit_is_explained_and_is_what_happens(cluster: Cluster, rob: Person, login: str) -> None:
    found = cluster.tctl("access", "explain", "rob", f"{login}@{NODE}", "--format=json").json()
    assert found["allowed"] is True
    assert found["roles"] == ["here"]
    parts = {part["name"]: (part["value"], part["sources"]) for part in found["parts"]}
    assert parts["sessions on a connection"] == ("5", ["here"])
    assert parts["agent forwarding"] == ("yes", ["here"])
    shown = cluster.tctl("access", "explain", "rob", f"{login}@{NODE}.{cluster.name}").ok().stdout
    assert shown.startswith(f"ALLOWED: rob as {login} on {NODE} (")
    rob.tsh("ssh", f"{login}@{NODE}", "true").ok()


def test_each_reason_of_a_refusal_is_printed_and_the_status_is_5(cluster: Cluster, rob: Person, login: str) -> None:
    lock = "kind: lock\nversion: v2\nmetadata: {name: no-rob}\nspec: {target: {user: rob}, message: gone fishing}\n"
    cluster.tctl("create", "-f", "-", stdin=lock).ok()
    try:
        done = cluster.tctl("access", "explain", "rob", f"backup@{NODE}")
        as_json = cluster.tctl("access", "explain", "rob", f"backup@{NODE}", "--format=json")
    finally:
        cluster.tctl("rm", "lock/no-rob").ok()
    assert done.status == as_json.status == 5
    assert done.stdout.startswith(f"DENIED: rob as backup on {NODE} (")
    for words in (
        "lock no-rob on user: rob: gone fishing (locked)",
        "role 'here' does not give the login 'backup' (not_granted)",
        "role 'there' ",
        "The user is told: Access is locked.",
        "Next: tctl ",
    ):
        assert words in done.stdout
    assert '"allowed": false' in as_json.stdout
    assert rob.tsh("ssh", f"backup@{NODE}", "true").status == 255


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["rob", "root"], 2, "is not LOGIN@HOST"),
        (["nobody", f"root@{NODE}"], 3, "there is no user 'nobody'"),
        (["rob", "root@alpah"], 3, "did you mean alpha?"),
        (["rob", f"nope@{NODE}"], 5, "login 'nope' is not in the certificate"),
        (["rob", f"root@{NODE}", "--cluster=mars"], 5, "certificate of cluster 'mars', this is 'example.test'"),
    ],
)
def test_what_cannot_be_explained_is_said(
    cluster: Cluster, rob: Person, words: list[str], status: int, said: str
) -> None:
    done = cluster.tctl("access", "explain", *words)
    assert done.status == status
    assert said in done.stdout + done.stderr


def test_a_second_factor_that_is_due_is_a_reason(cluster: Cluster, login: str) -> None:
    add_role(cluster, "careful", login, "{'*': '*'}", "require_session_mfa: true")
    cluster.add_person("mia", roles=["careful"], logins=[])
    done = cluster.tctl("access", "explain", "mia", f"{login}@{NODE}")
    assert done.status == 5
    assert "role 'careful' requires MFA for each session (mfa_required)" in done.stdout


def test_only_who_may_read_users_roles_locks_and_the_host_is_told(
    cluster: Cluster, alice: Person, rob: Person, login: str
) -> None:
    """Through the API as another person (T34): refused and on record; an editor learns of no host that is hidden."""
    off = {**plain_environment(rob.home), "TELEPORT_CONFIG_FILE": ""}
    ask = ("access", "explain", "alice", f"{login}@{NODE}")
    done = run(BIN / "tctl", *ask, environment=off)
    assert done.status == 5
    assert done.stdout == ""
    assert "hint: " in done.stderr
    cluster.wait_event("api.denied", user="rob", route="explain_access")
    editor = cluster.add_person("edith", roles=["editor"], logins=[])
    editor.log_in()
    hidden = run(BIN / "tctl", *ask, environment={**plain_environment(editor.home), "TELEPORT_CONFIG_FILE": ""})
    assert hidden.status == 3
    assert f"there is no node '{NODE}'" in hidden.stderr


# tsh ls


def test_the_logins_that_may_be_used_stand_beside_each_host(cluster: Cluster, rob: Person, login: str) -> None:
    shown = rob.tsh("ls").ok().stdout.splitlines()
    assert shown[0].split() == ["Node", "Name", "Address", "Logins", "Labels"]
    line = next(line for line in shown if line.startswith(NODE))
    assert f" {login} " in line
    assert "backup" not in line
    listed = rob.tsh("ls", "--format=json").json()
    assert [node["logins"] for node in listed if node["spec"]["hostname"] == NODE] == [[login]]


def test_tctl_lists_hosts_without_anybody_s_logins(cluster: Cluster, rob: Person) -> None:
    assert all("logins" not in node for node in cluster.tctl("nodes", "ls", "--format=json").json())


# a login that has expired


def expire(person: Person, mint: Mint, login: str, *, ends_in: timedelta = timedelta(hours=-1)) -> None:
    """The profile's certificate ended an hour ago, or ends at another time."""
    old = mint.identity(
        person.name,
        login,
        name=f"expired-{person.name}",
        after=seconds(now() - timedelta(hours=3)),
        before=seconds(now() + ends_in),
    )
    path = next((person.home / ".tsh" / "keys").glob(f"*/{person.name}-ssh/*-cert.pub"))
    path.write_bytes(Path(f"{old.key}-cert.pub").read_bytes())


@pytest.fixture
def late(cluster: Cluster, login: str, tmp_path: Path) -> Person:
    """Was logged in; a person of their own for each test."""
    name = f"late{tmp_path.name[-6:].replace('_', '')}"
    person = cluster.add_person(name, logins=[login])
    person.log_in()
    expire(person, Mint(cluster, user_authority(cluster), tmp_path), login)
    return person


def test_a_script_is_refused_with_the_command_to_log_in(late: Person, login: str) -> None:
    for arguments, status in ((["ls"], 5), (["ssh", f"{login}@{NODE}", "true"], 255)):
        done = late.tsh(*arguments)
        assert done.status == status
        assert done.stdout == ""
        assert "tsh: your login expired at" in done.stderr
        assert re.search(r"^  hint: tsh login '?--proxy=", done.stderr, re.M)


def test_a_person_logs_in_again_and_the_command_goes_on(late: Person, login: str) -> None:
    arguments = [str(BIN / "tsh"), "ssh", f"{login}@{NODE}", "echo went on"]
    with Terminal(arguments, late.environment) as terminal:
        terminal.expect("your login expired at .* UTC; log in again to go on:")
        terminal.expect(f"Password of {late.name}: ")
        terminal.type(f"{PASSWORD}\n")
        terminal.expect("One-time code: ")
        terminal.type(f"{late.code()}\n")
        terminal.expect("went on")
        assert terminal.ended() == 0
    assert late.tsh("ssh", f"{login}@{NODE}", "echo still").ok().stdout == "still\n"


def test_the_end_is_said_before_it_comes_and_a_login_begins_a_new_one(
    cluster: Cluster, login: str, tmp_path: Path
) -> None:
    """To whoever looks on; scripts read nothing more than before."""
    soon = cluster.add_person("soon", logins=[login])
    soon.log_in()
    expire(soon, Mint(cluster, user_authority(cluster), tmp_path), login, ends_in=timedelta(minutes=10))
    assert "ends in" not in soon.tsh("ls").ok().stderr
    with Terminal([str(BIN / "tsh"), "ls"], soon.environment) as terminal:
        terminal.expect(r"tsh: your login ends in (10m|9m\d*s?).* UTC; tsh login begins a new one")
        terminal.expect(NODE)
        assert terminal.ended() == 0
    with Terminal([str(BIN / "tsh"), "login"], soon.environment) as terminal:
        terminal.expect(f"Password of {soon.name}: ")
        terminal.type(f"{PASSWORD}\n")
        terminal.expect("One-time code: ")
        terminal.type(f"{soon.code()}\n")
        assert terminal.ended() == 0
    with Terminal([str(BIN / "tsh"), "ls"], soon.environment) as terminal:
        terminal.expect(NODE)
        assert terminal.ended() == 0
    assert b"ends in" not in terminal.shown


def test_a_wrong_password_does_not_go_on(late: Person, login: str) -> None:
    with Terminal([str(BIN / "tsh"), "ls"], late.environment) as terminal:
        terminal.expect("Password of .*: ")
        terminal.type("wrong wrong wrong\n")
        terminal.expect("One-time code: ")
        terminal.type("000000\n")
        assert terminal.ended() == 5
    assert NODE.encode() not in terminal.shown


# a clock that is off

SHIM = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long off(void) { const char *said = getenv("CLOCK_OFF"); return said ? atol(said) : 0; }
int clock_gettime(clockid_t which, struct timespec *at) {
    int done = syscall(SYS_clock_gettime, which, at);
    if (done == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) at->tv_sec += off();
    return done;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void) zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that sets back or forward the clock that one process sees."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: it makes the clock of one process wrong")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "clock.c").write_text(SHIM)
    library = folder / "clock.so"
    run(compiler, "-shared", "-fPIC", "-o", library, folder / "clock.c", environment=plain_environment(folder)).ok()
    return library


def with_clock_off(person: Person, shim: Path, by: timedelta, *arguments: str, stdin: str = "") -> Ran:
    more = {"LD_PRELOAD": str(shim), "CLOCK_OFF": str(int(by.total_seconds()))}
    return run(BIN / "tsh", *arguments, environment={**person.environment, **more}, stdin=stdin)


def test_a_clock_that_is_behind_is_named(cluster: Cluster, alice: Person, shim: Path) -> None:
    done = with_clock_off(alice, shim, -timedelta(hours=3), "ls")
    assert done.status == 5
    assert "your login is not valid before" in done.stderr
    assert "and the clock here says" in done.stderr
    assert "is off by 2h" in done.stderr or "is off by 3h" in done.stderr
    assert "hint: check the clock of this machine (timedatectl)" in done.stderr


def test_a_login_with_a_clock_that_is_behind_names_both_clocks(cluster: Cluster, alice: Person, shim: Path) -> None:
    arguments = ("login", f"--proxy={cluster.web_address}", "--user=alice", f"--ca-pin={cluster.ca_pin()}", "--ttl=60")
    done = with_clock_off(alice, shim, -timedelta(hours=3), *arguments, stdin=f"{PASSWORD}\n000000\n")
    assert done.status == 6
    assert "did not prove who it is" in done.stderr
    assert re.search("the clock of this machine is (3h|2h59m) behind the proxy's", done.stderr)
    assert "hint: check the clock of this machine (timedatectl)" in done.stderr


def test_a_login_with_a_clock_that_is_ahead_says_so(cluster: Cluster, shim: Path, login: str) -> None:
    person = cluster.add_person("fast", logins=[login])
    arguments = ("login", f"--proxy={cluster.web_address}", "--user=fast", f"--ca-pin={cluster.ca_pin()}")
    done = with_clock_off(person, shim, timedelta(hours=1), *arguments, stdin=f"{PASSWORD}\n{person.code()}\n").ok()
    assert re.search("the clock of this machine is (1h|59m[0-9]+s) ahead of the proxy's", done.stderr)


def test_a_clock_that_is_right_is_not_spoken_of(cluster: Cluster, rob: Person, shim: Path) -> None:
    assert "clock" not in with_clock_off(rob, shim, timedelta(0), "ls").ok().stderr


def test_a_tsh_of_another_age_says_so_at_the_login(cluster: Cluster, login: str) -> None:
    person = cluster.add_person("ages", logins=[login])
    newer = "import teleport; teleport.__version__ = '99.0.0'; from teleport.cli.tsh import main; main()"
    words = ("login", f"--proxy={cluster.web_address}", "--user=ages", f"--ca-pin={cluster.ca_pin()}", "--ttl=60")

    def logged_in(*more: str) -> str:
        proof = f"{PASSWORD}\n{person.code()}\n"
        return run(BIN / "python", "-c", newer, *words, *more, environment=person.environment, stdin=proof).ok().stderr

    said = logged_in()
    assert "tsh: tsh 99.0.0 is newer than this cluster" in said
    assert "--skip-version-check hides this" in said
    assert "newer than" not in logged_in("--skip-version-check")


def test_a_lockout_and_a_cluster_without_a_host_for_the_user_are_explained(
    cluster: Cluster, rob: Person, login: str
) -> None:
    add_role(cluster, "nowhere", login, "{env: [mars]}")
    cluster.tctl("users", "add", "nils", "--roles=nowhere").ok()
    done = cluster.tctl("access", "explain", "nils", f"{login}@{NODE}")
    assert done.status == 5
    assert re.search(r"may log in to the cluster, and sees none of its \d+ hosts \(no_host\)", done.stdout)
    assert "no_host" not in cluster.tctl("access", "explain", "rob", f"backup@{NODE}").stdout
    lost = cluster.add_person("lou", roles=["here"], logins=[])
    where = (f"--proxy={cluster.web_address}", "--user=lou", f"--ca-pin={cluster.ca_pin()}")
    for _ in range(5):
        assert lost.tsh("login", *where, stdin="certainly not this one\n000000\n").status == 5
    cluster.wait_event("user.locked", user="lou")
    out = cluster.tctl("access", "explain", "lou", f"{login}@{NODE}")
    assert (out.status, "tctl users unlock lou (locked_out)" in out.stdout) == (5, True), out
    cluster.tctl("users", "unlock", "lou").ok()
    assert cluster.tctl("access", "explain", "lou", f"{login}@{NODE}").status == 0

"""Several auth servers over one storage: each serves everybody, and what one may do only once is done once."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster_auth_servers import NODE_NAME, AuthPair
from tests.cluster.cluster_shells import open_shell

from teleport.auth.evidence.store import LEASE
from teleport.backend.etcd.engine import EtcdBackend
from teleport.backend.etcd.settings import EtcdSettings
from teleport.clock import SystemClock
from teleport.testing import etcd
from teleport.testing.cluster import Host, Person, alive, descendants, processes_with, wait_until

ME = getpass.getuser()

pytestmark = pytest.mark.skipif(etcd.program() is None, reason=etcd.MISSING)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthPair]:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "etcd").mkdir()
    with etcd.EtcdCluster(folder / "etcd", members=3) as servers:
        made = AuthPair(folder, servers, authentication={"type": "local", "second_factor": "off"})
        with made.served():
            yield made


@pytest.fixture(scope="module")
def ann(pair: AuthPair) -> Person:
    person = pair.add_person("ann", logins=[ME])
    person.log_in()
    return person


def events(host: Host, *arguments: str) -> list[dict[str, Any]]:
    """What `tctl audit ls` of this auth server finds."""
    return [json.loads(line) for line in host.tctl("audit", "ls", "--format=json", *arguments).ok().stdout.splitlines()]


def test_two_that_start_at_once_make_one_cluster(pair: AuthPair) -> None:
    said = [host.tctl("get", "cert_authority", "--format=json").json() for host in (pair, pair.other)]
    assert said[0] == said[1]
    made = Counter(event["authority"] for event in events(pair, "--type=authority.create"))
    assert made == dict.fromkeys(made, 1)
    assert {"user", "host"} <= made.keys()


def test_events_of_both_are_found_by_either_and_none_twice(pair: AuthPair, ann: Person) -> None:
    for number in range(5):
        for letter in "ab":
            pair.auth_of(letter).tctl("users", "add", f"u-{letter}-{number}", "--roles=access", f"--logins={ME}").ok()
    assert ann.ssh(f"{ME}@{NODE_NAME}.{pair.name}", "echo here").stdout == "here\n"
    wanted = {f"u-{letter}-{number}" for letter in "ab" for number in range(5)}
    for host in (pair, pair.other):

        def found(host: Host = host) -> Counter[str] | None:
            told = events(host)
            names = Counter(one["name"] for one in told if one["event"] == "user.create")
            return names if wanted <= names.keys() and any(one["event"] == "session.end" for one in told) else None

        names = wait_until("events of both", found)
        assert {names[name] for name in wanted} == {1}
        assert host.tctl("audit", "verify").ok()


def test_a_recording_is_read_through_either(pair: AuthPair, ann: Person) -> None:
    assert ann.ssh(f"{ME}@{NODE_NAME}.{pair.name}", "echo $((41+1))-recorded").stdout == "42-recorded\n"

    for host in (pair, pair.other):

        def listed(host: Host = host) -> list[str]:
            rows = host.tctl("recordings", "ls", "--format=json").json()
            return [one["sid"] for one in rows if "recorded" in one["command"]]

        (sid,) = wait_until("the recording is listed", listed)
        assert "42-recorded" in host.tctl("recordings", "export", sid, "--format=text").ok().stdout


@pytest.mark.parametrize("letter", ["a", "b"])
def test_a_lock_made_at_either_ends_sessions_and_refuses_new_ones(pair: AuthPair, letter: str) -> None:
    person = pair.add_person(f"locked-{letter}", logins=[ME])
    person.log_in()
    host = pair.auth_of(letter)
    with open_shell(person, ME, host=NODE_NAME) as shell:
        begun = time.monotonic()
        made = host.tctl("lock", f"--user={person.name}", "--format=json").json()
        assert "Access is locked." in shell.ends()
        print(f"the session ended {time.monotonic() - begun:.2f} s after tctl began")
        assert "Access is locked." in person.ssh(f"{ME}@{NODE_NAME}.{pair.name}", "true").stderr
    other = pair.auth_of("b" if letter == "a" else "a")
    other.tctl("rm", f"lock/{made[0]['name']}").ok()
    wait_until("it is lifted", lambda: person.ssh(f"{ME}@{NODE_NAME}.{pair.name}", "true").status == 0)


def test_a_folder_of_its_own_is_refused(pair: AuthPair, tmp_path: Path) -> None:
    """Its search would answer with half of what happened; so of recordings, and of a copy of the folder."""

    def refused(host: Host) -> str:
        host.write()
        host.daemon.begin()
        assert host.daemon.ended() == 1
        return host.daemon.log()

    third = pair.another_auth("c")
    storage = third.config["teleport"]["storage"]
    right = dict(storage)
    del storage["audit_events_uri"], storage["audit_sessions_uri"]
    assert "not the folder in which the auth servers of this cluster keep the audit log" in refused(third)
    storage["audit_events_uri"] = right["audit_events_uri"]
    assert "keep the recordings" in refused(third)
    storage["audit_sessions_uri"] = right["audit_sessions_uri"]
    pair.tctl("users", "add", "before-the-copy", "--roles=access", f"--logins={ME}").ok()
    shutil.copytree(pair.root / "shared" / "log", tmp_path / "copy")
    pair.tctl("users", "add", "after-the-copy", "--roles=access", f"--logins={ME}").ok()
    wait_until("it is told of", lambda: [one for one in events(pair) if one.get("name") == "after-the-copy"])
    storage["audit_events_uri"] = f"file://{tmp_path / 'copy'}"
    assert "lacks events that auth server" in refused(third)


def test_an_auth_server_that_is_killed_costs_nobody_a_login_or_a_session(pair: AuthPair, ann: Person) -> None:
    """Each in turn, with kill -9: people log in, sessions begin, go on and are recorded, events are found."""
    target = f"{ME}@{NODE_NAME}.{pair.name}"
    for letter, left in (("a", pair.other), ("b", pair)):
        ended = pair.auth_of(letter)
        with open_shell(ann, ME, host=NODE_NAME) as shell:
            ended.daemon.kill()
            begun = time.monotonic()
            assert ann.ssh(target, f"echo without-{letter}").stdout == f"without-{letter}\n"
            ann.log_in()
            print(f"without {letter}: connected and logged in {time.monotonic() - begun:.2f} s after the kill")
            assert shell.client.poll() is None
        left.tctl("users", "add", f"while-{letter}-is-dead", "--roles=access", f"--logins={ME}").ok()

        def told(left: Host = left, letter: str = letter) -> bool:
            found = events(left)
            names = [one.get("name") for one in found if one["event"] == "user.create"]
            commands = [one for one in found if f"without-{letter}" in str(one)]
            return f"while-{letter}-is-dead" in names and bool(commands)

        wait_until("all of it is told", told)
        ended.daemon.start()
        for host in (pair, pair.other):
            told_of = [
                one for one in events(host, "--type=user.create") if one.get("name") == f"while-{letter}-is-dead"
            ]
            assert len(told_of) == 1


def test_a_member_of_etcd_that_is_killed_costs_nobody_a_login_or_a_session(pair: AuthPair, ann: Person) -> None:
    assert isinstance(pair.state, etcd.EtcdCluster)
    for member in pair.state.members:
        member.kill()
        ann.log_in()
        assert ann.ssh(f"{ME}@{NODE_NAME}.{pair.name}", "echo here").stdout == "here\n"
        member.start()
        member.wait_ready()
    for host in (pair, pair.other):
        host.tctl("audit", "verify").ok()


def holder(pair: AuthPair) -> str:
    """Which auth server holds the lease: its letter, or nothing."""

    async def read() -> bytes:
        assert isinstance(pair.state, etcd.EtcdCluster)
        settings = EtcdSettings(pair.state.urls, insecure=True)
        async with EtcdBackend(settings, SystemClock(), sweep_every=None) as backend:
            item = await backend.get(LEASE)
            return item.value if item is not None else b""

    host = asyncio.run(read()).decode().partition("/")[0]
    ids = {(pair.auth_of(letter).data_dir / "host_uuid").read_text().strip(): letter for letter in "ab"}
    return ids.get(host, "")


@pytest.mark.timeout(240)
def test_who_holds_the_lease_is_killed_in_a_rotation_and_another_goes_on(pair: AuthPair, ann: Person) -> None:
    """Each step is taken once, and the log goes on being signed, each statement once."""

    def standby() -> bool:
        return all(
            one["spec"].get("rotation", {}).get("state") != "in_progress"
            for one in pair.tctl("get", "cert_authority", "--format=json").json()
        )

    first = wait_until("one holds the lease", lambda: holder(pair), 40)
    second = "b" if first == "a" else "a"
    pair.auth_of(second).tctl("auth", "rotate", "--type=user", "--grace-period=10s").ok()
    wait_until("it has begun", lambda: events(pair.auth_of(second), "--type=authority.rotate"))
    assert not standby()
    pair.auth_of(first).daemon.kill()
    wait_until("the other one holds it", lambda: holder(pair) == second, 60)
    pair.auth_of(first).daemon.start()

    wait_until("the rotation is over", standby, 90)
    steps = [(one["authority"], one["phase"]) for one in events(pair, "--type=authority.rotate")]
    assert len(steps) == len(set(steps)) >= 3, steps
    signed = [one["number"] for one in events(pair, "--type=audit.checkpoint")]
    assert len(signed) == len(set(signed))
    for host in (pair, pair.other):
        host.tctl("audit", "verify").ok()
    ann.log_in()
    assert ann.ssh(f"{ME}@{NODE_NAME}.{pair.name}", "echo after").stdout == "after\n"


def test_both_are_listed_by_either_and_named_to_who_joins(pair: AuthPair) -> None:
    for host in (pair, pair.other):

        def listed(host: Host = host) -> list[str]:
            return sorted(one["spec"]["hostname"] for one in host.tctl("get", "auth_servers", "--format=json").json())

        wait_until("both are listed", lambda: listed() == ["auth-a", "auth-b"])
        assert [one["spec"]["hostname"] for one in host.tctl("nodes", "ls", "--format=json").json()] == [NODE_NAME]
        made = host.tctl("tokens", "add", "--type=node", "--format=json").json()
        assert sorted(made["auth_servers"]) == sorted(pair.auth_addresses)


@pytest.mark.timeout(240)
def test_an_auth_server_that_is_frozen_costs_one_call_its_time(pair: AuthPair, ann: Person) -> None:
    """As one whose machine is gone without a word. Who is asked again is answered by the other one."""
    os.kill(pair.daemon.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()

        def served() -> bool:
            return ann.ssh(f"{ME}@{NODE_NAME}.{pair.name}", "echo in", seconds=60).stdout == "in\n"

        wait_until("somebody is served", served, 120)
        ann.log_in()
        print(f"served {time.monotonic() - begun:.1f} s after it froze")
        again = time.monotonic()
        assert served()
        assert time.monotonic() - again < 10
    finally:
        os.kill(pair.daemon.pid, signal.SIGCONT)
    wait_until("the frozen one goes on", lambda: events(pair, "--type=session.end"))


def test_a_restart_by_hup_leaves_one_log(pair: AuthPair, ann: Person) -> None:
    """The process that comes, the one that goes and the other server write to one folder at the same time."""
    former = pair.daemon.pid
    below = set(descendants(former))
    os.kill(former, signal.SIGHUP)
    for number in range(6):
        pair.auth_of("ab"[number % 2]).tctl("users", "add", f"hup-{number}", "--roles=access", f"--logins={ME}").ok()
    try:
        wait_until("the former process is gone", lambda: pair.daemon.ended(0.2) == 0 if not alive(former) else None, 60)
        assert set(processes_with(str(pair.config_path))) - {former, *below}, "another one serves"
        wanted = {f"hup-{number}" for number in range(6)}
        for host in (pair, pair.other):

            def told(host: Host = host) -> Counter[str] | None:
                names = Counter(one.get("name", "") for one in events(host, "--type=user.create"))
                return names if wanted <= names.keys() else None

            assert {wait_until("all are told of", told)[name] for name in wanted} == {1}
            host.tctl("audit", "verify").ok()
    finally:
        for pid in processes_with(str(pair.config_path)):
            os.kill(pid, signal.SIGTERM)
        wait_until("its last process is gone", lambda: not processes_with(str(pair.config_path)))
        pair.daemon.start()

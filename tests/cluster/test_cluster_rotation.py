"""Authorities are rotated while people work: no connection fails, sessions go on, what was is refused afterwards."""

from __future__ import annotations

import copy
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.cluster_restarting import Restarting
from tests.cluster.cluster_rotation import BareKey, LongSession, follows, look_now, phase, pins, rotate, status, working

from teleport.testing.cluster import Cluster, Host, Person, alive, at, plain_environment, run, wait_until

MANUAL = ("init", "update_clients", "update_servers", "standby")
BEFORE_STANDBY = MANUAL[:-1]


@dataclass
class Two:
    """A cluster with two hosts, and somebody who works there."""

    cluster: Cluster
    beta: Host
    worker: Person
    login: str

    def join(self, name: str, **teleport: str) -> Host:
        """A host that is to join; it is not started yet."""
        token = self.cluster.tctl("tokens", "add", "--type=node", "--format=json").ok().json()["token"]
        settings = {"auth_token": token, "ca_pin": pins(self.cluster)[0], **teleport}
        return Host(self.cluster.folder / name, self.cluster.node_config(name, **settings))


@pytest.fixture
def two(tmp_path: Path, login: str) -> Iterator[Two]:
    with Cluster(tmp_path / "cluster") as cluster:
        found = Two(cluster, None, None, login)  # type: ignore[arg-type]
        found.beta = found.join("beta")
        with found.beta:
            found.worker = cluster.add_person("worker", logins=[login])
            found.worker.log_in()
            yield found


def test_a_rotation_by_hand_fails_no_connection_and_ends_what_was(two: Two, tmp_path: Path) -> None:
    cluster, worker, login = two.cluster, two.worker, two.login
    (old_pin,) = pins(cluster)
    old_authority = cluster.authority()
    sleeper = copy.copy(worker)  # the same login on a machine that is not used meanwhile
    sleeper.home = tmp_path / "sleeper"
    shutil.copytree(worker.home, sleeper.home, dirs_exist_ok=True)
    sleeper.ssh_config.write_text(worker.ssh_config.read_text().replace(str(worker.home), str(sleeper.home)))
    away = two.join("gamma")
    with away:
        pass
    bare = BareKey(cluster, tmp_path / "bare", "worker", login)
    worker.tsh("ssh", f"{login}@alpha", "echo", "recorded before").ok()

    with working(worker, login, "alpha", "beta") as (work, session):
        look_now(worker)
        for name in BEFORE_STANDBY:
            phase(cluster, work, name)
            assert session.answers(name)
            if name == "init":
                bare.learn_hosts()  # as an administrator does while both keys are trusted
            bare.ssh("alpha", "true").ok()
        assert len(pins(cluster)) == 2
        phase(cluster, work, "standby")
        assert session.answers("standby")

    (new_pin,) = pins(cluster)
    assert new_pin != old_pin
    refused = bare.ssh("alpha", "true")
    assert refused.status == 255
    assert "a user authority that a rotation ended on" in refused.stderr
    assert "tsh login" in refused.stderr
    assert sleeper.ssh(f"{login}@alpha.{cluster.name}", "true").status == 255
    left = sleeper.tsh("ssh", f"{login}@alpha", "true")
    assert left.status == 255
    assert "after a rotation" in left.stderr
    again = sleeper.tsh("login", f"--ca-pin={old_pin}", stdin="x\ny\n")
    assert again.status != 0
    assert "pin" in again.stderr
    sleeper.log_in(f"--ca-pin={new_pin}")
    sleeper.tsh("ssh", f"{login}@alpha", "true").ok()

    _openssl_and_ssh_keygen_show_the_new_keys(cluster, old_authority)
    verified = cluster.tctl("audit", "verify", "--format=json").ok().json()
    assert verified["ok"], verified
    assert verified["recordings"] > len(work.attempts) // 2
    _who_was_away_is_told_what_to_run(two, away)


def _openssl_and_ssh_keygen_show_the_new_keys(cluster: Cluster, old_authority: str) -> None:
    environment = plain_environment(cluster.folder)
    old, new = cluster.folder / "old.pem", cluster.folder / "new.pem"
    old.write_text(old_authority)
    new.write_text(cluster.tctl("auth", "export", "--type=tls").ok().stdout)
    for port in (cluster.auth_port, cluster.web_port):
        for file, good in ((new, True), (old, False)):
            name = ["-servername", "teleport.cluster.local", "-connect", at(port)]
            words = ["openssl", "s_client", *name, "-CAfile", str(file), "-verify_return_error"]
            shown = run(*words, environment=environment)
            assert ("Verify return code: 0 (ok)" in shown.stdout) is good, shown.stdout
    exported = cluster.folder / "host.pub"
    exported.write_text(" ".join(cluster.tctl("auth", "export", "--type=host").ok().stdout.split()[2:4]))
    fingerprint = run("ssh-keygen", "-l", "-f", exported, environment=environment).ok().stdout.split()[1]
    for file_name in ("ssh.cert", "server-ssh.cert"):
        certificate = cluster.data_dir / "proc" / "node" / file_name
        assert fingerprint in run("ssh-keygen", "-L", "-f", certificate, environment=environment).ok().stdout


def _who_was_away_is_told_what_to_run(two: Two, away: Host) -> None:
    """And doing exactly that brings the host back."""
    cluster = two.cluster
    seen = len(away.daemon.log())
    assert away.daemon.begin().ended() == 5
    said = away.daemon.log()[seen:]
    assert "the host authority of example.test was replaced while this host was away" in said
    uuid = (away.data_dir / "host_uuid").read_text().strip()
    for command in (f"tctl nodes rm {uuid}", "tctl nodes add --roles=node", f"rm -r {away.data_dir}/proc/node"):
        assert command in said
    assert "Traceback" not in said
    cluster.tctl("nodes", "rm", uuid).ok()
    added = cluster.tctl("nodes", "add", "--roles=node", "--format=json").ok().json()
    shutil.rmtree(away.data_dir / "proc" / "node")
    away.config["teleport"].update(auth_token=added[0], ca_pin=pins(cluster)[0])
    away.write()
    with away:
        two.worker.tsh("ssh", f"{two.login}@gamma", "echo", "back").ok()


@pytest.mark.long
def test_a_rotation_that_runs_by_itself_fails_no_connection(two: Two) -> None:
    with working(two.worker, two.login, "alpha", "beta") as (work, session):
        rotate(two.cluster, "--grace-period=1m")
        wait_until("all authorities were rotated", lambda: status(two.cluster).count("rotated ") == 3, 180)
        assert session.answers("rotated")
        work.wait_more()


@pytest.mark.long
def test_a_rollback_from_every_phase_fails_no_connection(two: Two) -> None:
    before = pins(two.cluster)
    with working(two.worker, two.login, "alpha", "beta") as (work, session):
        for length in range(1, len(BEFORE_STANDBY) + 1):
            look_now(two.worker)
            for name in BEFORE_STANDBY[:length]:
                phase(two.cluster, work, name)
            phase(two.cluster, work, "rollback")
            assert session.answers("back")
            phase(two.cluster, work, "standby")
            assert session.answers("standby")
            assert pins(two.cluster) == before


@pytest.mark.long
def test_killed_daemons_go_on_in_the_phase_that_they_were_in(two: Two) -> None:
    """Auth with its proxy and node, or the other host, is killed in each phase, right after it began (T15)."""

    def reached() -> bool:
        look_now(two.worker)
        ran = [two.worker.tsh("ssh", f"{two.login}@{host}", "echo", "here") for host in ("alpha", "beta")]
        return all(one.status == 0 for one in ran) and follows(two.worker)

    for number, name in enumerate(MANUAL):
        victim: Host = two.cluster if number % 2 else two.beta
        rotate(two.cluster, "--manual", f"--phase={name}")
        victim.daemon.kill()
        victim.daemon.start()
        wait_until(f"both hosts are reached after a kill in {name}, and the login follows", reached)
    assert two.cluster.tctl("audit", "verify", "--format=json").ok().json()["ok"]


@pytest.mark.long
def test_of_two_processes_of_a_host_the_newest_renews_and_the_older_follows(tmp_path: Path, login: str) -> None:
    """After HUP the older one keeps its session through a rotation, and its recording arrives afterwards."""
    with Restarting(tmp_path / "restarting") as cluster:
        worker = cluster.add_person("worker", logins=[login])
        worker.log_in()
        session = LongSession(worker, login, "alpha")
        try:
            assert session.answers("begin")
            first = cluster.serving()
            cluster.signal(signal.SIGHUP)
            wait_until("a newer process serves", lambda: cluster.serving() != first)

            def reached() -> bool:
                look_now(worker)
                return worker.tsh("ssh", f"{login}@alpha", "true").status == 0 and follows(worker)

            for name in MANUAL:
                rotate(cluster, "--manual", f"--phase={name}")
                wait_until(f"the login follows into {name}", reached)
                assert session.answers(name)
            assert alive(first), "it keeps its session"
            assert session.end() == (0, "")
        finally:
            session.abandon()
        wait_until("the older process has ended", lambda: not alive(first))
        lasted = next(one for one in cluster.events("--type=session.end") if "while read" in str(one))
        cluster.wait_event("session.upload", sid=lasted["sid"])
        assert cluster.tctl("audit", "verify", "--format=json").ok().json()["ok"]
        assert "could not be renewed" not in cluster.daemon.log()

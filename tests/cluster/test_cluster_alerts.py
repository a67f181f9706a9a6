"""Every alert rule fires: the real Prometheus scrapes real daemons that are brought into each of the states.

Two things are substituted, so that this takes minutes: each `for:` is 0s; and for the two certificates that nothing
short of months brings near their end, a copy of the rule has another number of days (`SUBSTITUTED`), while the rule as
it stands is tried by promtool's clock in `tests/docs/test_docs_monitoring.py`. Before anything is broken no rule fires
that is not expected, so a rule that always fires fails here, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from tests.cluster.cluster_prometheus import RULES, Prometheus, at_once, why_no_prometheus, with_other_thresholds
from tests.cluster.test_cluster_faults import filled, small_disk

from teleport.testing import s3
from teleport.testing.cluster import LOOPBACK, NODE, Cluster, Host, Person, at, free_port, wait_until
from teleport.testing.public_authority import PublicAuthority

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SUBSTITUTED = {
    "TeleportHostCertificateEnds": ("14 * 86400", "100 * 86400"),  # they hold for 90 days
    "TeleportAuthorityEnds": ("180 * 86400", "4000 * 86400"),  # they hold for ten years
}
BY_CLOCK = {"TeleportLogLinesDropped", "TeleportSpansDropped"}  # `tests/docs/test_docs_monitoring.py` alone trips them


@pytest.fixture(scope="module", autouse=True)
def prometheus() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts small disks, and changes limits of daemons")
    if why := why_no_prometheus():
        pytest.skip(why)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process stands still within."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def stand_still(pid: int, seconds: float) -> None:
    with frozen(pid):
        done = threading.Event()
        done.wait(seconds)  # this is the fault, not a wait for something


@contextlib.contextmanager
def write_locked(database: Path) -> Iterator[None]:
    """Another program holds the database's lock for writing within; a commit waits for 10 s."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as held:
        held.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            held.execute("ROLLBACK")


def knock(port: int, times: int) -> None:
    """So many connections at once that say no more than that they speak SSH."""
    with contextlib.ExitStack() as stack:
        for _ in range(times):
            made = stack.enter_context(socket.create_connection((LOOPBACK, port), 10))
            made.settimeout(10)
            made.sendall(b"SSH-2.0-knocking\r\n")
            with contextlib.suppress(OSError):
                made.recv(1)


def stranger(port: int, folder: Path) -> None:
    """Somebody without a certificate is refused, which is on record there."""
    key = folder / "key"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    words = [
        "ssh",
        "-F",
        "/dev/null",
        "-i",
        str(key),
        "-p",
        str(port),
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentityAgent=none",
    ]
    words += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", f"root@{LOOPBACK}", "true"]
    assert subprocess.run(words, capture_output=True, timeout=60).returncode != 0


class Place:
    """The daemons: `big` (auth, proxy, node), its nodes `beta` and `gamma`, and `small` on a disk of 48 MB."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        big = self.big = Cluster(folder / "big", authentication={"type": "local", "second_factor": "off"})
        big.config["teleport"]["storage"] = {
            "audit_sessions_uri": f"s3://nowhere/x?region=us-east-1&endpoint={at(free_port(), LOOPBACK)}"
            "&insecure=true&disablesse=true"
        }
        big.config["auth_service"]["ship_events"] = [{"name": "siem", "url": f"https://{at(free_port(), LOOPBACK)}/"}]
        big.write()
        big.daemon.environment |= s3.LOGIN
        stack.enter_context(big)
        self.beta, self.gamma = (self._node(folder, name) for name in ("beta", "gamma"))
        stack.enter_context(self.beta)
        self.gamma.daemon.start()
        stack.callback(self.gamma.daemon.abandon)
        self.disk = stack.enter_context(small_disk(folder / "disk"))
        self.records = stack.enter_context(small_disk(folder / "records"))
        small = self.small = Cluster(folder / "small", name="small.test")
        small.config["teleport"]["data_dir"] = str(self.disk / "data")
        small.config["teleport"]["storage"] = {"audit_sessions_uri": f"file://{self.records}/kept"}
        ends = datetime.now(UTC) + timedelta(days=3)
        issued = PublicAuthority().issue("localhost", LOOPBACK, end=ends)
        chain, key = issued.write(folder / "web")
        chain.write_bytes(issued.chain + issued.root)
        small.config["proxy_service"]["https_keypairs"] = [{"key_file": str(key), "cert_file": str(chain)}]
        small.write()
        stack.enter_context(small)

    def _node(self, folder: Path, name: str) -> Host:
        more = {"ca_pin": self.big.ca_pin(), "auth_token": self.big.tctl(
            "tokens", "add", "--type=node", "--format=json").ok().json()["token"]}  # fmt: skip
        if name == "beta":
            more["connection_limits"] = {"max_connections": 3}
        return Host(folder / name, self.big.node_config(name, **more))

    @property
    def targets(self) -> dict[str, int]:
        hosts = {"big": self.big, "beta": self.beta, "gamma": self.gamma, "small": self.small}
        return {name: host.diag_port for name, host in hosts.items()}

    def remount(self, *, read_only: bool) -> None:
        """The disk of recordings of `small`."""
        subprocess.run(["mount", "-o", f"remount,{'ro' if read_only else 'rw'}", self.records], check=True)

    def port_of(self, host: Host) -> int:
        return int(str(host.config["ssh_service"]["listen_addr"]).rpartition(":")[2])


def test_every_alert_fires_when_what_it_is_of_happens_and_not_before(tmp_path: Path, login: str) -> None:
    rules = RULES.read_text()
    every = {rule["alert"] for rule in yaml.safe_load(rules)["groups"][0]["rules"]}
    fired: set[str] = set()
    with contextlib.ExitStack() as stack:
        place = Place(tmp_path, stack)
        big, beta, gamma, small = place.big, place.beta, place.gamma, place.small
        ann = big.add_person("ann", logins=[login])
        ann.log_in()
        given = [at_once(rules), with_other_thresholds(rules, SUBSTITUTED)]
        watching = stack.enter_context(Prometheus(tmp_path / "prometheus", place.targets, given))

        def fires(alert: str, seconds: float = 60.0, **labels: str) -> None:
            watching.wait_alert(alert, seconds, labels)
            fired.add(alert)

        # as all is well, but for what the configuration has that cannot be well
        expected = {("TeleportCopiesFail", "big"), ("TeleportDegraded", "big"), ("TeleportWebCertificateEnds", "small")}
        expected |= {(name, who) for name in SUBSTITUTED for who in place.targets}
        wait_until("all are scraped", lambda: len(watching.query("teleport_ready == 1")) == 4, 60.0)
        fires("TeleportWebCertificateEnds", instance="small", name="localhost")
        fires("TeleportCopiesFail", instance="big", copy="siem")
        fires("TeleportDegraded", instance="big", component="copies of audit events")
        fires("TeleportHostCertificateEnds", substituted="yes", role="node", instance="beta")
        fires("TeleportAuthorityEnds", substituted="yes", type="host", instance="big")

        def quiet() -> bool:
            return {(one.name, one.instance) for one in watching.firing()} <= expected

        wait_until("nothing else fires", quiet, 60.0)
        assert not [one for one in watching.firing() if one.name in SUBSTITUTED and "substituted" not in one.labels]

        # a host is gone, and people try to reach it
        gamma.daemon.kill()
        for _ in range(8):
            assert ann.tsh("ssh", f"{login}@gamma", "true").status != 0
        fires("TeleportDown", instance="gamma")
        fires("TeleportHostsNotReached", instance="big")

        # recordings, rotation, logins, limits
        ann.tsh("ssh", f"{login}@{NODE}", "true").ok()
        fires("TeleportRecordingsNotInS3", instance="big")
        big.tctl("auth", "rotate", "--type=user", "--manual").ok()
        fires("TeleportRotationWaits", instance="big", type="user")
        strangers_log_in(big, ann)
        fires("TeleportLoginsFail")
        knock(place.port_of(beta), 40)
        fires("TeleportConnectionsRefused", instance="beta", limit="address")

        # a process that stands still, and one that has few descriptors left
        stand_still(beta.daemon.pid, 2.0)
        stand_still(beta.daemon.pid, 2.0)
        fires("TeleportLoopHeldUp", instance="beta")
        usual = resource.prlimit(beta.daemon.pid, resource.RLIMIT_NOFILE)
        there = len(os.listdir(f"/proc/{beta.daemon.pid}/fd"))
        resource.prlimit(beta.daemon.pid, resource.RLIMIT_NOFILE, (there + 4, usual[1]))
        fires("TeleportDescriptorsNearlyUsed", instance="beta")
        resource.prlimit(beta.daemon.pid, resource.RLIMIT_NOFILE, usual)

        # storage that is slow, a log that somebody holds
        for _ in range(2):
            with ThreadPoolExecutor(8) as people, write_locked(big.data_dir / "backend" / "sqlite.db"):
                asked = [people.submit(big.tctl, "tokens", "add", "--type=node") for _ in range(8)]
                done, _ = wait(asked, 6.0)  # this is the fault: none can be done while somebody holds it
                assert not done
            assert all(one.result().status == 0 for one in asked)
        fires("TeleportStorageSlow", instance="big")
        [lock] = (big.data_dir / "log").glob(".*.lock")
        with lock.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            big.tctl("users", "add", "zoe", "--roles=access")
            fires("TeleportLogHeldUp", 90.0, instance="big")

        # disks
        place.remount(read_only=True)
        fires("TeleportDiskReadOnly", instance="small", place="recordings")
        place.remount(read_only=False)
        with filled(place.disk):
            fires("TeleportDiskNearlyFull", instance="small")
            for _ in range(3):
                small.tctl("users", "add", "yan", "--roles=access")
            for _ in range(16):  # the last page of a file has room for some
                stranger(place.port_of(small), tmp_path)
            fires("TeleportStorageFails", instance="small")
            fires("TeleportEventsFail", instance="small")

        fires("TeleportHostsLost", 300.0, instance="big")

        # auth and proxy are gone, with a session under way
        session = threading.Thread(target=ann.tsh, args=("ssh", "-t", f"{login}@beta", "echo begun; sleep 600"))
        session.start()
        wait_until("it runs", lambda: bool(watching.query('teleport_node_sessions{instance="beta"} == 1')), 60.0)
        big.daemon.kill()
        session.join(60)
        stranger(place.port_of(beta), tmp_path)
        fires("TeleportEventsNotDelivered", 120.0, instance="beta")
        fires("TeleportRecordingsWait", 120.0, instance="beta")
        fires("TeleportAuthNotHeard", 120.0, instance="beta")
        fires("TeleportNotReady", 180.0, instance="beta")
        big.daemon.start()
        wait_until("beta is well again", lambda: bool(watching.query('teleport_ready{instance="beta"} == 1')), 120.0)
    assert every - fired == BY_CLOCK


def strangers_log_in(cluster: Cluster, person: Person) -> None:
    """More than twenty logins that fail."""
    where = (f"--proxy={cluster.web_address}", f"--ca-pin={cluster.ca_pin()}")
    for number in range(24):
        refused = person.tsh("login", *where, f"--user=nobody-{number}", stdin="certainly not this one\n")
        assert refused.status == 5, refused.stderr

"""No auth server at all for a while: who holds a certificate works on, and what happened is on record afterwards.

Two auth servers over etcd, which share their records, are killed. There are a proxy, a host that is reached directly
and one behind a tunnel. Clients are plain ssh, tsh and a browser's terminal. Who is strict about locks is let in for as
long as locks count as known, and not a moment longer.
"""

from __future__ import annotations

import asyncio
import getpass
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.cluster.cluster_auth_servers import NODE_NAME, AuthPair
from tests.cluster.cluster_sessions import Sessions
from tests.cluster.cluster_shells import OpenShell, open_shell
from tests.cluster.test_cluster_auth_servers import events
from tests.cluster.test_cluster_tunnel import TunnelHost
from tests.cluster.test_cluster_web_terminal import browser
from tests.web.terminal_rig import Page

from teleport.authz.locks import LOCKS_HOLD
from teleport.testing import etcd
from teleport.testing.cluster import PASSWORD, Person, run, wait_until
from teleport.testing.survival import recorded_output
from teleport.wire.web_terminal import Kind

ME = getpass.getuser()
INNER = "inner-out"  # behind a tunnel
HOSTS = (NODE_NAME, INNER)
STRICT = """kind: role
version: v4
metadata: {{name: strict-out}}
spec:
  allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}
  options: {{lock: strict}}
"""
UNKNOWN = "Whether access is locked is not known here now."

pytestmark = pytest.mark.skipif(etcd.program() is None, reason=etcd.MISSING)


@dataclass
class Place:
    """What runs, and what people were told is done."""

    pair: AuthPair
    inner: TunnelHost
    ann: Person
    stella: Person  # whose role is strict about locks
    strict: bool  # and so is the cluster
    told: dict[str, str] = field(default_factory=dict)  # a tag in the command: what the client saw
    refused: int = 0  # sessions
    cut: bool = False  # the open sessions of everybody were ended

    def target(self, host: str) -> str:
        return f"{ME}@{host}.{self.pair.name}"

    def may(self, person: Person, host: str) -> None:
        """Plain ssh and tsh both get a session there."""
        for name in ("ssh", "tsh"):
            tag = f"{name}-{host}-{len(self.told)}"
            command = f"echo {tag}; seq 1 200"
            if name == "ssh":
                ran = person.ssh(self.target(host), command, seconds=60)
            else:
                ran = person.tsh("ssh", f"{ME}@{host}", command, seconds=60)
            assert ran.status == 0, ran.stderr
            assert ran.stdout.split()[-1] == "200"
            self.told[tag] = ran.stdout

    def may_not(self, person: Person, host: str) -> None:
        for ran in (person.ssh(self.target(host), "true"), person.tsh("ssh", f"{ME}@{host}", "true")):
            assert ran.status != 0
            assert UNKNOWN in ran.stderr, ran.stderr
            self.refused += 1


@contextmanager
def place(folder: Path, locking_mode: str) -> Iterator[Place]:
    with ExitStack() as stack:
        (folder / "etcd").mkdir(parents=True)
        servers = stack.enter_context(etcd.EtcdCluster(folder / "etcd", members=3))
        authentication = {"type": "local", "second_factor": "off", "locking_mode": locking_mode}
        pair = AuthPair(folder, servers, authentication=authentication)
        stack.enter_context(pair.served())
        inner = TunnelHost(folder / INNER, pair, INNER)
        stack.enter_context(inner)
        pair.tctl("create", "-f", "-", stdin=STRICT.format(login=ME)).ok()
        ann = pair.add_person("ann", logins=[ME])
        stella = pair.add_person("stella", roles=["strict-out"], logins=[])
        for person in (ann, stella):
            person.log_in()
        wait_until("both hosts are listed", lambda: set(HOSTS) <= set(ann.tsh("ls", "--format=names").stdout.split()))
        yield Place(pair, inner, ann, stella, locking_mode == "strict")


def during(found: Place, sessions: Sessions) -> None:
    """What holds at any moment of the outage before locks are unknown."""
    sessions.go_on()
    for host in HOSTS:
        found.may(found.ann, host)
        found.may(found.stella, host)


def later(found: Place, sessions: Sessions, shells: list[OpenShell]) -> None:
    """What holds once locks are not known any more: who is strict about that gets in nowhere, and is out."""
    for shell in shells:
        assert shell.client.wait(60) == 255
    for host in HOSTS:
        found.may_not(found.stella, host)
    if found.strict:
        for _, client, _ in sessions.clients:
            assert client.wait(60) == 255
        found.cut = True
        for host in HOSTS:
            found.may_not(found.ann, host)
        return
    sessions.go_on()
    for host in HOSTS:
        found.may(found.ann, host)


def copied(person: Person, words: list[str]) -> None:
    run("scp", *words, environment=person.environment).ok()


def afterwards(found: Place, sessions: Sessions, files: list[Path]) -> None:
    """All of it is on record, once; recordings are whole."""
    pair = found.pair
    started: dict[str, str] = {}

    def complete() -> bool:
        told = events(pair, "--limit=10000")
        starts = {
            one["sid"]: " ".join(one.get("initial_command", [])) for one in told if one["event"] == "session.start"
        }
        started.clear()
        for tag in [*found.told, *(command for command, _, _ in sessions.clients)]:
            started.update({sid: tag for sid, command in starts.items() if tag in command})
        ends = Counter(one["sid"] for one in told if one["event"] == "session.end")
        uploads = Counter(one["sid"] for one in told if one["event"] == "session.upload")
        moved = Counter(one["path"] for one in told if one["event"] == "sftp" and one["action"] == "write")
        return (
            len(started) == len(found.told) + len(sessions.clients)
            and all(ends[sid] and uploads[sid] for sid in starts)
            and all(moved[str(path)] for path in files)
        )

    wait_until("all of it is on record", complete, 120)
    # of what one auth server was telling of when it was killed the other one may have told, too, with one uid
    told = list({one["uid"]: one for one in events(pair, "--limit=10000")}.values())
    for kind in ("session.start", "session.end", "session.upload"):
        assert set(Counter(one["sid"] for one in told if one["event"] == kind).values()) == {1}, kind
    for path in files:
        (event,) = [one for one in told if one["event"] == "sftp" and one["path"] == str(path)]
        assert not event.get("error")
    for one in (pair, pair.other):
        one.tctl("audit", "verify").ok()
    for sid, tag in started.items():
        recorded = recorded_output(found.pair.root / "shared" / "records" / f"{sid}.rec")
        assert isinstance(recorded, bytes), recorded
        if tag in found.told:
            assert found.told[tag].split() == recorded.decode().split()[-201:]


async def outage(found: Place, folder: Path, seconds: float) -> None:
    pair, ann, stella = found.pair, found.ann, found.stella
    files = [folder / f"moved-{host}" for host in HOSTS]
    with ExitStack() as stack:
        sessions = stack.enter_context(Sessions(pair, ann, ME))
        for host in HOSTS:
            await asyncio.to_thread(sessions.open, 2, host=host)
        shells = [stack.enter_context(open_shell(stella, ME, host=host, lasts=900)) for host in HOSTS]
        async with browser(ann) as window, Page.opened(window, host=NODE_NAME, login=ME) as page:
            await page.hears(Kind.STARTED, seconds=30)
            await page.type("stty -echo; echo re''ady\n")
            await page.sees("ready")
            for server in (pair, pair.other):
                await asyncio.to_thread(server.daemon.kill)
            down = time.monotonic()
            await asyncio.to_thread(during, found, sessions)
            for host, path in zip(HOSTS, files, strict=True):
                (folder / "source").write_bytes(host.encode() * 1000)
                words = ["-s", *ann.ssh_arguments()[1:], str(folder / "source"), f"{found.target(host)}:{path}"]
                await asyncio.to_thread(copied, ann, words)
            await page.type("echo wi''thout\n")
            await page.sees("without")
            async with Page.opened(window, host=INNER, login=ME) as another:
                await another.hears(Kind.STARTED, seconds=30)
                await another.type("echo ne''w; exit\n")
                await another.sees("new")
            refused = await asyncio.to_thread(ann.tsh, "login", "--ttl=5m", stdin=f"{PASSWORD}\n")
            assert refused.status != 0, "nobody gets a certificate"
            if seconds > LOCKS_HOLD:
                await asyncio.to_thread(
                    wait_until, "it has lasted", lambda: time.monotonic() - down > seconds, seconds + 9
                )
                await asyncio.to_thread(later, found, sessions, shells)
                if found.strict:
                    await page.ends(60)
                else:
                    await page.type("echo sti''ll\n")
                    await page.sees("still")
            lasted = time.monotonic() - down
            for server in (pair, pair.other):
                await asyncio.to_thread(server.daemon.start)
            if not found.cut:
                await page.type("exit\n")
        if not found.cut:
            await asyncio.to_thread(sessions.go_on)
            await asyncio.to_thread(sessions.stop)
    await asyncio.to_thread(afterwards, found, sessions, files)
    for person in (ann, stella):
        await asyncio.to_thread(person.log_in)
        for host in HOSTS:
            await asyncio.to_thread(found.may, person, host)
    print(
        f"no auth server for {lasted:.0f} s: {len(sessions.clients)} sessions went on, {len(found.told)} began, "
        f"{found.refused} refused to who is strict",
        file=sys.stderr,
    )


@pytest.mark.timeout(300)
async def test_without_auth_who_holds_a_certificate_works_on(tmp_path: Path) -> None:
    """The short form: the outage ends when all of it was seen."""
    with place(tmp_path / "place", "best_effort") as found:
        await outage(found, tmp_path, 0.0)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("locking_mode", ["best_effort", "strict"])
async def test_five_minutes_without_auth(tmp_path: Path, locking_mode: str) -> None:
    """As long as locks count as known and a little more: then who is strict is refused, and has no session left."""
    with place(tmp_path / "place", locking_mode) as found:
        await outage(found, tmp_path, LOCKS_HOLD + 15)

"""The engine over etcd where real servers go away, forget, refuse and are asked twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from teleport.backend import Absent, Exists, PutOp, Snapshot
from teleport.backend.etcd import messages as m
from teleport.backend.etcd.engine import EtcdBackend
from teleport.backend.etcd.layout import Layout
from teleport.backend.etcd.peers import RANGE, TXN, WITHIN, Peers
from teleport.backend.etcd.schema import open_schema
from teleport.backend.etcd.settings import EtcdSettings
from teleport.backend.etcd.transaction import same
from teleport.backend.follow import follow
from teleport.backend.interface import MAX_WRITES, BackendClosed, DeleteOp, WatchCompacted
from teleport.clock import SystemClock
from teleport.errors import (
    AccessDenied,
    AlreadyExists,
    BadRequest,
    CompareFailed,
    ConnectionProblem,
    LimitExceeded,
    TeleportError,
)
from teleport.testing import etcd
from teleport.testing.cut_relay import CutRelay
from teleport.testing.running import wait_until

PATIENCE = 60.0  # seconds

pytestmark = pytest.mark.skipif(etcd.program() is None, reason=etcd.MISSING)


@dataclass(frozen=True, slots=True)
class Certified:
    cert: Path
    key: Path
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[etcd.EtcdCluster]:
    """One server, which no test may stop."""
    with etcd.EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


def settings(cluster: etcd.EtcdCluster, prefix: str = "") -> EtcdSettings:
    return EtcdSettings(cluster.urls, prefix or f"/{token_hex(8)}/", insecure=True)


def engine(cluster: etcd.EtcdCluster, prefix: str = "", *, within: float = WITHIN) -> EtcdBackend:
    return EtcdBackend(settings(cluster, prefix), SystemClock(), sweep_every=None, within=within)


async def test_a_transaction_of_a_thousand_writes_has_one_revision(shared: etcd.EtcdCluster) -> None:
    async with engine(shared) as backend:
        keys = [f"k/{number:04}" for number in range(MAX_WRITES)]
        revision = await backend.commit([PutOp(key, b"x") for key in keys], conditions=[Absent("k/0000")])
        items = await backend.range("k/")
        assert [item.key for item in items] == keys
        assert {item.revision for item in items} == {revision}
        assert await backend.commit([DeleteOp(key, missing_ok=True) for key in keys]) > revision
        assert await backend.range() == []


async def test_what_etcd_cannot_take_at_once_is_refused_with_the_limit(shared: etcd.EtcdCluster) -> None:
    async with engine(shared) as backend:
        with pytest.raises(LimitExceeded, match="conditions"):
            await backend.commit([PutOp("a", b"")], conditions=[Absent(f"k/{number}") for number in range(200)])
        with pytest.raises(LimitExceeded, match="larger than etcd takes"):
            await backend.commit([PutOp(f"k/{number}", b"v" * 1_000_000) for number in range(3)])
        assert await backend.range() == []
        await backend.put("after", b"")


@pytest.mark.parametrize(
    ("conditions", "writes"),
    [(0, 127), (0, 128), (62, MAX_WRITES), (100, 301), (100, MAX_WRITES), (126, 126), (120, 700)],
)
async def test_as_many_conditions_and_writes_as_etcd_takes(
    shared: etcd.EtcdCluster, conditions: int, writes: int
) -> None:
    """In one transaction, and nothing of it when one condition does not hold."""
    async with engine(shared) as backend:
        puts = [PutOp(f"k/{number}", b"") for number in range(writes)]
        absent = [Absent(f"c/{number}") for number in range(conditions)]
        await backend.commit(puts, conditions=absent)
        items = await backend.range("k/")
        assert len(items) == writes
        assert len({item.revision for item in items}) == 1
        if not conditions:
            return
        await backend.put(f"c/{conditions - 1}", b"")
        with pytest.raises(CompareFailed):
            await backend.commit([PutOp(f"n/{number}", b"") for number in range(writes)], conditions=absent)
        assert await backend.range("n/") == []


async def test_two_processes_see_each_other_and_share_what_expires(shared: etcd.EtcdCluster) -> None:
    prefix = f"/{token_hex(8)}/"
    async with engine(shared, prefix) as one, engine(shared, prefix) as other:
        async with asyncio.timeout(PATIENCE), aclosing(other.watch(["k/"], start=0)) as batches:
            first = await one.create("k/1", b"of one")
            assert [event.revision for event in await anext(batches)] == [first]
        with pytest.raises(AlreadyExists):
            await other.create("k/1", b"")
        await other.compare_and_swap("k/1", first, b"of other")
        with pytest.raises(CompareFailed):
            await one.compare_and_swap("k/1", first, b"")


async def test_a_write_that_was_done_and_whose_answer_was_lost_is_not_done_again(shared: etcd.EtcdCluster) -> None:
    """The server has done it, the answer never arrives, the connection breaks: then it is sent again."""
    prefix = f"/{token_hex(8)}/"
    async with (
        CutRelay(urlsplit(shared.urls[0]).port or 0) as relay,
        engine(shared, prefix) as other,
        EtcdBackend(
            EtcdSettings((f"http://127.0.0.1:{relay.port}",), prefix, insecure=True), SystemClock(), sweep_every=None
        ) as backend,
        asyncio.timeout(PATIENCE),
    ):
        await backend.put("first", b"")  # what a first write needs besides is there then

        async def lost(marker: bytes, work: Coroutine[Any, Any, int]) -> int:
            before = await other.revision()
            relay.cut_at(marker, passed=True)
            task = asyncio.create_task(work)
            async with aclosing(other.watch([""], start=before)) as batches:
                (seen, *_) = await anext(batches)
            await relay.cut_at_word.wait()
            assert await task == seen.revision
            return seen.revision

        first = await lost(b"number one", backend.create("k", b"number one"))
        second = await lost(b"number two", backend.compare_and_swap("k", first, b"number two"))
        third = await lost(b"number three", backend.put("k", b"number three"))
        item = await backend.get("k")
        assert item is not None
        assert (item.value, item.revision) == (b"number three", third)
        assert first < second < third == await backend.revision()
        fourth = await lost(b"number four", backend.commit([DeleteOp("k"), PutOp("m", b"number four")]))
        with pytest.raises(CompareFailed):
            await backend.commit([PutOp("a", b"")], conditions=[Exists("k")])
        assert [(one.key, one.revision) for one in await backend.range()] == [("first", first - 1), ("m", fourth)]


async def test_a_server_that_restarts_costs_no_write_and_no_event(tmp_path: Path) -> None:
    """Writes and a watch go on over two restarts."""
    count = 200

    async def write(backend: EtcdBackend) -> None:
        for number in range(count):
            await backend.create(f"k/{number:04}", b"")

    with etcd.EtcdCluster(tmp_path) as cluster:
        async with engine(cluster) as backend, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(write(backend))
            seen: list[str] = []
            restarted = 0
            async with aclosing(backend.watch(["k/"], start=0)) as batches:
                while len(seen) < count:
                    seen += [event.key for event in await anext(batches)]
                    if len(seen) >= (restarted + 1) * 60 and restarted < 2:
                        restarted += 1
                        await asyncio.to_thread(cluster.members[0].restart)
            assert seen == [f"k/{number:04}" for number in range(count)]
            assert restarted == 2


async def test_without_a_server_writes_fail_in_time_and_watches_end(tmp_path: Path) -> None:
    with etcd.EtcdCluster(tmp_path) as cluster:
        async with engine(cluster, within=1.0) as backend, asyncio.timeout(PATIENCE):
            revision = await backend.put("k", b"one")
            watching = asyncio.create_task(anext(backend.watch(["k"], start=revision)))
            cluster.stop()
            with pytest.raises(ConnectionProblem, match="etcd"):
                await backend.put("k", b"two")
            with pytest.raises(ConnectionProblem):
                await watching


async def test_a_watcher_behind_a_compaction_goes_on_with_a_new_snapshot(shared: etcd.EtcdCluster) -> None:
    """It is cut off while much happens and all of it is compacted: no change of that time reaches it as a change."""
    prefix = f"/{token_hex(8)}/"
    one = EtcdBackend(settings(shared, prefix), SystemClock(), sweep_every=None, log_keep=2)
    async with (
        CutRelay(urlsplit(shared.urls[0]).port or 0) as relay,
        one,
        EtcdBackend(
            EtcdSettings((f"http://127.0.0.1:{relay.port}",), prefix, insecure=True), SystemClock(), sweep_every=None
        ) as other,
        asyncio.timeout(PATIENCE),
    ):
        await one.put("k/0", b"")
        async with aclosing(follow(other, ["k/"], heartbeat=60)) as updates:
            first = await anext(updates)
            assert isinstance(first, Snapshot)
            await one.put("k/1", b"")
            heard = await anext(updates)
            assert [event.key for event in heard.events] == ["k/1"]  # type: ignore[union-attr]
            relay.cut()
            for number in range(2, 12):
                await one.put(f"k/{number}", b"")
            await one.sweep()
            behind = other.watch(["k/"], start=heard.revision)
            relay.mend()
            again = await anext(updates)
            assert isinstance(again, Snapshot), "what happened meanwhile is not there to be told one by one"
            assert len(again.items) == 12
            with pytest.raises(WatchCompacted):
                await anext(behind)


async def test_the_leader_dies_while_writing_and_no_write_is_lost_or_done_twice(tmp_path: Path) -> None:
    """Three members; eight writers count up by compare-and-swap while the leader is killed and comes back."""
    writers, rounds = 8, 40

    async def count_up(backend: EtcdBackend, name: str) -> None:
        revision = await backend.create(name, b"0")
        for number in range(1, rounds):
            revision = await backend.compare_and_swap(name, revision, str(number).encode())

    def leader(cluster: etcd.EtcdCluster) -> etcd.EtcdServer:
        table = subprocess.run(
            ["etcdctl", "--endpoints", ",".join(cluster.urls), "endpoint", "status", "-w", "simple"],
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        (url,) = [line.split(", ")[0] for line in table if line.split(", ")[4] == "true"]
        return next(member for member in cluster.members if member.url == url)

    with etcd.EtcdCluster(tmp_path, members=3) as cluster:
        async with engine(cluster) as backend, asyncio.timeout(PATIENCE):
            async with asyncio.TaskGroup() as group:
                for writer in range(writers):
                    group.create_task(count_up(backend, f"k/{writer}"))
                async with aclosing(backend.watch(["k/"], start=0)) as batches:
                    await anext(batches)
                    killed = await asyncio.to_thread(leader, cluster)
                    killed.kill()
                    await anext(batches)
                await asyncio.to_thread(killed.start)
                await asyncio.to_thread(killed.wait_ready)
            assert {item.value for item in await backend.range("k/")} == {str(rounds - 1).encode()}
            seen = 0
            async with aclosing(backend.watch(["k/"], start=0)) as batches:
                async for batch in batches:
                    seen += len(batch)
                    if seen >= writers * rounds:
                        break
            assert seen == writers * rounds


async def test_an_item_that_nobody_sweeps_has_a_lease_beyond_its_expiry(shared: etcd.EtcdCluster) -> None:
    async with engine(shared) as backend:
        await backend.put("lease", b"", expires=SystemClock().now() + timedelta(seconds=30))
        await backend.put("stays", b"")
        start, end = backend._layout.all_items
        kvs = (await backend._peers.call(RANGE, m.RangeRequest(key=start, range_end=end), "read")).message.kvs
        assert [bool(one.lease) for one in kvs] == [True, False]


# The schema


async def test_keys_of_another_program_are_left_alone(shared: etcd.EtcdCluster) -> None:
    prefix = f"/{token_hex(8)}/"
    peers = Peers(settings(shared, prefix))
    put = m.RequestOp(request_put=m.PutRequest(key=f"{prefix}nodes/a".encode(), value=b""))
    await peers.call(TXN, m.TxnRequest(success=[put]), "write to")
    await peers.close()
    with pytest.raises(TeleportError, match="another program") as caught:
        await engine(shared, prefix).open()
    assert "prefix" in caught.value.hint


async def test_processes_that_start_at_once_on_an_empty_storage_all_open_it(shared: etcd.EtcdCluster) -> None:
    """Whichever makes the schema, and writes behind it while the others still look."""

    async def begin(prefix: str, number: int) -> None:
        async with engine(shared, prefix) as backend:
            await backend.put(f"k/{number}", b"")

    for _ in range(20):
        prefix = f"/{token_hex(8)}/"
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(begin(prefix, number))
        async with engine(shared, prefix) as backend:
            assert len(await backend.range("k/")) == 6


async def test_a_newer_schema_is_refused_and_stops_those_that_know_the_old_one(shared: etcd.EtcdCluster) -> None:
    prefix = f"/{token_hex(8)}/"
    ran: list[str] = []

    async def next_version(peers: Peers, layout: Layout) -> None:
        ran.append(layout.prefix)

    async with engine(shared, prefix) as old:
        await old.put("k", b"")
        peers = Peers(settings(shared, prefix))
        with pytest.raises(TeleportError, match="from 1 to 2"):
            await open_schema(peers, Layout(prefix), migrations=(next_version,), may_change=False)
        made = await open_schema(peers, Layout(prefix), migrations=(next_version,))
        assert (made.version, ran) == (2, [prefix])
        again = await open_schema(peers, Layout(prefix), migrations=(next_version,))
        assert (again.version, ran) == (2, [prefix])
        await peers.close()
        with pytest.raises(TeleportError, match="another version"):
            await old.put("k", b"late")
        with pytest.raises(TeleportError, match="version 2, this program knows up to 1") as caught:
            await engine(shared, prefix).open()
        assert "newer version" in caught.value.hint


async def test_a_storage_that_was_removed_is_not_written_to(shared: etcd.EtcdCluster) -> None:
    async with engine(shared) as backend:
        key = m.DeleteRangeRequest(key=backend._layout.schema)
        await backend._peers.call(
            TXN, m.TxnRequest(compare=[same(b"\xff", 0)], success=[m.RequestOp(request_delete_range=key)]), "write to"
        )
        with pytest.raises(TeleportError, match="removed"):
            await backend.put("k", b"")


# Reaching it


@pytest.mark.parametrize(
    ("url", "insecure", "told"),
    [
        ("http://127.0.0.1:2379", False, "without TLS"),
        ("https://127.0.0.1:2379", True, "http:// only"),
        ("ftp://127.0.0.1", False, "not the URL"),
    ],
)
async def test_servers_are_not_spoken_to_in_a_way_that_nobody_asked_for(url: str, insecure: bool, told: str) -> None:
    with pytest.raises(BadRequest, match=told) as caught:
        await EtcdBackend(EtcdSettings((url,), insecure=insecure), SystemClock()).open()
    assert caught.value.hint


def issue(folder: Path, name: str, ca: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None) -> Certified:
    """A certificate for loopback, for servers and clients both; without `ca`, an authority's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if ca is None else ca[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
    )
    if ca is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        ).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    certificate = builder.sign(key if ca is None else ca[1], hashes.SHA256())
    made = Certified(folder / f"{name}.pem", folder / f"{name}.key", (certificate, key))
    made.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


async def test_servers_and_clients_prove_themselves_by_certificates(tmp_path: Path) -> None:
    ca, stranger = issue(tmp_path, "ca", None), issue(tmp_path, "stranger", None)
    server, client, foreign = (
        issue(tmp_path, name, by.authority) for name, by in (("server", ca), ("client", ca), ("foreign", stranger))
    )

    def with_files(authority: Certified, own: Certified | None) -> EtcdBackend:
        files = EtcdSettings(
            cluster.urls,
            ca_file=authority.cert,
            cert_file=None if own is None else own.cert,
            key_file=None if own is None else own.key,
        )
        return EtcdBackend(files, SystemClock(), sweep_every=None, within=3.0)

    with etcd.EtcdCluster(tmp_path, tls=etcd.Tls(server.cert, server.key, ca.cert)) as cluster:
        async with with_files(ca, client) as backend:
            await backend.put("k", b"v")
        with pytest.raises(ConnectionProblem, match="certificate") as caught:
            await with_files(stranger, client).open()
        assert "tls_ca_file" in caught.value.hint
        for own in (foreign, None):
            with pytest.raises(ConnectionProblem) as caught:
                await with_files(ca, own).open()
            assert caught.value.hint
        with pytest.raises(TeleportError, match="tls_ca_file") as unread:
            await EtcdBackend(EtcdSettings(cluster.urls, ca_file=tmp_path / "absent"), SystemClock()).open()
        assert "ls -l" in unread.value.hint


async def test_no_server_is_told_with_its_address() -> None:
    (port,) = etcd.free_ports(1)
    backend = EtcdBackend(EtcdSettings((f"http://127.0.0.1:{port}",), insecure=True), SystemClock(), within=0.5)
    with pytest.raises(ConnectionProblem, match=f"127.0.0.1:{port}") as caught:
        await backend.open()
    assert "peers" in caught.value.hint


async def test_a_user_needs_the_right_password_and_logs_in_again_when_forgotten(tmp_path: Path) -> None:
    with etcd.EtcdCluster(tmp_path) as cluster:

        def ctl(*arguments: str) -> None:
            subprocess.run(
                ["etcdctl", "--endpoints", cluster.urls[0], *arguments],
                env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
                capture_output=True,
                check=True,
            )

        for words in (
            ("user", "add", "root:r00t"),
            ("user", "add", "teleport:right"),
            ("user", "grant-role", "root", "root"),
            ("role", "add", "ours"),
            ("role", "grant-permission", "ours", "readwrite", "--prefix=true", "/ours/"),
            ("user", "grant-role", "teleport", "ours"),
            ("auth", "enable"),
        ):
            await asyncio.to_thread(ctl, *words)
        password = tmp_path / "password"

        def with_user(prefix: str = "/ours/", username: str = "teleport") -> EtcdBackend:
            return EtcdBackend(
                EtcdSettings(
                    cluster.urls,
                    prefix,
                    username=username,
                    password_file=password if username else None,
                    insecure=True,
                ),
                SystemClock(),
                sweep_every=None,
            )

        password.write_text("wrong\n")
        with pytest.raises(AccessDenied, match="password of the user teleport") as caught:
            await with_user().open()
        assert "password_file" in caught.value.hint
        password.write_text("right\n")
        with pytest.raises(AccessDenied, match="asks for a user"):
            await with_user(username="").open()
        with pytest.raises(AccessDenied, match="does not allow") as caught:
            await with_user("/theirs/").open()
        assert "grant-permission" in caught.value.hint
        async with with_user() as backend, asyncio.timeout(PATIENCE):
            first = await backend.create("k", b"")
            await asyncio.to_thread(cluster.members[0].restart)  # its tokens are in memory
            assert await backend.put("k", b"two") > first
            async with aclosing(backend.watch(["k"], start=first)) as batches:
                assert [event.key for event in await anext(batches)] == ["k"]


async def test_threads_end_with_a_storage_though_somebody_still_refers_to_it(shared: etcd.EtcdCluster) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    backend = engine(shared)
    async with backend:
        await backend.commit([PutOp("a", b"1")])
        assert threads() > before
    await wait_until(lambda: threads() <= before)
    with pytest.raises(BackendClosed):
        await backend.get("a")


def test_nobody_loads_grpc_who_does_not_open_such_a_storage() -> None:
    """A node, and an auth server with the embedded storage, have neither in memory."""
    code = "import sys, teleport.daemon.assembly, teleport.daemon.auth_side; print('grpc' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"

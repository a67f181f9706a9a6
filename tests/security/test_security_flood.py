"""A real daemon under strangers: silent connections, bodies without end, documents that explode (threats T17, T19).

Short forms run with few connections; `make test-long` opens 2,000 on each port and prints what others notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from teleport.api import routes
from teleport.testing.cluster import BIN, Cluster, Ran, plain_environment, run
from teleport.testing.raw_ssh import RawSsh
from teleport.transport.tls import unproved_client_context

LONG = bool(os.environ.get("TELEPORT_LONG"))
EACH = 2000 if LONG else 250  # connections on each port
ROUNDS = 40 if LONG else 15
SLACK = 5  # times that what is promised may be exceeded on a busy machine
GROWTH = 150  # MiB of the daemon, whatever is sent to it
LOGIN = "/webapi/ssh/certs"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("flooded")) as cluster:
        yield cluster


def resident(cluster: Cluster) -> int:
    """MiB of the daemon in memory."""
    words = Path(f"/proc/{cluster.daemon.pid}/statm").read_text().split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


@contextlib.contextmanager
def bounded(cluster: Cluster, what: str) -> Iterator[None]:
    """The daemon serves on and has not grown beyond `GROWTH`."""
    before = resident(cluster)
    yield
    after = resident(cluster)
    print(f"{what}: {before} MiB before, {after} MiB after")
    assert after - before < GROWTH
    cluster.tctl("status").ok()


def tls() -> ssl.SSLContext:
    context = unproved_client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


# silent, slow and half-open connections


def half_hello() -> bytes:
    """The first half of a TLS ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = tls().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    hello = outgoing.read()
    return hello[: len(hello) // 2]


def beginnings(port: str) -> list[bytes]:
    """What a stranger says before going silent; the last piece comes byte by byte."""
    if port.endswith("ssh"):
        return [b"", b"SSH-2.0-sl", b"SSH-2.0-slow\r\n", b"SSH-2.0-slow\r\n\x00\x00\x05\xdc\x06\x14", b"S"]
    hello = half_hello()
    return [b"", hello[:5], hello, b"\x16\x03\x01", b"GET / HTTP/1.1\r\nX-Slow: "]


class Strangers:
    """Connections that keep to themselves."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self._readers: list[asyncio.StreamReader] = []

    async def open(self, port: int, said: list[bytes], count: int) -> None:
        async def one(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said[number % len(said)])
            self._writers.append(writer)
            self._readers.append(reader)

        for first in range(0, count, 50):
            await asyncio.gather(*(one(number) for number in range(first, min(first + 50, count))))

    async def drip(self) -> None:
        """One byte more on each that is still open, every second, until cancelled."""
        while True:
            for number, writer in enumerate(self._writers):
                if not writer.is_closing():
                    writer.write(b"x")
                if number % 20 == 0:
                    await asyncio.sleep(20 / len(self._writers))  # the pace of the attack

    async def leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def ssh_time(port: int) -> None:
    async with await RawSsh.connect(port) as peer:
        await peer.exchange()


async def https_time(port: int, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


async def median(visit: Callable[[], Awaitable[None]], said: str = "") -> float:
    """Seconds of the middle one of `ROUNDS` visits; prints that and the longest one after what is `said`."""
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        async with asyncio.timeout(20):
            await visit()
        taken.append(time.perf_counter() - begun)
    middle = statistics.median(taken)
    if said:
        print(f"{said}: {middle * 1000:.1f} ms, at most {max(taken) * 1000:.1f} ms")
    return middle


async def test_silent_connections_hold_up_nobody(cluster: Cluster) -> None:
    ports = {
        "proxy ssh": (cluster.proxy_ssh_port, lambda: ssh_time(cluster.proxy_ssh_port)),
        "node ssh": (cluster.node_port, lambda: ssh_time(cluster.node_port)),
        "proxy web": (cluster.web_port, lambda: https_time(cluster.web_port, "/webapi/find")),
        "auth api": (cluster.auth_port, lambda: https_time(cluster.auth_port, routes.CLUSTER_CA.path)),
    }
    with bounded(cluster, f"{EACH} connections on each of {len(ports)} ports"):
        usual = {name: await median(visit, f"{name}, usually") for name, (_, visit) in ports.items()}
        strangers, dripping = Strangers(), None
        try:
            for name, (port, _) in ports.items():
                await strangers.open(port, beginnings(name), EACH)
            print(f"with all of them open: {resident(cluster)} MiB")
            for name, (_, visit) in ports.items():
                now = await median(visit, f"{name}, with {EACH} silent ones on each port")
                assert now < 2 * SLACK * usual[name], name
            dripping = asyncio.create_task(strangers.drip(), name="drip")
            for name, (_, visit) in ports.items():
                now = await median(visit, f"{name}, with {EACH} that drip a byte a second")
                assert now < 2 * SLACK * usual[name], name
        finally:
            if dripping is not None:
                dripping.cancel()
                await asyncio.gather(dripping, return_exceptions=True)
            await strangers.leave()


# requests


async def said(port: int, pieces: Iterator[bytes], *, seconds: float = 30.0) -> tuple[bytes, int]:
    """Sends pieces until the server answers or closes; the answer, and how many bytes went out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls())
    sent, answer = 0, asyncio.create_task(reader.read(65536), name="answer")
    try:
        async with asyncio.timeout(seconds):
            for piece in pieces:
                if answer.done():
                    break
                writer.write(piece)
                sent += len(piece)
                await writer.drain()
                await asyncio.sleep(0)
            return await answer, sent
    except (OSError, ssl.SSLError):
        return b"", sent
    finally:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        writer.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def endless(first: bytes, piece: bytes, total: int) -> Iterator[bytes]:
    yield first
    for _ in range(total // len(piece)):
        yield piece


MIB = bytes(1 << 20)
GIGABYTES = 10 << 30
CHUNK = b"100000\r\n" + MIB + b"\r\n"
MULTIPART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n' * 1000
BODIES = {
    "a body of 10 GB": ([f"Content-Length: {GIGABYTES}"], MIB),
    "a body of 10 GB in chunks": (["Transfer-Encoding: chunked"], CHUNK),
    "a multipart flood": ([f"Content-Length: {GIGABYTES}", "Content-Type: multipart/form-data; boundary=x"], MULTIPART),
}


@pytest.mark.parametrize("where", ["proxy web", "auth api"])
@pytest.mark.parametrize("what", BODIES)
async def test_a_body_without_end_is_refused(cluster: Cluster, where: str, what: str) -> None:
    lines, piece = BODIES[what]
    port, path = (cluster.web_port, LOGIN) if where == "proxy web" else (cluster.auth_port, routes.JOIN.path)
    with bounded(cluster, f"{what} to {where}"):
        answer, sent = await said(port, endless(head(path, *lines), piece, GIGABYTES))
    print(f"answered {answer[:20]!r} after {sent >> 20} MiB")
    assert answer.split()[1:2] in ([b"400"], [b"413"], []), answer
    assert sent < 256 << 20


@pytest.mark.parametrize("where", ["proxy web", "auth api"])
async def test_a_body_that_explodes_is_refused(cluster: Cluster, where: str) -> None:
    """Compressed: a gigabyte from a megabyte."""
    bomb = gzip.compress(bytes(200 << 20), 9)
    port, path = (cluster.web_port, LOGIN) if where == "proxy web" else (cluster.auth_port, routes.JOIN.path)
    with bounded(cluster, f"a compressed body to {where}"):
        pieces = iter([head(path, f"Content-Length: {len(bomb)}", "Content-Encoding: gzip"), bomb])
        answer, _ = await said(port, pieces)
    assert answer.split()[1] in (b"400", b"413"), answer


@pytest.mark.parametrize("where", ["proxy web", "auth api"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
async def test_deep_json_is_refused(cluster: Cluster, where: str, opening: str) -> None:
    body = (opening * 12_000)[:60_000].encode()
    port, path = (cluster.web_port, LOGIN) if where == "proxy web" else (cluster.auth_port, routes.JOIN.path)
    for text in (body, b'{"user": ' + body, b'{"token": ' + body):
        with bounded(cluster, f"deep JSON to {where}"):
            answer, _ = await said(port, iter([head(path, f"Content-Length: {len(text)}") + text]))
        assert answer.split()[1] == b"400", answer


def heads(what: str) -> Iterator[bytes]:
    first = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    if what == "a header of 1 GB":
        return endless(first + b"X-Long: ", b"a" * (1 << 20), 1 << 30)
    if what == "headers without end":
        return endless(first, b"X-Many: a\r\n" * 1000, 1 << 30)
    if what == "a path of 1 GB":
        return endless(b"GET /", b"a" * (1 << 20), 1 << 30)
    return endless(b"", b"GET /webapi/find HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500, 1 << 30)


@pytest.mark.parametrize("where", ["proxy web", "auth api"])
@pytest.mark.parametrize("what", ["a header of 1 GB", "headers without end", "a path of 1 GB"])
async def test_a_head_without_end_is_refused(cluster: Cluster, where: str, what: str) -> None:
    port = cluster.web_port if where == "proxy web" else cluster.auth_port
    with bounded(cluster, f"{what} to {where}"):
        answer, sent = await said(port, heads(what))
    assert answer.split()[1:2] in ([b"400"], [b"431"], [b"414"], []), answer
    assert sent < 64 << 20


async def test_requests_whose_answers_nobody_reads_do_not_pile_up(cluster: Cluster) -> None:
    """Pipelined: what is not answered yet stays with the sender."""
    with bounded(cluster, "pipelined requests"):
        reader, writer = await asyncio.open_connection("127.0.0.1", cluster.web_port, ssl=tls())
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent, most = 0, 400 << 20
        with contextlib.suppress(OSError, TimeoutError):
            for piece in heads("pipelined"):
                writer.write(piece)
                sent += len(piece)
                async with asyncio.timeout(2):
                    await writer.drain()
                if sent > most:
                    break
        print(f"{sent >> 10} KiB of requests were taken")
        assert sent < most
        writer.transport.abort()
        assert reader is not None
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


# documents that people write


def billion(levels: int = 12) -> str:
    """Each line holds the one before ten times over."""
    lines = ["l0: &l0 [a]"]
    lines += [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


DOCUMENTS = {
    "aliases": billion(),
    "an alias of itself": "a: &a [*a]\n",
    "deep lists": "kind: " + "[" * 100_000 + "\n",
    "deep maps": "kind: " + "{a: " * 50_000 + "\n",
    "deep by indentation": "".join(f"{' ' * level}a:\n" for level in range(2000)),
}


def limited(*arguments: str | Path, environment: dict[str, str], stdin: bytes = b"") -> Ran:
    """A command that may have 1 GiB of addresses and ten seconds of processor time."""
    return run("prlimit", "--as=1073741824", "--cpu=10", *arguments, environment=environment, stdin=stdin, seconds=60)


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_document_that_explodes_is_refused(cluster: Cluster, tmp_path: Path, what: str) -> None:
    """As a configuration, as a resource of tctl, and as a resource sent to auth."""
    path = tmp_path / "document.yaml"
    path.write_text(DOCUMENTS[what])
    path.chmod(0o600)
    environment = plain_environment(tmp_path)
    with bounded(cluster, what):
        for command in (
            ("teleport", "start", "--config", path),
            ("teleport", "configure", f"--test={path}"),
            ("tctl", "--config", cluster.config_path, "create", "-f", path),
        ):
            done = limited(BIN / command[0], *command[1:], environment=environment)
            assert done.status not in (0, -9, -24), (command, done)
            assert done.stderr.strip(), command
            assert len(done.stderr) < 20_000, command
            assert "Traceback" not in done.stderr, done.stderr
            assert "MemoryError" not in done.stderr


def test_the_daemon_has_met_no_error_of_its_own(cluster: Cluster) -> None:
    """After everything above."""
    log = cluster.daemon.log()
    assert "Traceback" not in log, log[-6000:]
    assert len(log) < 200_000, "floods fill no log"
    assert json.loads(cluster.tctl("status", "--format=json").ok().out)


def test_connection_limits_of_the_configuration_take_effect(tmp_path: Path) -> None:
    """`max_connections` of one address on the SSH ports, `rates` of requests on the web port; tctl goes on."""
    made = Cluster(tmp_path)
    made.config["teleport"]["connection_limits"] = {
        "max_connections": 3,
        "max_users": 5,
        "rates": [{"period": "1h", "average": 1, "burst": 12}],
    }
    made.write()

    async def greeted(port: int) -> list[bool]:
        """Whether the server says who it is, on connections that stay open."""
        opened, answers = [], []
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"SSH-2.0-x\r\n")
            opened.append(writer)
            try:
                async with asyncio.timeout(10):
                    await reader.readuntil(b"curve25519-sha256")
                answers.append(True)
            except (OSError, asyncio.IncompleteReadError):
                answers.append(False)
        for writer in opened:
            writer.transport.abort()
        return answers

    async def statuses(count: int) -> list[bytes]:
        found = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", made.web_port, ssl=tls())
            writer.write(b"GET /webapi/find HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            found.append((await reader.readline()).split()[1])
            writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
        return found

    async def tried() -> None:
        for port in (made.proxy_ssh_port, made.node_port):
            assert await greeted(port) == [True] * 3 + [False] * 2
        found = await statuses(14)
        assert found == [b"200"] * 12 + [b"429"] * 2

    with made:
        asyncio.run(tried())
        made.tctl("status").ok()
        assert "more than 3 connections from one address" in made.daemon.log()

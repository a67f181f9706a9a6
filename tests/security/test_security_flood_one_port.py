"""The one port and the tunnels' own under strangers who begin and do not go on (threat T17), a real daemon.

Of those who say nothing, half of every beginning, a byte a second, or no certificate; straight, with half a balancer's
header, and inside websockets. The short form opens few; `make test-long` 2,000 of each kind, and awaits each time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from tests.cluster.test_cluster_one_port import one_port
from tests.security.test_security_flood import EACH, LONG, SLACK, beginnings, bounded, https_time, tls

from teleport.ssh.surface import ServerLimits
from teleport.testing.cluster import Cluster, at
from teleport.testing.raw_ssh import RawSsh
from teleport.transport import balancers
from teleport.transport.http_listener import SECONDS
from teleport.wire.alpn import PROXY_SSH, UPGRADE_PATH

BALANCER = "127.0.0.77"
PROMISED = 0.050  # seconds, the 99th percentile of what others wait (threat T17)
ROUNDS = 300 if LONG else 40
UPGRADES = 200 if LONG else 40
WITHHELD = 100 if LONG else 10
HEADERS = (b"", b"PROX", b"PROXY TCP4 203.0.113.9 ", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x01")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("flooded"))
    with one_port(made, proxy_protocol_from=BALANCER, tunnel_listen_addr=at(made.tunnel_port)) as cluster:
        yield cluster


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Held:
    """Strangers' connections, and when each was ended."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self._reading: dict[str, list[asyncio.Task[float]]] = {}

    async def open(self, kind: str, connect: Callable[[int], Awaitable[Streams]], count: int) -> None:
        for first in range(0, count, 50):
            await asyncio.gather(*(self._one(kind, connect, n) for n in range(first, min(first + 50, count))))

    async def _one(self, kind: str, connect: Callable[[int], Awaitable[Streams]], number: int) -> None:
        reader, writer = await connect(number)
        self._writers.append(writer)
        self._reading.setdefault(kind, []).append(asyncio.create_task(_ended(reader), name=kind))

    async def drip(self) -> None:
        """A byte a second on each, until cancelled."""
        while True:
            for number, writer in enumerate(self._writers):
                if not writer.is_closing():
                    writer.write(b"x")
                if number % 20 == 0:
                    await asyncio.sleep(20 / len(self._writers))

    async def wait_ended(self, kind: str, seconds: float) -> float:
        """Until all of a kind were ended; how long the last one took."""
        async with asyncio.timeout(seconds):
            return max(await asyncio.gather(*self._reading[kind]))

    async def leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(task for tasks in self._reading.values() for task in tasks))
        for writer in self._writers:
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


async def _ended(reader: asyncio.StreamReader) -> float:
    began = time.monotonic()
    with contextlib.suppress(OSError, ssl.SSLError):
        while await reader.read(4096):
            pass
    return time.monotonic() - began


async def visit(cluster: Cluster, number: int) -> float:
    """Seconds until somebody who knows their way is served: by the web, by SSH, or where tunnels end."""
    began = time.perf_counter()
    if number % 3 == 2:
        await https_time(cluster.web_port, "/webapi/find")
    else:
        async with await RawSsh.connect(cluster.tunnel_port if number % 3 else cluster.web_port) as peer:
            await peer.exchange()
    return time.perf_counter() - began


async def p99(cluster: Cluster, said: str) -> float:
    """Prints and gives the 99th percentile of visits, each of which waits for nobody else."""
    taken = []
    for number in range(ROUNDS):
        async with asyncio.timeout(20):
            taken.append(await visit(cluster, number))
    taken.sort()
    found = taken[min(int(len(taken) * 0.99), len(taken) - 1)]
    print(f"{said}: median {taken[len(taken) // 2] * 1000:.1f} ms, p99 {found * 1000:.1f} ms")
    return found


def alpn_hello() -> bytes:
    """A whole ClientHello after which nothing follows."""
    context, out = tls(), ssl.MemoryBIO()
    context.set_alpn_protocols([PROXY_SSH])
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    return out.read()


async def test_whoever_begins_and_does_not_go_on_holds_up_nobody(cluster: Cluster) -> None:
    port = cluster.web_port
    pieces = [*beginnings("web"), *beginnings("ssh"), alpn_hello(), b"SSH-2.0-TeleportTunnel_1\r\n"]

    async def straight(number: int) -> Streams:
        made = await asyncio.open_connection("127.0.0.1", port)
        made[1].write(pieces[number % len(pieces)])
        return made

    async def tunnel(number: int) -> Streams:
        made = await asyncio.open_connection("127.0.0.1", cluster.tunnel_port)
        made[1].write(beginnings("ssh")[number % 5])
        return made

    async def headed(number: int) -> Streams:
        made = await asyncio.open_connection("127.0.0.1", port, local_addr=(BALANCER, 0))
        made[1].write(HEADERS[number % len(HEADERS)])
        return made

    async def inside(number: int) -> Streams:
        made = await asyncio.open_connection("127.0.0.1", port, ssl=tls())
        asked = [f"GET {UPGRADE_PATH} HTTP/1.1", "Host: localhost", "Connection: Upgrade", "Upgrade: websocket"]
        asked += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
        made[1].write("\r\n".join(asked).encode())
        assert (await made[0].readline()).split()[1] == b"101"
        return made

    with bounded(cluster, f"{EACH} of each kind, {UPGRADES} websockets"):
        usual = await p99(cluster, "usually")
        held, withheld, dripping = Held(), list[RawSsh](), None
        try:
            await held.open("straight", straight, EACH)
            await held.open("tunnel", tunnel, EACH)
            await held.open("headed", headed, EACH)
            await held.open("inside", inside, UPGRADES)
            for _ in range(WITHHELD):
                peer = await RawSsh.connect(port)
                await peer.exchange()  # and no certificate follows
                withheld.append(peer)
            opened = time.monotonic()
            now = await p99(cluster, "with all of them")
            assert now < SLACK * max(PROMISED, 2 * usual)
            dripping = asyncio.create_task(held.drip(), name="drip")
            now = await p99(cluster, "while they drip a byte a second")
            assert now < SLACK * max(PROMISED, 2 * usual)
            waits = {"headed": balancers.SECONDS}
            if LONG:
                login = ServerLimits().login_seconds
                waits |= {"straight": login, "tunnel": login, "inside": SECONDS}
            for kind, seconds in waits.items():
                last = await held.wait_ended(kind, SLACK * seconds)
                print(f"{kind}: the last one was ended after {last:.1f} s")
                assert last < SLACK * seconds
            if LONG:
                for peer in withheld:
                    async with asyncio.timeout(SLACK * ServerLimits().login_seconds):
                        await _ended(peer.reader)
                print(f"no certificate: all were ended after {time.monotonic() - opened:.1f} s")
        finally:
            if dripping is not None:
                dripping.cancel()
                await asyncio.gather(dripping, return_exceptions=True)
            await held.leave()
            for peer in withheld:
                await peer.__aexit__()

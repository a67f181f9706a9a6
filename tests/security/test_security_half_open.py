"""Connections that never authenticate keep nobody else out (threat T17)."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.node.service import NodeService
from teleport.pki.keys import generate_p256
from teleport.pki.x509cert import pem_of, self_signed_web_pair
from teleport.testing.running import run_client
from teleport.testing.ssh_lab import running_lab
from teleport.transport.entrance import ConnectionLimits, Rate, Users
from teleport.transport.http_listener import KEPT_ALIVE, HTTPListener
from teleport.transport.limits import who_tries
from teleport.transport.slots import LEAST_SHARE, Slot, Slots
from teleport.transport.tls import unproved_client_context, web_server_context


class Counted:
    """Slots with a clock of the test's, and what was closed."""

    def __init__(self, bound: int, limits: ConnectionLimits | None = None, patience: float = 0.0) -> None:
        self.time = 0.0
        self.closed: list[str] = []
        self.slots = Slots(bound, limits=limits, patience=patience, now=lambda: self.time)

    def take(self, address: str, name: str = "") -> Slot:
        return self.slots.take(address, lambda: self.closed.append(name or address))

    def fail(self, address: str, times: int) -> None:
        for _ in range(times):
            self.take(address).over()


@contextlib.asynccontextmanager
async def served_by(
    edge: HTTPListener, method: str, answer: Handler, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int]]:
    """An application behind this edge until the context ends: where it listens."""
    app = web.Application()
    app.router.add_route(method, "/", answer)
    runner = edge.runner(app)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        try:
            async with edge.serve(runner, listener, context):
                yield listener.getsockname()[:2]
        finally:
            await runner.cleanup()


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


def test_the_address_with_most_silent_connections_loses_its_oldest() -> None:
    made = Counted(4)
    for name in ("a1", "a2", "b1", "a3"):
        made.take(name[0], name)
    assert made.closed == ["a1"]  # one address has half of the slots at most
    made.take("d")
    slot = made.take("c", "c1")
    assert made.closed == ["a1", "a2"]
    assert made.slots.taken == 4
    slot.over()
    slot.over()
    assert made.slots.taken == 3
    for _ in range(3):
        made.take("e")
    assert made.slots.taken == 4
    assert made.slots.turned_away == len(made.closed) == 4


def test_peers_that_come_back_make_room_for_others_of_their_address_only_when_they_are_slow() -> None:
    """Of many that come at once, each would else end one that was nearly served, and nobody would ever be."""
    made = Counted(4, patience=5.0)
    for name in ("a1", "a2"):
        made.take("a", name)
    made.time = 4.9
    made.take("a", "a3").over()
    assert (made.closed, made.slots.taken) == (["a3"], 2)
    for name in ("b1", "c1"):
        made.take(name[0], name)
    made.take("d", "d1")
    assert made.closed == ["a3", "a1"], "whoever is alone waits for nobody else's many"
    made.time = 10.0
    made.take("d", "d2")
    assert made.closed == ["a3", "a1", "a2"]
    made.take("d", "d3")
    assert made.closed == ["a3", "a1", "a2", "d1"], "it had its time"
    made.take("d", "d4")
    assert made.closed == ["a3", "a1", "a2", "d1", "d4"]
    assert made.slots.taken == 4


def test_whoever_turns_out_to_be_one_too_many_goes_itself() -> None:
    """By its own address, or by what a proxy says later."""
    made = Counted(4, patience=5.0)
    for name in ("a1", "a2"):
        made.take("a", name)
    moved = made.take("proxy", "a3")
    moved.moved("a")
    assert (made.closed, made.slots.taken) == (["a3"], 2)
    moved.over()
    assert made.slots.taken == 2


def test_an_address_that_fails_often_has_less_room_until_somebody_from_there_succeeds() -> None:
    """Growing, bounded, forgiven with time, never nothing (threat T23); a whole IPv6 /64 is one address."""
    made = Counted(1000)
    assert made.slots.share("192.0.2.1") == 500
    shares = []
    for _ in range(30):
        made.fail("192.0.2.1", 10)
        shares.append(made.slots.share("192.0.2.1"))
    assert shares[0] == 500
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == LEAST_SHARE
    assert made.slots.share("192.0.2.2") == 500
    made.time = 700.0
    assert made.slots.share("192.0.2.1") == 500
    made.fail("2001:db8::1", 40)
    assert made.slots.share("2001:db8::/64") < 500
    first, *_ = [made.take("2001:db8::" + str(number)) for number in range(1, 200)]
    assert made.closed
    good = made.take("2001:db8::ffff", "good")
    assert "good" not in made.closed
    good.proved()
    good.over()
    assert made.slots.share("2001:db8::/64") == 500
    first.over()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_host_itself_is_never_punished(address: str) -> None:
    made = Counted(100)
    made.fail(address, 500)
    assert made.slots.share(who_tries(address)) == 50


def test_who_only_asks_is_not_blamed() -> None:
    """A web connection that ended between two requests is no failure."""
    made = Counted(100)
    for _ in range(100):
        made.take("192.0.2.1").over(blamed=False)
        slot = made.take("192.0.2.1")
        slot.released()
        slot.over()
    assert made.slots.share("192.0.2.1") == 50


def test_connections_of_one_address_and_their_rate_are_limited() -> None:
    made = Counted(100, ConnectionLimits(max_connections=3, rates=(Rate(60, 60, 5),)))
    slots = [made.take("192.0.2.1") for _ in range(4)]
    assert [slot.arrived("192.0.2.1") for slot in slots] == [True, True, True, False]
    slots[3].over()
    slots[0].proved()
    assert not made.take("192.0.2.1").arrived("192.0.2.1"), "a proved one counts as long as it is open"
    slots[0].over()
    slots[0].over()
    again = [made.take("192.0.2.1") for _ in range(3)]
    assert [slot.arrived("192.0.2.1") for slot in again] == [True, False, False]
    other = [made.take("192.0.2.9") for _ in range(6)]
    results = []
    for slot in other:
        results.append(slot.arrived("192.0.2.2"))
        slot.over()
    assert results == [True] * 5 + [False], "the rate is of the vouched address"
    made.time = 2.0
    assert made.take("192.0.2.2").arrived("192.0.2.2")


def test_a_vouched_connection_takes_nothing_from_the_proxy() -> None:
    """A user who opens many through a proxy has the proxy's other users shut out no more than anybody else."""
    made = Counted(8)
    proxy = "192.0.2.100"
    for number in range(6):
        assert made.take(proxy, f"bad{number}").arrived("198.51.100.66")
    assert made.take(proxy, "good").arrived("198.51.100.7")
    assert made.closed == ["bad0", "bad1"]
    made.fail("198.51.100.66", 0)
    for _ in range(100):
        slot = made.take(proxy)
        slot.arrived("198.51.100.66")
        slot.over()
    assert made.slots.share(proxy) == 4
    assert made.slots.share("198.51.100.66") < 5
    assert "good" not in made.closed


def test_users_at_the_same_time_are_limited() -> None:
    users = Users(ConnectionLimits(max_users=2))
    assert [users.enter(name) for name in ("a", "b", "a", "c")] == [True, True, True, False]
    users.leave("a")
    assert not users.enter("c")
    users.leave("a")
    assert users.enter("c")


async def test_silent_connections_above_the_bound_do_not_keep_a_user_out(
    launcher_end: LauncherEnd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = getpass.getuser()
    monkeypatch.setattr("teleport.node.service.Slots", lambda bound, what, limits: Slots(20, what, limits=limits))
    async with running_lab(Launcher(launcher_end)) as lab:
        assert isinstance(lab.node, NodeService)
        silent = [await asyncio.open_connection("127.0.0.1", lab.node_port) for _ in range(40)]
        config = lab.client_config(tmp_path, lab.authorities.user([me]), me)
        ran = await run_client("ssh", "-F", str(config), "direct", "echo in")
        for _, writer in silent:
            writer.close()
    assert ran.stdout == b"in\n", ran.stderr


async def test_web_connections_without_a_request_end_and_are_few(tmp_path: Path) -> None:
    """aiohttp would wait for the first request for ever, plain and in TLS."""
    key = generate_p256()
    (tmp_path / "key").write_bytes(key.pkcs8_pem().reveal())
    (tmp_path / "crt").write_bytes(pem_of(self_signed_web_pair(["localhost"], key, datetime.now(UTC))))
    for context in (None, web_server_context(tmp_path / "crt", tmp_path / "key")):
        edge = HTTPListener(silent=5, seconds=0.5)
        async with served_by(edge, "GET", hello, context) as address:
            silent = [await asyncio.open_connection(*address) for _ in range(10)]
            tls = unproved_client_context() if context else None
            reader, writer = await asyncio.open_connection(*address, ssl=tls)
            assert edge.silent <= 5
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"hello" in await asyncio.wait_for(reader.readuntil(b"hello"), 5)
            for other, _ in silent:
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.wait_for(other.read(), 5) == b""
            assert edge.silent == 0
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # one that asked stays
            assert b"hello" in await asyncio.wait_for(reader.readuntil(b"hello"), 5)
            for one in (writer, *(other for _, other in silent)):
                one.close()


async def test_the_head_of_a_second_request_has_to_come_in_time(tmp_path: Path) -> None:
    """A connection that asked once could otherwise stay for an hour, sending a byte now and then."""
    edge = HTTPListener(kept_alive=0.5)
    async with served_by(edge, "GET", hello) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"hello"), 5)
        writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")
        ending = asyncio.create_task(reader.read(), name="until the end")
        while not ending.done():
            writer.write(b"a")
            await asyncio.wait([ending], timeout=0.05)
        with contextlib.suppress(ConnectionResetError):
            assert ending.result() == b""
        writer.close()
    assert HTTPListener().runner(web.Application())._kwargs["keepalive_timeout"] == KEPT_ALIVE


async def test_a_body_that_drips_holds_a_slot_and_a_connection_that_only_waits_is_bounded() -> None:
    """A head alone is cheap: whoever sends no more than that has shown nothing yet."""

    async def read(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="hello")

    edge = HTTPListener(silent=4, waiting=4)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    async with served_by(edge, "POST", read) as address:
        opened = [await asyncio.open_connection(*address) for _ in range(6)]
        for _, writer in opened:
            writer.write(head + b"ab")
        for reader, _ in opened[:4]:  # two slots are the share of one address
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
        assert edge.silent == 2
        for reader, writer in opened[4:]:
            writer.write(b"cd")
            await asyncio.wait_for(reader.readuntil(b"hello"), 5)
        assert edge.silent == 0
        kept = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(head + b"abcd")
            await asyncio.wait_for(reader.readuntil(b"hello"), 5)
            kept.append(writer)
        for reader, _ in opened[4:]:  # waited longest for a next request
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
        for writer in (*kept, *(writer for _, writer in opened)):
            writer.transport.abort()

"""Who gets a way to auth by the loopback: the daemon's own user, whatever others of the host do."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from teleport.testing.running import wait_until
from teleport.transport import auth_relay, socket_owner
from teleport.transport.auth_relay import AuthRelay
from teleport.transport.socket_owner import GONE, Address, owner

NOBODY = 65534
WAYS: list[Callable[[Address, Address], int | None]] = [
    owner,
    socket_owner._by_sock_diag,
    socket_owner._by_table,
]
CONNECTS = (
    "import socket, sys\nwith socket.create_connection(('127.0.0.1', int(sys.argv[1]))) as s:\n"
    "    print(s.getsockname()[1], flush=True)\n    sys.stdin.read()\n"
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it acts as another user")


@pytest.mark.parametrize("ask", WAYS)
def test_the_kernel_says_whose_socket_it_is(ask: Callable[[Address, Address], int | None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = listening.getsockname()
        with socket.create_connection(ours) as connected:
            assert ask(connected.getsockname(), ours) == os.geteuid()
            theirs = connected.getsockname()
        assert ask(theirs, ours) == GONE, "it was closed: what is left of it would say root"
        assert ask(("127.0.0.1", 1), ours) == GONE
        assert ask(ours, ours) == GONE, "one that listens is not connected"


@as_root
@pytest.mark.parametrize("ask", WAYS)
def test_the_kernel_says_that_it_is_another_users(ask: Callable[[Address, Address], int | None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = listening.getsockname()
        with subprocess.Popen(
            ["/usr/bin/env", "python3", "-c", CONNECTS, str(ours[1])],
            user=NOBODY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/",
        ) as other:  # fmt: skip
            assert other.stdout is not None
            assert ask(("127.0.0.1", int(other.stdout.readline())), ours) == NOBODY
            other.communicate(b"")


def test_without_either_the_kernel_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket_owner, "SOCK_DIAG", 31)  # a family that is not there
    monkeypatch.setattr(socket_owner, "TABLE", tmp_path / "missing")
    assert owner(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


async def silent(over: asyncio.Event) -> asyncio.Server:
    """Stands for a proxy: says nothing, and hangs up once it is `over`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@asynccontextmanager
async def relaying(
    over: asyncio.Event | None = None, whose: Callable[[Address, Address], int | None] = owner
) -> AsyncIterator[AuthRelay]:
    over = over or asyncio.Event()
    async with await silent(over) as proxy:
        async with AuthRelay([proxy.sockets[0].getsockname()[:2]], owner=whose) as relay:
            yield relay
        over.set()


async def refused(relay: AuthRelay) -> bool:
    """Whether the relay ends a connection at once."""
    reader, writer = await asyncio.open_connection(*relay.address)
    try:
        async with asyncio.timeout(0.5):
            with suppress(ConnectionError):
                await reader.read()
            return True
    except TimeoutError:
        return False
    finally:
        writer.close()


async def test_other_users_take_no_connection_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    whose: list[int | None] = []
    async with relaying(whose=lambda theirs, ours: whose[0]) as relay:
        with caplog.at_level(logging.WARNING):
            for whose[:] in ([NOBODY + 1], [NOBODY + 1], [GONE]):
                assert await refused(relay)
                assert not relay._tasks
            assert [one.getMessage() for one in caplog.records] == [
                f"a way to auth by the loopback is refused to the user {NOBODY + 1} of this host"
            ]
        whose[:] = [os.geteuid()]
        assert not await refused(relay)


async def test_where_the_kernel_names_nobody_nobody_gets_to_auth(caplog: pytest.LogCaptureFixture) -> None:
    """Closed, not open: who reads the log learns what to change on the host, once."""
    async with relaying(whose=lambda theirs, ours: None) as relay:
        with caplog.at_level(logging.WARNING):
            assert await refused(relay)
            assert await refused(relay)
            assert not relay._tasks
        (told,) = [one.getMessage() for one in caplog.records]
        assert "none of them gets to auth" in told
        assert "/proc/net/tcp" in told
        assert "RestrictAddressFamilies" in told


async def test_the_daemon_itself_has_a_bound(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(auth_relay, "MOST", 3)
    over = asyncio.Event()
    async with relaying(over) as relay:
        opened = [await asyncio.open_connection(*relay.address) for _ in range(3)]
        with caplog.at_level(logging.WARNING):
            assert await refused(relay)
            assert await refused(relay)
        assert len([one for one in caplog.records if "gets no more" in one.getMessage()]) == 1
        over.set()
        await wait_until(lambda: not relay._tasks)
        over.clear()
        assert not await refused(relay), "there is room again"
        for _, writer in opened:
            writer.close()


@as_root
async def test_another_user_who_connects_again_and_again_keeps_the_daemon_from_nothing() -> None:
    """With a plain count its sockets would be the whole of it."""
    async with relaying() as relay:
        other = await asyncio.create_subprocess_exec(
            "/usr/bin/env",
            "python3",
            "-c",
            "import socket, sys\nkept = []\nfor _ in range(300):\n"
            "    kept.append(socket.create_connection(('127.0.0.1', int(sys.argv[1]))))\n"
            "print('all', flush=True)\nsys.stdin.read()\n",
            str(relay.address[1]),
            user=NOBODY, cwd="/", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert other.stdout is not None
        assert await other.stdout.readline() == b"all\n"
        assert not await refused(relay)
        assert len(relay._tasks) <= 1
        await other.communicate(b"")


async def test_nothing_is_opened_for_those_who_gave_up_while_there_was_no_way() -> None:
    """After a restart of the proxy, auth would else get a connection for each try of each host, most of them dead."""
    stands = asyncio.Event()
    opened: list[Carried] = []

    async def by_tunnel(on_output: Callable[[bytes, bool], None], on_eof: Callable[[], None]) -> Carried:
        await stands.wait()
        opened.append(Carried(on_output))
        return opened[-1]

    async with relaying() as relay:
        relay.by_tunnel = by_tunnel
        gone = [await asyncio.open_connection(*relay.address) for _ in range(3)]
        for _, writer in gone:
            writer.write(b"hello")
        reader, waits = await asyncio.open_connection(*relay.address)
        waits.write(b"hel")
        await wait_until(lambda: len(relay._tasks) == 4)
        for _, writer in gone:
            writer.close()
        await wait_until(lambda: len(relay._tasks) == 1)
        waits.write(b"lo")
        stands.set()
        assert await reader.readexactly(5) == b"hello"
        assert len(opened) == 1
        waits.write(b" again")
        assert await reader.readexactly(6) == b" again"
        waits.close()
        await wait_until(lambda: not relay._tasks)
        assert opened[0].over.is_set()


def test_a_host_that_has_tunnels_asks_seldom_for_what_it_is_refused() -> None:
    sparing = auth_relay.Sparing(lambda: 1.0)
    assert sparing.may(0.0)
    now, pauses = 0.0, []
    for _ in range(7):
        sparing.gave(False, now)
        until = next(later for later in range(1, 1000) if sparing.may(now + later))
        pauses.append(until)
        now += until
    assert pauses == [5, 10, 20, 40, 80, 120, 120]
    sparing.gave(True, now)
    assert sparing.may(now)
    drawn = auth_relay.Sparing(lambda: 0.0)
    drawn.gave(False, 0.0)
    assert not drawn.may(2.4)
    assert drawn.may(2.5)


async def test_without_a_tunnel_a_refused_websocket_is_not_asked_for_again_at_once() -> None:
    asked = 0

    async def no_tunnel(on_output: Callable[[bytes, bool], None], on_eof: Callable[[], None]) -> None:
        return None

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with proxy, AuthRelay([proxy.sockets[0].getsockname()[:2]]) as relay:
        for tunnels, expected in ((True, 1), (True, 1), (False, 2), (False, 3)):  # who joins has none yet
            relay.by_tunnel = no_tunnel if tunnels else None
            reader, writer = await asyncio.open_connection(*relay.address)
            writer.write(b"hello")
            assert await reader.read() == b""
            writer.close()
            assert asked == expected


class Carried:
    """A connection by a tunnel whose far end says what it hears."""

    def __init__(self, on_output: Callable[[bytes, bool], None]) -> None:
        self._output = on_output
        self.over = asyncio.Event()

    def write(self, data: bytes) -> None:
        self._output(data, False)

    async def drain(self) -> None:
        return

    def pause_output(self) -> None:
        return

    def resume_output(self) -> None:
        return

    def close(self) -> None:
        self.over.set()

    async def wait(self) -> object:
        return await self.over.wait()

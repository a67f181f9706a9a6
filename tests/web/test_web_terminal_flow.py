"""Floods in web terminals, both ways: nothing flows without credit, nothing is lost, nothing piles up (threat T19)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import Any, cast

import pytest
from tests.web.session_rig import until
from tests.web.terminal_rig import Page, Place, place

from teleport.launcher import LauncherEnd
from teleport.web.terminal_flow import HELD, INPUT, Input, Output
from teleport.web.terminal_session import Terminal
from teleport.wire import web_terminal as wt
from teleport.wire.web_terminal import BadMessage, End, Kind

MUCH = 2 * 1024 * 1024  # bytes; what lies between a host and a page that takes nothing is less


def sent(those: Place) -> int:
    """Bytes that the host has given to its one session."""
    (session,) = those.node.tools.registry
    assert session._streams is not None
    return session._streams.sent


async def test_without_credit_nothing_flows(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """The page gets what it granted and not a byte more, and the program stops: memory does not grow with output."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window, credit=0) as page:
            page.granting = False
            await page.hears(Kind.STARTED)
            await page.type("stty -echo; exec yes\n")
            await until(lambda: sent(those) > HELD, "output of the program")
            for granted in (1, 1000, 70_000):
                before = len(page.shown)
                await page.say(Kind.CREDIT, {"bytes": granted})
                await page.shows(before + granted)
            while True:  # until the program stands still
                before = sent(those)
                await page.say(Kind.CREDIT, {"bytes": 1})
                await page.shows(len(page.shown) + 1)
                if sent(those) == before:
                    break
            assert len(page.shown) < sent(those) < MUCH
            await page.type("\x03")
            page.granting = True
            await page.say(Kind.CREDIT, {"bytes": wt.MAX_CREDIT})
            assert (await page.hears(Kind.CLOSED, seconds=20))["signal"] == "INT"


async def test_a_flood_arrives_whole_and_in_order(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """Every byte, to the last one before the end."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            await page.hears(Kind.STARTED)
            await page.type("stty -echo -onlcr; echo be''gin; exec seq 1 600000\n")
            over = await page.hears(Kind.CLOSED, seconds=60)
            assert over["status"] == 0
            wanted = b"".join(b"%d\n" % number for number in range(1, 600_001))
            assert bytes(page.shown).partition(b"begin\n")[2] == wanted


async def test_what_is_pasted_arrives_as_the_host_takes_it(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """A megabyte, as far as granted each time; and who sends more than that is cut off."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            await page.hears(Kind.STARTED)
            await page.type("stty raw -echo; echo re''ady; head -c 1000000 | sha256sum; stty sane; exit\n")
            await page.sees("ready")
            spent, data = (
                len("stty raw -echo; echo re''ady; head -c 1000000 | sha256sum; stty sane; exit\n"),
                bytes(1_000_000),
            )
            at = 0
            while at < len(data):
                piece = data[at : at + min(page.granted - spent, 30_000)]
                if not piece:
                    count = sum(kind is Kind.CREDIT for kind, _ in page.told)
                    await page.hears(Kind.CREDIT, count + 1)
                    continue
                await page.type(piece)
                at += len(piece)
                spent += len(piece)
            await page.sees(hashlib.sha256(data).hexdigest())
            await page.hears(Kind.CLOSED)
        async with Page.opened(window) as page:
            await page.hears(Kind.STARTED)
            await page.type("stty raw -echo; echo re''ady; exec sleep 100\n")
            await page.sees("ready")
            with contextlib.suppress(ConnectionError):
                for _ in range(16 * MUCH // INPUT):  # no host that reads nothing takes so much
                    await page.type(bytes(INPUT))
            assert await page.ends() == End.BAD


class Host:
    """Takes what it is given when it may."""

    def __init__(self) -> None:
        self.taken = 0
        self.paused = False
        self.free = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.taken += len(data)

    async def drain(self) -> None:
        await self.free.wait()

    def pause_output(self) -> None:
        self.paused = True

    def resume_output(self) -> None:
        self.paused = False


async def test_a_host_is_stopped_before_much_is_held() -> None:
    """And goes on once half of that is gone. Pieces are as large as a message may be, and as credit allows."""
    host, output = Host(), Output(0)
    output.of(host)
    while not host.paused:
        output.came(bytes(32 * 1024))
    assert output.held == HELD
    output.granted(HELD // 2)
    assert len(await output.next()) == wt.MAX_OUTPUT
    assert host.paused
    output.granted(1)
    assert (len(await output.next()), host.paused) == (1, False)
    output.end()
    output.granted(wt.MAX_CREDIT)
    left = HELD - wt.MAX_OUTPUT - 1
    while left:
        left -= len(await output.next())
    assert await output.next() == b""


async def test_input_is_granted_anew_when_the_host_took_it() -> None:
    host, grants = Host(), list[int]()
    came = Input(host, grants.append)
    running = asyncio.create_task(came.run(), name="input")
    came.came(bytes(INPUT))
    with pytest.raises(BadMessage):
        came.came(b"x")
    host.free.set()
    await until(lambda: bool(grants), "a grant")
    assert grants == [INPUT]
    came.came(b"x")
    with pytest.raises(BadMessage):
        came.came(b"")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Stalled:
    """The socket of a page that reads nothing."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.free = asyncio.Event()

    async def send(self, kind: Kind, payload: wt.Credit) -> None:
        assert kind is Kind.CREDIT
        self.told.append(payload.bytes)
        await self.free.wait()


async def test_a_page_that_types_and_reads_nothing_has_no_grants_pile_up() -> None:
    """What it may send is told by one message at a time, and then as one number."""
    socket, nothing = Stalled(), cast(Any, None)
    terminal = Terminal(nothing, nothing, cast(Any, socket), wt.Params(server_id="h", login="l"), nothing, ("", 0))
    for _ in range(1000):
        terminal._granted(INPUT // 4)
        await asyncio.sleep(0)
    assert [task.get_name() for task in asyncio.all_tasks()].count("credit of a terminal") == 1
    assert len(socket.told) == 1
    socket.free.set()
    await until(lambda: sum(socket.told) == 1000 * INPUT // 4, "all of it")
    assert len(socket.told) == 2

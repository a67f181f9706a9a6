"""For how long a watch says nothing: less than its reader bears, and longer where there are many."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from pathlib import Path

import pytest

from teleport.api import client, routes
from teleport.api import messages as m
from teleport.auth.hosts import silence
from teleport.auth.hosts.silence import HEARTBEAT, LINES, LONGEST, Silence
from teleport.daemon.remote import watch
from teleport.errors import ConnectionProblem
from teleport.identity import SystemRole
from teleport.store import cache
from teleport.testing.auth import running_auth
from teleport.tunnel.silence import of_host, silence_of


@pytest.mark.parametrize("watches", [1, 1000, 5000, 10_000])
def test_all_watches_together_say_no_more_than_a_second_bears_and_each_often_enough(watches: int) -> None:
    all_of_them = Silence()
    with ExitStack() as stack:
        paces = [stack.enter_context(all_of_them.watch(True)) for _ in range(watches)]
        first = paces[0]
        assert first.seconds == HEARTBEAT, "it was told nothing else yet"
        assert first.anew() == int(first.seconds)
        assert HEARTBEAT <= first.seconds <= LONGEST
        assert watches / first.seconds <= LINES or first.seconds == LONGEST
        late = max(client.WATCH_SILENCE_LATE, first.seconds / client.WATCH_SILENCE_PART)
        first.expect(240)  # the longest
        assert first.anew() + late <= client.WATCH_SILENCE_MOST < cache.SILENCE
        impatient = stack.enter_context(all_of_them.watch(False))
        assert (impatient.anew(), impatient.seconds) == (0, HEARTBEAT)
    with all_of_them.watch(True) as one:
        one.anew()
        assert one.seconds == HEARTBEAT, "those that are over do not count"


@pytest.mark.parametrize("hosts", [3000, 5000, 10_000])
def test_a_tunnel_by_which_a_host_hears_auth_is_asked_nothing_by_the_host(hosts: int) -> None:
    all_of_them = Silence()
    with ExitStack() as stack:
        for _ in range(hosts):
            pace = stack.enter_context(all_of_them.watch(True))
        pace.anew()
        host = of_host(silence_of(hosts))
        assert host.seconds * (host.count + 1) > pace.seconds


async def test_a_reader_is_told_when_the_next_line_comes_and_bears_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "HEARTBEAT", 0.2)
    monkeypatch.setattr(silence, "LINES", 1.0)  # one watch makes it 1 s
    monkeypatch.setattr(client, "WATCH_SILENCE", 0.9)
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE)
        async with auth.async_client(host) as asking, aclosing(asking.watch(m.WatchRequest(kinds=["role"]))) as lines:
            told = [await anext(lines) for _ in range(3)]
        assert [line.within for line in told] == [0, 1, 1]
        # an older reader
        older = auth.async_client(host)
        async with older, aclosing(older.download(routes.WATCH, m.WatchRequest(kinds=["role"]))) as said:
            found = b""
            while found.count(b"\n") < 2:
                found += await anext(said)
        assert b"within" not in found


async def test_auth_that_says_nothing_is_given_up_when_it_promised_to_speak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "WATCH_SILENCE", 0.3)  # shorter than auth's own pause
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE)
        async with auth.async_client(host) as asking, aclosing(watch(asking, ["role"])) as lines:
            await anext(lines)
            with pytest.raises(ConnectionProblem, match=r"nothing heard from auth for 0\.3 s"):
                await anext(lines)


def test_what_auth_promises_is_believed_within_bounds() -> None:
    patience = client._Silence()
    for within, seconds in (
        (0, 60.0),
        (1, 60.0),
        (80, 100.0),
        (0, 100.0),
        (200, 220.0),
        (250, 275.0),
        (10**9, client.WATCH_SILENCE_MOST),
    ):
        patience.heard(m.WatchLine(within=within))
        assert patience.seconds == seconds

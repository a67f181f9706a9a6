"""What a host announces within its watch is judged as a call of its own: by who it is now, for itself alone."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem
from teleport.identity import SystemRole
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.testing.auth import Credentials, RunningAuth, running_auth
from teleport.testing.running import wait_until


def said(host_id: str, kind: Any = "node", hostname: str = "alpha", **labels: str) -> m.HeartbeatRequest:
    server = Server(kind=kind, metadata=Metadata(name=host_id, labels=labels), spec=ServerSpec(hostname=hostname))
    return m.HeartbeatRequest(item=m.Document(to_json(server)))


@asynccontextmanager
async def watching(auth: RunningAuth, who: Credentials) -> AsyncIterator[AuthClient]:
    """A client whose watch is open."""
    client = auth.async_client(who)
    ready = asyncio.Event()

    async def work() -> None:
        async for _ in client.watch(m.WatchRequest(kinds=["role"])):
            ready.set()

    task = asyncio.create_task(work(), name="watching")
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        yield client
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.close()


def raw(client: AuthClient, line: bytes) -> asyncio.Task[m.Answer]:
    assert client._spoken is not None
    return asyncio.create_task(client._spoken.ask(line))


async def labels(auth: RunningAuth, host_id: str) -> dict[str, str]:
    found = await auth.call(await auth.admin(), routes.GET["node"], m.GetRequest(name=host_id))
    return dict(json.loads(bytes(found.item))["metadata"].get("labels", {}))


async def test_announcements_within_a_watch_are_stored_and_take_no_connection(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE)
        async with watching(auth, host) as client:
            connections = client._present().session.connector
            assert connections is not None
            for number in range(3):
                await client.announce(said(host.host_id, v=str(number)))
                assert (await labels(auth, host.host_id))["v"] == str(number)
            await asyncio.gather(*(client.announce(said(host.host_id, v=str(n))) for n in range(20)))
            assert len(connections._acquired) == 1
            assert not any(connections._conns.values())  # none that would be kept for a next call
        await client.announce(said(host.host_id, v="by a call"))
        assert (await labels(auth, host.host_id))["v"] == "by a call"
        await client.close()


async def test_an_announcement_is_made_by_a_call_when_the_watch_ends_meanwhile(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE)
        async with watching(auth, host) as client:
            announcing = asyncio.create_task(client.announce(said(host.host_id, v="1")))
            await asyncio.sleep(0)
            assert client._spoken is not None
            assert client._spoken._answer is not None
            await client.renewed()
            await announcing
            assert (await labels(auth, host.host_id))["v"] == "1"


async def test_a_watch_that_is_asked_for_is_waited_for_and_one_that_is_refused_leaves_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long auth takes to greet: another handshake would keep it from greeting others."""
    monkeypatch.setattr("teleport.api.client.WATCH_AGAIN", 0.0)
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE)
        client = auth.async_client(host)
        ways = 0
        answers: asyncio.Queue[bool] = asyncio.Queue()

        async def way(_: float) -> bool:
            nonlocal ways
            ways += 1
            return await answers.get()

        async def watch() -> None:
            async for _ in client.watch(m.WatchRequest(kinds=["role"])):
                pass

        client.way = way
        watches: list[asyncio.Task[None]] = []

        async def begun(told: str) -> asyncio.Task[float]:
            before = ways
            watches.append(asyncio.create_task(watch(), name="watch"))
            await wait_until(lambda: ways == before + 1)
            announcing = asyncio.create_task(client.announce(said(host.host_id, v=told)), name="announcement")
            for _ in range(20):
                await asyncio.sleep(0)
            assert ways == before + 1, "it did not wait for the watch"
            return announcing

        announcing = await begun("in the watch")
        answers.put_nowait(True)
        await announcing
        assert ways == 1
        assert (await labels(auth, host.host_id))["v"] == "in the watch"
        watches[0].cancel()
        await asyncio.wait(watches)

        announcing = await begun("by a call")
        answers.put_nowait(False)  # of the watch
        answers.put_nowait(True)  # of the call
        await announcing
        assert ways == 3
        assert (await labels(auth, host.host_id))["v"] == "by a call"
        with pytest.raises(ConnectionProblem, match="no way to auth"):
            await watches[1]
        await client.close()


async def test_an_answer_that_came_too_late_is_not_taken_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An auth server that is behind is asked on within the watch: a connection for each host would be its end."""
    async with running_auth(tmp_path) as auth:
        host, other = await auth.host(SystemRole.NODE), await auth.host(SystemRole.NODE)
        async with watching(auth, host) as client:
            connections = client._present().session.connector
            assert connections is not None
            for _ in range(2):
                waiting = asyncio.create_task(client.announce(said(other.host_id)))  # which is refused, later
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])
            assert client._spoken is not None
            assert client._spoken._late == 2
            with pytest.raises(ConnectionProblem, match="does not answer within the watch"):
                await client.announce(said(host.host_id, v="1"))
            await wait_until(lambda: client._spoken is not None and not client._spoken._late)
            await client.announce(said(host.host_id, v="2"))
            assert (await labels(auth, host.host_id))["v"] == "2"
            with monkeypatch.context() as patch:
                patch.setattr("teleport.api.client.CALL_TIMEOUT", 0.0)
                with pytest.raises(ConnectionProblem, match="does not answer within the watch"):
                    await client.announce(said(other.host_id))
            await client.announce(said(host.host_id, v="3"))
            assert (await labels(auth, host.host_id))["v"] == "3"
            assert len(connections._acquired) == 1
            assert not any(connections._conns.values())


async def test_a_host_announces_itself_alone_and_refusals_are_on_record(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host, other = await auth.host(SystemRole.NODE), await auth.host(SystemRole.NODE)
        async with watching(auth, host) as client:
            for hostile in (said(other.host_id), said(str(uuid.uuid4())), said(host.host_id, "proxy")):
                with pytest.raises(AccessDenied):
                    await client.announce(hostile)
            denied = await auth.events("api.denied", wait_for=3, where=lambda event: event["route"] == "heartbeat")
            assert len(denied) == 3
            await client.announce(said(host.host_id, v="mine"))
            assert (await labels(auth, host.host_id))["v"] == "mine"


async def test_what_is_no_announcement_is_answered_with_words_and_the_next_one_is_heard(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE)
        async with watching(auth, host) as client:
            for line in (b"x", b"[]", b"{}", b'{"item": 3}', b'{"item": {"kind": "role"}}', b'{"name": "a"}', b"\xff"):
                answer = await raw(client, line)
                assert answer.status == 400, line
                assert b"message" in bytes(answer.body)
            with pytest.raises(BadRequest):
                await client.announce(m.HeartbeatRequest(item=m.Document(b'{"kind": "role"}')))
            await client.announce(said(host.host_id, v="after"))
            assert (await labels(auth, host.host_id))["v"] == "after"


async def test_a_line_without_an_end_ends_the_watch_and_keeps_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE)
        async with watching(auth, host) as client:
            assert client._spoken is not None
            client._spoken._lines.put_nowait(b"x" * 4_000_000)
            await wait_until(lambda: client._spoken is None)


async def test_a_host_that_was_expelled_announces_nothing_in_a_watch_that_is_still_open(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE)
        async with watching(auth, host) as client:
            await client.announce(said(host.host_id))
            await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=host.host_id))
            with pytest.raises((AccessDenied, ConnectionProblem)):
                await client.announce(said(host.host_id, v="gone"))
        nodes = await auth.call(await auth.admin(), routes.LIST["node"], m.ListRequest())
        assert not nodes.items

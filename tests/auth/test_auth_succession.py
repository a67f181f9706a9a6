"""Which record of presence takes the place of which, as pure rules and at a running auth service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.hosts.succession import KEPT, may_announce, may_withdraw, replaced
from teleport.identity import SystemRole
from teleport.resources.codec import from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import LOST_AFTER, Server, ServerSpec
from teleport.testing.auth import Credentials, RunningAuth, running_auth

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD = "11111111-1111-4111-8111-111111111111"
NEW = "22222222-2222-4222-8222-222222222222"


def node(host_id: str = OLD, *, silent: float | None = 0, epoch: str = "5", **spec: Any) -> Server:
    """A node last heard of `silent` seconds ago; None: registered by a person."""
    heard = None if silent is None else NOW - timedelta(seconds=silent)
    fields = {"hostname": "web", "addr": "10.0.0.1:3022", "heard": heard, **spec}
    return Server(metadata=Metadata(name=host_id), spec=ServerSpec(epoch=epoch, **fields))


LONG = LOST_AFTER.total_seconds()


def test_a_service_is_lost_after_two_missed_heartbeats_and_never_before() -> None:
    assert not node(silent=LONG - 1).lost(NOW)
    assert node(silent=LONG).lost(NOW)
    assert not node(silent=None).lost(NOW)
    assert str(node(silent=LONG + 0.7).as_of(NOW).spec.silent_for) == "2m30s"
    assert not node(silent=1).as_of(NOW).spec.silent_for
    for silent in (1, LONG + 0.7):
        said = node(silent=silent).as_of(NOW)
        assert from_json(to_json(said)) == said, "tctl reads what auth lists"


@pytest.mark.parametrize(
    ("stored", "epoch", "may"),
    [
        (None, "5", True),
        (node(epoch="5"), "5", True),
        (node(epoch="4"), "5", True),
        (node(epoch="9"), "10", True),
        (node(epoch="6"), "5", False),
        (node(epoch="6", silent=LONG), "5", True),
        (node(epoch=""), "5", True),
    ],
    ids=["nothing", "itself", "older", "as numbers", "newer", "newer but lost", "none"],
)
def test_the_newest_run_of_a_host_is_the_one_announced(stored: Server | None, epoch: str, may: bool) -> None:
    assert may_announce(node(epoch=epoch), stored, NOW) is may


@pytest.mark.parametrize(("epoch", "may"), [("5", True), ("4", False), ("6", True), ("", False), ("10", True)])
def test_the_end_of_an_older_run_ends_no_newer_one(epoch: str, may: bool) -> None:
    assert may_withdraw(epoch, node(epoch="5")) is may


@pytest.mark.parametrize(
    ("old", "new", "goes"),
    [
        ({"silent": LONG}, {}, True),
        ({"silent": LONG, "hostname": "WEB"}, {}, True),
        ({"silent": LONG, "addr": "[::ffff:10.0.0.1]:3022"}, {}, True),
        ({"silent": LONG - 1}, {}, False),
        ({"silent": LONG}, {"hostname": "db"}, False),
        ({"silent": LONG}, {"addr": "10.0.0.2:3022"}, False),
        ({"silent": LONG}, {"addr": "10.0.0.1:22"}, False),
        ({"silent": LONG}, {"silent": LONG}, False),
        ({"silent": LONG}, {"silent": None}, False),
        ({"silent": None}, {}, False),
        ({"silent": LONG, "addr": ""}, {"addr": ""}, False),
        ({"silent": LONG, "hostname": ""}, {"hostname": ""}, False),
        ({"silent": LONG, "use_tunnel": True}, {"use_tunnel": True}, False),
    ],
)
def test_only_a_lost_host_is_replaced_and_only_by_its_like(
    old: Mapping[str, Any], new: Mapping[str, Any], goes: bool
) -> None:
    """Threat T14: whoever announces the name and address of a host that is heard of displaces nobody."""
    assert [server.host_id for server in replaced([node(OLD, **old), node(NEW, **new)], NOW)] == [OLD] * goes


# at auth


async def say(auth: RunningAuth, who: Credentials, epoch: str = "5", **spec: Any) -> None:
    said = node(who.host_id, silent=None, epoch=epoch, **{"addr": "127.0.0.1:3022", **spec})
    await auth.call(who, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(said))))


async def listed(auth: RunningAuth) -> dict[str, dict[str, Any]]:
    page = await auth.call(await auth.admin(), routes.LIST["node"], m.ListRequest())
    documents = [msgspec.json.decode(item) for item in page.items]
    return {document["metadata"]["name"]: document["spec"] for document in documents}


async def test_two_runs_of_one_host_side_by_side(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE, host_id=OLD, name="web")
        await say(auth, host, "5")
        await say(auth, host, "6")
        await say(auth, host, "5")
        assert (await listed(auth))[OLD]["epoch"] == "6"
        await auth.call(host, routes.WITHDRAW, m.Named(name="5"))
        assert (await listed(auth))[OLD]["epoch"] == "6"
        await auth.call(host, routes.WITHDRAW, m.Named(name="6"))
        assert not await listed(auth)


async def test_of_runs_that_speak_at_one_moment_the_newest_stays(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE, host_id=OLD, name="web")
        for _ in range(5):
            await asyncio.gather(
                say(auth, host, "6"),
                *(say(auth, host, "5") for _ in range(3)),
                *(auth.call(host, routes.WITHDRAW, m.Named(name="5")) for _ in range(3)),
            )
            assert (await listed(auth))[OLD]["epoch"] == "6"


async def test_a_silent_host_is_listed_as_lost_with_its_age_for_a_week(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE, host_id=OLD, name="web")
        await say(auth, host)
        assert "silent_for" not in (await listed(auth))[OLD]
        auth.clock.advance(720)  # type: ignore[attr-defined]
        assert (await listed(auth))[OLD]["silent_for"] == "12m0s"
        await say(auth, host)
        assert "silent_for" not in (await listed(auth))[OLD], "it is back"
        page = await auth.backend.range("nodes/")
        assert page[0].expires == auth.clock.now() + KEPT


async def test_what_a_host_says_of_its_silence_does_not_count(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE, host_id=OLD, name="web")
        await say(auth, host, heard=datetime(2000, 1, 1, tzinfo=UTC))
        spec = (await listed(auth))[OLD]
        assert "silent_for" not in spec
        assert not spec["heard"].startswith("2000")


async def test_a_rebuilt_host_replaces_its_lost_predecessor_at_once_and_a_living_one_never(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        old = await auth.host(SystemRole.NODE, host_id=OLD, name="web")
        new = await auth.host(SystemRole.NODE, host_id=NEW, name="web")
        await say(auth, old)
        await say(auth, new)
        assert set(await listed(auth)) == {OLD, NEW}, "equal names are legal"
        await auth.call(new, routes.WITHDRAW, m.Named(name="5"))
        auth.clock.advance(LONG)  # type: ignore[attr-defined]
        await say(auth, new)
        assert set(await listed(auth)) == {NEW}
        await say(auth, old)
        assert set(await listed(auth)) == {OLD, NEW}, "its identity was never taken away"


async def test_links_name_a_proxy_that_is_there_before_one_that_is_lost_and_none_that_is_gone(tmp_path: Path) -> None:
    async def announce(who: Credentials, name: str) -> None:
        spec = ServerSpec(addr=f"{name}:3080", public_addrs=(f"{name}:3080",), hostname=name, epoch="1")
        proxy = Server(kind="proxy", metadata=Metadata(name=who.host_id), spec=spec)
        await auth.call(who, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(proxy))))

    async with running_auth(tmp_path) as auth:
        first = await auth.host(SystemRole.PROXY, host_id=OLD, name="first")
        second = await auth.host(SystemRole.PROXY, host_id=NEW, name="second")
        await announce(first, "first.example")
        assert await auth.service.cluster_api.web_address() == "first.example:3080"
        auth.clock.advance(LONG)  # type: ignore[attr-defined]
        assert await auth.service.cluster_api.web_address() == "first.example:3080", "it may be back"
        await announce(second, "second.example")
        assert await auth.service.cluster_api.web_address() == "second.example:3080"
        auth.clock.advance(600)  # type: ignore[attr-defined]
        assert await auth.service.cluster_api.web_address() == "<proxyhost>:3080"

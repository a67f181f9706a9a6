"""What proxies say of tunnels that ended: shown when all of a host's proxies say it, and deciding nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.hosts.tunnels_lost import MOST
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import SystemRole
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.resources.values import Duration
from teleport.testing.auth import ANONYMOUS, Credentials, RunningAuth, running_auth

ONE, TWO, HOST, OTHER = (f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "1234")


async def announce(auth: RunningAuth, who: Credentials, host_id: str, *proxies: str, **fields: Any) -> None:
    spec = ServerSpec(hostname="web", use_tunnel=True, proxy_ids=proxies, epoch="1", **fields)
    item = m.Document(to_json(Server(metadata=Metadata(name=host_id), spec=spec)))
    await auth.call(who, routes.HEARTBEAT, m.HeartbeatRequest(item=item))


async def say(auth: RunningAuth, proxy: Credentials, *hosts: str) -> None:
    await auth.call(proxy, routes.LOST_TUNNELS, m.LostTunnelsRequest(hosts=list(hosts)))


async def ended(auth: RunningAuth, host_id: str = HOST) -> list[int]:
    """For how many seconds, by each of the ways to see it: two lists, and the one node."""
    admin = await auth.admin()
    page = await auth.call(admin, routes.LIST["node"], m.ListRequest())
    one = await auth.call(admin, routes.GET["node"], m.GetRequest(name=host_id))
    found = await auth.call(admin, routes.FIND_NODES, m.FindNodesRequest())
    documents = [msgspec.json.decode(bytes(item)) for item in (*page.items, one.item)]
    specs = [document["spec"] for document in documents if document["metadata"]["name"] == host_id]
    return [
        *(int(Duration.parse(spec.get("tunnel_lost_for", "0s")).seconds) for spec in specs),
        *(node.tunnel_lost_for for node in found.items if node.id == host_id),
    ]


async def test_a_host_is_shown_without_tunnel_when_every_proxy_that_it_named_says_so(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        first = await auth.host(SystemRole.PROXY, host_id=ONE)
        second = await auth.host(SystemRole.PROXY, host_id=TWO)
        host = await auth.host(SystemRole.NODE, host_id=HOST)
        await announce(auth, host, HOST, ONE, TWO)
        auth.clock.advance(5)  # type: ignore[attr-defined]
        await say(auth, first, HOST)
        assert await ended(auth) == [0, 0, 0], "one proxy alone is not believed"
        auth.clock.advance(5)  # type: ignore[attr-defined]
        await say(auth, second, HOST)
        auth.clock.advance(12)  # type: ignore[attr-defined]
        assert await ended(auth) == [12, 12, 12]
        await say(auth, first, HOST)
        await say(auth, second, HOST)
        auth.clock.advance(30)  # type: ignore[attr-defined]
        assert await ended(auth) == [42, 42, 42], "said again, it counts from when it was said first"
        await say(auth, second)
        assert await ended(auth) == [0, 0, 0], "one of them has a tunnel again"
        await say(auth, second, HOST)
        auth.clock.advance(1)  # type: ignore[attr-defined]
        assert await ended(auth) == [1, 1, 1]
        await announce(auth, host, HOST, ONE, TWO)
        assert await ended(auth) == [0, 0, 0], "the host is heard"
        auth.clock.advance(60)  # type: ignore[attr-defined]
        await say(auth, first, HOST)
        assert await ended(auth) == [0, 0, 0], "what the other said is forgotten"


async def test_a_proxy_says_nothing_of_hosts_that_named_others_or_none(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        proxy = await auth.host(SystemRole.PROXY, host_id=ONE)
        for host_id, proxies in ((HOST, (TWO,)), (OTHER, ())):
            await announce(auth, await auth.host(SystemRole.NODE, host_id=host_id), host_id, *proxies)
        auth.clock.advance(5)  # type: ignore[attr-defined]
        await say(auth, proxy, HOST, OTHER, "nobody")
        assert await ended(auth) == [0, 0, 0]
        assert await ended(auth, OTHER) == [0, 0, 0]


async def test_nobody_but_a_proxy_says_it_and_no_host_of_itself(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = await auth.host(SystemRole.NODE, host_id=HOST)
        await announce(auth, host, HOST, ONE, tunnel_lost_for=Duration.of(seconds=99))
        for who in (ANONYMOUS, host, await auth.user("eve", ["editor"]), await auth.admin()):
            with pytest.raises(AccessDenied):
                await auth.call(who, routes.LOST_TUNNELS, m.LostTunnelsRequest(hosts=[HOST]))
        assert await ended(auth) == [0, 0, 0]
        proxy = await auth.host(SystemRole.PROXY, host_id=ONE)
        with pytest.raises(BadRequest, match=f"{MOST} hosts"):
            await say(auth, proxy, *(f"host{number}" for number in range(MOST + 1)))

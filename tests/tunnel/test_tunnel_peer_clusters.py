"""Proxies that lead clients to another cluster by each other's tunnels, with real TLS between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.tunnel.test_tunnel_peers import CLUSTER, Listed, peers

from teleport.errors import AccessDenied, ConnectionProblem
from teleport.identity import SystemRole
from teleport.testing.running import wait_until
from teleport.tunnel import clusters_elsewhere
from teleport.tunnel.clusters import ClusterTunnels
from teleport.tunnel.clusters_elsewhere import AllClusterTunnels
from teleport.tunnel.peer_dialer import PeerProxy
from teleport.wire import peering

LEAF = "leaf.test"


class Ends:
    """What a proxy knows of the tunnels of one cluster; `said` is what the other end answers."""

    def __init__(self, here: bool, said: Exception | None = None) -> None:
        self.here, self.said = here, said
        self.dialled: list[bytes] = []
        self.refused = 0

    def online(self, cluster: str) -> bool:
        return self.here and cluster == LEAF

    async def connect(self, cluster: str, dial: Callable[[], bytes], make: Callable[[], Any]) -> Any:
        if not self.online(cluster):
            self.refused += 1
            raise ConnectionProblem(f"The cluster {cluster} is not connected to this proxy now")
        self.dialled.append(dial())
        if self.said is not None:
            raise self.said
        made = make()
        made.connection_made(Far(made))
        return made


class Far(asyncio.Transport):
    """The other cluster: says again what it hears."""

    def __init__(self, leg: Any) -> None:
        super().__init__()
        self.leg = leg

    def write(self, data: Any) -> None:
        self.leg.data_received(b"heard " + bytes(data))

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(self.leg.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool:
        return False


class Reader(asyncio.Protocol):
    """A client, as it is led."""

    def __init__(self) -> None:
        self.got = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        if not self.got.done():
            self.got.set_result(data)


def every(end: Any, own: Ends, proxies: Listed) -> AllClusterTunnels:
    return AllClusterTunnels(cast(ClusterTunnels, own), end.dialer, proxies)


async def test_a_client_is_led_by_the_tunnel_of_another_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with peers(tmp_path) as end:
        theirs = end.lab.server.clusters = cast(Any, Ends(True))
        ways = every(end, Ends(False), Listed([end.proxy]))
        assert not ways.online(LEAF)
        for _ in range(2):
            made = await ways.connect(LEAF, lambda: b'{"for": "leaf"}', Reader)
            assert await asyncio.wait_for(made.got, 10) == b"heard hello"
            assert made.transport is not None
            made.transport.close()
        assert theirs.dialled == [b'{"for": "leaf"}'] * 2, "what was signed here goes on as it is"
        assert ways.online(LEAF)
        theirs.here = False
        monkeypatch.setattr(clusters_elsewhere, "ON_ITS_WAY", 0.0)
        with pytest.raises(ConnectionProblem):
            await ways.connect(LEAF, lambda: b"{}", Reader)
        assert not ways.online(LEAF)


async def test_the_own_tunnel_comes_first_and_refusals_keep_their_words(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        theirs = end.lab.server.clusters = cast(Any, Ends(True, AccessDenied(f"The cluster {LEAF} refuses: no\x1b[2J")))
        own = Ends(True)
        await every(end, own, Listed([end.proxy])).connect(LEAF, lambda: b"{}", Reader)
        assert (len(own.dialled), theirs.dialled) == (1, [])
        own.said = AccessDenied("The cluster refuses")
        with pytest.raises(AccessDenied):
            await every(end, own, Listed([end.proxy])).connect(LEAF, lambda: b"{}", Reader)
        assert theirs.dialled == [], "a refusal is not tried elsewhere"
        for _ in range(3):
            with pytest.raises(AccessDenied, match=f"The cluster {LEAF} refuses: no") as refused:
                await every(end, Ends(False), Listed([end.proxy])).connect(LEAF, lambda: b"{}", Reader)
            assert "\x1b" not in refused.value.message
        theirs.said = ConnectionProblem("The cluster cannot lead there now")
        with pytest.raises(ConnectionProblem, match="not connected to this proxy"):
            await every(end, Ends(False), Listed([end.proxy])).connect(LEAF, lambda: b"{}", Reader)
        theirs.said = None
        made = await every(end, Ends(False), Listed([end.proxy])).connect(LEAF, lambda: b"{}", Reader)
        assert await asyncio.wait_for(made.got, 10) == b"heard hello"


async def test_who_has_no_tunnel_says_so_and_is_not_asked_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters_elsewhere, "AGAIN", 600.0)
    async with peers(tmp_path) as end:
        listed = Listed([PeerProxy(end.proxy.host_id, "127.0.0.1", 1), end.proxy])
        ways = every(end, Ends(False), listed)
        for ends in (None, Ends(False)):
            end.lab.server.clusters = cast(Any, ends)
            for _ in range(5):
                with pytest.raises(ConnectionProblem, match="not connected to this proxy"):
                    await ways.connect(LEAF, lambda: b"{}", Reader)
        assert len(listed.asked) == 1
        monkeypatch.setattr(clusters_elsewhere, "AGAIN", 0.0)
        ways = every(end, Ends(False), listed)
        for _ in range(2):
            with pytest.raises(ConnectionProblem):
                await ways.connect(LEAF, lambda: b"{}", Reader)
        assert len(listed.asked) == 3
        assert not ways.online(LEAF)


async def test_a_cluster_that_was_there_a_moment_ago_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with peers(tmp_path) as end:
        own = Ends(True)
        ways = every(end, own, Listed([end.proxy]))
        end.lab.server.clusters = cast(Any, Ends(False))
        await ways.connect(LEAF, lambda: b"{}", Reader)
        own.here = False
        assert not ways.online(LEAF), "the own tunnel was there: that it is gone shows at once"
        waiting = asyncio.create_task(ways.connect(LEAF, lambda: b"{}", Reader), name="waiting")
        await wait_until(lambda: own.refused > 1)
        assert not waiting.done()
        own.here = True
        assert (await asyncio.wait_for(waiting, 10)).transport is not None
        own.said = ConnectionProblem("The cluster cannot lead there now")
        with pytest.raises(ConnectionProblem, match="cannot lead there"):
            await ways.connect(LEAF, lambda: b"{}", Reader)
        own.here = False
        monkeypatch.setattr(clusters_elsewhere, "ON_ITS_WAY", 0.1)
        with pytest.raises(ConnectionProblem, match="not connected"):
            await ways.connect(LEAF, lambda: b"{}", Reader)


async def test_only_proxies_ask_and_only_for_what_is_a_cluster(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        theirs = end.lab.server.clusters = cast(Any, Ends(True))
        ask = peering.Ask(server_id=LEAF, conn_type=peering.CLUSTER, dial="{}")
        for role in (SystemRole.NODE, SystemRole.AUTH):
            other = await end.other(end.tls.host(role))
            with pytest.raises(ConnectionProblem):
                await other.lead(end.proxy, ask, Reader)
        with pytest.raises(ConnectionProblem):
            await (await end.other(end.tls.user())).lead(end.proxy, ask, Reader)
        assert await end.denied()
        for wrong in (
            peering.Ask(server_id=LEAF, conn_type=peering.CLUSTER),
            peering.Ask(server_id="a b", conn_type=peering.CLUSTER, dial="{}"),
            peering.Ask(server_id=LEAF, conn_type="auth", dial="{}"),
            peering.Ask(server_id=LEAF, conn_type=peering.CLUSTER, dial="{}", version=2),
            peering.Ask(server_id=f"{LEAF}.{CLUSTER}", dial="{}"),
        ):
            with pytest.raises(ConnectionProblem):
                await end.dialer.lead(end.proxy, wrong, Reader)
        assert theirs.dialled == []

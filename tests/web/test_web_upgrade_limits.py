"""Connections within requests and tunnels to auth when somebody takes as many as there are (threat T17)."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import aiohttp
import pytest
from tests.web.test_web_service import Calls
from tests.web.test_web_tunnel import tunnel_to_target, websocket
from tests.web.test_web_upgrade import _heard, _take
from tests.web.web_rig import RunningWeb, running_web

from teleport.errors import LimitExceeded
from teleport.testing.running import wait_until
from teleport.transport.one_port import Contexts, Ending, Port
from teleport.transport.tls import one_port_context
from teleport.web.tunnel import SPARED, Relay, Relays
from teleport.wire.alpn import HTTP, PROXY_SSH, REVERSE_TUNNEL, UPGRADE_PATH


async def on_one_port(web: RunningWeb, folder: Path) -> None:
    """From here on, with the certificate that the client trusts."""

    def contexts(protocol: str) -> Contexts:
        return Contexts(one_port_context(folder / "web" / "peer.crt", folder / "web" / "peer.key", protocol))

    within = {protocol: Ending(contexts(protocol), _take) for protocol in (PROXY_SSH, REVERSE_TUNNEL)}
    web.service.edge.port = Port(_take, contexts(HTTP), within)


async def test_silent_connections_keep_nobody_of_the_same_address_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clients of a balancer may have its address: the oldest silent ones make room, whoever speaks is served."""
    monkeypatch.setattr("teleport.transport.http_listener.WITHIN", 8)
    async with running_web(tmp_path, Calls(), ()) as web:
        await on_one_port(web, tmp_path)
        silent = [await web.session.ws_connect(web.url + UPGRADE_PATH) for _ in range(12)]
        ended = [asyncio.create_task(one.receive()) for one in silent]
        assert web.service.edge._within.taken == 4, "half of them are one address's"
        async with web.session.ws_connect(web.url + UPGRADE_PATH) as socket:
            await socket.send_bytes(b"SSH-2.0-x\r\n")
            assert await _heard(socket, 21) == b"127.0.0.1:SSH-2.0-x\r\n"
            await wait_until(lambda: sum(one.done() for one in ended) == 9)
            more = [await web.session.ws_connect(web.url + UPGRADE_PATH) for _ in range(12)]
            await socket.send_bytes(b"still")
            assert await _heard(socket, 5) == b"still", "who is known has no slot any more"
        for one in (*silent, *more):
            await one.close()
        await asyncio.gather(*ended)
        await wait_until(lambda: web.service.edge._within.taken == 0)


async def test_silent_connections_within_requests_end(tmp_path: Path) -> None:
    async with running_web(tmp_path, Calls(), ()) as web:
        await on_one_port(web, tmp_path)
        web.service.edge._seconds = 0.2
        for first in (b"", b"SSH-2.0-never"):
            async with web.session.ws_connect(web.url + UPGRADE_PATH) as socket:
                if first:
                    await socket.send_bytes(first)
                assert await _heard(socket, 1) == b""
        assert web.service.edge._within.taken == 0


@pytest.mark.parametrize("protocol", [PROXY_SSH, REVERSE_TUNNEL, "http/1.1"])
async def test_tls_within_a_request_is_refused_with_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    """Whichever protocol it asks for; nothing fails over it, and others are served."""
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols([protocol])
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    async with running_web(tmp_path, Calls(), ()) as web:
        await on_one_port(web, tmp_path)
        with caplog.at_level(logging.WARNING):
            async with web.session.ws_connect(web.url + UPGRADE_PATH) as socket:
                await socket.send_bytes(out.read())
                assert await _heard(socket, 1) == b""
        (line,) = caplog.records
        assert "it begins with TLS" in line.getMessage()
        assert line.exc_info is None
        async with web.session.ws_connect(web.url + UPGRADE_PATH) as socket:
            await socket.send_bytes(b"SSH-2.0-x\r\n")
            assert await _heard(socket, 21) == b"127.0.0.1:SSH-2.0-x\r\n"


async def test_connections_within_requests_and_tunnels_to_auth_do_not_count_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teleport.web.service.TUNNELS_OF_ONE", 1)
    async with tunnel_to_target(tmp_path) as (web, target):
        await on_one_port(web, tmp_path)
        opened = [await web.session.ws_connect(web.url + UPGRADE_PATH) for _ in range(3)]
        async with websocket(web) as tunnel:
            reader, writer = await target.next()
            await tunnel.send_bytes(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()
        for one in opened:
            await one.close()


def test_the_tunnel_that_was_silent_longest_makes_room_for_the_next_one() -> None:
    now, ended = [0.0], list[str]()
    relays = Relays(5, lambda: now[0])

    def enter(address: str, name: str) -> Relay:
        return relays.enter(address, lambda: ended.append(name), of_one=3)

    first, second, third = enter("a", "1"), enter("a", "2"), enter("a", "3")
    with pytest.raises(LimitExceeded, match="one address"):
        enter("a", "4")
    now[0] = SPARED
    relays.carried(first)
    relays.carried(third)
    enter("a", "5")
    assert ended == ["2"], "the others have just carried something"
    relays.leave(second)
    assert relays.total == 3
    held = [enter("b", "6"), enter("b", "7")]
    with pytest.raises(LimitExceeded, match="try again"):
        enter("c", "8")
    now[0] += SPARED
    enter("c", "9")
    assert len(ended) == 2
    assert ended[1] in ("1", "3", "5"), "of the address that has most"
    for one in (first, third, *held):
        relays.leave(one)
    assert relays.total <= 2


async def test_a_tunnel_to_auth_carries_on_while_the_daemon_leaves(tmp_path: Path) -> None:
    """Both ways until it is ended: calls that are under way get their answers."""
    async with tunnel_to_target(tmp_path) as (web, target), websocket(web) as tunnel:
        await tunnel.send_bytes(b"before")
        reader, writer = await target.next()
        assert await reader.readexactly(6) == b"before"
        web.service.edge.leave()
        await tunnel.send_bytes(b"after")
        async with asyncio.timeout(5):
            assert await reader.readexactly(5) == b"after"
        writer.write(b"answer")
        assert await tunnel.receive_bytes(timeout=5) == b"answer"
        web.service.edge.end_endless()
        assert (await tunnel.receive(timeout=5)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        writer.close()

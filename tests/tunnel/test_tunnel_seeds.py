"""Where a host looks for the tunnel listeners of its cluster, as the page of a proxy says."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from teleport.tunnel.seeds import addresses_of, seeds, tunnel_addresses


@pytest.mark.parametrize(
    ("said", "tried"),
    [
        ({}, ["p.test:3024"]),
        ({"tunnel_listen_addr": "0.0.0.0:4024"}, ["p.test:4024"]),
        ({"tunnel_listen_addr": "[::]:4024", "public_addr": "web.test:443"}, ["web.test:4024", "p.test:4024"]),
        (
            {"ssh_public_addr": "ssh.test:23", "public_addr": "web.test:443"},
            ["ssh.test:3024", "web.test:3024", "p.test:3024"],
        ),
        (
            {"ssh_tunnel_public_addr": "t.test", "ssh_public_addr": "ssh.test:23", "tunnel_listen_addr": "x:1"},
            ["t.test:3024", "ssh.test:1", "p.test:1"],
        ),
        ({"ssh_tunnel_public_addr": "p.test:3024", "public_addr": "p.test:3080"}, ["p.test:3024"]),
        ({"ssh_tunnel_public_addr": "a b", "ssh_public_addr": "x:y", "tunnel_listen_addr": ":0"}, ["p.test:3024"]),
    ],
)
def test_the_order_is_that_of_other_agents(said: dict[str, str], tried: list[str]) -> None:
    assert addresses_of(json.dumps({"proxy": {"ssh": said}}).encode(), "p.test") == tried


@pytest.mark.parametrize("page", [b"", b"[]", b'{"proxy": 1}', b'{"proxy": {"ssh": {"public_addr": 1}}}'])
def test_what_is_no_such_page_leads_nowhere(page: bytes) -> None:
    with pytest.raises(ValueError):
        addresses_of(page, "p.test")


def nobody_listens() -> tuple[str, int]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return "127.0.0.1", port


async def test_proxies_that_are_away_are_told_from_a_network_that_is() -> None:
    """Ten thousand hosts whose proxy is away for minutes would else be back all at once: who is refused takes the time
    that the proxy asked for, who lost the network does not."""
    with pytest.raises(ConnectionRefusedError):
        await seeds([nobody_listens(), nobody_listens()])
    assert await tunnel_addresses([nobody_listens()]) == []
    assert await seeds([]) == []

    def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    strange = await asyncio.start_server(closes, "127.0.0.1", 0)
    async with strange:
        host, port = strange.sockets[0].getsockname()
        assert await seeds([nobody_listens(), (host, port)]) == [], "somebody was there"

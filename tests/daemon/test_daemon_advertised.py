"""Where a daemon tells others to reach it: `advertise_ip` and `public_addr`, with and without ports."""

from __future__ import annotations

import pytest

from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.daemon.sockets import Sockets
from teleport.daemon.tunnel_side import said_by_hand
from teleport.errors import BadRequest
from teleport.resources.values import HostPort

SECTIONS = """
auth_service: {enabled: no}
proxy_service: {enabled: no}
"""


@pytest.mark.parametrize(
    ("teleport", "service", "told"),
    [
        ("", "", "127.0.0.1:PORT"),
        ("advertise_ip: 192.0.2.7", "", "192.0.2.7:PORT"),
        ("advertise_ip: '192.0.2.7:2222'", "", "192.0.2.7:2222"),
        ("advertise_ip: '[2001:db8::7]:2222'", "", "[2001:db8::7]:2222"),
        ("advertise_ip: n1.example.com", "", "n1.example.com:PORT"),
        ("advertise_ip: 192.0.2.7", "public_addr: n1.example.com", "n1.example.com:3022"),
        ("advertise_ip: '192.0.2.7:1'", "public_addr: ['n1.example.com:22', n2.example.com]", "n1.example.com:22"),
        ("", "public_addr: 'n1.example.com:0'", "n1.example.com:PORT"),
    ],
)
def test_a_node_tells_the_first_public_address_else_the_advertised_one(teleport: str, service: str, told: str) -> None:
    text = f"teleport: {{{teleport}}}\n{SECTIONS}ssh_service: {{listen_addr: '127.0.0.1:0', {service}}}\n"
    config = effective_config(load_config(text, "t.yaml"), StartFlags(), "alpha")
    assert config.node is not None
    sockets = Sockets(config)
    try:
        port = str(sockets["node"].getsockname()[1])
        assert str(sockets.advertised("node", config.node.public_addrs)) == told.replace("PORT", port)
    finally:
        sockets.close()


def test_whoever_starts_a_host_may_say_where_tunnels_end() -> None:
    name = "TELEPORT_TUNNEL_PUBLIC_ADDR"
    assert said_by_hand({}) == said_by_hand({name: " "}) == ()
    assert said_by_hand({name: "t.example.com"}) == (HostPort("t.example.com", 3024),)
    assert said_by_hand({name: "[2001:db8::1]:443"}) == (HostPort("2001:db8::1", 443),)
    for wrong in ("a b", "h:0", "h:x"):
        with pytest.raises(BadRequest, match=name):
            said_by_hand({name: wrong})

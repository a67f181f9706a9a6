"""What people type to name proxies and hosts, with IPv6."""

from __future__ import annotations

import pytest

from teleport.client.addresses import ProxyAddress, check_host, join, split_port
from teleport.client.ssh_config import proxy_subsystem
from teleport.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("[::1]", ProxyAddress("::1")),
        ("::1", ProxyAddress("::1")),
        ("[::1]:3080", ProxyAddress("::1", 3080)),
        ("https://[0:0::1]:3080,3023/", ProxyAddress("::1", 3080, 3023)),
        ("[2001:DB8::1]:443", ProxyAddress("2001:db8::1", 443)),
        ("[::ffff:127.0.0.1]:443", ProxyAddress("127.0.0.1", 443)),
        ("Proxy.Example:443", ProxyAddress("proxy.example", 443)),
    ],
)
def test_a_proxy_is_named_in_any_form(text: str, proxy: ProxyAddress) -> None:
    assert ProxyAddress.parse(text) == proxy
    if proxy.web_port:
        assert split_port(join(proxy.host, proxy.web_port), 0) == (proxy.host, proxy.web_port)


@pytest.mark.parametrize("text", ["[::1", "[fe80::1%eth0]:3080", ":::::", "[::1]3080", "1:2:3", "", "[]"])
def test_what_names_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        ProxyAddress.parse(text)


def test_a_zone_is_named_as_the_reason() -> None:
    with pytest.raises(BadRequest, match="zone"):
        check_host("fe80::1%eth0")


@pytest.mark.parametrize("typed", ["[::1]:22", "::1:22"])
def test_an_address_stands_in_brackets_in_the_subsystem(typed: str) -> None:
    assert proxy_subsystem(typed, "example") == "proxy:[::1]:22@example"

"""Where a proxy tells hosts that tunnels end, as presence has it."""

from __future__ import annotations

from teleport.daemon.proxy_side import _told


def test_hosts_are_told_addresses_with_a_port_and_none_that_is_no_address() -> None:
    """What an older proxy, or a person, announced without a port is of the port of tunnels."""
    announced = ["proxy.example.com", "proxy.example.com:443", "[2001:db8::1]", "proxy:0", "a b", ""]
    assert list(_told(announced)) == ["proxy.example.com:3024", "proxy.example.com:443", "[2001:db8::1]:3024"]

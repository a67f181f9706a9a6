"""How often the ends of a tunnel ask each other whether they are there."""

from __future__ import annotations

import pytest

from teleport.auth.hosts.presence import HEARTBEAT
from teleport.auth.hosts.unchanged import EVERY
from teleport.transport.probes import IDLE
from teleport.tunnel.silence import LONGEST, QUESTIONS, SHORTEST, of_host, of_proxy, silence_of


@pytest.mark.parametrize("tunnels", [0, 1, 1000, 3000, 4000, 6000, 8000, 10_000, 100_000])
def test_all_hosts_together_ask_no_more_than_a_proxy_bears_and_each_often_enough(tunnels: int) -> None:
    seconds = silence_of(tunnels)
    assert SHORTEST <= seconds <= LONGEST
    assert tunnels / seconds <= QUESTIONS * 1.1 or seconds == LONGEST
    host, proxy = of_host(seconds), of_proxy(tunnels)
    assert host.seconds == seconds
    assert proxy.seconds >= host.seconds
    assert host.seconds * (host.count + 1) <= 2 * LONGEST, "a process that hangs would be noticed too late"


def test_a_host_whose_announcements_go_by_the_tunnel_is_asked_nothing_where_there_are_many() -> None:
    assert of_host(LONGEST).seconds > HEARTBEAT
    assert of_proxy(10_000).seconds > EVERY


def test_kernels_do_not_probe_ten_thousand_tunnels_every_ten_seconds_from_both_ends() -> None:
    """What is due within 256 ms goes at once, each probe with its answer, and a device may queue no more than 1000."""
    at_once = 10_000 * 0.256 * 2
    hosts, proxy = of_host(silence_of(10_000)), of_proxy(10_000)
    assert at_once / hosts.probed_after + at_once / proxy.probed_after < 500
    assert (of_host(0).probed_after, of_proxy(10).probed_after) == (IDLE, IDLE)


@pytest.mark.parametrize("said", [-1, 0, 1, 14, 10**9])
def test_a_proxy_makes_no_host_deaf_or_talkative(said: int) -> None:
    assert SHORTEST <= of_host(said).seconds <= LONGEST

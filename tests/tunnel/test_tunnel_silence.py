"""How often the ends of a tunnel ask each other whether they are there."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from teleport.auth.hosts.silence import Pace, Silence
from teleport.auth.hosts.together import GATHER
from teleport.auth.hosts.unchanged import MOST, WRITES, Unchanged
from teleport.authz.locks import LOCKS_HOLD
from teleport.transport.probes import EVERY as EVERY_PROBE
from teleport.transport.probes import IDLE, gone_after
from teleport.tunnel.silence import ANNOUNCED, LONGEST, MOST_MINUTES, QUESTIONS, SHORTEST, of_host, of_proxy, silence_of


@pytest.mark.parametrize("tunnels", [0, 1, 1000, 3000, 4000, 6000, 8000, 10_000, 100_000])
def test_all_hosts_together_ask_no_more_than_a_proxy_bears_and_each_often_enough(tunnels: int) -> None:
    seconds = silence_of(tunnels)
    assert SHORTEST <= seconds <= LONGEST
    assert tunnels / seconds <= QUESTIONS * 1.1 or seconds == LONGEST
    host, proxy = of_host(seconds), of_proxy(tunnels)
    assert host.seconds == seconds
    assert proxy.seconds >= host.seconds
    assert host.seconds <= 260, "a process that hangs would be noticed too late"
    assert proxy.seconds + proxy.apart <= 305


def test_a_host_whose_announcements_go_by_the_tunnel_is_asked_nothing_where_there_are_many() -> None:
    assert (ANNOUNCED, MOST_MINUTES) == (WRITES, MOST), "what auth wants, of which a proxy cannot know"
    for hosts in (2401, 3000, 5000, 7300, 10_000, 50_000):
        known = Unchanged()
        for number in range(hosts):
            known.wrote(str(number), b"", 1, 0.0, known.lost_after)
        known.wrote("0", b"", 1, 0.0, known.lost_after)
        pace = Pace(Silence(), patient=True)
        pace.expect(known.within("0", 0.0))
        answered = known.within("0", 0.0) + GATHER
        assert answered < pace.anew(), "auth would break a silence that an answer breaks anyway"
        assert answered < of_host(silence_of(hosts)).seconds, "the host would ask"
        assert answered < of_proxy(hosts).seconds, "the proxy would ask"
        assert pace.seconds < LOCKS_HOLD - 30, "locks would count as unknown while all is well"
        assert pace.seconds == pace.pause, "what is drawn apart anyway is not drawn apart to come before"


def test_kernels_do_not_probe_ten_thousand_tunnels_at_the_same_moment() -> None:
    """All are told that they are many within a second, and probe so long after: what is due within 256 ms goes at once,
    each probe with its answer, and a device may queue no more than 1000."""
    hosts = [of_host(silence_of(10_000), random.random()) for _ in range(10_000)]
    (_, most), *_ = Counter(host.probed_after for host in hosts).most_common(1)
    assert most * 0.256 * 2 < 500
    assert of_proxy(10_000).probed_after > max(host.probed_after for host in hosts) + 3 * EVERY_PROBE
    assert (of_host(0).probed_after, of_proxy(10).probed_after) == (IDLE, IDLE)
    assert 10_000 / of_proxy(10_000).apart * 0.256 * 2 < 500
    assert of_proxy(10).apart == 0


@pytest.mark.parametrize("apart", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("seconds", [0, SHORTEST, 30, LONGEST])
def test_no_tunnel_is_dead_by_a_single_probe_that_was_lost(seconds: int, apart: float) -> None:
    """Linux ends a connection at the first probe after `TCP_USER_TIMEOUT` that finds an earlier one unanswered."""
    for one in (of_host(seconds, apart), of_proxy(seconds * QUESTIONS)):
        assert (one.gone_after or gone_after(IDLE)) >= one.probed_after + 3 * EVERY_PROBE
        assert one.gone_after <= LONGEST


@pytest.mark.parametrize("said", [-1, 0, 1, 14, 10**9])
def test_a_proxy_makes_no_host_deaf_or_talkative(said: int) -> None:
    assert SHORTEST <= of_host(said).seconds <= LONGEST

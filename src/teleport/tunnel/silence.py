"""For how long an end of a tunnel may say nothing before the other asks whether it is there. Pure.

The kernel's probes find a host, a proxy or a network that is gone (`transport.probes`); the question finds a process
that hangs. Asked every quarter of a minute, as few tunnels are, ten thousand of them would be most of what a proxy does
while nobody connects. So a proxy asks for the more patience the more tunnels it holds. Among thousands, hosts announce
themselves to auth by their tunnels every few minutes (`auth.hosts.unchanged`): with more patience than that, nobody
asks where these go.

Where there is little to be heard, the kernel probes each tunnel after 10 s, from both ends. Kernels send what is due
within a quarter of a second at once: of ten thousand tunnels, more than some network queues hold, and a tunnel whose
probes are dropped there three times is taken for dead. So in a crowd both ends wait longer before they probe, each
connection for as long as chance says: told of a crowd, or of a changed role, at the same moment, they would all probe
at the same moment, too. A probe tells the end that sends it that the other is there, and the other end nothing.

The kernel counts probes only where no time is set after which a connection is dead (`TCP_USER_TIMEOUT`); where one is,
a single lost probe is enough once it has passed. So whoever probes later has that time later, too.
"""

from __future__ import annotations

import math
from typing import Final

from teleport.ssh.surface import KeepAlive
from teleport.transport.probes import IDLE, gone_after

SHORTEST: Final = 15  # seconds
QUESTIONS: Final = 60  # in a second, of all hosts of one proxy, are few enough
ANNOUNCED: Final = 40  # announcements in a second, of all hosts, each of which comes every whole minute ...
MOST_MINUTES: Final = 4  # ... or every few
LATE: Final = 20  # seconds by which an announcement and its answer may be late
LONGEST: Final = MOST_MINUTES * 60 + LATE  # seconds
CROWD_IDLE: Final = 20  # seconds after which hosts of a crowd probe ...
CROWD_APART: Final = 15  # ... and by how many more some do; with three probes, 50 s until all of them know
PROXY_WAITS: Final = 15  # seconds longer than its hosts: it is for them to ask
PROXY_IDLE: Final = 65  # seconds after which a proxy of a crowd probes ...
PROXY_APART: Final = 30  # ... and by how many more it does, and asks, some


def silence_of(tunnels: int) -> int:
    """The seconds of silence after which each of so many hosts asks."""
    minutes = math.ceil(tunnels / (ANNOUNCED * 60))
    if minutes > 1:
        return min(minutes, MOST_MINUTES) * 60 + LATE
    return max(tunnels // QUESTIONS, SHORTEST)


def of_host(seconds: int, apart: float = 0.0) -> KeepAlive:
    """How a host asks whose proxy wants it to wait for `seconds`; what nobody means is not done: 0 of an older proxy,
    and a time in which a tunnel that hangs would not be noticed. `apart`, in [0, 1), is each host's own."""
    seconds = min(max(seconds, SHORTEST), LONGEST)
    probed = IDLE if seconds == SHORTEST else CROWD_IDLE + int(apart * CROWD_APART)
    return KeepAlive(float(seconds), 2 if seconds < 2 * SHORTEST else 1, probed, gone_after(probed))


def of_proxy(tunnels: int) -> KeepAlive:
    """How a proxy with so many tunnels asks."""
    hosts = of_host(silence_of(tunnels))
    if hosts.seconds == SHORTEST:
        return hosts
    seconds = hosts.seconds + PROXY_WAITS
    probed = min(int(seconds), PROXY_IDLE)
    return KeepAlive(seconds, hosts.count, probed, gone_after(probed), PROXY_APART)

"""For how long an end of a tunnel may say nothing before the other asks whether it is there. Pure.

The kernel's probes find a host, a proxy or a network that is gone (`transport.probes`); the question finds a process
that hangs. Asked every quarter of a minute, as few tunnels are, ten thousand of them would be most of what a proxy does
while nobody connects. So a proxy asks for the more patience the more tunnels it holds. At `LONGEST`, a host whose
announcements go through the tunnel is never asked anything: what it says every minute, and what auth says
in between, is answer enough.

Where there is little to be heard, the kernel probes each tunnel after 10 s, from both ends. Kernels send what is due
within a quarter of a second at once: of ten thousand tunnels, more than some network queues hold, and a tunnel whose
probes are dropped there three times is taken for dead. So in a crowd hosts wait longer before they probe, and the proxy
leaves it to them: what it sends itself, and nobody acknowledges, tells it soon enough.
"""

from __future__ import annotations

from typing import Final

from teleport.ssh.surface import KeepAlive
from teleport.transport.probes import IDLE

SHORTEST: Final = 15  # seconds
LONGEST: Final = 50  # seconds; an announcement comes each minute, a line of a watch in between
QUESTIONS: Final = 200  # in a second, of all hosts of one proxy, are few enough
CROWD_IDLE: Final = 20  # seconds after which hosts of a crowd probe; with three probes, 35 s until they know
PROXY_WAITS: Final = 15  # seconds longer than its hosts: it is for them to ask


def silence_of(tunnels: int) -> int:
    """The seconds of silence after which each of so many hosts asks."""
    return min(max(tunnels // QUESTIONS, SHORTEST), LONGEST)


def of_host(seconds: int) -> KeepAlive:
    """How a host asks whose proxy wants it to wait for `seconds`; what nobody means is not done: 0 of an older proxy,
    and a time in which a tunnel that hangs would not be noticed."""
    seconds = min(max(seconds, SHORTEST), LONGEST)
    if seconds == SHORTEST:
        return KeepAlive(float(seconds), 2, IDLE)
    return KeepAlive(float(seconds), 2 if seconds < 2 * SHORTEST else 1, CROWD_IDLE)


def of_proxy(tunnels: int) -> KeepAlive:
    """How a proxy with so many tunnels asks."""
    hosts = of_host(silence_of(tunnels))
    if hosts.seconds == SHORTEST:
        return hosts
    seconds = hosts.seconds + PROXY_WAITS
    return KeepAlive(seconds, hosts.count, int(seconds))

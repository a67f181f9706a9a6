"""What is simulated, and what the machine's limits make of it."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass

PER_HOST = 1  # descriptors of the proxy: the tunnel; what it leads to auth is within one connection
SIMULATED = 6  # descriptors of the simulator for a host: the tunnel, the door to auth, two connections by it
SPARE = 1500


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated."""

    hosts: int
    connects: int = 18_000
    singles: int = 1200  # connects one at a time, for the latency
    processes: int = 2  # of hosts
    at_once: int = 8  # connects at the same time, for the failures
    restart: bool = True
    calm: float = 30.0  # seconds over which the cost of doing nothing is measured
    way: str = ""  # views: as real hosts; calls: announcements by the proxy, no views; direct: auth without the proxy


def way_of(plan: Plan) -> str:
    """How hosts reach auth: as real ones do when the limit of descriptors lets the proxy hold it."""
    if plan.way:
        return plan.way
    return "views" if plan.hosts * PER_HOST <= _limit() else "direct"


def processes_of(plan: Plan) -> int:
    """In how many processes the hosts live: as asked for, or more where the limit of descriptors is low."""
    return max(plan.processes, math.ceil(plan.hosts * SIMULATED / _limit()))


def _limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE


WAYS = {
    "views": "through the proxy, each with a watch of its own, as real hosts do",
    "calls": "announcements through the proxy; a watch for each process of the simulator only (descriptors)",
    "direct": "without the proxy, a connection for each host; a watch for each process only (descriptors)",
}

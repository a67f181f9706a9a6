"""`tsh latency`: how long each hop of a connection takes, there and back, measured as a session's keystrokes go.

Both SSH connections are made that `tsh ssh` makes, by the same proofs and decisions, and nothing is opened on them.
Then the question that keeps connections alive (`keepalive@openssh.com`, OpenSSH's PROTOCOL) goes to the proxy and,
inside, to the host, in the same moment: both run over the first hop together, so that what differs is the rest of the
way, be it a dialled connection, a tunnel, another proxy or another cluster.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from teleport.client import system
from teleport.client.access import Access
from teleport.client.addresses import join
from teleport.client.session import Way, closed, way
from teleport.errors import ConnectionLost
from teleport.ssh.client import SshClient


@dataclass(frozen=True, slots=True)
class Hops:
    """One measure, in seconds there and back."""

    proxy: float  # from here to the proxy
    host: float  # from here to the host

    @property
    def beyond(self) -> float:
        """From the proxy to the host. Two answers that come in the same moment may be noted in the other order."""
        return max(self.host - self.proxy, 0.0)


@dataclass(frozen=True, slots=True)
class Connected:
    """What was measured on which way."""

    host: str
    cluster: str
    proxy: str
    proxy_seconds: float  # until the proxy had let us in
    host_seconds: float  # from there until the host had: dialled, keys exchanged, decided
    ends_at_proxy: bool  # sessions end and are recorded there, which asks the host in our name


@dataclass(frozen=True, slots=True)
class Plan:
    """How often to measure; `count` 0: until somebody ends it."""

    count: int
    interval: float  # seconds from one to the next


def medians(found: Sequence[Hops]) -> tuple[float, float, float]:
    """Of the first hop, of the rest, and of the whole way, in seconds."""
    return (
        statistics.median(one.proxy for one in found),
        statistics.median(one.beyond for one in found),
        statistics.median(one.host for one in found),
    )


async def measure(
    access: Access,
    target: tuple[str, int, str],
    plan: Plan,
    now: datetime,
    begun: Callable[[Connected], None],
    told: Callable[[Hops], None],
) -> None:
    """Connects to `target` (host, port, login) and measures. Raises `TeleportError`, also for a link that is lost."""
    host, port, login = target
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    system.on_signals(loop, ("SIGINT", "SIGTERM", "SIGHUP"), ended.set)
    started = loop.time()
    async with way(access, login, now) as found:
        passed = loop.time()
        node = await found.to(host, port, login)
        took = (passed - started, loop.time() - passed)
        try:
            name, at_proxy = host.removesuffix(f".{access.cluster}"), await node.ends_at_proxy()
            begun(Connected(name, access.cluster, join(*access.ssh), *took, at_proxy))
            await _again_and_again(plan, ended, found, node, host, told)
        finally:
            await closed(node, alone=True)


async def _again_and_again(
    plan: Plan, ended: asyncio.Event, found: Way, node: SshClient, host: str, told: Callable[[Hops], None]
) -> None:
    loop, number = asyncio.get_running_loop(), 0
    while not ended.is_set():
        due = loop.time() + plan.interval
        told(await _once(found, node, host))
        number += 1
        if number == plan.count:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await ended.wait()


async def _once(found: Way, node: SshClient, host: str) -> Hops:
    """Both questions at once. Raises `ConnectionLost` naming the hop that failed."""
    try:
        async with asyncio.TaskGroup() as group:
            inner = group.create_task(node.round_trip(), name="ask the host")
            outer = group.create_task(found.proxy.round_trip(), name="ask the proxy")
    except* ConnectionLost:
        pass
    else:
        return Hops(outer.result(), inner.result())
    lost = await found.lost_hop(node, host)
    raise ConnectionLost(lost or f"the host {host} does not answer", hint=f"try again; tsh ssh {host} shows more")

"""Hosts of which every proxy that they named says that their tunnel ended there, before silence says so.

A host that dies announces nothing any more, which is lost for sure after two and a half minutes. The proxies that held
its tunnels know at once. What they say is shown and decides nothing: not whether somebody is led there, and not for
whom a rotation waits. It counts together only: of all proxies to which the host itself said that it keeps a tunnel, and
until the host is heard again. It is kept in memory: it is true for minutes, and proxies say it again.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.auth.caller import Caller
from teleport.clock import Clock
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import HostIdentity, SystemRole
from teleport.resources.server import Server
from teleport.resources.values import Duration

SAID_FOR: Final = timedelta(seconds=60)  # a proxy says it every half minute
MOST: Final = 2000  # hosts in one report
SECOND: Final = timedelta(seconds=1)


class TunnelsLost:
    """What proxies said last; also the handler of their route."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: dict[
            str, tuple[datetime, dict[str, datetime]]
        ] = {}  # by proxy: when, and each host with since when

    async def say(self, caller: Caller, request: m.LostTunnelsRequest) -> m.Done:
        """All hosts whose tunnels are lost at this proxy. Raises `AccessDenied` for anybody else."""
        if not isinstance(caller.identity, HostIdentity) or caller.identity.role is not SystemRole.PROXY:
            raise AccessDenied("only proxies hold tunnels of hosts")
        if len(request.hosts) > MOST:
            raise BadRequest(f"one report names {MOST} hosts at most")
        now, proxy = self._clock.now(), caller.identity.host_id
        before = self._of(proxy, now)
        self._said[proxy] = (now, {host: before.get(host, now) for host in request.hosts})
        for other in [one for one in self._said if not self._of(one, now)]:
            del self._said[other]
        return m.Done()

    def _of(self, proxy: str, now: datetime) -> dict[str, datetime]:
        said, hosts = self._said.get(proxy, (now, {}))
        return hosts if now - said < SAID_FOR else {}

    def seconds(self, host_id: str, proxies: Collection[str], heard: datetime | None) -> int:
        """For how long no proxy of a host has had a tunnel of it, by what all of them say; 0: one is there, or nobody
        knows."""
        if not proxies or not self._said:
            return 0
        now = self._clock.now()
        since = [self._of(proxy, now).get(host_id) for proxy in proxies]
        known = [one for one in since if one is not None]
        if len(known) < len(since) or (heard is not None and heard >= max(known)):
            return 0
        return max((now - max(known)) // SECOND, 1)

    def concerns(self, host_id: str) -> bool:
        """Whether any proxy said so of the host."""
        return any(host_id in hosts for _, hosts in self._said.values())

    def shown(self, node: Server) -> Server:
        """The node as lists show it."""
        spec = node.spec
        seconds = self.seconds(node.host_id, spec.proxy_ids, spec.heard) if spec.use_tunnel else 0
        lost = Duration.of(seconds=seconds)
        return msgspec.structs.replace(node, spec=msgspec.structs.replace(spec, tunnel_lost_for=lost))

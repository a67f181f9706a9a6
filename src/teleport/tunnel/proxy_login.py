"""How a host comes to a tunnel: the first of some addresses at which a proxy proves itself and takes it.

- A proxy is believed by its host certificate alone, which the agent judges (`believed`). Addresses come from the
  configuration, from what a proxy's web page says, and from proxies; none is trusted to lead to the right place, and
  only some are dialled at all (`tunnel.reaching`).
- Where somebody answers who is no SSH server, a balancer may end TLS: then SSH is tried inside a websocket. Who answers
  there has to be a proxy all the same.
- What is remembered of addresses, which strangers tell, is bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity
from teleport.recording.sanitise import one_line
from teleport.ssh.client_connection import ClientKey
from teleport.ssh.tunnel_client import connect_tunnel
from teleport.tunnel import messages as m
from teleport.tunnel.link import Link, Noted
from teleport.tunnel.reaching import Ways, tunnel_address
from teleport.tunnel.silence import of_host

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 4.0  # for a TCP connection; shorter than the longest pause
LOGIN_SECONDS: Final = 15.0  # for all that follows, each way


class ProxyLogin:
    """Logs the links of one agent in."""

    def __init__(
        self,
        login: str,
        epoch: int,
        key: Callable[[], ClientKey],
        believed: Callable[[bytes, str], HostIdentity],
        ways: Ways,
    ) -> None:
        """`login` is who the host is, `epoch` of this process, `key` gives the host's key and certificate as they are
        now. `believed` gives the proxy that showed a certificate at an address, and raises `AccessDenied`."""
        self._login = login
        self._epoch = epoch
        self._key = key
        self._believed = believed
        self.ways = ways
        self._upgrades: dict[str, None] = {}  # addresses at which a balancer ends TLS
        self._straights: dict[str, None] = {}  # addresses at which a proxy itself answered the last time
        self._said: dict[str, str] = {}  # by address, why it was not reached

    async def reach(self, link: Link, addresses: Sequence[str]) -> tuple[str, int, str]:
        """UUID and epoch of the proxy that answered first, and where. Raises the last problem."""
        problem: Exception = ConnectionProblem("no proxy has said where its tunnels end")
        for address in addresses:
            try:
                link.anew()
                host_id, epoch = await self.log_in(link, address)
            except (TeleportError, OSError, TimeoutError, ValueError, OverflowError) as error:
                problem = error
                if isinstance(error, TimeoutError):
                    problem = ConnectionProblem(f"{address}: nothing came")
                elif isinstance(error, ValueError | OverflowError):  # strangers tell addresses
                    problem = BadRequest(f"{one_line(address, 100)} is no address: {one_line(str(error), 100)}")
                if self._said.get(address) != str(problem):
                    log.warning("no tunnel to %s: %s", address, problem)
                self._said = {**self._said, address: str(problem)} if len(self._said) < 256 else {}
                link.abort()
            else:
                self._said.pop(address, None)
                return host_id, epoch, address
        raise problem

    async def log_in(self, link: Link, address: str) -> tuple[str, int]:
        """Straight; and, where somebody answers who is no SSH server, within a websocket: a balancer may end TLS there.
        The way that led to a proxy is tried first the next time."""
        ways: list[Callable[[Link, str], Awaitable[tuple[str, int]]]] = [self._straight, self._upgraded]
        if address in self._upgrades:
            ways.reverse()
        try:
            return await ways[0](link, address)
        except TimeoutError:
            if link.met and not link.certificate:  # an attempt takes no longer than that; the next one begins otherwise
                self._remember(address, upgrade=ways[0] == self._straight)
            raise
        except ConnectionProblem as first:
            link.abort()
            if not link.met or link.certificate or address in self._straights:
                self._straights.pop(address, None)  # the next time, everything is tried
                raise
            log.debug("no tunnel to %s: %s; trying another way", address, first)
            try:
                return await ways[1](link, address)
            except (TeleportError, OSError, TimeoutError):
                if link.certificate:  # that one is about who answered
                    raise
                raise first from None

    async def _straight(self, link: Link, address: str) -> tuple[str, int]:
        place = tunnel_address(address)

        async def reach(protocol: asyncio.Protocol) -> None:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.ways.connect(Noted(protocol, link), place.host, place.port)

        async with asyncio.timeout(LOGIN_SECONDS):
            found = await self._proved(link, address, reach)
        self._remember(address, upgrade=False)
        self._straights = {**self._straights, address: None} if len(self._straights) < 256 else {address: None}
        return found

    async def _upgraded(self, link: Link, address: str) -> tuple[str, int]:
        place = tunnel_address(address)

        async def reach(protocol: asyncio.Protocol) -> None:
            link.peer = await self.ways.upgrade(protocol, place.host, place.port)
            link.met = True

        async with asyncio.timeout(LOGIN_SECONDS):
            found = await self._proved(link, address, reach)
        self._remember(address, upgrade=True)
        return found

    def _remember(self, address: str, *, upgrade: bool) -> None:
        """Which way is tried first at an address."""
        self._upgrades.pop(address, None)
        if upgrade:
            self._upgrades = {**self._upgrades, address: None} if len(self._upgrades) < 256 else {address: None}

    async def _proved(
        self, link: Link, address: str, reach: Callable[[asyncio.Protocol], Awaitable[None]]
    ) -> tuple[str, int]:
        """The proxy that proves itself there and takes the tunnel: UUID and epoch."""
        proved: list[HostIdentity] = []

        def check(certificate: bytes) -> None:
            link.certificate = certificate
            proved[:] = [self._believed(certificate, address)]

        link.tunnel = await connect_tunnel(
            reach,
            address,
            login=self._login,
            key=self._key(),
            check=check,
            handler=link,
            keepalive=of_host(0),
            software=m.SOFTWARE,
        )
        reply = await link.tunnel.ask("tunnel-register@teleport", m.encode(m.Register(epoch=self._epoch)))
        epoch = m.decode(reply, m.Registered).epoch
        link.proved(proved[0])
        return proved[0].host_id, epoch

"""Whom auth believes, kept as the authorities are now: its listener, and the check of recordings.

The handshake of the listener lets more through than counts: also certificates of authorities that a rotation ended, so
that their holders can be told so. Who calls is judged afterwards, for every call, by `ClusterState.tls_identity`; a
certificate that does not count gives nothing, not even what callers without one may do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Final

from teleport.auth.state import ClusterState
from teleport.backend.follow import follow
from teleport.backend.interface import Changes
from teleport.errors import TeleportError
from teleport.pki.keys import PublicKey
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.store import records
from teleport.transport.tls import MutualServer

log = logging.getLogger(__name__)

LONGEST_LIFE: Final = timedelta(days=400)  # of any certificate: after that nobody shows one of a retired authority
HEARTBEAT: Final = 60.0  # seconds
PAUSE: Final = 1.0  # seconds after the storage failed


async def whenever_authorities_change(state: ClusterState, act: Callable[[], Awaitable[None]]) -> None:
    """Calls `act` at once and whenever any process changed an authority, or whether one of another cluster counts,
    until cancelled."""
    while True:
        try:
            changes = follow(state.backend, [records.AUTHORITIES, records.TRUSTED_CLUSTERS], heartbeat=HEARTBEAT)
            async with aclosing(changes) as stream:
                async for change in stream:
                    if not isinstance(change, Changes) or change.events:
                        await act()
        except TeleportError as error:
            log.warning("authorities cannot be followed: %s", error)
        except Exception:  # no value that is stored ends the service: what was believed before holds meanwhile
            log.exception("authorities cannot be followed")
        await asyncio.sleep(PAUSE)


class LivingTrust:
    """Follows the authorities. `look` reads them at once, `run` whenever any process changed them."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._shown: MutualServer | None = None
        self._hosts: tuple[TrustedSSHAuthority, ...] = ()
        self._former: tuple[tuple[TrustedSSHAuthority, datetime], ...] = ()

    def host_authorities(self) -> tuple[TrustedSSHAuthority, ...]:
        """Whose SSH host certificates count."""
        return self._hosts

    def former_host_authorities(self) -> tuple[tuple[TrustedSSHAuthority, datetime], ...]:
        """Whose SSH host certificates counted, and until when."""
        return self._former

    async def client_authorities(self) -> list[str]:
        """PEM of every authority whose client certificates get through the handshake."""
        found: list[str] = []
        now = self._state.clock.now()
        for kind in ("user", "host"):
            authority = await self._state.authority(kind)
            found += authority.trusted_tls_certs
            for retired in authority.spec.retired_keys:
                if now - retired.retired < LONGEST_LIFE:
                    found += retired.tls
        for _, other in await self._state.user_authorities():
            found += other.trusted_tls_certs
        return found

    async def look(self) -> None:
        """Reads the authorities now."""
        host = await self._state.authority("host")
        self._hosts = (self._of(host.trusted_ssh_keys),)
        self._former = tuple((self._of(retired.ssh), retired.retired) for retired in host.spec.retired_keys)
        if self._shown is not None:
            self._shown.believe(await self.client_authorities())

    def _of(self, lines: tuple[str, ...]) -> TrustedSSHAuthority:
        keys = tuple(PublicKey.parse(line) for line in lines)
        return TrustedSSHAuthority(AuthorityKind.HOST, self._state.cluster, keys)

    async def run(self, context: MutualServer) -> None:
        """Keeps `context`, of the listener, up to date until cancelled."""
        self._shown = context
        await whenever_authorities_change(self._state, self.look)

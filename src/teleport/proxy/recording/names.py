"""The names of registered hosts, as the proxy proves them: a key of its memory and a certificate of auth for each.

A key is used for some minutes and then made anew, so that a proof of a connection to it grows old with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from teleport.clock import Clock
from teleport.pki.keys import generate_ed25519
from teleport.proxy.recording.needs import Auth
from teleport.ssh.server import HostKey, SshServer
from teleport.ssh.surface import ServerLimits, Surface

LEAST_LEFT: Final = timedelta(minutes=4)  # for who comes now to authenticate in
MOST: Final = 1000  # hosts whose names are kept


@dataclass(frozen=True, slots=True)
class _Shown:
    server: SshServer
    expires: datetime


class Names:
    """An SSH server for each host that somebody came for lately."""

    def __init__(self, auth: Auth, surface: Surface, limits: ServerLimits, clock: Clock) -> None:
        self._auth = auth
        self._surface = surface
        self._limits = limits
        self._clock = clock
        self._shown: dict[str, _Shown] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    async def server(self, host_id: str) -> SshServer:
        """The server that proves this host's names. Raises `TeleportError` when auth gives no certificate for it."""
        turn = self._turns.setdefault(host_id, asyncio.Lock())
        async with turn:
            shown = self._shown.get(host_id)
            if shown is None or shown.expires - self._clock.now() < LEAST_LEFT:
                key = generate_ed25519()
                line, expires = await self._auth.name(host_id, key.public.line(""))
                keys: Sequence[HostKey] = [HostKey(key.openssh_pem().reveal(), line)]
                shown = _Shown(await SshServer.create(keys, self._surface, limits=self._limits), expires)
                self._shown[host_id] = shown
        self._tidy()
        return shown.server

    def _tidy(self) -> None:
        """Forgets names that are of no use any more, the oldest ones first."""
        if len(self._shown) <= MOST:
            return
        for host_id, _ in sorted(self._shown.items(), key=lambda item: item[1].expires)[: len(self._shown) - MOST]:
            del self._shown[host_id]
            if not self._turns[host_id].locked():
                del self._turns[host_id]

"""Whom a proxy relays to auth: the client's own address, believed from the proxy's signed line alone.

Source pins, rates of joining and the records of refusals are about the client. Who reaches auth by the websocket of a
proxy would else come from the proxy's address, as everybody else there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from teleport.audit.events import ApiDenied
from teleport.auth.state import ClusterState
from teleport.authz.locks import host_lock_denial
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import HostIdentity
from teleport.pki import sshsig
from teleport.pki.keys import PublicKey
from teleport.pki.sshformat import parse_certificate
from teleport.pki.sshverify import verify_host_cert
from teleport.pki.trust import TrustedSSHAuthority
from teleport.resources.lock import Lock
from teleport.transport.first_bytes import Address, Led
from teleport.transport.limits import Heard
from teleport.wire import vouch

log = logging.getLogger(__name__)

PROXIES: Final = 64  # certificates that are remembered


@dataclass(frozen=True, slots=True)
class _Proved:
    """A certificate that was verified against authorities, at a moment."""

    authorities: tuple[TrustedSSHAuthority, ...]
    at: datetime
    proxy: HostIdentity
    key: PublicKey


class Vouched:
    """Believes the lines of proxies (`transport.first_bytes.Believe`)."""

    def __init__(
        self,
        state: ClusterState,
        authorities: Callable[[], Sequence[TrustedSSHAuthority]],
        counts: Callable[[HostIdentity], Awaitable[bool]],
        locks: Callable[[], Awaitable[Sequence[Lock]]],
    ) -> None:
        """`authorities` are those of hosts, as they are now; `counts` says whether a host's certificate still does."""
        self._state = state
        self._authorities = authorities
        self._counts = counts
        self._locks = locks
        self._proxies: dict[bytes, _Proved] = {}  # by certificate
        self._seen = vouch.Seen()
        self._heard = Heard()

    async def believe(self, line: bytes, peer: str) -> Address:
        """The client's address and port. Raises `TeleportError`, having put the refusal on record."""
        try:
            return await self._believed(vouch.parse(line))
        except TeleportError as error:
            await self._refused(peer, error)
            raise

    async def _believed(self, signed: vouch.SignedVouch) -> Address:
        now = self._state.clock.now()
        proved = self._proved(signed.certificate, now)
        proxy = proved.proxy
        if not await self._counts(proxy):
            raise AccessDenied(f"the host {proxy.host_id} does not belong to the cluster any more as {proxy.role}")
        denial = host_lock_denial(proxy, await self._locks(), now)
        if denial is not None:
            raise AccessDenied("; ".join(denial.reasons))
        believed = vouch.check(
            signed,
            cluster=self._state.cluster,
            target=vouch.auth_target(self._state.cluster),
            now=now,
            verify_certificate=lambda _: proxy,
            verify_signature=lambda _, message, signature: sshsig.verify(proved.key, message, signature),
            seen=self._seen,
        )
        return Led.by(believed.cluster, (believed.client_host, believed.client_port))

    def _proved(self, certificate: bytes, now: datetime) -> _Proved:
        """Whose certificate it is: a proxy shows the same one for each of ten thousand hosts. What was verified against
        the authorities as they are is remembered until it expires. Raises `CertificateRefused`."""
        authorities = tuple(self._authorities())
        known = self._proxies.get(certificate)
        if known is not None and known.authorities == authorities and known.at <= now < known.proxy.expires:
            return known
        proxy = verify_host_cert(certificate, authorities, now, hostname=None)
        proved = _Proved(authorities, now, proxy, parse_certificate(certificate).body.public_key)
        if len(self._proxies) >= PROXIES:
            self._proxies.clear()
        self._proxies[certificate] = proved
        return proved

    async def _refused(self, peer: str, error: TeleportError) -> None:
        """In the log and on record; anybody can cause these, so that only so many in a second are."""
        told = self._heard.told(error.message, asyncio.get_running_loop().time())
        if told is not None:
            log.warning("a proxy's word for a client is not believed peer=%s error=%s", peer, told)
            await self._state.tell(self._state.event(ApiDenied, route="vouch", addr=peer, error=told))

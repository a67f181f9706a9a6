"""A host that missed a rotation: its certificates, or what it believes, are of keys that the cluster has replaced.

It can neither believe auth nor be believed any more, so that all it would see are failed handshakes. Here it is found
out what the matter is, by the one question that needs no trust: which authorities does the far end claim? The answer
proves nothing and changes nothing but the message: the way back is to join again, with a pin.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from teleport.api.join import Door, find_cluster, prove_auth
from teleport.daemon import credentials
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.errors import TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.rotation import join_again
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509verify import identity_from_tls, trusted_tls_authority
from teleport.transport.tls import cluster_client_context

log = logging.getLogger(__name__)

FIRST: Final = 2.0  # seconds that a start has before it is asked
AGAIN: Final = 5.0  # seconds between two questions
SILENCE: Final = 60.0  # seconds without a word from auth after which a running service asks
RUNNING: Final = 60.0  # seconds between two questions of a running service


class LeftBehind(TeleportError):
    """The rotation went on without this host."""

    code = "access_denied"
    exit_code = 5


def why(config: Config, host: Host, role: SystemRole) -> LeftBehind | None:
    """What has to be said of the identity in `role`; None when it was not left behind, or nobody answers. Blocking."""
    held = credentials.load(host.proc_dir, role, only_look=True)
    if held is None:
        return None
    addresses = [(server.host, server.port) for server in config.auth_servers]
    try:
        claimed = find_cluster(addresses, ())
    except (TeleportError, OSError):
        return None
    if claimed.name != held.cluster.cluster:
        return None
    own = HostIdentity(host.host_id, claimed.name, role, held.expires)
    hint = join_again(own, str(host.proc_dir))
    trusted = {pem.strip() for pem in held.cluster.tls_ca_certs}
    if not trusted & {pem.strip() for pem in claimed.ca_certs}:
        return LeftBehind(
            f"the host authority of {claimed.name} was replaced while this host was away: it believes none of the keys "
            "that auth has now, nor does auth believe its certificates",
            hint=hint,
        )
    if not _counts(held.tls_cert_file.read_bytes(), claimed.name, claimed.ca_certs):
        return LeftBehind(
            f"the host authority of {claimed.name} was replaced while this host was away: its certificates do not "
            "count any more",
            hint=hint,
        )
    if not _proves_itself(claimed.door, held):
        return LeftBehind(
            f"the host authority of {claimed.name} is being replaced, and this host was away when its new keys could "
            "be learned: it cannot tell whether auth is auth",
            hint=f"go back to the old keys if the rotation is not to end yet (tctl auth rotate --rollback), or {hint}",
        )
    return None


def _counts(certificate: bytes, cluster: str, ca_certs: tuple[str, ...]) -> bool:
    """Whether one of these authorities signed the certificate (PEM)."""
    anchors = [trusted_tls_authority(AuthorityKind.HOST, cluster, pem.encode()) for pem in ca_certs]
    try:
        identity_from_tls(ssl.PEM_cert_to_DER_cert(certificate.decode()), anchors, datetime.now(UTC))
    except CertificateRefused as refused:
        return refused.reason is not Refusal.UNKNOWN_AUTHORITY
    return True


def _proves_itself(door: Door, held: Credentials) -> bool:
    """Whether auth shows a certificate that this host believes."""
    try:
        prove_auth(door.open(), cluster_client_context(held.cluster.tls_ca_certs), held.cluster.cluster).close()
    except (TeleportError, OSError):
        return False
    return True


async def unless(ready: Awaitable[object], ask: Callable[[], LeftBehind | None]) -> None:
    """Awaits `ready`; raises what `ask` finds meanwhile, which it is asked every now and then."""
    waiting = asyncio.ensure_future(ready)
    try:
        pause = FIRST
        while True:
            done, _ = await asyncio.wait([waiting], timeout=pause)
            if done:
                waiting.result()
                return
            found = await asyncio.to_thread(ask)
            if found is not None and not waiting.done():
                raise found
            pause = AGAIN
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def tell(silent_for: Callable[[], float], ask: Callable[[], LeftBehind | None]) -> None:
    """Says once in the log that a running service was left behind. It goes on: its sessions have done nothing wrong.

    Until cancelled.
    """
    told = False
    while True:
        await asyncio.sleep(RUNNING)
        if silent_for() < SILENCE:
            told = False
            continue
        found = await asyncio.to_thread(ask)
        if found is not None and not told:
            log.error("%s; %s", found.message, found.hint)
            told = True

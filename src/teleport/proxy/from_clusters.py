"""What leads people of a cluster that is trusted here, once they come through the tunnel which this proxy keeps there.

The asking proxy says whom somebody wants, shows that person's certificate, and vouches for their address
(`tunnel.cluster_messages`). From there on it is as for clients of this cluster: the certificate becomes a local
identity by the role map, the host is looked up among the registered ones, the same refusals hold, and the line that the
host reads is this proxy's own. Rules:

- Nothing but registered hosts and this cluster's auth is ever dialled, and nothing by an address that was asked for.
- A vouch counts from a proxy of the very cluster to which the tunnel was made, once, for exactly what the message says.
- An address that such a proxy says counts for users of that cluster only, with hosts and with auth, too.
- A person's certificate counts when that very cluster signed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from teleport.audit.events import AuthFailed, SessionRequestDenied
from teleport.authz.ssh import asking_auth
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity, UserIdentity
from teleport.pki import sshsig
from teleport.pki.sshformat import parse_certificate
from teleport.proxy.refusals import Forbidden, on_record
from teleport.proxy.ssh_router import SshRouter
from teleport.ssh.handlers import Channel
from teleport.ssh.relay import NodeLeg
from teleport.ssh.surface import Peer, Refusal
from teleport.store.resolve import Destination
from teleport.transport import memory_pair
from teleport.tunnel import cluster_messages as cm
from teleport.wire import vouch

DIAL_SECONDS: Final = 10.0


class Trust(Protocol):
    """Who belongs to a cluster that is trusted here."""

    def verify_proxy(self, cluster: str, certificate: bytes) -> HostIdentity:
        """Raises `AccessDenied`."""
        ...

    def verify_user(self, certificate: bytes) -> UserIdentity:
        """A user of a cluster that is trusted here, with what the role map gives. Raises `AccessDenied`."""
        ...

    def take_kube(self, transport: asyncio.Transport, certificate: bytes, peer: Peer) -> None:
        """Serves a Kubernetes client of that cluster, who proved a TLS certificate (DER) to its proxy. Raises
        `TeleportError`."""
        ...


class FromCluster:
    """Serves what one trusted cluster leads here."""

    def __init__(
        self,
        cluster: str,
        router: SshRouter,
        trust: Trust,
        *,
        auth_servers: Sequence[tuple[str, int]],
        vouch_to_auth: Callable[[str, int, str], bytes],
    ) -> None:
        """`vouch_to_auth` makes the line that tells auth who comes, from address, port and this cluster's name."""
        self._cluster = cluster
        self._router = router
        self._trust = trust
        self._auth_servers = auth_servers
        self._vouch_to_auth = vouch_to_auth
        self._seen = vouch.Seen()

    async def serve(self, data: bytes, channel: Channel) -> NodeLeg | Refusal:
        """Connects a channel with what the message asks for, or says why not."""
        router, who, peer, what = self._router, None, Peer("", 0), ""
        try:
            dial, certificate = cm.read_dial(data, router.config.cluster)
            what = f"proxy:{dial.host}:{dial.port}" if dial.conn_type == cm.NODE else dial.conn_type
            peer = self._vouched(dial)
            if dial.conn_type == cm.KUBE:
                return self._to_kube(channel, certificate, peer)
            who = self._user(certificate)
            if dial.conn_type == cm.AUTH:
                refused = router.directory.why_no_session(asking_auth(who), peer.host)
                if refused is not None:
                    raise Forbidden(refused)
                return await self._to_auth(channel, peer)
            key = parse_certificate(certificate).body.public_key.fingerprint()
            to = Destination(dial.host, dial.port, router.config.cluster)
            return await router.lead(channel, who, key, peer, to, channel.close)
        except TeleportError as error:
            reason = f"from {self._cluster}: {on_record(error)}"
            if who is None:
                told = router.strangers.told(reason, asyncio.get_running_loop().time())
                if told is not None:
                    router.put_on_record(AuthFailed, None, "", peer, error=told)
            else:
                router.put_on_record(SessionRequestDenied, who, "", peer, request=what, reason=reason)
            said = Refusal.told(error.message, error.hint)
            return Refusal(said.message, tried=isinstance(error, ConnectionProblem))

    def _vouched(self, dial: cm.ClusterDial) -> Peer:
        """The client, as a proxy over there says."""
        believed = vouch.check(
            vouch.parse(dial.vouch.encode("ascii", "replace")),
            cluster=self._cluster,
            target=cm.dial_target(dial),
            now=self._router.clock.now(),
            verify_certificate=lambda certificate: self._trust.verify_proxy(self._cluster, certificate),
            verify_signature=_verify_signature,
            seen=self._seen,
        )
        return Peer(believed.client_host, believed.client_port, self._cluster)

    def _user(self, certificate: bytes) -> UserIdentity:
        found = self._trust.verify_user(certificate)
        if found.origin is None or found.origin.cluster != self._cluster:
            raise AccessDenied(f"This is no certificate of the cluster {self._cluster}.", hint="tsh login")
        return found

    def _to_kube(self, channel: Channel, certificate: bytes, peer: Peer) -> NodeLeg:
        """The listener for Kubernetes clients judges and records by itself, as of whoever comes to it."""
        leg = NodeLeg(channel, b"", channel.close)
        memory_pair.connect(lambda: leg, lambda far: self._trust.take_kube(far, certificate, peer))
        return leg

    async def _to_auth(self, channel: Channel, peer: Peer) -> NodeLeg:
        first = self._vouch_to_auth(peer.host, peer.port, peer.through)
        for host, port in self._auth_servers:
            try:
                async with asyncio.timeout(DIAL_SECONDS):
                    _, leg = await asyncio.get_running_loop().create_connection(
                        lambda: NodeLeg(channel, first, channel.close), host, port
                    )
                    return leg
            except (OSError, TimeoutError):
                continue
        raise ConnectionProblem("The proxy cannot reach its auth service.", hint="try again")


def _verify_signature(certificate: bytes, message: bytes, signature: bytes) -> None:
    sshsig.verify(parse_certificate(certificate).body.public_key, message, signature)
